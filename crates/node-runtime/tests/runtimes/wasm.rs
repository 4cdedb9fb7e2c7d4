//! Modules and components as containers; written as text, so that what they do can be read here.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use node_runtime::{ContainerSpec, ContainerState, ExitReason, Limits, Mount, RuntimeError, WasmConfig, WasmRuntime};

use crate::fixture::{Fixture, config, eventually, message, skip_without_control_groups};

/// WASI 0.1: prints `hello`, its arguments and its environment.
const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello\n")
  (func $print (param $at i32) (param $bytes i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $bytes))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (call $print (i32.const 64) (i32.const 6))
    (drop (call $args_sizes (i32.const 16) (i32.const 20)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    (call $print (i32.const 4096) (i32.load (i32.const 20)))
    (call $print (i32.const 69) (i32.const 1))
    (drop (call $env_sizes (i32.const 16) (i32.const 20)))
    (drop (call $env (i32.const 1024) (i32.const 16384)))
    (call $print (i32.const 16384) (i32.load (i32.const 20)))
    (call $print (i32.const 69) (i32.const 1))))"#;

/// WASI 0.1: creates `out` in its first folder; exits with the error number.
const WRITE: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "out")
  (func (export "_start")
    (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 3) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 8)))))"#;

/// WASI 0.1: takes 64 KiB of memory again and again; exits with 7 when it gets no more.
const GROW: &str = r#"(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again (br_if $again (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0))))
    (call $exit (i32.const 7))))"#;

const TRAP: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

const SPIN: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

/// WASI 0.2: prints a line through `wasi:io/streams`, then fails or not.
fn component(fails: bool) -> String {
    format!(
        r#"(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $io-error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $io-error (type $outer-error))
    (export "error" (type $own-error (eq $outer-error)))
    (type $failure (variant (case "last-operation-failed" (own $own-error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $outer-stream))
    (export "output-stream" (type $own-stream (eq $outer-stream)))
    (export "get-stdout" (func (result (own $own-stream))))))
  (core module $memory (memory (export "memory") 1))
  (core instance $mem (instantiate $memory))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $mem "memory"))))
  (core module $program
    (import "host" "memory" (memory 1))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (data (i32.const 64) "hello from a component\n")
    (func (export "run") (result i32)
      (call $write (call $get) (i32.const 64) (i32.const 23) (i32.const 0))
      (i32.const {})))
  (core instance $host
    (export "memory" (memory $mem "memory"))
    (export "get" (func $get))
    (export "write" (func $write)))
  (core instance $run (instantiate $program (with "host" (instance $host))))
  (func $lifted (result (result)) (canon lift (core func $run "run")))
  (instance $cli (export "run" (func $lifted)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
        i32::from(fails)
    )
}

/// WASI 0.1: lets a table grow until it does not, then falls over as programs do that are out of memory.
const TABLE: &str = r#"(module
  (memory (export "memory") 1)
  (table 1 funcref)
  (func (export "_start")
    (loop $again (br_if $again (i32.ge_s (table.grow (ref.null func) (i32.const 10000)) (i32.const 0))))
    unreachable))"#;

