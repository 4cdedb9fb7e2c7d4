//! Settings of the roles: one YAML file per role, every key also an environment variable.
//!
//! `DESCRIPTIONS` of each role is the reference: the sample files of `docs/reference` are made from it, and a test holds
//! that no key lacks its sentence.

#[cfg(feature = "node")]
use std::collections::BTreeMap;
#[cfg(feature = "node")]
use std::net::IpAddr;
#[cfg(any(feature = "hub", feature = "node"))]
use std::net::SocketAddr;
#[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
use std::path::Path;
#[cfg(any(feature = "node", feature = "edge"))]
use std::path::PathBuf;

#[cfg(any(feature = "hub", feature = "node"))]
use api_edge::ports;
use serde::{Deserialize, Serialize};

/// Less than this is a slip: a size in bytes that was meant in another unit.
const DISK_BYTES_MIN: u64 = 1024 * 1024;

/// What is wrong with a size on disk.
fn too_small(key: &str, bytes: u64) -> Option<String> {
    let message = || format!("`{key}`: {bytes} bytes are too few to work with; give {DISK_BYTES_MIN} or more");
    (bytes < DISK_BYTES_MIN).then(message)
}

/// What is wrong with what is to be logged.
fn bad_log(filter: &str) -> Option<String> {
    let options = base_observe::LogOptions { filter: filter.to_owned(), ..base_observe::LogOptions::default() };
    base_observe::check_logging(&options).err().map(|error| format!("`log`: {}", base_observe::Chain(&error)))
}

/// What is wrong with the arguments that `selvedge node` adds to its settings.
#[cfg(feature = "node")]
pub fn node_arguments(hubs: &[String], token: Option<&str>, node_name: Option<&str>) -> Vec<String> {
    let hubs = hubs.iter().filter(|url| !node_kubelet::is_hub_url(url));
    let bad_hubs = hubs.map(|url| format!("--hub: {}", node_kubelet::ConfigError::HubUrl(url.clone())));
    let bad_token = token.and_then(|token| token.parse::<base_pki::JoinToken>().err());
    bad_hubs
        .chain(bad_token.map(|error| format!("--token: {error}")))
        .chain(node_name.and_then(api_edge::identity::bad_node_name).map(|why| format!("--node-name: {why}")))
        .collect()
}

/// Settings of `selvedge hub`.
#[cfg(feature = "hub")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct HubConfig {
    /// Where the Kubernetes API listens.
    pub listen: SocketAddr,
    /// Names and addresses under which nodes and people reach the hub.
    pub public_names: Vec<String>,
    /// Disk for readings.
    pub telemetry_bytes_max: u64,
    /// Disk for the audit log.
    pub audit_bytes_max: u64,
    /// Which controllers run.
    pub controllers: Vec<String>,
    /// How long a stop waits.
    pub shutdown_grace_seconds: u64,
    /// What is logged.
    pub log: String,
}

#[cfg(feature = "hub")]
impl Default for HubConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], ports::HUB_API)),
            public_names: Vec::new(),
            telemetry_bytes_max: 8 * 1024 * 1024 * 1024,
            audit_bytes_max: 0,
            controllers: vec!["*".to_owned()],
            shutdown_grace_seconds: 10,
            log: "info".to_owned(),
        }
    }
}

#[cfg(feature = "hub")]
impl HubConfig {
    /// Prefix of the environment variables.
    pub const ENV: &str = "SELVEDGE_HUB";
    /// What each key means.
    #[cfg(test)]
    pub const DESCRIPTIONS: &[(&str, &str)] = &[
        ("listen", "Address and port of the Kubernetes API, telemetry included."),
        (
            "publicNames",
            "Names and addresses under which nodes and people reach the hub; they go into its certificate beside localhost, the machine's name and its addresses.",
        ),
        ("telemetryBytesMax", "Disk for readings; the oldest go first when it is full."),
        (
            "auditBytesMax",
            "Disk for the audit log, with one line for each write and each request in another's name: half for DATA_DIR/hub/audit.log, which has those of administrators, and a quarter each for audit-controllers.log, the hub's own, and audit-nodes.log, everybody else's. The oldest go first when one is full, 0 writes none.",
        ),
        (
            "controllers",
            "Which controllers run, as --controllers of kube-controller-manager says it: * all of them, -NAME not this one (another scheduler may be in the place of -scheduler), NAME this one. A wrong name is answered with all there are.",
        ),
        ("shutdownGraceSeconds", "How long a stop waits for open requests."),
        ("log", "A level, or a filter such as info,machinery_server=debug. SELVEDGE_LOG goes before it."),
    ];

