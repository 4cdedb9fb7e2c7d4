//! The one engine configuration: an artefact made with another would not load.

use wasmtime::{Config, Engine, OptLevel};

/// The engine of compiler and worker.
pub(super) fn engine() -> Result<Engine, String> {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    // A module's own backtrace in the log is worth more than the bytes it costs.
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20));
    Engine::new(&config).map_err(|error| format!("failed to set up the WebAssembly engine: {error:?}"))
}
