//! What the node's configuration tells the runtimes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use node_shim::Isolation;

use crate::PodNetwork;

/// Settings of [`crate::ProcessRuntime`]; the WebAssembly runtime stands on the same.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// `DATA_DIR/node/pods/…`: a folder for the state folders; it must outlive a reboot.
    pub state_dir: PathBuf,
    /// Directories of the node that containers do not see, unless they are privileged or have a volume there: keys, offline
    /// copies, other pods' volumes.
    pub hidden: Vec<PathBuf>,
    /// Where `localhostProfile` of a seccomp profile is looked for.
    pub seccomp_dir: PathBuf,
    /// Where the environments of containers are kept; it exists. By default a directory in memory, which no one else can read:
    /// below `/run/selvedge`, for a node without root below `$XDG_RUNTIME_DIR`.
    pub launch_dir: Option<PathBuf>,
    /// The program with the hidden subcommands `wasm-worker` and `wasm-compile`.
    /// [`ProcessConfig::THIS_PROGRAM`] unless a test has one of its own.
    pub program: PathBuf,
    /// Folders whose programs or modules may be run. Empty: none.
    pub allowed_prefixes: Vec<PathBuf>,
    /// Name of the control group under which all containers' groups are.
    pub cgroup_parent: String,
    /// Namespaces.
    pub isolation: Isolation,
    /// Processes and threads of one pod: more than it needs, and too few to keep others waiting for long when all of them want a
    /// processor, each with a lock of the kernel's held.
    pub pod_pids_max: u64,
    /// What gives pods addresses of their own; without it they have the node's.
    pub network: Option<Arc<dyn PodNetwork>>,
    /// Size at which a log file is put aside.
    pub log_bytes_max: u64,
    /// Log files kept, the one being written among them.
    pub log_files_max: u32,
}

impl ProcessConfig {
    /// The running program itself; this name goes on working when its file is replaced by an upgrade.
    pub const THIS_PROGRAM: &str = "/proc/self/exe";

    /// Settings with a kubelet's usual limits: 10 MiB a log file, 5 files.
    pub fn new(state_dir: impl Into<PathBuf>, allowed_prefixes: Vec<PathBuf>) -> Self {
        let state_dir = state_dir.into();
        Self {
            // As the kubelet has it: `seccomp` in its own directory.
            seccomp_dir: state_dir.with_file_name("seccomp"),
            state_dir,
            hidden: Vec::new(),
            launch_dir: None,
            program: Self::THIS_PROGRAM.into(),
            allowed_prefixes,
            cgroup_parent: "selvedge".to_owned(),
            isolation: Isolation::Auto,
            pod_pids_max: 512,
            network: None,
            log_bytes_max: 10 * 1024 * 1024,
            log_files_max: 5,
        }
    }
}

/// Settings of the WebAssembly runtime beside [`ProcessConfig`].
#[derive(Clone, Debug)]
pub struct WasmConfig {
    /// `DATA_DIR/node/wasm-cache`: compiled modules. Made with mode 0700; code in it is run unchecked by the engine.
    pub cache_dir: PathBuf,
    /// Bytes the cache may hold; the longest unused go first.
    pub cache_bytes_max: u64,
    /// Memory for compiling one module. What needs more is not run on this node.
    pub compile_memory_bytes_max: u64,
    /// How long one module may take to compile, on one CPU.
    pub compile_time_max: Duration,
}

impl WasmConfig {
    /// A cache of 256 MiB, some twenty modules of the size that language runtimes produce; for compiling one module 512 MiB,
    /// on a machine with less than 2 GiB a quarter of its memory, and two minutes.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            cache_bytes_max: 256 * 1024 * 1024,
            compile_memory_bytes_max: (512 * 1024 * 1024).min(memory_bytes() / 4),
            compile_time_max: Duration::from_secs(120),
        }
    }
}

/// Memory of this machine.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}