    /// What no type says: all that is wrong with values that can be read.
    pub fn mistakes(&self) -> Vec<String> {
        let is_name = |name: &str| {
            name.parse::<std::net::IpAddr>().is_ok() || api_kube::names::is_dns_subdomain(&name.to_ascii_lowercase())
        };
        let names = self.public_names.iter().filter(|name| !is_name(name)).map(|name| {
            format!(
                "`publicNames`: {name:?} is neither a DNS name nor an IP address; write it without https:// and port"
            )
        });
        let audit = Some(self.audit_bytes_max).filter(|bytes| *bytes != 0);
        names
            .chain(too_small("telemetryBytesMax", self.telemetry_bytes_max))
            .chain(audit.and_then(|bytes| too_small("auditBytesMax", bytes)))
            .chain(bad_log(&self.log))
            .collect()
    }
}

/// Pods that end together when the machine does.
#[cfg(feature = "node")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShutdownGroupConfig {
    /// From this priority on.
    pub priority: i32,
    /// How long they have.
    pub shutdown_grace_period_seconds: u64,
}

/// A program with the command line of runc.
#[cfg(feature = "node")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OciRuntimeConfig {
    /// Its file.
    pub path: PathBuf,
    /// Words before its subcommand.
    #[serde(default)]
    pub args: Vec<String>,
}

/// Settings of `selvedge node`.
#[cfg(feature = "node")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct NodeConfig {
    /// Hubs to call.
    pub hubs: Vec<String>,
    /// File with the hub's CA.
    pub ca_file: Option<PathBuf>,
    /// Name of the node.
    pub node_name: Option<String>,
    /// Labels to register with.
    pub labels: BTreeMap<String, String>,
    /// Directories from which programs may be run.
    pub image_prefixes: Vec<PathBuf>,
    /// Other runtimes of containers, by their names.
    pub oci_runtimes: BTreeMap<String, OciRuntimeConfig>,
    /// Where the kubelet's own API listens.
    pub kubelet_listen: SocketAddr,
    /// The address that the node reports.
    pub node_ip: Option<IpAddr>,
    /// Most pods.
    pub pods_max: u32,
    /// Most processes and threads of one pod.
    pub pod_pids_max: u64,
    /// File with what is to be known of registries.
    pub registries_file: Option<PathBuf>,
    /// From this part of the images' disk in use on, images are deleted.
    pub image_gc_high_percent: u8,
    /// Until this part.
    pub image_gc_low_percent: u8,
    /// How long the machine's shutdown waits for pods.
    pub shutdown_grace_period_seconds: u64,
    /// The part of it that critical pods have.
    pub shutdown_grace_period_critical_pods_seconds: u64,
    /// The same for each priority, in place of those two.
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGroupConfig>,
    /// Where links to logs are made, or `none`.
    pub log_links_dir: String,
    /// Of what there has to be how much, or pods are evicted.
    pub eviction_hard: BTreeMap<String, String>,
    /// The same, of which there may be less for a while.
    pub eviction_soft: BTreeMap<String, String>,
    /// For how long.
    pub eviction_soft_grace_period_seconds: BTreeMap<String, u64>,
    /// What containers get at most to end for it.
    pub eviction_max_pod_grace_period_seconds: u64,
    /// How much more there has to be again.
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// How long the node says that it is short of something after it was last.
    pub eviction_pressure_transition_seconds: u64,
    /// Addresses of pods, or `none`.
    pub pod_subnet: String,
    /// IPv6 addresses of pods.
    pub pod_subnet6: Option<String>,
    /// Largest packet of a pod.
    pub pod_mtu: Option<u32>,
    /// Addresses of the cluster's Services.
    pub service_subnets: Vec<String>,
    /// Where names are answered.
    pub dns_address: IpAddr,
    /// What the names of the cluster end with.
    pub cluster_domain: String,
    /// Memory of the edge plane's process.
    pub edge_memory_bytes_max: u64,
    /// Disk for events that are not exported yet.
    pub journal_bytes_max: u64,
    /// How long a stop waits.
    pub shutdown_grace_seconds: u64,
    /// What is logged.
    pub log: String,
}

