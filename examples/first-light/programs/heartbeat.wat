;; heartbeat: says every ten seconds that it lives, and how often it has said so.
;; A core WebAssembly module for WASI 0.1; `cargo xtask example` makes its bytes.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)

  ;; 0: one iovec. 16: bytes written. 32: a subscription (48 bytes). 96: an event (32 bytes).
  ;; 160: events seen. 256: the text. 512: the line under construction.
  (data (i32.const 256) "heartbeat ")

  ;; Writes $number in decimal from $at on; answers the address behind its last digit.
  (func $write_number (param $number i32) (param $at i32) (result i32)
    (local $divisor i32)
    (local.set $divisor (i32.const 1000000000))
    (block $found
      (loop $shrink
        (br_if $found (i32.le_u (local.get $divisor) (i32.const 1)))
        (br_if $found (i32.ge_u (local.get $number) (local.get $divisor)))
        (local.set $divisor (i32.div_u (local.get $divisor) (i32.const 10)))
        (br $shrink)))
    (loop $digits
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48)
          (i32.rem_u (i32.div_u (local.get $number) (local.get $divisor)) (i32.const 10))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (local.set $divisor (i32.div_u (local.get $divisor) (i32.const 10)))
      (br_if $digits (i32.gt_u (local.get $divisor) (i32.const 0))))
    (local.get $at))

  (func (export "_start")
    (local $count i32)
    (local $end i32)
    (loop $beat
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (memory.copy (i32.const 512) (i32.const 256) (i32.const 10))
      (local.set $end (call $write_number (local.get $count) (i32.const 522)))
      (i32.store8 (local.get $end) (i32.const 10))
      (i32.store (i32.const 0) (i32.const 512))
      (i32.store (i32.const 4) (i32.sub (i32.add (local.get $end) (i32.const 1)) (i32.const 512)))
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
      ;; A subscription to the monotonic clock (tag 0, id 1), ten seconds from now.
      (i64.store (i32.const 32) (i64.const 1))
      (i32.store8 (i32.const 40) (i32.const 0))
      (i32.store (i32.const 48) (i32.const 1))
      (i64.store (i32.const 56) (i64.const 10000000000))
      (i64.store (i32.const 64) (i64.const 0))
      (i32.store16 (i32.const 72) (i32.const 0))
      (drop (call $poll_oneoff (i32.const 32) (i32.const 96) (i32.const 1) (i32.const 160)))
      (br $beat))))
