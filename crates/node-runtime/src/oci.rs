//! Other runtimes: any program with the command line of runc can make the containers of images.
//!
//! What a pod gets is the same: image, sandbox, control groups, log, and our shim as the one that waits. The runtime is given what
//! containerd would give it for the same pod, as a bundle (`config.json`); the suite that compares ours with runc and crun runs them by
//! these very configurations.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use node_shim::{
    ContainerSpec, ImageRoot, Mount, Propagation, SHM_OF_NODE, Seccomp, Security,
    shim::USER_SLOT,
    state::{Launch, OciRuntime as Called},
};
use serde_json::{Value, json};

use crate::{RuntimeError, seccomp};

/// Runtimes that are known by their names, where they are installed.
const KNOWN: [&str; 4] = ["crun", "runc", "runsc", "youki"];

/// Where they are looked for.
const DIRS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// Search path of a container that names none.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Devices that a privileged container gets: more than any box has.
const DEVICES_MAX: usize = 16_384;

/// A bundle that was made by us is smaller.
const CONFIG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is in `/dev` and not the node's to give.
const OWN_DEVICES: [&str; 5] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console"];

/// A runtime of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRuntime {
    /// The name that pods ask for it by: that of their `RuntimeClass`.
    pub handler: String,
    /// Its file.
    pub path: PathBuf,
    /// Words before its subcommand.
    pub args: Vec<String>,
}

impl OciRuntime {
    /// Those that are installed under their own names.
    pub fn installed() -> Vec<Self> {
        let find = |name: &str| DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
        let found = KNOWN.iter().filter_map(|name| Some((*name, find(name)?)));
        found.map(|(name, path)| Self { handler: name.to_owned(), path, args: Vec::new() }).collect()
    }

    /// Whether it can be the name of another runtime: a DNS label, and none of ours.
    pub fn is_handler(name: &str) -> bool {
        api_kube::names::is_dns_label(name) && !name.starts_with("selvedge-")
    }

    /// Those of `named`, and those that have containers in a state directory: whoever takes one out of the settings leaves none alone.
    pub fn all(named: Vec<Self>, state_dir: &Path) -> Vec<Self> {
        let mut all = named;
        for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
            let handler = entry.file_name().to_string_lossy().into_owned();
            let has_containers = || {
                let mut names =
                    fs::read_dir(entry.path()).into_iter().flatten().flatten().map(|entry| entry.file_name());
                names.any(|name| !name.as_encoded_bytes().starts_with(b"."))
            };
            if Self::is_handler(&handler) && all.iter().all(|one| one.handler != handler) && has_containers() {
                let path = Path::new("/usr/bin").join(&handler);
                all.push(Self { handler, path, args: Vec::new() });
            }
        }
        all
    }

    /// Whether its file can be executed.
    pub(crate) fn check(&self) -> io::Result<()> {
        Ok(rustix::fs::access(&self.path, rustix::fs::Access::EXEC_OK)?)
    }

    /// As the shim calls it. Where its files are is decided when the container is started.
    pub(crate) fn called(&self) -> Called {
        Called { path: self.path.clone(), args: self.args.clone(), bundle: PathBuf::new() }
    }
}

/// Directory of all bundles, in the launch directory.
const BUNDLES: &str = "oci";

/// Where the bundle of a container is.
pub(crate) fn bundle(launch_dir: &Path, id: &str) -> PathBuf {
    launch_dir.join(BUNDLES).join(id)
}

/// Deletes the bundles of which `is_known` does not know the container.
pub(crate) fn remove_unknown(launch_dir: &Path, is_known: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(launch_dir.join(BUNDLES)).into_iter().flatten().flatten() {
        if !is_known(&entry.file_name().to_string_lossy()) {
            remove(&entry.path());
        }
    }
}

/// Deletes a bundle. To the shim volumes are mounted in it: what is deleted with all that is in it is the runtime's own state.
pub(crate) fn remove(bundle: &Path) {
    let _ = fs::remove_dir_all(bundle.join("state"));
    for dir in [bundle.join("volumes"), bundle.to_owned()] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // Of the two, the one that does not fit fails.
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
        }
        let _ = fs::remove_dir(&dir);
    }
}