#[cfg(feature = "node")]
impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            hubs: Vec::new(),
            ca_file: None,
            node_name: None,
            labels: BTreeMap::new(),
            image_prefixes: ["/bin", "/usr/bin", "/opt"].map(PathBuf::from).to_vec(),
            oci_runtimes: BTreeMap::new(),
            kubelet_listen: SocketAddr::from(([127, 0, 0, 1], ports::KUBELET)),
            node_ip: None,
            pods_max: 110,
            pod_pids_max: 512,
            registries_file: None,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            shutdown_grace_period_seconds: 0,
            shutdown_grace_period_critical_pods_seconds: 0,
            shutdown_grace_period_by_pod_priority: Vec::new(),
            log_links_dir: "/var/log".to_owned(),
            eviction_hard: BTreeMap::new(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period_seconds: BTreeMap::new(),
            eviction_max_pod_grace_period_seconds: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_pressure_transition_seconds: 300,
            pod_subnet: "10.39.0.0/16".to_owned(),
            pod_subnet6: None,
            pod_mtu: None,
            service_subnets: vec!["10.96.0.0/16".to_owned()],
            dns_address: IpAddr::from([169, 254, 20, 10]),
            cluster_domain: "cluster.local".to_owned(),
            edge_memory_bytes_max: 256 * 1024 * 1024,
            journal_bytes_max: 1024 * 1024 * 1024,
            shutdown_grace_seconds: 10,
            log: "info".to_owned(),
        }
    }
}

/// `podSubnet` of a node whose pods have the machine's own network.
#[cfg(feature = "node")]
const NO_SUBNET: &str = "none";

/// Longest time that one group of pods may have to end with the machine: nobody waits longer to switch one off.
#[cfg(feature = "node")]
const SHUTDOWN_SECONDS_MAX: u64 = 24 * 3600;

/// What a pod's own first processes need, and a little.
#[cfg(feature = "node")]
const POD_PIDS_MIN: u64 = 16;

