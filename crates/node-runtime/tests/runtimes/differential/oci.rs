//! The `config.json` that containerd's CRI plugin writes for a pod (1.6 and 1.7, with its defaults, as a kubelet calls it).

use std::path::Path;

use node_runtime::{Propagation, Seccomp, Security};
use serde_json::{Value, json};

use super::case::Case;

/// What containerd calls its default profile has the content of this one.
const PROFILE: &str = include_str!("../../../../node-seccomp/profiles/runtime-default.json");

const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What the kubelet asks for: `procMount: Default`.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What of the pod's sandbox the container enters.
pub struct Sandbox {
    /// Kind as OCI calls it, and the file.
    pub namespaces: Vec<(String, String)>,
    pub shm: String,
    /// Below the roots of the hierarchies.
    pub cgroup: String,
}

/// The whole file. `words` are what is run.
pub fn config(case: &Case, image_env: &[String], root: &Path, sandbox: &Sandbox) -> Value {
    let security = &case.spec.security;
    let granted = capabilities(security);
    let proc_is_plain = security.privileged || security.unmasked_proc;
    let (masked, read_only) = if proc_is_plain { (&[][..], &[][..]) } else { (&MASKED[..], &READ_ONLY[..]) };
    let mut namespaces = vec![json!({"type": "mount"})];
    if !case.spec.host_pid && !case.pod.shares_processes {
        namespaces.push(json!({"type": "pid"}));
    }
    namespaces.extend(sandbox.namespaces.iter().map(|(kind, path)| json!({"type": kind, "path": path})));
    if is_unified() && !security.privileged {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut linux = json!({
        "cgroupsPath": sandbox.cgroup,
        "namespaces": namespaces,
        "resources": resources(case),
        "maskedPaths": masked,
        "readonlyPaths": read_only,
    });
    if security.privileged {
        linux["devices"] = devices();
    } else if security.seccomp == Seccomp::RuntimeDefault {
        linux["seccomp"] = seccomp(&granted);
    }
    if case.spec.mounts.iter().any(|mount| mount.propagation == Propagation::HostToContainer) {
        linux["rootfsPropagation"] = json!("rslave");
    }
    json!({
        "ociVersion": "1.0.2",
        "process": process(case, image_env, &granted),
        "root": {"path": root, "readonly": security.read_only_root},
        "mounts": mounts(case, sandbox),
        "linux": linux,
    })
}

/// Also what is run beside it later.
pub fn process(case: &Case, image_env: &[String], granted: &[String]) -> Value {
    let spec = &case.spec;
    let (uid, gid, groups) = case.identity();
    // A later one takes the place of an earlier one.
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| {
        env.retain(|(known, _)| known != name);
        env.push((name.to_owned(), value.to_owned()));
    };
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    set("HOSTNAME", &case.pod.hostname);
    for variable in image_env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    spec.env.iter().for_each(|(name, value)| set(name, value));
    let env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let words: Vec<&String> = spec.command.iter().chain(&spec.args).collect();
    json!({
        "terminal": false,
        "user": {"uid": uid, "gid": gid, "additionalGids": groups},
        "args": words,
        "env": env,
        "cwd": spec.working_dir.as_deref().unwrap_or(Path::new("/")),
        // No ambient ones, and since 1.6.2 no inheritable ones (CVE-2022-24769).
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "noNewPrivileges": spec.security.allow_privilege_escalation == Some(false),
        "oomScoreAdj": spec.oom_score_adj.unwrap_or(0),
    })
}

/// What a runtime that is started by this process can give: that is what is meant by all.
pub fn of_this_process() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let set = u64::from_str_radix(set.trim(), 16).unwrap();
    let names = api_kube::CAPABILITIES.iter().copied().enumerate();
    names.filter(|(number, _)| set & 1 << number != 0).map(|(_, name)| name).collect()
}