/// Writes what a container's runtime gets.
///
/// # Errors
/// When the directory in memory takes no file.
pub(crate) fn write(launch: &Launch, called: &Called) -> io::Result<()> {
    let bundle = &called.bundle;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(bundle)?;
    let config = config(launch, |number, _| bundle.join("volumes").join(number.to_string()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(bundle.join("config.json"))?;
    io::Write::write_all(&mut file, config.to_string().as_bytes())
}

/// `process` for a command that is run in a container, in JSON.
///
/// # Errors
/// When the container's own cannot be read.
pub(crate) fn process_of_command(bundle: &Path, argv: &[String]) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(bundle.join("config.json"))?;
    io::Read::read_to_end(&mut io::Read::take(file, CONFIG_BYTES_MAX), &mut bytes)?;
    let mut config: Value = serde_json::from_slice(&bytes)?;
    let mut process = config["process"].take();
    process["args"] = json!(argv);
    process["terminal"] = json!(false);
    Ok(process.to_string())
}

/// Reads the seccomp profile that a container names from a directory of profiles, as [`config`] expects it.
///
/// # Errors
/// When there is no such file, or no filter comes out of it.
pub fn read_profile(dir: &Path, spec: &mut ContainerSpec) -> Result<(), RuntimeError> {
    seccomp::read(dir, spec, true)
}

/// The configuration that containerd writes for a container (1.6 and 1.7, with its defaults, as a kubelet calls it). `root` is
/// `rootfs` beside it; the user is for the shim to put in. `source` says where the nth mount is found.
pub fn config(launch: &Launch, source: impl Fn(usize, &Mount) -> PathBuf) -> Value {
    let (spec, security) = (&launch.spec, &launch.spec.security);
    let granted = capabilities(security);
    let is_plain = security.privileged || security.unmasked_proc;
    let (masked, read_only) =
        if is_plain { (&[][..], &[][..]) } else { (&node_shim::shim::MASKED[..], &node_shim::shim::READ_ONLY[..]) };
    let mut masked: Vec<&Path> = masked.iter().map(Path::new).collect();
    if !security.privileged && launch.image.as_ref().is_some_and(ImageRoot::has_shm_of_node) {
        masked.extend(launch.hidden.iter().map(PathBuf::as_path).filter(|path| path.starts_with(SHM_OF_NODE)));
    }
    let mut namespaces = vec![json!({"type": "mount"})];
    match &launch.processes_of {
        Some(first) => namespaces.push(json!({"type": "pid", "path": format!("/proc/{}/ns/pid", first.pid)})),
        None if spec.host_pid || launch.namespaces.iter().any(|namespace| namespace.kind == "pid") => {}
        None => namespaces.push(json!({"type": "pid"})),
    }
    for namespace in &launch.namespaces {
        let kind = if namespace.kind == "net" { "network" } else { &namespace.kind };
        namespaces.push(json!({"type": kind, "path": namespace.path}));
    }
    if is_unified() && !security.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let id = spec.id();
    let group = format!("/{}/{}/{}_{}", launch.cgroup_parent, id.pod_uid, id.container, id.attempt);
    let mut linux = json!({
        "cgroupsPath": group,
        "namespaces": namespaces,
        "resources": resources(launch),
        "maskedPaths": masked,
        "readonlyPaths": read_only,
    });
    if security.privileged {
        linux["devices"] = devices();
    } else if let Some(profile) = &security.seccomp_profile {
        // It was made by us. Were it not, the runtime would not take it.
        linux["seccomp"] = serde_json::from_str(&profile.oci).unwrap_or(json!(""));
    } else if security.seccomp == Seccomp::RuntimeDefault {
        linux["seccomp"] = seccomp::default(&granted);
    }
    let spread = spec.mounts.iter().map(|mount| mount.propagation);
    match spread.max_by_key(|propagation| *propagation as u8) {
        Some(Propagation::HostToContainer) => linux["rootfsPropagation"] = json!("rslave"),
        Some(Propagation::Bidirectional) => linux["rootfsPropagation"] = json!("rshared"),
        _ => {}
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process(launch, &granted),
        "root": {"path": "rootfs", "readonly": security.read_only_root},
        "mounts": mounts(launch, source),
        "linux": linux,
    })
}

fn process(launch: &Launch, granted: &[String]) -> Value {
    let spec = &launch.spec;
    let mut env: BTreeMap<&str, &str> = spec.env.iter().map(|(name, value)| (&**name, &**value)).collect();
    env.entry("PATH").or_insert(PATH_DEFAULT);
    env.entry("HOSTNAME").or_insert_with(|| spec.hostname.as_deref().unwrap_or(&spec.pod.name));
    let env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut process = json!({
        "terminal": spec.tty,
        "user": null,
        "args": launch.argv,
        "env": env,
        "cwd": spec.working_dir.as_deref().unwrap_or(Path::new("/")),
        // No ambient ones, and since 1.6.2 no inheritable ones (CVE-2022-24769).
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "noNewPrivileges": spec.security.allow_privilege_escalation == Some(false),
        "oomScoreAdj": spec.oom_score_adj.unwrap_or(0),
    });
    if let Some(profile) = &spec.security.app_armor {
        process["apparmorProfile"] = json!(profile);
    }
    if spec.tty {
        // What programs get while nobody sets the size of a window.
        process["consoleSize"] = json!({"height": 24, "width": 80});
    }
    debug_assert!(process.to_string().contains(USER_SLOT), "the shim finds no place for the user");
    process
}

