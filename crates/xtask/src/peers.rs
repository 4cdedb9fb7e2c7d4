//! Programs in Go that tests run beside ours: built from modules, kept with the other tools.
//!
//! A program is built again when a file of its module here changes. client-go is a client as others write them and takes part in
//! every run; Kubernetes' own servers take minutes to build and are built on demand, to measure against and to ask where no
//! recording answers: `cargo xtask install kube-apiserver`.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::{has, root, run, say, tools_dir};

/// A program of a Go module in this repository.
pub struct GoProgram {
    name: &'static str,
    /// Where the module is, from the checkout.
    module: &'static str,
    package: &'static str,
    flags: &'static [&'static str],
}

/// What Kubernetes' release builds say of themselves, which clients see in `/version`.
const KUBERNETES_FLAGS: &[&str] = &[
    "-ldflags",
    "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 -X k8s.io/component-base/version.gitMajor=1 \
     -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/component-base/version.gitTreeState=clean \
     -X k8s.io/component-base/version.gitCommit=go-module -X k8s.io/component-base/version.buildDate=2026-01-01T00:00:00Z \
     -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3",
];

/// Typed, dynamic and informer clients; see `tests/clients/client-go`.
pub const CLIENT_GO: GoProgram =
    GoProgram { name: "client-go", module: "tests/clients/client-go", package: ".", flags: &[] };
/// A client of CRI, for containerd as a peer; see `tests/peers/cri`.
pub const CRI: GoProgram = GoProgram { name: "cri", module: "tests/peers/cri", package: ".", flags: &[] };
/// Kubernetes' API server.
pub const KUBE_APISERVER: GoProgram = of_kubernetes("kube-apiserver", "./kube-apiserver");
/// Kubernetes' controllers.
pub const KUBE_CONTROLLER_MANAGER: GoProgram = of_kubernetes("kube-controller-manager", "./kube-controller-manager");
/// Kubernetes' scheduler.
const KUBE_SCHEDULER: GoProgram = of_kubernetes("kube-scheduler", "./kube-scheduler");
/// What the API server stores objects in.
pub const ETCD: GoProgram = of_kubernetes("etcd", "./etcd");

const fn of_kubernetes(name: &'static str, package: &'static str) -> GoProgram {
    GoProgram { name, module: "tests/peers/kubernetes", package, flags: KUBERNETES_FLAGS }
}

impl GoProgram {
    /// Where it is, or will be: its name holds a digest of what it is built from.
    fn path(&self) -> Result<PathBuf> {
        let mut open = vec![root().join(self.module)];
        let mut files = Vec::new();
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))? {
                let path = entry?.path();
                if path.is_dir() { open.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        let mut digest = DefaultHasher::new();
        for flag in self.flags {
            digest.write(flag.as_bytes());
        }
        for file in files {
            digest.write(&fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?);
        }
        Ok(tools_dir().join(format!("{}-{:016x}", self.name, digest.finish())))
    }

    /// The program, where it is built.
    pub fn found(&self) -> Option<PathBuf> {
        self.path().ok().filter(|path| path.is_file())
    }

    /// Builds it, unless it is there.
    pub fn build(&self) -> Result<PathBuf> {
        let path = self.path()?;
        if path.is_file() {
            return Ok(path);
        }
        if !has("go") {
            bail!("{} is built from Go modules, and there is no Go here", self.name);
        }
        say(&format!("Building {} (Go, {})", self.name, self.module));
        fs::create_dir_all(tools_dir()).context("failed to make the directory of tools")?;
        let part = path.with_extension("part");
        let mut command = Command::new("go");
        command
            .args(["build", "-o"])
            .arg(&part)
            .args(self.flags)
            .arg(self.package)
            .current_dir(root().join(self.module));
        // Versions are those of go.sum, and no other toolchain is fetched.
        command.env("GOFLAGS", "-mod=readonly").env("GOTOOLCHAIN", "local");
        run(&mut command)?;
        fs::rename(&part, &path).with_context(|| format!("failed to put {} into place", path.display()))?;
        println!("{}", path.display());
        Ok(path)
    }
}

/// `cargo xtask install NAME …`: Kubernetes' own servers.
pub fn install(names: &[String]) -> Result<()> {
    for name in names {
        match name.as_str() {
            // Neither is of use without the other.
            "kube-apiserver" => drop((ETCD.build()?, KUBE_APISERVER.build()?)),
            "kube-controller-manager" => drop(KUBE_CONTROLLER_MANAGER.build()?),
            "kube-scheduler" => drop(KUBE_SCHEDULER.build()?),
            other => bail!(
                "`{other}` cannot be installed by name; there are kube-apiserver (with etcd), kube-controller-manager and kube-scheduler"
            ),
        }
    }
    Ok(())
}
