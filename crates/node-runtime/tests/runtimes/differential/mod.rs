//! What a container sees under our shim and under runc and crun, for pods made up from a seed.
//!
//! Isolation is where own code must be doubted, and a list of what was thought of is no doubt. So the same image runs under all three:
//! ours from a [`ContainerSpec`], the others from the file that containerd writes for the same pod, in the same sandbox and below
//! the same group. In it a probe (`examples/container-probe.rs`) says what it sees as plain facts. Every fact that differs must be in
//! [`KNOWN`], with a reason. A case counts only when every probe has printed its marker.
//!
//! `SELVEDGE_TEST_SIZE=full` takes some hundreds of pods; `SEED` other ones.

mod case;
mod known;
mod oci;
mod peer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_runtime::{ContainerRuntime, Image, ImageConfig, Images, PodInstance, RuntimeError, RuntimeFuture};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use self::{
    case::{Case, USERS},
    known::{KNOWN, Seen},
    oci::Sandbox,
    peer::{Peer, Run},
};
use crate::fixture::{self, Fixture, NoLinks, message};

/// In front of the facts.
const MARKER: &str = "SELVEDGE-PROBE ";
const CASES_SMALL: u64 = 24;
const CASES_FULL: u64 = 300;
const SEED: u64 = 9;

/// What a program sees.
type Facts = BTreeMap<String, String>;

/// The facts of what was printed, if they are there.
fn facts_in(text: &str) -> Option<Facts> {
    let json = text.lines().find_map(|line| line.strip_prefix(MARKER))?;
    serde_json::from_str(json).ok()
}

/// One image, with another user by its name.
struct ProbeImages(PathBuf);

impl ProbeImages {
    const LAYERS: [&str; 2] = ["low", "high"];

    fn env() -> Vec<String> {
        vec!["FROM_IMAGE=yes".to_owned(), "LANG=C.UTF-8".to_owned()]
    }

    fn name(user: usize) -> String {
        format!("registry.example/probe:{user}")
    }

    fn layers(&self) -> Vec<PathBuf> {
        Self::LAYERS.iter().map(|layer| self.0.join(layer)).collect()
    }