/// Those of a container, as far as this process can give them: that is what is meant by all.
pub fn capabilities(security: &Security) -> Vec<String> {
    let granted = security.granted_to_image() & own_capabilities();
    let names = api_kube::CAPABILITIES.iter().enumerate().filter(|(number, _)| granted & 1 << number != 0);
    names.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// What this process may, by the kernel's numbers.
pub(crate) fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    own.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(u64::MAX)
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn mounts(launch: &Launch, source: impl Fn(usize, &Mount) -> PathBuf) -> Value {
    let spec = &launch.spec;
    // With `privileged`, what the kernel shows may be written to.
    let access = if spec.security.privileged { "rw" } else { "ro" };
    let plain = ["nosuid", "noexec", "nodev"];
    let of = |kind: &str, options: &[&str]| json!({"type": kind, "source": kind, "options": options});
    let shm = launch.image.as_ref().and_then(|image| image.shm.as_ref());
    let shm = match shm {
        Some(shm) => json!({"type": "bind", "source": shm, "options": ["rbind", "rprivate", "rw"]}),
        None => of("tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let mut mounts: Vec<(&Path, Value)> = vec![
        (Path::new("/proc"), of("proc", &plain)),
        (Path::new("/dev"), of("tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])),
        (Path::new("/dev/pts"), of("devpts", &pts)),
        (Path::new("/dev/mqueue"), of("mqueue", &plain)),
        (Path::new("/sys"), of("sysfs", &["nosuid", "noexec", "nodev", access])),
        (Path::new("/sys/fs/cgroup"), of("cgroup", &["nosuid", "noexec", "nodev", "relatime", access])),
        (Path::new("/dev/shm"), shm),
    ];
    for (number, mount) in spec.mounts.iter().enumerate() {
        let access = if mount.is_read_only() { "ro" } else { "rw" };
        let spread = match mount.propagation {
            Propagation::None => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let options = ["rbind", spread, access];
        let bind = json!({"type": "bind", "source": source(number, mount), "options": options});
        mounts.push((&mount.container_path, bind));
    }
    // The outer ones first: they would hide the inner ones.
    mounts.sort_by_key(|(path, _)| path.components().count());
    let with_path = mounts.into_iter().map(|(path, mut mount)| {
        mount["destination"] = json!(path);
        mount
    });
    Value::Array(with_path.collect())
}

/// The shim has set them already, that of swap as well, which not every kernel has; a runtime that resets what it is not given would
/// take ours away.
fn resources(launch: &Launch) -> Value {
    let spec = &launch.spec;
    let mut resources = json!({"devices": [{"allow": spec.security.privileged, "access": "rwm"}]});
    let shares = node_shim::cgroup::shares(spec.requests.cpu_millis.unwrap_or(0));
    resources["cpu"] = json!({"shares": shares});
    if let Some(millis) = spec.limits.cpu_millis {
        let (period, quota) = (node_shim::cgroup::CPU_PERIOD_US, node_shim::cgroup::quota_us(millis));
        resources["cpu"] = json!({"shares": shares, "period": period, "quota": quota});
    }
    if let Some(bytes) = spec.limits.memory_bytes {
        resources["memory"] = json!({"limit": bytes});
    }
    if let Some(pids) = spec.limits.pids {
        resources["pids"] = json!({"limit": pids});
    }
    resources
}

/// All devices of the node, with their modes and owners.
fn devices() -> Value {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::from("/dev")]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(data) = entry.metadata() else { continue };
            if OWN_DEVICES.iter().any(|own| path == Path::new(own)) || found.len() >= DEVICES_MAX {
                continue;
            }
            let kind = match data.file_type() {
                kind if kind.is_dir() => {
                    left.push(path);
                    continue;
                }
                kind if kind.is_char_device() => "c",
                kind if kind.is_block_device() => "b",
                _ => continue,
            };
            found.push(json!({
                "path": path, "type": kind, "major": libc::major(data.rdev()), "minor": libc::minor(data.rdev()),
                "fileMode": data.mode() & 0o7777, "uid": data.uid(), "gid": data.gid(),
            }));
        }
    }
    Value::Array(found)
}

#[cfg(test)]
mod tests;
