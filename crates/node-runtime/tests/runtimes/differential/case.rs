//! Pods to compare, made up from a seed: every field of a container's spec, in combinations that the API takes.

use std::{collections::BTreeMap, path::Path};

use node_runtime::{
    ContainerSpec, HostNamespaces, Limits, Mount, PodRef, PodResources, PodSpec, Propagation, Requests, Seccomp,
    SeccompProfile, Security,
};

use super::oci;

/// Users of images, with what the image's own files make of them: user, group, and the groups of `/etc/group`.
pub const USERS: [(&str, u32, u32, &[u32]); 5] = [
    ("", 0, 0, &[]),
    ("app", 1000, 1001, &[2000]),
    ("app:extra", 1000, 2000, &[2000]),
    ("1000", 1000, 1001, &[2000]),
    ("4711:5", 4711, 5, &[]),
];

/// Numbers from a seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, number: u64) -> Self {
        Self(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[(self.next() % of.len() as u64) as usize]
    }

    /// Whether, so many times in a hundred.
    fn hits(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn some_of<T: Copy>(&mut self, of: &[T], percent: u64) -> Vec<T> {
        of.iter().copied().filter(|_| self.hits(percent)).collect()
    }
}

/// One pod of one container.
#[derive(Clone, Debug)]
pub struct Case {
    /// Index in [`USERS`].
    pub user: usize,
    pub pod: PodSpec,
    pub spec: ContainerSpec,
    /// Whether a command is run in it as well.
    pub with_command: bool,
}

/// Volumes, below the directory of volumes; each is there on the node.
pub const VOLUMES: [(&str, &str); 4] =
    [("one", "/data"), ("two", "/ro"), ("file", "/etc/config"), ("three", "/data/inner")];