    /// The probe with the libraries that it needs, and the files that its cases look at.
    fn make(store: &Path) -> Self {
        let (low, high) = (store.join("low"), store.join("high"));
        for dir in ["etc", "tmp", "private", "bin"] {
            fs::create_dir_all(low.join(dir)).unwrap();
        }
        let probe = fixture::helper().with_file_name("container-probe");
        fs::copy(&probe, low.join("probe")).unwrap();
        for library in libraries(&probe) {
            let target = low.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(fs::canonicalize(&library).unwrap(), target).unwrap();
        }
        fs::set_permissions(low.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(low.join("private"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir_all(high.join("etc")).unwrap();
        fs::write(high.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
            .unwrap();
        fs::write(high.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:2000:app\n").unwrap();
        symlink("/proc/mounts", high.join("etc/mtab")).unwrap();
        Self(store.to_owned())
    }
}

/// What a program is linked with, by the loader's own word.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = std::process::Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect::<BTreeSet<_>>().into_iter().collect()
}

impl Images for ProbeImages {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let user = (0..USERS.len()).find(|user| image == Self::name(*user));
        Ok(user.map(|user| Image {
            id: "sha256:1".to_owned(),
            store: self.0.clone(),
            layers: Self::LAYERS.map(str::to_owned).to_vec(),
            config: ImageConfig { env: Self::env(), user: USERS[user].0.to_owned(), ..ImageConfig::default() },
        }))
    }

    fn pull(&self, _: &str, _: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        Box::pin(async { Ok(0) })
    }
}

/// A file system for volumes that passes on what is mounted in it.
struct SharedMount(PathBuf);

impl SharedMount {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        rustix::mount::mount("none", &path, "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
        rustix::mount::mount_change(&path, MountPropagationFlags::SHARED).unwrap();
        Self(path)
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// All that cases share.
struct Bench {
    _volumes: SharedMount,
    fixture: Fixture,
    images: ProbeImages,
    peers: Vec<Peer>,
}

impl Bench {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            testkit::skip("containers of images need root");
            return None;
        }
        let peers = peer::peers();
        if peers.is_empty() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("layers");
        let images = ProbeImages::make(&store);
        let volumes = folder.path().join("volumes");
        let mounted = SharedMount::mount(volumes.clone());
        for dir in ["one/inner", "two", "three"] {
            fs::create_dir_all(volumes.join(dir)).unwrap();
        }
        fs::write(volumes.join("file"), "of the node").unwrap();
        for (name, text) in case::PROFILES {
            crate::rights::put_profile(folder.path(), name, text.as_bytes());
        }
        let mut config = fixture::config(folder.path());
        config.network = Some(Arc::new(NoLinks));
        let runtime = ContainerRuntime::open(config, Arc::new(ProbeImages(store))).unwrap();
        Some(Self { _volumes: mounted, fixture: Fixture { runtime: Some(Box::new(runtime)), folder }, images, peers })
    }

    fn case(&self, seed: u64, number: u64) -> Case {
        let mut case = Case::generate(seed, number, &self.fixture.folder.path().join("volumes"));
        case.spec.image = ProbeImages::name(case.user);
        case.spec.log_dir = self.fixture.folder.path().join("logs").join(&case.spec.pod.uid);
        case
    }

    /// What a case shows under ours and the others.
    async fn run(&self, case: &Case) -> Result<Differences, String> {
        let runtime = self.fixture.runtime();
        let instance = runtime.ensure_pod(case.pod.clone()).await.map_err(|error| message(&error))?;
        let sandbox = self.sandbox(case, &instance);
        let names = Names::of(&instance);
        let ours = self.run_ours(case, &sandbox).await.map(|run| names.given_to(run));
        let mut theirs = case.clone();
        node_runtime::oci::read_profile(&self.fixture.folder.path().join("seccomp"), &mut theirs.spec)
            .map_err(|error| message(&error))?;
        let others: Vec<_> = self
            .peers
            .iter()
            .map(|peer| {
                let group = format!("{}/{}", sandbox.cgroup, peer.name());
                let sandbox =
                    Sandbox { cgroup: group.clone(), shm: sandbox.shm.clone(), namespaces: sandbox.namespaces.clone() };
                let image = (&*self.images.layers(), &*ProbeImages::env());
                let run = peer.run(self.fixture.folder.path(), &theirs, image, &sandbox).map(|run| names.given_to(run));
                peer::remove_groups(Path::new(group.trim_start_matches('/')));
                (*peer, run)
            })
            .collect();
        runtime.remove_pod(&case.spec.pod.uid).await.map_err(|error| message(&error))?;
        peer::remove_groups(Path::new(sandbox.cgroup.trim_start_matches('/')));
        let ours = ours?;
        let mut differences = Differences::new();
        for (peer, run) in others {
            let run = run?;
            compare("", peer, &ours.program, &run.program, &mut differences);
            if let (Some(ours), Some(theirs)) = (&ours.command, &run.command) {
                compare("exec ", peer, ours, theirs, &mut differences);
            }
        }
        Ok(differences)
    }

    async fn run_ours(&self, case: &Case, sandbox: &Sandbox) -> Result<Run, String> {
        let runtime = self.fixture.runtime();
        let mut spec = case.spec.clone();
        if case.with_command {
            spec.args = vec!["stay".to_owned()];
        }
        runtime.start(spec.clone()).await.map_err(|error| format!("ours: {}", message(&error)))?;
        if !case.with_command {
            let record = self.fixture.exit(&spec.id()).await;
            let program =
                self.printed(&spec).ok_or_else(|| format!("ours: {record:?}: {:?}", self.fixture.log(&spec)))?;
            return Ok(Run { program, command: None });
        }
        let program = fixture::eventually("what the probe prints", async || {
            self.printed(&spec).ok_or_else(|| format!("{:?} {:?}", case.spec, self.fixture.log(&spec)))
        })
        .await;
        let name = format!("{}-ours", case.spec.pod.uid);
        let words = spec.command.iter().cloned().chain([format!("/dev/shm/{name}")]).collect();
        let output = runtime.exec(&spec.id(), words, Duration::from_secs(30)).await;
        let stopped = runtime.stop(&spec.id(), Duration::ZERO).await;
        let output = output.map_err(|error| format!("our exec: {}", message(&error)))?;
        stopped.map_err(|error| format!("ours: {}", message(&error)))?;
        let text = peer::written(sandbox, &name);
        let command = facts_in(&text).ok_or_else(|| format!("our exec: {output:?} {text}"))?;
        Ok(Run { program, command: Some(command) })
    }

    /// Long lines come in parts.
    fn printed(&self, spec: &node_runtime::ContainerSpec) -> Option<Facts> {
        let log = self.fixture.log(spec);
        let is_whole = log.iter().any(|line| line.starts_with("stdout F "));
        let parts = log.iter().filter_map(|line| line.strip_prefix("stdout P ").or(line.strip_prefix("stdout F ")));
        facts_in(&parts.collect::<String>()).filter(|_| is_whole)
    }

    fn sandbox(&self, case: &Case, instance: &PodInstance) -> Sandbox {
        let shm = self.fixture.folder.path().join("in-memory/pods").join(&case.spec.pod.uid).join("shm");
        Sandbox {
            namespaces: instance.namespaces.clone(),
            shm: if case.pod.host.ipc { "/dev/shm".to_owned() } else { shm.display().to_string() },
            cgroup: format!("/selvedge-test/{}", case.spec.pod.uid),
        }
    }
}

/// Whose a namespace or a keyring is, by its number.
struct Names(BTreeMap<String, &'static str>);

impl Names {
    fn of(instance: &PodInstance) -> Self {
        let mut names = BTreeMap::new();
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            if let Ok(link) = fs::read_link(format!("/proc/self/ns/{kind}")) {
                names.insert(link.display().to_string(), "the node's");
            }
        }
        for namespace in &instance.namespaces {
            let data = fs::metadata(&namespace.path).unwrap();
            names.insert(format!("{}:[{}]", namespace.kind, data.ino()), "the pod's");
        }
        // SAFETY: KEYCTL_GET_KEYRING_ID takes plain numbers: the session's keyring (-3), which is not made.
        let keyring = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
        names.insert(keyring.to_string(), "the node's");
        Self(names)
    }

    fn given_to(&self, mut run: Run) -> Run {
        for facts in [Some(&mut run.program), run.command.as_mut()].into_iter().flatten() {
            for (key, value) in facts.iter_mut() {
                let is_number = key == "process/keyring" && value.parse::<i64>().is_ok();
                if is_number || key.starts_with("ns/") {
                    *value = self.0.get(value).copied().unwrap_or("its own").to_owned();
                }
            }
        }
        run
    }
}

/// What is not the same: where, and for whom.
type Differences = BTreeSet<Difference>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Difference {
    key: String,
    peer: Peer,
    ours: String,
    theirs: String,
}

fn compare(prefix: &str, peer: Peer, ours: &Facts, theirs: &Facts, differences: &mut Differences) {
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        let value = |facts: &Facts| facts.get(key).cloned().unwrap_or_else(|| "-".to_owned());
        let (ours, theirs) = (value(ours), value(theirs));
        if !key.starts_with("calls/") {
            if ours != theirs {
                differences.insert(Difference { key: format!("{prefix}{key}"), peer, ours, theirs });
            }
            continue;
        }
        // One letter for each call.
        for (number, (ours, theirs)) in ours.chars().zip(theirs.chars()).enumerate().filter(|(_, (a, b))| a != b) {
            let (ours, theirs) = (ours.to_string(), theirs.to_string());
            differences.insert(Difference { key: format!("{prefix}{key}/{number}"), peer, ours, theirs });
        }
    }
}

fn is_known(difference: &Difference, case: &Case) -> bool {
    let (key, is_command) = match difference.key.strip_prefix("exec ") {
        Some(key) => (key, true),
        None => (&*difference.key, false),
    };
    let seen = Seen { key, ours: &difference.ours, theirs: &difference.theirs, case, is_command };
    KNOWN.iter().any(|known| {
        key.starts_with(known.key) && known.peer.is_none_or(|peer| peer == difference.peer) && (known.is_meant)(&seen)
    })
}

#[tokio::test]
async fn a_container_sees_what_it_sees_under_runc_and_crun() {
    let Some(bench) = Bench::new() else { return };
    let is_full = std::env::var("SELVEDGE_TEST_SIZE").is_ok_and(|size| size == "full");
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let only: Option<u64> = std::env::var("SELVEDGE_TEST_CASE").ok().and_then(|number| number.parse().ok());
    let numbers = 0..if is_full { CASES_FULL } else { CASES_SMALL };
    let mut found: BTreeMap<Difference, Vec<u64>> = BTreeMap::new();
    let mut failed = Vec::new();
    let mut compared = 0;
    for number in numbers.filter(|number| only.is_none_or(|only| only == *number)) {
        let case = bench.case(seed, number);
        match bench.run(&case).await {
            Ok(differences) => {
                compared += 1;
                for difference in differences.into_iter().filter(|difference| !is_known(difference, &case)) {
                    found.entry(difference).or_default().push(number);
                }
            }
            Err(error) => failed.push(format!("case {number}: {error}\n  {:?} {:?}", case.pod.host, case.spec)),
        }
    }
    let lines: Vec<String> = found
        .iter()
        .map(|(difference, cases)| {
            let Difference { key, peer, ours, theirs } = difference;
            let first = &cases[..cases.len().min(6)];
            format!("{key}: ours `{ours}`, {} `{theirs}` in {} cases: {first:?}", peer.name(), cases.len())
        })
        .collect();
    assert!(
        lines.is_empty() && failed.is_empty(),
        "seed {seed}, {compared} pods compared; what is not known:\n{}\n{}",
        lines.join("\n"),
        failed.join("\n")
    );
    assert!(compared > 0, "no pod was compared");
}
