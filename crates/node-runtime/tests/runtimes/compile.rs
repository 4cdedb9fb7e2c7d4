//! Modules that are large enough to look at their compiler while it runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use node_runtime::{ContainerSpec, ContainerState, ContainerStatus, ExitReason, RuntimeError, WasmConfig, WasmRuntime};

use crate::fixture::{Fixture, config, eventually, helper, message};

/// Far more than the compiler manages before a test is over.
const ENDLESS: usize = 16 << 20;

/// Some seconds.
const LARGE: usize = 256 << 10;

/// How soon a cancelled compiler has to be dead.
const CANCEL_MAX: Duration = Duration::from_secs(1);

/// A WASI 0.1 module of about `bytes`, whose `_start` does nothing.
fn module(bytes: usize) -> Vec<u8> {
    // Local 0 is added to and stored, over and over; then the end of the function.
    const STEP: &[u8] = b"\x20\x00\x41\x07\x6a\x22\x00\x41\x10\x6c\x21\x00\x41\x00\x20\x00\x36\x02\x00";
    let steps = 400;
    let mut body = vec![1, 1, 0x7f];
    (0..steps).for_each(|_| body.extend(STEP));
    body.push(0x0b);
    let functions = (bytes / body.len()).max(1) + 1;
    let mut code = leb(functions);
    code.extend([2, 0, 0x0b]);
    for _ in 1..functions {
        code.extend(leb(body.len()));
        code.extend(&body);
    }
    let mut types_of = leb(functions);
    types_of.extend(vec![0; functions]);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    let mut section = |id: u8, content: &[u8]| {
        module.push(id);
        module.extend(leb(content.len()));
        module.extend(content);
    };
    section(1, b"\x01\x60\x00\x00");
    section(3, &types_of);
    section(5, b"\x01\x00\x01");
    section(7, b"\x02\x06memory\x02\x00\x06_start\x00\x00");
    section(10, &code);
    module
}

/// An unsigned number as WebAssembly writes it.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A runtime whose compilers leave a line each in `compilers` of its folder.
fn fixture(change: impl FnOnce(&mut WasmConfig)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (draft, program) = (folder.path().join("draft"), folder.path().join("program"));
    let counts = folder.path().join("compilers");
    let helper = helper().display().to_string();
    let script =
        format!("#!/bin/sh\n[ \"$1\" = wasm-compile ] && echo x >> {}\nexec {helper} \"$@\"\n", counts.display());
    fs::write(&draft, script).unwrap();
    // By another process: a child that is just being started would hold a copy of our descriptor, and who has it open to
    // write cannot be run.
    let copied =
        Command::new("/bin/sh").args(["-c", "cp \"$0\" \"$1\" && chmod 755 \"$1\""]).arg(&draft).arg(&program).status();
    assert!(copied.unwrap().success());
    let mut config = config(folder.path());
    config.allowed_prefixes = vec![folder.path().to_owned()];
    config.program = program;
    let mut wasm = WasmConfig::new(folder.path().join("cache"));
    change(&mut wasm);
    Fixture { runtime: Some(Box::new(WasmRuntime::open(config, wasm).unwrap())), folder }
}

impl Fixture {
    fn module(&self, bytes: usize) -> PathBuf {
        let path = self.folder.path().join("module.wasm");
        fs::write(&path, module(bytes)).unwrap();
        path
    }

    fn of_module(&self, module: &Path) -> ContainerSpec {
        ContainerSpec { image: format!("file://{}", module.display()), args: Vec::new(), ..self.shell("") }
    }

    /// How many compilers were ever started.
    fn compilers(&self) -> usize {
        fs::read_to_string(self.folder.path().join("compilers")).unwrap_or_default().lines().count()
    }
}

/// Processes that compile `module` now.
fn compiling(module: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("wasm-compile\0") && line.contains(module.to_str().unwrap())
    })
    .collect()
}

async fn until_compiling(module: &Path) {
    eventually("a compiler", async || if compiling(module).is_empty() { Err("none".to_owned()) } else { Ok(()) }).await;
}