#[cfg(feature = "node")]
impl NodeConfig {
    /// Prefix of the environment variables.
    pub const ENV: &str = "SELVEDGE_NODE";
    /// What each key means.
    #[cfg(test)]
    pub const DESCRIPTIONS: &[(&str, &str)] = &[
        ("hubs", "URLs of hubs, in order of preference, such as https://hub.example:6443. --hub goes before them."),
        (
            "caFile",
            "PEM file with the CA of the hub or cluster: what its certificate must lead to. --ca goes before it. Not needed with a token of `selvedge token create`, which says it.",
        ),
        ("nodeName", "Name of the Node object; the machine's name when absent. --node-name goes before it."),
        (
            "labels",
            "Labels that the node registers with. A hub leaves out those that a node may not give itself: set these with kubectl label, or token create --label.",
        ),
        (
            "imagePrefixes",
            "Directories from which pods may run programs (image: file:///...). Other programs are rejected.",
        ),
        (
            "ociRuntimes",
            "Other runtimes that make containers of images, for pods with a runtimeClassName of that name, each with its path and, where needed, args before its subcommand: {crun-debug: {path: /opt/crun/bin/crun, args: [--debug]}}. crun, runc, runsc and youki are found where they are installed in /usr or /usr/local.",
        ),
        ("kubeletListen", "Address and port of the kubelet's own API, over which the hub fetches logs."),
        ("nodeIp", "Address that the node reports; found from the route to the hub when absent."),
        ("podsMax", "Most pods at a time."),
        ("podPidsMax", "Most processes and threads of one pod."),
        (
            "registriesFile",
            "YAML file with mirrors, private CAs, logins and limits of image registries; see docs/reference/images.md.",
        ),
        (
            "imageGcHighPercent",
            "How full the disk of the images may be, in per cent, before images that no container uses are deleted, least recently used first.",
        ),
        ("imageGcLowPercent", "How full it is afterwards, as far as there is something to delete."),
        (
            "shutdownGracePeriodSeconds",
            "How long the shutdown of the machine waits, by systemd-logind, for pods to end in the order of their priority; they have then failed with the reason Terminated. With 0 they are killed with the machine, and run again after its start.",
        ),
        (
            "shutdownGracePeriodCriticalPodsSeconds",
            "The part of shutdownGracePeriodSeconds that pods of a critical priority have, after all others.",
        ),
        (
            "shutdownGracePeriodByPodPriority",
            "In place of shutdownGracePeriodSeconds and shutdownGracePeriodCriticalPodsSeconds: how long pods have from each priority on, the least important first: [{priority: 0, shutdownGracePeriodSeconds: 20}, {priority: 1000, shutdownGracePeriodSeconds: 10}]. Pods below the first priority end with its pods.",
        ),
        (
            "logLinksDir",
            "Directory in which pods/ and containers/ have links to the logs of containers, by the names that collectors of logs know from other kubelets; made by root only. With none there are no links.",
        ),
        (
            "evictionHard",
            "How much there has to be of memory.available (100Mi, a tenth of the memory below 1 GiB), nodefs.available (10%), nodefs.inodesFree (5%), imagefs.available (15%, where images have a disk of their own) and pid.available (not watched): a node that has less ends pods, one after the other. A quantity or a part, in quotes; \"0\" turns one off.",
        ),
        (
            "evictionSoft",
            "Amounts as those of evictionHard, which may be missed for a while, each as long as evictionSoftGracePeriodSeconds says; none is watched unless it is named.",
        ),
        (
            "evictionSoftGracePeriodSeconds",
            "For how many seconds there may be less than evictionSoft says, for each of its names.",
        ),
        (
            "evictionMaxPodGracePeriodSeconds",
            "What a pod's containers get at most to end by themselves when evictionSoft was missed for too long; for evictionHard they get a second.",
        ),
        (
            "evictionMinimumReclaim",
            "How much more than a threshold there has to be again before nothing more is ended for it, by the same names: {memory.available: 100Mi}.",
        ),
        (
            "evictionPressureTransitionSeconds",
            "How long the node keeps the condition MemoryPressure, DiskPressure or PIDPressure, and takes fewer pods, after it was last short.",
        ),
        (
            "podSubnet",
            "IPv4 addresses of pods, the same on every node if you like; another is taken where an uplink uses it. With none, pods have the machine's own network.",
        ),
        ("podSubnet6", "IPv6 addresses of pods beside those; none when absent."),
        ("podMtu", "Largest packet of a pod; the uplink's when absent."),
        ("serviceSubnets", "Addresses of the cluster's Services; the first of each is that of the API."),
        ("dnsAddress", "Address on which names are answered, on this machine alone."),
        ("clusterDomain", "What the names of the cluster's Services end with."),
        ("edgeMemoryBytesMax", "Memory limit of the edge plane's process."),
        ("journalBytesMax", "Disk for events that are not exported yet; the oldest go first when it is full."),
        ("shutdownGraceSeconds", "How long a stop waits for open requests."),
        ("log", "A level, or a filter such as info,node_kubelet=debug. SELVEDGE_LOG goes before it."),
    ];

