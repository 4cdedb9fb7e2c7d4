//! The hidden subcommands as a program of their own, for the tests of this crate: what `selvedge shim` and its
//! siblings are in the product.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next().as_deref().and_then(|word| word.to_str()) {
        Some("shim") => node_runtime::shim_main(args),
        #[cfg(feature = "wasm")]
        Some("wasm-worker") => node_runtime::wasm_worker_main(args),
        #[cfg(feature = "wasm")]
        Some("wasm-compile") => node_runtime::wasm_compile_main(args),
        _ => {
            eprintln!("usage: runtime-helper shim|wasm-worker|wasm-compile …");
            ExitCode::FAILURE
        }
    }
}
