//! The first process of a pid namespace that the containers of a pod share, as the agent sees it: started, found again, replaced.
//!
//! What is known of it is a file in memory beside the pod's other namespaces. One that was started by an agent that was killed before it
//! wrote that file is found by its control group, where nothing else is.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    path::Path,
    process::Stdio,
};

use node_shim::{
    NamespaceRef,
    cgroup::CgroupPaths,
    reaper::{FLAG, REAPER_VERSION, ReaperRecord, ReaperRequest},
    state::Process,
};

use crate::program::ShimProgram;

/// Its file in the pod's directory.
const FILE: &str = "reaper.json";
const FILE_BYTES_MAX: u64 = 4096;

/// The reaper of a pod, with what another one would be started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reaper {
    pub process: Process,
    request: ReaperRequest,
}

impl Reaper {
    /// That of the pod whose directory is `dir`: the one that runs, or a new one.
    pub fn ensure(
        shim: &ShimProgram,
        dir: &Path,
        namespaces: Vec<NamespaceRef>,
        cgroups: CgroupPaths,
    ) -> io::Result<Self> {
        let request = ReaperRequest { cgroups, namespaces };
        match find(dir).filter(Process::runs) {
            Some(process) => Ok(Self { process, request }),
            None => Self::start(shim, dir, request),
        }
    }

    /// The same one, or another where it has ended, and with it all that was in the namespace.
    pub fn renewed(self, shim: &ShimProgram, dir: &Path) -> io::Result<Self> {
        if self.process.runs() { Ok(self) } else { Self::start(shim, dir, self.request) }
    }

    fn start(shim: &ShimProgram, dir: &Path, request: ReaperRequest) -> io::Result<Self> {
        request.cgroups.kill_all();
        let mut starter = shim
            .blocking_command(&[OsStr::new("shim"), OsStr::new(FLAG)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = starter.stdin.take() {
            stdin.write_all(&serde_json::to_vec(&request)?)?;
        }
        let output = starter.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(format!("failed to start the first process of the pod: {why}")));
        }
        let process: Process = serde_json::from_slice(&output.stdout)?;
        fs::create_dir_all(dir)?;
        let draft = dir.join(FILE).with_extension("tmp");
        let record = ReaperRecord { version: REAPER_VERSION, process: process.clone() };
        fs::write(&draft, serde_json::to_vec(&record)?)?;
        fs::rename(&draft, dir.join(FILE))?;
        Ok(Self { process, request })
    }
}

/// What is written of it; what cannot be read counts as none.
fn find(dir: &Path) -> Option<Process> {
    let path = dir.join(FILE);
    if fs::metadata(&path).ok()?.len() > FILE_BYTES_MAX {
        return None;
    }
    let record: ReaperRecord = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    (record.version == REAPER_VERSION && record.process.pid > 1).then_some(record.process)
}