/// Those of a container.
pub fn capabilities(security: &Security) -> Vec<String> {
    let has_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let of_kernel = of_this_process();
    let (add, drop) = (&security.capabilities_add, &security.capabilities_drop);
    let mut granted: Vec<&str> = match () {
        () if security.privileged => of_kernel,
        () if has_all(drop) => Vec::new(),
        () if has_all(add) => of_kernel,
        () => DEFAULT.to_vec(),
    };
    if !security.privileged {
        granted.extend(add.iter().map(String::as_str).filter(|name| *name != "ALL"));
        granted.retain(|name| !drop.iter().any(|dropped| dropped == name));
        granted.sort_unstable();
        granted.dedup();
    }
    granted.into_iter().map(|name| format!("CAP_{name}")).collect()
}

fn is_unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn mounts(case: &Case, sandbox: &Sandbox) -> Value {
    // With `privileged`, what the kernel shows may be written to.
    let access = if case.spec.security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        ("/proc", json!({"type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]})),
        (
            "/dev",
            json!({"type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        ),
        (
            "/dev/pts",
            json!({"type": "devpts", "source": "devpts",
                   "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        ),
        ("/dev/mqueue", json!({"type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]})),
        ("/sys", json!({"type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", access]})),
        (
            "/sys/fs/cgroup",
            json!({"type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
        ),
        ("/dev/shm", json!({"type": "bind", "source": sandbox.shm, "options": ["rbind", "rprivate", "rw"]})),
    ];
    for mount in &case.spec.mounts {
        let access = if mount.is_read_only() { "ro" } else { "rw" };
        // The kubelet has opened it, and names what it found.
        let source = mount.sub_path.as_ref().map_or_else(|| mount.host_path.clone(), |path| mount.host_path.join(path));
        let path = mount.container_path.to_str().unwrap();
        let spread = if mount.propagation == Propagation::HostToContainer { "rslave" } else { "rprivate" };
        mounts.push((path, json!({"type": "bind", "source": source, "options": ["rbind", spread, access]})));
    }
    // The outer ones first.
    mounts.sort_by_key(|(path, _)| Path::new(path).components().count());
    let with_path = mounts.into_iter().map(|(path, mut mount)| {
        mount["destination"] = json!(path);
        mount
    });
    Value::Array(with_path.collect())
}

fn resources(case: &Case) -> Value {
    let spec = &case.spec;
    let mut resources = json!({"devices": [{"allow": spec.security.privileged, "access": "rwm"}]});
    let shares = (spec.requests.cpu_millis.unwrap_or(0) * 1024 / 1000).max(2);
    resources["cpu"] = json!({"shares": shares});
    if let Some(millis) = spec.limits.cpu_millis {
        resources["cpu"] = json!({"shares": shares, "period": 100_000, "quota": millis * 100});
    }
    if let Some(bytes) = spec.limits.memory_bytes {
        resources["memory"] = json!({"limit": bytes, "swap": bytes});
    }
    resources
}

/// All devices of the node, with their modes and owners.
fn devices() -> Value {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    const LEFT_OUT: [&str; 5] = ["pts", "shm", "fd", "mqueue", "console"];
    let (mut found, mut left) = (Vec::new(), vec![Path::new("/dev").to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let (path, data) = (entry.path(), entry.metadata().unwrap());
            if path.parent() == Some(Path::new("/dev")) && LEFT_OUT.iter().any(|name| path.ends_with(name)) {
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

/// The rules that count for these capabilities here.
fn seccomp(granted: &[String]) -> Value {
    let profile: Value = serde_json::from_str(PROFILE).unwrap();
    let (arch, architectures) = if cfg!(target_arch = "x86_64") {
        ("amd64", json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]))
    } else {
        ("arm64", json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]))
    };
    let has = |list: &Value, test: &dyn Fn(&str) -> bool| {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).any(test)
    };
    let is_granted = |name: &str| granted.iter().any(|one| one == name);
    let counts = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        !has(&includes["caps"], &|name| !is_granted(name))
            && !has(&excludes["caps"], &is_granted)
            && (includes["arches"].is_null() || has(&includes["arches"], &|name| name == arch))
            && !has(&excludes["arches"], &|name| name == arch)
    };
    let rules = profile["syscalls"].as_array().unwrap().iter().filter(counts).map(|rule| {
        let mut rule = rule.clone();
        let members = rule.as_object_mut().unwrap();
        for name in ["includes", "excludes", "comment"] {
            members.remove(name);
        }
        rule
    });
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": architectures,
        "syscalls": rules.collect::<Vec<_>>(),
    })
}
