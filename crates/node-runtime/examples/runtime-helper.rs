//! The hidden subcommands as a program of their own, for the tests of this crate: what `selvedge wasm-worker` and its
//! siblings are in the product.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next().as_deref().and_then(|word| word.to_str()) {
        #[cfg(feature = "wasm")]
        Some("wasm-worker") => node_runtime::wasm_worker_main(args),
        #[cfg(feature = "wasm")]
        Some("start-wasm") => start_wasm(args.collect()),
        #[cfg(feature = "wasm")]
        Some("wasm-compile") => node_runtime::wasm_compile_main(args),
        _ => {
            eprintln!("usage: runtime-helper wasm-worker|wasm-compile …");
            ExitCode::FAILURE
        }
    }
}

/// An agent that starts one module and does nothing else: for tests that kill it.
#[cfg(feature = "wasm")]
fn start_wasm(args: Vec<std::ffi::OsString>) -> ExitCode {
    use node_runtime::{ContainerSpec, PodRef, PodRuntime as _, ProcessConfig, WasmConfig, WasmRuntime};

    let [folder, module] = args.as_slice() else { return ExitCode::FAILURE };
    let folder = std::path::Path::new(folder);
    let mut config = ProcessConfig::new(folder.join("state"), vec![folder.to_owned()]);
    config.cgroup_parent = "selvedge-test".to_owned();
    let spec = ContainerSpec {
        pod: PodRef { uid: "agent".to_owned(), ..PodRef::default() },
        container: "main".to_owned(),
        image: format!("file://{}", module.display()),
        log_dir: folder.join("logs"),
        ..ContainerSpec::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
    runtime.block_on(async {
        let runtime = WasmRuntime::open(config, WasmConfig::new(folder.join("cache"))).expect("the runtime opens");
        match runtime.start(spec).await {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    })
}