/// WASI 0.1: everything that a module can do with files and clocks, one call after the other. Exits with the number of the
/// call that failed.
const BUSY: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_readlink" (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_set_times" (func $times (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_datasync" (func $datasync (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_advise" (func $advise (param i32 i64 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fstat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $resize (param i32 i64) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_times" (func $ftimes (param i32 i64 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $setflags (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $resolution (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "file")
  (data (i32.const 72) "dir!")
  (data (i32.const 80) "name")
  (data (i32.const 88) "link")
  (global $fd (mut i32) (i32.const 0))
  (global $step (mut i32) (i32.const 0))
  (func $ok (param $error i32)
    (global.set $step (i32.add (global.get $step) (i32.const 1)))
    (if (local.get $error) (then (call $exit (global.get $step)))))
  (func (export "_start")
    (call $ok (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 1)
      (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 8)))
    (global.set $fd (i32.load (i32.const 8)))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 32))
    (call $ok (call $write (global.get $fd) (i32.const 0) (i32.const 1) (i32.const 16)))
    (call $ok (call $pwrite (global.get $fd) (i32.const 0) (i32.const 1) (i64.const 100) (i32.const 16)))
    (call $ok (call $seek (global.get $fd) (i64.const 0) (i32.const 0) (i32.const 1024)))
    (i32.store (i32.const 0) (i32.const 2048))
    (call $ok (call $read (global.get $fd) (i32.const 0) (i32.const 1) (i32.const 16)))
    (call $ok (call $pread (global.get $fd) (i32.const 0) (i32.const 1) (i64.const 3) (i32.const 16)))
    (call $ok (call $sync (global.get $fd)))
    (call $ok (call $datasync (global.get $fd)))
    (call $ok (call $advise (global.get $fd) (i64.const 0) (i64.const 10) (i32.const 1)))
    (call $ok (call $fstat (global.get $fd) (i32.const 1024)))
    (call $ok (call $resize (global.get $fd) (i64.const 50)))
    (call $ok (call $ftimes (global.get $fd) (i64.const 1000000000) (i64.const 2000000000) (i32.const 5)))
    (call $ok (call $fdstat (global.get $fd) (i32.const 1024)))
    (call $ok (call $setflags (global.get $fd) (i32.const 1)))
    (call $ok (call $mkdir (i32.const 3) (i32.const 72) (i32.const 4)))
    (call $ok (call $rename (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 3) (i32.const 80) (i32.const 4)))
    (call $ok (call $symlink (i32.const 80) (i32.const 4) (i32.const 3) (i32.const 88) (i32.const 4)))
    (call $ok (call $readlink (i32.const 3) (i32.const 88) (i32.const 4) (i32.const 2048) (i32.const 64) (i32.const 16)))
    (call $ok (call $stat (i32.const 3) (i32.const 1) (i32.const 88) (i32.const 4) (i32.const 1024)))
    (call $ok (call $times (i32.const 3) (i32.const 1) (i32.const 80) (i32.const 4) (i64.const 1000000000)
      (i64.const 2000000000) (i32.const 5)))
    (call $ok (call $times (i32.const 3) (i32.const 0) (i32.const 88) (i32.const 4) (i64.const 1000000000)
      (i64.const 2000000000) (i32.const 5)))
    (call $ok (call $unlink (i32.const 3) (i32.const 88) (i32.const 4)))
    (call $ok (call $link (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 4) (i32.const 3) (i32.const 88) (i32.const 4)))
    (call $ok (call $readdir (i32.const 3) (i32.const 4096) (i32.const 4096) (i64.const 0) (i32.const 16)))
    (call $ok (call $rmdir (i32.const 3) (i32.const 72) (i32.const 4)))
    (call $ok (call $close (global.get $fd)))
    (call $ok (call $clock (i32.const 0) (i64.const 1) (i32.const 1024)))
    (call $ok (call $clock (i32.const 1) (i64.const 1) (i32.const 1024)))
    (call $ok (call $resolution (i32.const 0) (i32.const 1024)))
    (call $ok (call $random (i32.const 4096) (i32.const 1000)))
    (call $ok (call $yield))
    ;; One clock subscription of five milliseconds.
    (i64.store (i32.const 8192) (i64.const 1))
    (i32.store8 (i32.const 8200) (i32.const 0))
    (i32.store (i32.const 8208) (i32.const 1))
    (i64.store (i32.const 8216) (i64.const 5000000))
    (i64.store (i32.const 8224) (i64.const 0))
    (i32.store16 (i32.const 8232) (i32.const 0))
    (call $ok (call $poll (i32.const 8192) (i32.const 9000) (i32.const 1) (i32.const 16)))
    (drop (memory.grow (i32.const 100)))))"#;

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.allowed_prefixes = vec![folder.path().to_owned()];
    let wasm = WasmConfig::new(folder.path().join("cache"));
    Fixture { runtime: Some(Box::new(WasmRuntime::open(config, wasm).unwrap())), folder }
}

fn container(fixture: &Fixture, text: &str) -> ContainerSpec {
    let module = fixture.folder.path().join("module.wasm");
    fs::write(&module, wat::parse_str(text).unwrap()).unwrap();
    ContainerSpec { image: format!("file://{}", module.display()), args: Vec::new(), ..fixture.shell("") }
}