    /// How registries are reached.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn registries(&self) -> Result<node_runtime::RegistriesConfig, String> {
        let Some(file) = &self.registries_file else { return Ok(node_runtime::RegistriesConfig::default()) };
        let text = base_config::read(file).map_err(|error| format!("`registriesFile`: {error}"))?;
        let wrong = |error: &dyn std::fmt::Display| format!("`registriesFile`: {}: {error}", file.display());
        let registries: node_runtime::RegistriesConfig =
            serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?;
        registries.check().map_err(|error| wrong(&format!("mirrors: {error}")))?;
        Ok(registries)
    }

    /// Other runtimes of containers: those that are named, and those that are installed under their own names.
    pub fn oci_runtimes(&self) -> Vec<node_runtime::OciRuntime> {
        let named = self.oci_runtimes.iter().map(|(name, runtime)| {
            let (path, args) = (runtime.path.clone(), runtime.args.clone());
            node_runtime::OciRuntime { handler: name.clone(), path, args }
        });
        let installed = node_runtime::OciRuntime::installed();
        named.chain(installed.into_iter().filter(|one| !self.oci_runtimes.contains_key(&one.handler))).collect()
    }

    /// When images are deleted.
    pub fn image_gc(&self) -> node_runtime::GcLimits {
        node_runtime::GcLimits { high_percent: self.image_gc_high_percent, low_percent: self.image_gc_low_percent }
    }

    /// How pods end with the machine; nothing where its shutdown waits for nobody.
    pub fn machine_shutdown(&self) -> Option<node_kubelet::MachineShutdown> {
        let seconds = std::time::Duration::from_secs;
        let mut groups: Vec<_> = self
            .shutdown_grace_period_by_pod_priority
            .iter()
            .map(|one| node_kubelet::ShutdownGroup {
                priority: one.priority,
                grace: seconds(one.shutdown_grace_period_seconds),
            })
            .collect();
        groups.sort_by_key(|group| group.priority);
        if groups.is_empty() && self.shutdown_grace_period_seconds > 0 {
            let of_critical = seconds(self.shutdown_grace_period_critical_pods_seconds);
            groups = node_kubelet::MachineShutdown::of_two(seconds(self.shutdown_grace_period_seconds), of_critical);
        }
        let is_needed = groups.iter().any(|group| !group.grace.is_zero());
        let bus = PathBuf::from(node_kubelet::MachineShutdown::BUS);
        is_needed.then_some(node_kubelet::MachineShutdown { groups, bus })
    }

    /// What is wrong with how pods end with the machine.
    fn bad_shutdown(&self) -> Vec<String> {
        let (all, critical) = (self.shutdown_grace_period_seconds, self.shutdown_grace_period_critical_pods_seconds);
        let groups = &self.shutdown_grace_period_by_pod_priority;
        let mut mistakes = Vec::new();
        if critical > all {
            mistakes.push(format!("`shutdownGracePeriodCriticalPodsSeconds`: {critical} is more than all of `shutdownGracePeriodSeconds`, {all}"));
        }
        if !groups.is_empty() && (all, critical) != (0, 0) {
            mistakes.push("`shutdownGracePeriodByPodPriority` is in place of `shutdownGracePeriodSeconds` and `shutdownGracePeriodCriticalPodsSeconds`; leave them out".to_owned());
        }
        for (number, group) in groups.iter().enumerate() {
            if groups[..number].iter().any(|earlier| earlier.priority == group.priority) {
                mistakes
                    .push(format!("`shutdownGracePeriodByPodPriority`: priority {} is there twice", group.priority));
            }
        }
        let longest = groups.iter().map(|group| group.shutdown_grace_period_seconds).max().unwrap_or_default();
        if longest > SHUTDOWN_SECONDS_MAX {
            mistakes.push(format!("`shutdownGracePeriodByPodPriority`: {longest} s is longer than a day"));
        }
        mistakes
    }

    /// When pods are evicted.
    ///
    /// # Errors
    /// All that is wrong with its thresholds.
    pub fn eviction(&self) -> Result<node_kubelet::EvictionSettings, Vec<String>> {
        let seconds = std::time::Duration::from_secs;
        let mut settings = node_kubelet::EvictionSettings {
            pressure_transition: seconds(self.eviction_pressure_transition_seconds),
            max_pod_grace: seconds(self.eviction_max_pod_grace_period_seconds),
            ..node_kubelet::EvictionSettings::default()
        };
        let sets = [
            ("evictionHard", settings.set_hard(&self.eviction_hard)),
            ("evictionSoft", settings.set_soft(&self.eviction_soft, &self.eviction_soft_grace_period_seconds)),
            ("evictionMinimumReclaim", settings.set_minimum_reclaim(&self.eviction_minimum_reclaim)),
        ];
        let mistakes: Vec<String> = sets
            .into_iter()
            .filter_map(|(key, set)| set.err().map(|mistakes| (key, mistakes)))
            .flat_map(|(key, mistakes)| mistakes.into_iter().map(move |mistake| format!("`{key}`: {mistake}")))
            .collect();
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    /// The network of the node's pods; nothing when they have the machine's own.
    ///
    /// # Errors
    /// All that is wrong with its settings.
    pub fn network(&self) -> Result<Option<node_kubelet::NetworkSettings>, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut subnet = |key: &str, text: &str| -> Option<node_kubelet::Subnet> {
            let parsed = text.parse().map_err(|error| mistakes.push(format!("`{key}`: {text:?}: {error}")));
            parsed.ok()
        };
        let pods = if self.pod_subnet == NO_SUBNET { None } else { subnet("podSubnet", &self.pod_subnet) };
        let pods6 = self.pod_subnet6.as_deref().and_then(|text| subnet("podSubnet6", text));
        let services = self.service_subnets.iter().filter_map(|text| subnet("serviceSubnets", text)).collect();
        if pods.is_some_and(|pods| !pods.is_ipv4()) || pods6.is_some_and(|pods| pods.is_ipv4()) {
            mistakes.push("`podSubnet` has IPv4 addresses, and `podSubnet6` IPv6 ones".to_owned());
        }
        match (mistakes.is_empty(), pods) {
            (false, _) => Err(mistakes),
            (true, None) => Ok(None),
            (true, Some(subnet)) => Ok(Some(node_kubelet::NetworkSettings {
                subnet,
                subnet6: pods6,
                mtu: self.pod_mtu,
                service_subnets: services,
                dns: SocketAddr::new(self.dns_address, 53),
                domain: self.cluster_domain.clone(),
            })),
        }
    }

    /// What no type says: all that is wrong with values that can be read.
    pub fn mistakes(&self) -> Vec<String> {
        use api_kube::names::{is_label_value, is_qualified_name};
        let hubs = self.hubs.iter().filter(|url| !node_kubelet::is_hub_url(url));
        let bad_hubs = hubs.map(|url| format!("`hubs`: {}", node_kubelet::ConfigError::HubUrl(url.clone())));
        let bad_name = self.node_name.as_deref().and_then(api_edge::identity::bad_node_name);
        let labels = self.labels.iter().filter(|(key, value)| !is_qualified_name(key) || !is_label_value(value));
        let bad_labels = labels.map(|(key, value)| {
            format!("`labels`: {key:?}: {value:?} is no label; both have letters, digits, `-`, `_` and `.`, at most 63, and a key may have a DNS name and `/` before it")
        });
        let few_pids = (self.pod_pids_max < POD_PIDS_MIN).then(|| {
            format!("`podPidsMax`: {} is too few; no pod starts with less than {POD_PIDS_MIN}", self.pod_pids_max)
        });
        let prefixes = self.image_prefixes.iter().filter(|prefix| !prefix.is_absolute());
        let bad_prefixes = prefixes.map(|prefix| {
            format!("`imagePrefixes`: {} is not an absolute path; no program is under it", prefix.display())
        });
        let bad_runtimes = self.oci_runtimes.iter().filter_map(|(name, runtime)| match () {
            () if !node_runtime::OciRuntime::is_handler(name) => {
                Some(format!("`ociRuntimes`: {name:?} cannot be the name of another runtime; use a DNS label that does not begin with selvedge-"))
            }
            () if !runtime.path.is_absolute() => {
                Some(format!("`ociRuntimes`: {name}: {} is not an absolute path", runtime.path.display()))
            }
            () => None,
        });
        let (high, low) = (self.image_gc_high_percent, self.image_gc_low_percent);
        let bad_gc = (low > high || high > 100).then(|| {
            format!("`imageGcHighPercent`: {high} is not between `imageGcLowPercent`, which is {low}, and 100")
        });
        let network = self.network().err().unwrap_or_default();
        let registries = self.registries().err();
        bad_hubs
            .chain(network)
            .chain(registries)
            .chain(bad_name.map(|why| format!("`nodeName`: {why}")))
            .chain(bad_labels)
            .chain(bad_prefixes)
            .chain(self.eviction().err().unwrap_or_default())
            .chain(self.bad_shutdown())
            .chain(bad_runtimes)
            .chain(few_pids)
            .chain(bad_gc)
            .chain(too_small("edgeMemoryBytesMax", self.edge_memory_bytes_max))
            .chain(too_small("journalBytesMax", self.journal_bytes_max))
            .chain(bad_log(&self.log))
            .collect()
    }
}

