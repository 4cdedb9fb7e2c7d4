//! Modules and components as containers; written as text, so that what they do can be read here.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use node_runtime::{
    ContainerSpec, ContainerState, ExitReason, Limits, Mount, ProcessConfig, RuntimeError, WasmConfig, WasmRuntime,
};

use crate::fixture::{Fixture, config, message, skip_without_control_groups};

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

fn fixture() -> Fixture {
    fixture_with(|_, _| {})
}

fn fixture_with(change: impl FnOnce(&Path, &mut ProcessConfig)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    change(folder.path(), &mut config);
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

async fn check_volume(read_only: bool, user: Option<u32>) -> bool {
    let fixture = fixture_with(|folder, config| {
        if user.is_some() {
            // The build folder may lie where another user cannot look.
            fs::set_permissions(folder, fs::Permissions::from_mode(0o711)).unwrap();
            let reachable = folder.join("runtime-helper");
            // By another process: a child that is just being started would hold a copy of our descriptor, and who has it
            // open to write cannot be run.
            let copied = std::process::Command::new("/bin/cp").arg(&config.program).arg(&reachable).status();
            assert!(copied.unwrap().success());
            config.program = reachable;
        }
    });
    let mut spec = container(&fixture, WRITE);
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    if user.is_some() {
        // What is above the volume stays closed to the user.
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    }
    spec.run_as_user = user;
    spec.mounts = vec![Mount { host_path: volume.clone(), container_path: "/data".into(), read_only, optional: false }];
    let record = fixture.run(&spec).await;
    assert_eq!(record.exit_code == 0, volume.join("out").exists(), "{record:?} {:?}", fixture.log(&spec));
    record.exit_code == 0
}

#[tokio::test]
async fn volumes_are_folders_that_a_module_may_write_or_not() {
    assert!(check_volume(false, None).await);
    assert!(!check_volume(true, None).await);
    if fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t") {
        assert!(check_volume(false, Some(1234)).await);
    } else {
        testkit::skip("becoming another user needs root");
    }
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
    assert!(String::from_utf8_lossy(&answer.output).contains("ready?"));
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