async fn check(text: &str, code: i32, reason: ExitReason, log: &[&str]) {
    let fixture = fixture();
    let spec = container(&fixture, text);
    let record = fixture.run(&spec).await;
    let seen = fixture.log(&spec);
    assert_eq!((record.exit_code, record.reason), (code, reason), "{seen:?}");
    for line in log {
        assert!(seen.iter().any(|logged| logged.contains(line)), "{line} is not in {seen:?}");
    }
}

#[tokio::test]
async fn components_and_modules_run_and_their_end_is_told() {
    check(&component(false), 0, ExitReason::Completed, &["stdout F hello from a component"]).await;
    check(&component(true), 1, ExitReason::Error, &["stdout F hello from a component"]).await;
    check(HELLO, 0, ExitReason::Completed, &["stdout F hello"]).await;
    check(TRAP, 134, ExitReason::Error, &["stderr F", "unreachable"]).await;
}

#[tokio::test]
async fn arguments_and_environment_reach_the_module() {
    let fixture = fixture();
    let mut spec = container(&fixture, HELLO);
    spec.args = vec!["one".into(), "--memory".into()];
    spec.env.insert("GREETING".into(), "hi".into());
    fixture.run(&spec).await;
    let log = fixture.log(&spec).join("|");
    assert!(log.contains("module.wasm\0one\0--memory\0") && log.contains("GREETING=hi\0"), "{log:?}");
    let status = fixture.runtime().status(&spec.id()).await.unwrap();
    assert!(status.image_id.contains("@sha256:"), "{}", status.image_id);
}

/// A volume as the kubelet makes an emptyDir.
fn volume(fixture: &Fixture, mode: u32) -> Mount {
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    // What is above the volume stays closed to the user.
    fs::set_permissions(&volume, fs::Permissions::from_mode(mode)).unwrap();
    Mount { host_path: volume, container_path: "/data".into(), ..Mount::default() }
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t")
}

/// Whether a module may create a file, which is then `user`'s.
async fn check_volume(read_only: bool, mode: u32, user: Option<u32>) -> bool {
    let fixture = fixture();
    let mut spec = container(&fixture, WRITE);
    spec.run_as_user = user;
    spec.mounts = vec![Mount { read_only, ..volume(&fixture, mode) }];
    let record = fixture.run(&spec).await;
    let out = spec.mounts[0].host_path.join("out");
    assert_eq!(record.exit_code == 0, out.exists(), "{record:?} {:?}", fixture.log(&spec));
    if let (true, Ok(meta)) = (is_root(), fs::metadata(&out)) {
        use std::os::unix::fs::MetadataExt as _;
        let owner = user.unwrap_or(65534);
        assert_eq!((meta.uid(), meta.gid()), (owner, owner));
    }
    record.exit_code == 0
}

#[tokio::test]
async fn volumes_are_folders_that_a_module_may_write_or_not() {
    assert!(check_volume(false, 0o777, None).await);
    assert!(!check_volume(true, 0o777, None).await);
    if is_root() {
        assert!(!check_volume(false, 0o755, None).await, "a directory of root's is not for everyone to write");
        assert!(check_volume(false, 0o755, Some(0)).await, "who asks for root is the owner");
        assert!(check_volume(false, 0o777, Some(1234)).await);
    } else {
        testkit::skip("becoming another user needs root");
    }
}

#[tokio::test]
async fn a_module_does_all_that_wasi_has_under_the_workers_filter() {
    let fixture = fixture();
    let mut spec = container(&fixture, BUSY);
    spec.mounts = vec![volume(&fixture, 0o777)];
    let record = fixture.run(&spec).await;
    assert_eq!(record.exit_code, 0, "the number of the call that failed; {:?}", fixture.log(&spec));
}