/// Settings of `selvedge edge`.
#[cfg(feature = "edge")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct EdgeConfig {
    /// Directory with devices, rules and exports.
    pub config_dir: Option<PathBuf>,
    /// Disk for events.
    pub journal_bytes_max: u64,
    /// How long a stop waits.
    pub shutdown_grace_seconds: u64,
    /// What is logged.
    pub log: String,
}

#[cfg(feature = "edge")]
impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            config_dir: None,
            journal_bytes_max: 1024 * 1024 * 1024,
            shutdown_grace_seconds: 10,
            log: "info".to_owned(),
        }
    }
}

#[cfg(feature = "edge")]
impl EdgeConfig {
    /// Prefix of the environment variables.
    pub const ENV: &str = "SELVEDGE_EDGE";
    /// What each key means.
    #[cfg(test)]
    pub const DESCRIPTIONS: &[(&str, &str)] = &[
        (
            "configDir",
            "Directory with *.yaml files of DeviceProfile, Device, Stream, Rule and Export, for work without a hub; DATA_DIR/edge/config when absent.",
        ),
        ("journalBytesMax", "Disk for events that are not exported yet; the oldest go first when it is full."),
        ("shutdownGraceSeconds", "How long a stop waits for open requests."),
        ("log", "A level, or a filter such as info,edge_device_sdk=debug. SELVEDGE_LOG goes before it."),
    ];

