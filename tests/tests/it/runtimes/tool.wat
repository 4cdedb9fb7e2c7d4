;; WASI 0.1: does what its arguments say, one after the other, as a shell does in the other runtimes.
;;
;;   pTEXT  a line on stdout        eTEXT   a line on stderr      v       all variables
;;   rNFILE what is in a file       wNFILE  writes a file         uNFILE  waits for content
;;   fNFILE ends with 1 and makes the file, unless it is there    xN      ends with N
;;   s      sleeps for ever
;;
;; N of a file is the descriptor of its directory: 3 is the first volume. What may not be written says `denied`.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 4)
  (data (i32.const 256) "\n")
  (data (i32.const 260) "denied")
  (data (i32.const 270) "written\n")
  (func $length (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $end) (local.get $text)))
  (func $write (param $fd i32) (param $bytes i32) (param $length i32)
    (i32.store (i32.const 0) (local.get $bytes))
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $line (param $fd i32) (param $text i32)
    (call $write (local.get $fd) (local.get $text) (call $length (local.get $text)))
    (call $write (local.get $fd) (i32.const 256) (i32.const 1)))
  ;; Opens the file that an argument names; its descriptor is at 32.
  (func $open (param $arg i32) (param $flags i32) (param $rights i64) (result i32)
    (call $path_open
      (i32.sub (i32.load8_u (i32.add (local.get $arg) (i32.const 1))) (i32.const 48))
      (i32.const 1)
      (i32.add (local.get $arg) (i32.const 2))
      (call $length (i32.add (local.get $arg) (i32.const 2)))
      (local.get $flags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 32)))
  (func $read (param $arg i32)
    (if (call $open (local.get $arg) (i32.const 0) (i64.const 2)) (then (call $exit (i32.const 9))))
    (block $done
      (loop $next
        (i32.store (i32.const 0) (i32.const 131072))
        (i32.store (i32.const 4) (i32.const 8192))
        (br_if $done (call $fd_read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $done (i32.eqz (i32.load (i32.const 8))))
        (call $write (i32.const 1) (i32.const 131072) (i32.load (i32.const 8)))
        (br $next)))
    (drop (call $fd_close (i32.load (i32.const 32))))
    (call $write (i32.const 1) (i32.const 256) (i32.const 1)))
  (func $make (param $arg i32)
    (if (call $open (local.get $arg) (i32.const 1) (i64.const 64))
      (then
        (call $write (i32.const 1) (i32.const 260) (i32.const 6))
        (call $write (i32.const 1) (i32.const 256) (i32.const 1)))
      (else
        (call $write (i32.load (i32.const 32)) (i32.const 270) (i32.const 8))
        (drop (call $fd_close (i32.load (i32.const 32)))))))
  ;; Fifty milliseconds.
  (func $pause
    (i64.store (i32.const 64) (i64.const 1))
    (i32.store8 (i32.const 72) (i32.const 0))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 50000000))
    (i64.store (i32.const 96) (i64.const 0))
    (i32.store16 (i32.const 104) (i32.const 0))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 16))))
  (func $has_content (param $arg i32) (result i32)
    (if (call $open (local.get $arg) (i32.const 0) (i64.const 2)) (then (return (i32.const 0))))
    (i32.store (i32.const 0) (i32.const 131072))
    (i32.store (i32.const 4) (i32.const 1))
    (i32.store (i32.const 8) (i32.const 0))
    (drop (call $fd_read (i32.load (i32.const 32)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $fd_close (i32.load (i32.const 32))))
    (i32.load (i32.const 8)))
  (func $variables
    (local $at i32)
    (local $end i32)
    (drop (call $env_sizes (i32.const 24) (i32.const 28)))
    (drop (call $env (i32.const 16384) (i32.const 20480)))
    (local.set $at (i32.const 16384))
    (local.set $end (i32.add (i32.const 16384) (i32.mul (i32.load (i32.const 24)) (i32.const 4))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (call $line (i32.const 1) (i32.load (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $next))))
  (func $do (param $arg i32)
    (local $what i32)
    (local.set $what (i32.load8_u (local.get $arg)))
    (if (i32.eq (local.get $what) (i32.const 112)) (then (call $line (i32.const 1) (i32.add (local.get $arg) (i32.const 1)))))
    (if (i32.eq (local.get $what) (i32.const 101)) (then (call $line (i32.const 2) (i32.add (local.get $arg) (i32.const 1)))))
    (if (i32.eq (local.get $what) (i32.const 118)) (then (call $variables)))
    (if (i32.eq (local.get $what) (i32.const 114)) (then (call $read (local.get $arg))))
    (if (i32.eq (local.get $what) (i32.const 119)) (then (call $make (local.get $arg))))
    (if (i32.eq (local.get $what) (i32.const 102))
      (then (if (i32.eqz (call $open (local.get $arg) (i32.const 5) (i64.const 64))) (then (call $exit (i32.const 1))))))
    (if (i32.eq (local.get $what) (i32.const 117))
      (then
        (loop $again
          (if (i32.eqz (call $has_content (local.get $arg))) (then (call $pause) (br $again))))))
    (if (i32.eq (local.get $what) (i32.const 120))
      (then (call $exit (i32.sub (i32.load8_u (i32.add (local.get $arg) (i32.const 1))) (i32.const 48)))))
    (if (i32.eq (local.get $what) (i32.const 115)) (then (loop $again (call $pause) (br $again)))))
  (func (export "_start")
    (local $at i32)
    (local $end i32)
    (drop (call $args_sizes (i32.const 16) (i32.const 20)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    ;; The first one is the program's name.
    (local.set $at (i32.const 1028))
    (local.set $end (i32.add (i32.const 1024) (i32.mul (i32.load (i32.const 16)) (i32.const 4))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (call $do (i32.load (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $next)))))