async fn until_no_compiler(module: &Path) -> Duration {
    let begun = Instant::now();
    eventually("no compiler", async || match compiling(module) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    begun.elapsed()
}

fn reason(status: &ContainerStatus) -> ExitReason {
    match &status.state {
        ContainerState::Exited(record) => record.reason,
        state => panic!("{state:?}"),
    }
}

#[tokio::test]
async fn a_stopped_start_ends_its_compiler() {
    let fixture = fixture(|_| {});
    let module = fixture.module(ENDLESS);
    let spec = fixture.of_module(&module);
    let stop = async {
        until_compiling(&module).await;
        let begun = Instant::now();
        let stopped = fixture.runtime().stop(&spec.id(), Duration::from_secs(1)).await.unwrap();
        (stopped, begun.elapsed(), until_no_compiler(&module).await)
    };
    let (started, (stopped, stop_took, compiler_took)) = tokio::join!(fixture.runtime().start(spec.clone()), stop);
    assert!(matches!(started, Err(RuntimeError::Cancelled(_))), "{started:?}");
    assert_eq!(reason(&stopped), ExitReason::StartError);
    assert!(stop_took < CANCEL_MAX && compiler_took < CANCEL_MAX, "{stop_took:?} {compiler_took:?}");
    assert!(fixture.runtime().list().await.unwrap().is_empty());
    assert!(matches!(fixture.runtime().stop(&spec.id(), Duration::ZERO).await, Err(RuntimeError::NotFound(_))));
}

#[tokio::test]
async fn a_start_that_nobody_awaits_any_more_ends_its_compiler() {
    let fixture = fixture(|_| {});
    let module = fixture.module(ENDLESS);
    let spec = fixture.of_module(&module);
    tokio::select! {
        started = fixture.runtime().start(spec) => panic!("{started:?}"),
        () = until_compiling(&module) => {}
    }
    assert!(until_no_compiler(&module).await < CANCEL_MAX);
}

#[tokio::test]
async fn a_module_is_compiled_once_for_all_who_wait_and_for_those_who_come_later() {
    let fixture = fixture(|_| {});
    let module = fixture.module(LARGE);
    let [stopped, second, third, later] = [(); 4].map(|()| fixture.of_module(&module));
    let runtime = fixture.runtime();
    let stop = async {
        until_compiling(&module).await;
        runtime.stop(&stopped.id(), Duration::ZERO).await.unwrap()
    };
    let (stopped, second, third, _) =
        tokio::join!(runtime.start(stopped.clone()), runtime.start(second.clone()), runtime.start(third.clone()), stop);
    assert!(matches!(stopped, Err(RuntimeError::Cancelled(_))), "{stopped:?}");
    assert!(second.is_ok() && third.is_ok(), "{second:?} {third:?}");
    assert_eq!(fixture.compilers(), 1);
    assert_eq!(fixture.run(&later).await.exit_code, 0);
    assert_eq!(fixture.compilers(), 1, "an artefact that is there needs no child");
}

#[tokio::test]
async fn a_module_beyond_a_limit_is_rejected_with_the_limit() {
    let fixture = fixture(|wasm| wasm.compile_time_max = Duration::from_millis(300));
    let spec = fixture.of_module(&fixture.module(ENDLESS));
    let error = message(&fixture.runtime().start(spec.clone()).await.unwrap_err());
    assert!(error.contains("takes longer than"), "{error}");
    let again = message(&fixture.runtime().start(spec).await.unwrap_err());
    assert!(again.contains("not tried again for"), "{again}");
}

#[tokio::test]
async fn a_compiler_takes_no_more_memory_than_it_is_given() {
    let fixture = fixture(|wasm| wasm.compile_memory_bytes_max = 24 << 20);
    let spec = fixture.of_module(&fixture.module(ENDLESS));
    let error = message(&fixture.runtime().start(spec).await.unwrap_err());
    assert!(error.contains("takes more than 24 MiB of memory"), "{error}");
}

#[tokio::test]
async fn a_killed_agent_leaves_no_compiler_behind() {
    let folder = tempfile::tempdir().unwrap();
    let module_path = folder.path().join("module.wasm");
    fs::write(&module_path, module(ENDLESS)).unwrap();
    for _ in 0..2 {
        let mut agent = Command::new(helper());
        agent.arg("start-wasm").args([folder.path(), &module_path]).stdin(Stdio::null());
        let mut agent = agent.spawn().unwrap();
        until_compiling(&module_path).await;
        assert_eq!(compiling(&module_path).len(), 1, "the one before has not left its own");
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert!(until_no_compiler(&module_path).await < CANCEL_MAX);
    }
}