/// Profiles of the node, by their names: what all engines have in common, as a file, and one that denies some calls in its own ways.
pub const PROFILES: [(&str, &str); 2] = [
    ("common.json", include_str!("../../../../node-seccomp/profiles/runtime-default.json")),
    (
        "denies/some.json",
        r#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
            "syscalls": [
                {"names": ["acct", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["swapon", "swapoff"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["sysinfo"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
                {"names": ["pause"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]},
                {"names": ["quotactl"], "action": "SCMP_ACT_ERRNO", "args": [
                    {"index": 0, "value": 255, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"},
                    {"index": 1, "value": 4294967296, "op": "SCMP_CMP_LT"}
                ]}
            ]
        }"#,
    ),
];

impl Case {
    pub fn generate(seed: u64, number: u64, volumes: &Path) -> Self {
        let mut dice = Dice::new(seed, number);
        let name = format!("pod-{number}");
        let pod = PodRef {
            uid: format!("{}-differential-{number}", std::process::id()),
            namespace: "default".to_owned(),
            name: name.clone(),
        };
        let host = HostNamespaces { network: dice.hits(15), ipc: dice.hits(10) };
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let hostname = if host.network { node } else { name };
        let security = security(&mut dice);
        let memory_bytes = dice.one_of(&[None, None, Some(64 << 20), Some(300 << 20)]);
        let mut spec = ContainerSpec {
            pod: pod.clone(),
            container: "main".to_owned(),
            command: vec!["/probe".to_owned()],
            env: env(&mut dice),
            working_dir: dice
                .one_of(&[None, None, Some("/tmp"), Some("/etc"), Some("/made/new"), Some("/private"), Some("/data")])
                .map(Into::into),
            mounts: mounts(&mut dice, volumes),
            limits: Limits { cpu_millis: dice.one_of(&[None, None, Some(100), Some(1500)]), memory_bytes, pids: None },
            requests: Requests { cpu_millis: dice.one_of(&[None, Some(50), Some(1000)]), memory_bytes: None },
            pod_resources: PodResources::default(),
            oom_score_adj: dice.one_of(oom_scores()),
            run_as_user: dice.one_of(&[None, None, None, Some(0), Some(1000), Some(4711), Some(65534)]),
            run_as_group: dice.one_of(&[None, None, None, Some(0), Some(1001), Some(3000)]),
            supplemental_groups: dice.some_of(&[42, 1001, 2000, 3000, 3000], 25),
            security,
            hostname: Some(hostname.clone()),
            host_pid: dice.hits(8),
            ..ContainerSpec::default()
        };
        // Numbers of their own: what came later does not change what the others are.
        let mut later = Dice::new(!seed, number);
        let shares_processes = !spec.host_pid && later.hits(20);
        for mount in &mut spec.mounts {
            mount.propagation = later.one_of(&[Propagation::None, Propagation::None, Propagation::HostToContainer]);
        }
        if later.hits(20) {
            let path = later.one_of(&PROFILES).0.into();
            spec.security.seccomp_profile = Some(SeccompProfile { path, ..SeccompProfile::default() });
        }
        let pod = PodSpec { pod, hostname, host, shares_processes, ..PodSpec::default() };
        Self { user: (dice.next() % USERS.len() as u64) as usize, pod, spec, with_command: dice.hits(30) }
    }

    /// User, group and supplementary groups, as the kubelet and containerd work them out.
    pub fn identity(&self) -> (u32, u32, Vec<u32>) {
        let (_, uid, gid, groups) = match self.spec.run_as_user {
            None => USERS[self.user],
            // In the image's files there are these two.
            Some(1000) => USERS[3],
            Some(uid) => ("", uid, 0, &[][..]),
        };
        let gid = self.spec.run_as_group.unwrap_or(gid);
        let mut all = vec![gid];
        for group in groups.iter().chain(&self.spec.supplemental_groups) {
            if !all.contains(group) {
                all.push(*group);
            }
        }
        (uid, gid, all)
    }
}

/// Below its own score only a node with `SYS_RESOURCE` lets anything be.
fn oom_scores() -> &'static [Option<i32>] {
    const SCORES: [Option<i32>; 5] = [Some(1000), Some(500), Some(999), None, Some(-997)];
    if oci::of_this_process().contains(&"SYS_RESOURCE") { &SCORES } else { &SCORES[..3] }
}

fn security(dice: &mut Dice) -> Security {
    const NAMES: [&str; 14] = [
        "NET_ADMIN",
        "SYS_ADMIN",
        "SYS_PTRACE",
        "SYS_TIME",
        "SYS_NICE",
        "BPF",
        "PERFMON",
        "DAC_READ_SEARCH",
        "CHOWN",
        "NET_RAW",
        "MKNOD",
        "SETUID",
        "SYSLOG",
        "CHECKPOINT_RESTORE",
    ];
    // What the node does not have itself it cannot give.
    let is_there = |name: &&str| oci::of_this_process().contains(name);
    let names = |names: Vec<&str>| names.into_iter().filter(is_there).map(str::to_owned).collect::<Vec<_>>();
    let privileged = dice.hits(8);
    let mut capabilities_add = names(dice.some_of(&NAMES, 10));
    let mut capabilities_drop = names(dice.some_of(&NAMES, 8));
    if dice.hits(8) {
        capabilities_add.push("ALL".to_owned());
    }
    if dice.hits(25) {
        capabilities_drop.push("ALL".to_owned());
    }
    // The API rejects what contradicts itself.
    let may_deny = !privileged && !capabilities_add.iter().any(|name| name == "SYS_ADMIN");
    let allow_privilege_escalation = match dice.one_of(&[None, Some(true), Some(false)]) {
        Some(false) if !may_deny => None,
        allowed => allowed,
    };
    Security {
        privileged,
        capabilities_add,
        capabilities_drop,
        allow_privilege_escalation,
        read_only_root: dice.hits(30),
        seccomp: if dice.hits(25) { Seccomp::Unconfined } else { Seccomp::RuntimeDefault },
        seccomp_profile: None,
        app_armor: None,
        unmasked_proc: dice.hits(10),
        run_as_non_root: false,
    }
}

fn env(dice: &mut Dice) -> BTreeMap<String, String> {
    let all = [
        ("PATH", "/bin:/opt/bin"),
        ("HOME", "/elsewhere"),
        ("FROM_IMAGE", "changed"),
        ("EMPTY", ""),
        ("EQUALS", "a=b=c"),
        ("LINES", "one\ntwo"),
        ("UNICODE", "größer ✓"),
        ("HOSTNAME", "another"),
        ("with.dots-and-dashes", "1"),
        ("LD_PRELOAD", "/no/such/library.so"),
    ];
    dice.some_of(&all, 15).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn mounts(dice: &mut Dice, volumes: &Path) -> Vec<Mount> {
    let mount = |(source, target): (&str, &str)| Mount {
        volume: source.to_owned(),
        host_path: volumes.join(source),
        container_path: target.into(),
        ..Mount::default()
    };
    let mut chosen: Vec<Mount> = dice.some_of(&VOLUMES, 35).into_iter().map(mount).collect();
    if dice.hits(20) {
        chosen.push(Mount { sub_path: Some("inner".into()), ..mount(("one", "/sub")) });
    }
    for mount in &mut chosen {
        mount.read_only = mount.volume == "two" || dice.hits(30);
        // As a ConfigMap or a Secret is mounted.
        mount.configuration = mount.volume == "file" && dice.hits(50);
    }
    chosen
}