    /// What no type says: all that is wrong with values that can be read.
    pub fn mistakes(&self) -> Vec<String> {
        too_small("journalBytesMax", self.journal_bytes_max).into_iter().chain(bad_log(&self.log)).collect()
    }
}

/// Settings of `selvedge up`: the roles', each in a section of its own.
#[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct UpConfig {
    /// As `selvedge hub`.
    pub hub: HubConfig,
    /// As `selvedge node`.
    pub node: NodeConfig,
}

#[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
impl UpConfig {
    /// Reads the file and the variables of both roles: `SELVEDGE_HUB_LISTEN` means the same here as for `selvedge hub`.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn load(path: Option<&Path>) -> Result<Self, base_config::ConfigErrors> {
        let text = path.map(base_config::read).transpose()?;
        // Other variables of the program, such as SELVEDGE_LOG, are not settings of a section.
        let is_ours = |name: &str| [HubConfig::ENV, NodeConfig::ENV].iter().any(|role| name.starts_with(role));
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let env = variables.filter(|(name, _)| is_ours(name)).collect();
        base_config::load_from(&base_config::Source { text: text.as_deref(), env }, "SELVEDGE")
    }

    /// All that is wrong with values that can be read.
    pub fn mistakes(&self) -> Vec<String> {
        let of = |section: &'static str, mistakes: Vec<String>| {
            mistakes.into_iter().map(move |mistake| format!("in `{section}`: {mistake}"))
        };
        of("hub", self.hub.mistakes()).chain(of("node", self.node.mistakes())).collect()
    }
}

#[cfg(all(test, feature = "hub", feature = "node", feature = "edge"))]
mod tests;