/// `/proc/PID/status` of a worker that has given up what it can, and its id.
async fn confined(fixture: &Fixture, spec: &ContainerSpec) -> (u32, String) {
    fixture.start(spec).await;
    let ContainerState::Running { pid, .. } = fixture.runtime().status(&spec.id()).await.unwrap().state else {
        panic!("it runs until it is stopped");
    };
    // In a pid namespace the program is the child of the container's first process.
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let worker = children.split_whitespace().next().map_or(pid, |child| child.parse().unwrap());
    let status = eventually("the filter of a worker", async || {
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        if status.contains("Seccomp:\t2") { Ok(status) } else { Err(status) }
    })
    .await;
    (worker, status)
}

#[tokio::test]
async fn a_worker_has_no_rights_no_files_and_no_network() {
    for user in [None, Some(0), Some(1234)] {
        if user.is_some() && !is_root() {
            continue;
        }
        let fixture = fixture();
        let spec = ContainerSpec { run_as_user: user, ..container(&fixture, SPIN) };
        let (worker, status) = confined(&fixture, &spec).await;
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        if is_root() {
            let id = user.unwrap_or(65534);
            let ids = ["Uid", "Gid"].map(|name| format!("{name}:\t{id}\t{id}\t{id}\t{id}\n"));
            let sets = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|name| format!("Cap{name}:\t0000000000000000\n"));
            for line in ids.iter().chain(&sets) {
                assert!(status.contains(line), "{line} is not in {status}");
            }
            assert_eq!(fs::read_dir(format!("/proc/{worker}/root")).unwrap().count(), 0, "its root is empty");
            let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
            assert_ne!(network(&worker.to_string()), network("self"));
        }
        fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_table_grows_to_its_limit_which_the_trap_names() {
    check(
        TABLE,
        134,
        ExitReason::Error,
        &["unreachable", "more than 100000 table elements", "resources.limits.memory"],
    )
    .await;
}

#[tokio::test]
async fn memory_without_a_limit_ends_at_the_default() {
    check(GROW, 7, ExitReason::Error, &[]).await;
}

#[tokio::test]
async fn a_module_gets_no_more_memory_than_its_limit() {
    let fixture = fixture();
    let mut spec = container(&fixture, GROW);
    spec.limits = Limits { memory_bytes: Some(64 << 20), ..Limits::default() };
    match fixture.runtime().start(spec.clone()).await {
        Ok(_) => assert_eq!(fixture.exit(&spec.id()).await.exit_code, 7),
        Err(error) => skip_without_control_groups(&message(&error)),
    }
}

#[tokio::test]
async fn a_module_that_spins_ends_when_asked() {
    let fixture = fixture();
    let spec = container(&fixture, SPIN);
    fixture.start(&spec).await;
    let status = fixture.runtime().stop(&spec.id(), Duration::from_secs(1000)).await.unwrap();
    assert!(matches!(status.state, ContainerState::Exited(record) if record.signal == Some(15)));
}

#[tokio::test]
async fn a_probe_runs_another_module() {
    let fixture = fixture();
    let spec = container(&fixture, SPIN);
    fixture.start(&spec).await;
    let probe = fixture.folder.path().join("probe.wasm");
    fs::write(&probe, wat::parse_str(HELLO).unwrap()).unwrap();
    let exec = |word: &Path| {
        let argv = vec![word.display().to_string(), "ready?".to_owned()];
        fixture.runtime().exec(&spec.id(), argv, Duration::from_secs(30))
    };
    let answer = exec(&probe).await.unwrap();
    assert_eq!(answer.exit_code, 0);
    assert!(String::from_utf8_lossy(&answer.stdout).contains("ready?"));
    assert!(matches!(exec(Path::new("/bin/true")).await, Err(RuntimeError::Exec { .. })));
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_is_no_module_is_refused() {
    let fixture = fixture();
    let spec = container(&fixture, TRAP);
    fs::write(fixture.folder.path().join("module.wasm"), "not a module").unwrap();
    let error = message(&fixture.runtime().start(spec.clone()).await.unwrap_err());
    assert!(error.contains("not WebAssembly"), "{error}");
    assert!(fixture.runtime().check(&spec).is_err());
    fs::write(fixture.folder.path().join("module.wasm"), b"\0asm\x01\0\0\0junk").unwrap();
    let error = message(&fixture.runtime().start(spec).await.unwrap_err());
    assert!(error.contains("failed to compile"), "{error}");
}
