//! The real kubectl, in the versions that `cargo xtask install` brings.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::program::Outcome;

/// One kubectl with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Every kubectl that is installed, as (version, program). Empty: the caller says why it skips.
    pub fn installed() -> Vec<(&'static str, PathBuf)> {
        [("1.33", "SELVEDGE_KUBECTL_133"), ("1.35", "SELVEDGE_KUBECTL_135"), ("1.37", "SELVEDGE_KUBECTL_137")]
            .into_iter()
            .filter_map(|(version, variable)| std::env::var_os(variable).map(|path| (version, path.into())))
            .collect()
    }

    /// The newest that is installed; `None` after a printed reason.
    pub fn newest(kubeconfig: &Path) -> Option<Self> {
        let found = Self::installed().pop();
        if found.is_none() {
            crate::skip("no kubectl; `cargo xtask test` installs it unless --no-install is given");
        }
        found.map(|(_, program)| Self::new(program, kubeconfig))
    }

    /// A given program.
    pub fn new(program: PathBuf, kubeconfig: &Path) -> Self {
        Self { program, kubeconfig: kubeconfig.to_owned() }
    }

    /// A command that is not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // A cache of its own: two servers on one port after each other must not share discovery.
        let cache = self.kubeconfig.with_extension("kubectl-cache");
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(cache).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Result<Outcome> {
        Outcome::of(&mut self.command(args))
    }

    /// Runs it; answers what it printed when it ended well.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok()
    }

    /// Runs it; answers its complaint when it ended badly.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.refused()
    }

    /// `get ARGS -o json`.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["get"];
        all.extend(args);
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)?).context("kubectl printed something that is not JSON")
    }

    /// `get --raw PATH`.
    pub fn raw(&self, path: &str) -> Result<serde_json::Value> {
        serde_json::from_str(&self.ok(&["get", "--raw", path])?).context("the answer is not JSON")
    }

    /// `apply -f` of a text.
    pub fn apply(&self, manifest: &str) -> Result<Outcome> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::fs::write(file.path(), manifest)?;
        self.run(&["apply", "-f", &file.path().to_string_lossy()])
    }
}
