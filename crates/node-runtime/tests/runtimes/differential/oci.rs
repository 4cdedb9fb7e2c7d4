//! The `config.json` that containerd's CRI plugin writes for a pod (1.6 and 1.7, with its defaults, as a kubelet calls it). The node
//! writes the same for pods of another runtime, so it is the node's own that the others run by.

use std::path::{Path, PathBuf};

use node_runtime::{ImageRoot, Isolation, NamespaceRef};
use node_shim::state::{Launch, STATE_VERSION};
use serde_json::{Value, json};

use super::case::Case;

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
    pub namespaces: Vec<NamespaceRef>,
    pub shm: String,
    /// Below the roots of the hierarchies.
    pub cgroup: String,
}

/// The whole file. `words` are what is run.
pub fn config(case: &Case, image_env: &[String], root: &Path, sandbox: &Sandbox) -> Value {
    let mut config = node_runtime::oci::config(&launch(case, image_env, sandbox), |_, mount| {
        // The kubelet has opened it, and names what it found.
        mount.sub_path.as_ref().map_or_else(|| mount.host_path.clone(), |path| mount.host_path.join(path))
    });
    let (uid, gid, groups) = case.identity();
    config["process"]["user"] = json!({"uid": uid, "gid": gid, "additionalGids": groups});
    config["root"]["path"] = json!(root);
    config["linux"]["cgroupsPath"] = json!(sandbox.cgroup);
    if let Some(bytes) = case.spec.limits.memory_bytes {
        // On the node the shim has set it, where the kernel accounts for swap; here the group is the runtime's own.
        config["linux"]["resources"]["memory"]["swap"] = json!(bytes);
    }
    config
}

fn launch(case: &Case, image_env: &[String], sandbox: &Sandbox) -> Launch {
    let mut spec = case.spec.clone();
    for variable in image_env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        spec.env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    spec.hostname = Some(case.pod.hostname.clone());
    Launch {
        version: STATE_VERSION,
        program: PathBuf::new(),
        argv: spec.command.iter().chain(&spec.args).cloned().collect(),
        bind_mounts: true,
        files: Vec::new(),
        hidden: Vec::new(),
        processes_of: None,
        users: None,
        cgroup_parent: String::new(),
        isolation: Isolation::Auto,
        image_id: String::new(),
        image: Some(ImageRoot { shm: Some(PathBuf::from(&sandbox.shm)), ..ImageRoot::default() }),
        oci: None,
        namespaces: sandbox.namespaces.clone(),
        stop_signal: None,
        private: None,
        boot_id: String::new(),
        log_bytes_max: 0,
        log_files_max: 0,
        spec,
    }
}

/// What a runtime that is started by this process can give: that is what is meant by all.
pub fn of_this_process() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let set = u64::from_str_radix(set.trim(), 16).unwrap();
    let names = api_kube::CAPABILITIES.iter().copied().enumerate();
    names.filter(|(number, _)| set & 1 << number != 0).map(|(_, name)| name).collect()
}

/// What the others run by must not be right because both sides are wrong.
#[test]
fn a_pod_that_asks_for_nothing_gets_what_containerd_gives_it() {
    let Some(case) = plain() else { return };
    let sandbox = Sandbox { namespaces: Vec::new(), shm: "/dev/shm".to_owned(), cgroup: "/x".to_owned() };
    let config = config(&case, &[], Path::new("/root"), &sandbox);
    let sorted = |list: &Value| {
        let mut words: Vec<String> =
            list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
        words.sort();
        words
    };
    let mut expected: Vec<String> = DEFAULT.iter().map(|name| format!("CAP_{name}")).collect();
    expected.sort();
    for set in ["bounding", "effective", "permitted"] {
        assert_eq!(sorted(&config["process"]["capabilities"][set]), expected);
    }
    assert_eq!(config["process"]["capabilities"].as_object().unwrap().len(), 3);
    let mut masked = MASKED;
    masked.sort_unstable();
    assert_eq!(sorted(&config["linux"]["maskedPaths"]), masked);
    assert_eq!(sorted(&config["linux"]["readonlyPaths"]), READ_ONLY);
    assert_eq!(config["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(config["process"]["noNewPrivileges"], false);
}

/// One that names nothing, where this process may give what it gets.
fn plain() -> Option<Case> {
    if DEFAULT.iter().any(|name| !of_this_process().contains(name)) {
        testkit::skip("this process has fewer capabilities than a container");
        return None;
    }
    let pod = node_runtime::PodSpec { hostname: "h".to_owned(), ..node_runtime::PodSpec::default() };
    Some(Case { user: 0, pod, spec: node_runtime::ContainerSpec::default(), with_command: false })
}
