//! The part of a Pod that the kubelet acts on.
//!
//! A Pod as the k8s-openapi struct takes some 30 KB; this takes one or two, and a field that is not here is one the
//! kubelet does not act on. Unknown fields are ignored, as the hub has already validated the object.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resize::ResizePending;

/// Annotation of a pod that did not come from the hub, and of its mirror there.
pub(crate) const ANNOTATION_CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation of a static pod: changes when its manifest does.
pub(crate) const ANNOTATION_CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation of the hub's image of a static pod.
pub(crate) const ANNOTATION_CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// A hundred years; the API takes any number of seconds, and a clock that counts on from now has an end.
const GRACE_MAX: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 24 * 3600);

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: StoredStatus,
    /// Why it has other resources than its object says; the node's own.
    #[serde(skip)]
    pub resize_pending: Option<ResizePending>,
}

/// What an earlier kubelet reported and must not change: the rest of a status is derived anew.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StoredStatus {
    pub phase: String,
    pub reason: String,
    pub message: String,
    pub start_time: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub creation_timestamp: Option<String>,
    pub deletion_timestamp: Option<String>,
    pub deletion_grace_period_seconds: Option<i64>,
    pub owner_references: Vec<Owner>,
}

/// `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Owner {
    pub kind: String,
    pub name: String,
    pub controller: Option<bool>,
}

impl Metadata {
    /// Name of the DaemonSet that the pod is of.
    pub fn daemon_set(&self) -> Option<&str> {
        let is_set = |owner: &&Owner| owner.kind == "DaemonSet" && owner.controller == Some(true);
        self.owner_references.iter().find(is_set).map(|owner| owner.name.as_str())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub node_name: String,
    pub runtime_class_name: Option<String>,
    pub restart_policy: RestartPolicy,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    /// Those that somebody added to the running pod to look into it (`kubectl debug`).
    pub ephemeral_containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub termination_grace_period_seconds: Option<i64>,
    pub active_deadline_seconds: Option<i64>,
    pub service_account_name: Option<String>,
    pub hostname: Option<String>,
    pub priority_class_name: String,
    pub priority: i32,
    pub tolerations: Vec<Toleration>,
    pub security_context: PodSecurityContext,
    pub image_pull_secrets: Vec<ObjectRef>,
    pub host_network: bool,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    pub share_process_namespace: bool,
    pub host_users: Option<bool>,
    pub enable_service_links: Option<bool>,
    pub subdomain: Option<String>,
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: bool,
    pub host_aliases: Vec<HostAlias>,
    pub dns_policy: Option<String>,
    pub dns_config: DnsConfig,
}

/// `spec.tolerations`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Toleration {
    pub key: String,
    pub operator: String,
    pub value: String,
    pub effect: String,
}

/// `spec.hostAliases`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct HostAlias {
    pub ip: String,
    pub hostnames: Vec<String>,
}

/// `spec.dnsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSecurityContext {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub fs_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub run_as_non_root: Option<bool>,
    pub seccomp_profile: Option<SeccompProfile>,
    pub app_armor_profile: Option<AppArmorProfile>,
    pub sysctls: Vec<Sysctl>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Sysctl {
    pub name: String,
    pub value: String,
}

impl Sysctl {
    /// The name with dots between its segments, as most people write it; the API takes slashes as well.
    pub(crate) fn dotted_name(&self) -> String {
        self.name.replace('/', ".")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub name: String,
    pub image: String,
    pub image_pull_policy: Option<String>,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub working_dir: Option<String>,
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFrom>,
    pub volume_mounts: Vec<VolumeMount>,
    pub resources: Resources,
    pub resize_policy: Vec<ResizePolicy>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    /// Only `Always`, and only of an init container: a sidecar.
    pub restart_policy: Option<String>,
    pub termination_message_path: Option<String>,
    pub termination_message_policy: Option<String>,
    pub security_context: ContainerSecurityContext,
    pub lifecycle: Lifecycle,
    pub ports: Vec<ContainerPort>,
    pub tty: bool,
    pub stdin: bool,
    /// Only of an ephemeral container: whose processes it is to see.
    pub target_container_name: String,
}

impl Container {
    /// Whether it is an init container that runs on beside the others.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// How a container takes other resources.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ResizePolicy {
    pub resource_name: String,
    pub restart_policy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub name: Option<String>,
    pub container_port: u16,
    pub host_port: u16,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerSecurityContext {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub privileged: Option<bool>,
    pub allow_privilege_escalation: Option<bool>,
    pub read_only_root_filesystem: Option<bool>,
    pub capabilities: Capabilities,
    pub seccomp_profile: Option<SeccompProfile>,
    pub app_armor_profile: Option<AppArmorProfile>,
    pub proc_mount: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AppArmorProfile {
    pub r#type: String,
    pub localhost_profile: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SeccompProfile {
    pub r#type: String,
    pub localhost_profile: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
}

/// A quantity as written; Kubernetes accepts numbers, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Quantity {
    Text(String),
    Number(serde_json::Number),
}

impl Quantity {
    /// The exact amount; `None` when it is not a quantity, or less than nothing.
    pub(crate) fn amount(&self) -> Option<api_kube::Quantity> {
        let parsed: Result<api_kube::Quantity, _> = match self {
            Self::Text(text) => text.parse(),
            Self::Number(number) => number.to_string().parse(),
        };
        parsed.ok().filter(|amount| !amount.is_negative())
    }

    /// In thousandths of the unit, rounded up.
    pub(crate) fn millis(&self) -> Option<u64> {
        self.amount().map(|amount| amount.milli_value().unsigned_abs())
    }

    /// In whole units, rounded up.
    pub(crate) fn units(&self) -> Option<u64> {
        self.amount().map(|amount| amount.value().unsigned_abs())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EnvVar {
    pub name: String,
    pub value: Option<String>,
    pub value_from: Option<EnvSource>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EnvSource {
    pub config_map_key_ref: Option<KeyRef>,
    pub secret_key_ref: Option<KeyRef>,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KeyRef {
    pub name: String,
    pub key: String,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct FieldRef {
    pub field_path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ResourceFieldRef {
    pub container_name: Option<String>,
    pub resource: String,
    pub divisor: Option<Quantity>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EnvFrom {
    pub prefix: String,
    pub config_map_ref: Option<ObjectRef>,
    pub secret_ref: Option<ObjectRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ObjectRef {
    pub name: String,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    pub read_only: bool,
    pub sub_path: String,
    pub sub_path_expr: String,
    pub mount_propagation: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Volume {
    pub name: String,
    pub empty_dir: Option<EmptyDir>,
    pub host_path: Option<HostPath>,
    pub config_map: Option<ConfigMapVolume>,
    pub secret: Option<SecretVolume>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardVolume>,
    pub projected: Option<ProjectedVolume>,
    pub image: Option<ImageSource>,
    pub persistent_volume_claim: Option<ClaimVolume>,
}

/// `persistentVolumeClaim` of a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimVolume {
    pub claim_name: String,
    pub read_only: bool,
}

/// `image` of a volume.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ImageSource {
    pub reference: String,
    pub pull_policy: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EmptyDir {
    pub medium: String,
    pub size_limit: Option<Quantity>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HostPath {
    pub path: String,
    pub r#type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConfigMapVolume {
    pub name: String,
    pub items: Vec<KeyToPath>,
    pub default_mode: Option<u32>,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SecretVolume {
    pub secret_name: String,
    pub items: Vec<KeyToPath>,
    pub default_mode: Option<u32>,
    pub optional: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DownwardVolume {
    pub items: Vec<DownwardItem>,
    pub default_mode: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DownwardItem {
    pub path: String,
    pub mode: Option<u32>,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ProjectedVolume {
    pub sources: Vec<Projection>,
    pub default_mode: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Projection {
    pub config_map: Option<ConfigMapVolume>,
    /// Projected secrets are named by `name`, as ConfigMaps are.
    pub secret: Option<ConfigMapVolume>,
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardVolume>,
    pub service_account_token: Option<TokenProjection>,
}

/// A token of the pod's service account.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TokenProjection {
    /// Empty: the API's own.
    pub audience: String,
    pub expiration_seconds: Option<i64>,
    pub path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KeyToPath {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Probe {
    pub exec: Option<ExecProbe>,
    pub http_get: Option<HttpProbe>,
    pub tcp_socket: Option<TcpProbe>,
    pub grpc: Option<GrpcProbe>,
    pub initial_delay_seconds: Option<u64>,
    pub period_seconds: Option<u64>,
    pub timeout_seconds: Option<u64>,
    pub success_threshold: Option<u32>,
    pub failure_threshold: Option<u32>,
    pub termination_grace_period_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ExecProbe {
    pub command: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpProbe {
    pub path: String,
    pub port: PortRef,
    pub host: Option<String>,
    pub scheme: Option<String>,
    pub http_headers: Vec<HttpHeader>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct HttpHeader {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TcpProbe {
    pub port: PortRef,
    pub host: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct GrpcProbe {
    pub port: u16,
    pub service: String,
}

/// `lifecycle` of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Lifecycle {
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
    pub stop_signal: Option<String>,
}

/// What a hook of a container does; one of them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Handler {
    pub exec: Option<ExecProbe>,
    pub http_get: Option<HttpProbe>,
    pub sleep: Option<SleepAction>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct SleepAction {
    pub seconds: u64,
}

/// A port by number, or by the name it has in the container's `ports`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum PortRef {
    Number(u16),
    Name(String),
}

impl Default for PortRef {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// ConfigMaps and Secrets that a pod refers to, by name in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub config_maps: std::collections::BTreeSet<String>,
    pub secrets: std::collections::BTreeSet<String>,
    pub claims: std::collections::BTreeSet<String>,
}

impl Pod {
    /// Reads the parts that matter of a Pod in JSON. An explicit `null` means the same as an absent field.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut value = serde_json::from_slice(bytes)?;
        strip_nulls(&mut value);
        serde_json::from_value(value)
    }

    /// Of a Pod whose spec cannot be read, what is needed to say so and to let it be deleted.
    pub(crate) fn outline(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Outline {
            metadata: Value,
        }
        let mut outline: Outline = serde_json::from_slice(bytes).ok()?;
        strip_nulls(&mut outline.metadata);
        let metadata: Metadata = serde_json::from_value(outline.metadata).ok()?;
        Some(Self { metadata, ..Self::default() })
    }

    /// Its host name: what the spec says, or its own; as long as Linux takes it.
    pub(crate) fn hostname(&self) -> &str {
        let name = self.spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(&self.metadata.name);
        name.get(..63).unwrap_or(name).trim_end_matches(['-', '.'])
    }

    /// Its name in the cluster's domain, where it has one.
    pub(crate) fn fqdn(&self, domain: &str) -> Option<String> {
        let subdomain = self.spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
        Some(format!("{}.{subdomain}.{}.svc.{domain}", self.hostname(), self.metadata.namespace))
    }

    /// What its programs see as their host's name.
    pub(crate) fn kernel_hostname(&self, domain: &str) -> String {
        let fqdn = self.fqdn(domain).filter(|_| self.spec.set_hostname_as_fqdn);
        fqdn.unwrap_or_else(|| self.hostname().to_owned())
    }

    /// `namespace/name`, for people.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// Whether it was given on the node, not by the hub.
    pub(crate) fn is_static(&self) -> bool {
        self.metadata.annotations.get(ANNOTATION_CONFIG_SOURCE).is_some_and(|source| source != "api")
    }

    /// Whether it is only the hub's image of a static pod, which is not run for its own sake.
    pub(crate) fn is_mirror(&self) -> bool {
        self.metadata.annotations.contains_key(ANNOTATION_CONFIG_MIRROR)
    }

    /// Init containers first, in the order in which they are started; none of those that were added later, which are promised
    /// nothing and decide nothing.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.spec.init_containers.iter().chain(&self.spec.containers)
    }

    /// The same, to be changed.
    pub(crate) fn all_containers_mut(&mut self) -> impl Iterator<Item = &mut Container> {
        self.spec.init_containers.iter_mut().chain(&mut self.spec.containers)
    }

    /// The one of its containers that has a name, ephemeral ones among them.
    pub(crate) fn container(&self, name: &str) -> Option<&Container> {
        self.every_container().find(|container| container.name == name)
    }

    /// Whether a container was added to the running pod.
    pub(crate) fn is_ephemeral(&self, name: &str) -> bool {
        self.spec.ephemeral_containers.iter().any(|container| container.name == name)
    }

    /// All that there are, ephemeral ones among them.
    pub(crate) fn every_container(&self) -> impl Iterator<Item = &Container> {
        self.all_containers().chain(&self.spec.ephemeral_containers)
    }

    /// Whether a container that ended with an exit code starts again, by what the pod says.
    pub(crate) fn restarts_after(&self, container: &Container, exit_code: i32) -> bool {
        let is_init = self.spec.init_containers.iter().any(|init| init.name == container.name);
        match self.spec.restart_policy {
            // Whoever added it adds another.
            _ if self.is_ephemeral(&container.name) => false,
            _ if container.is_sidecar() => true,
            RestartPolicy::Always if is_init => exit_code != 0,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }

    /// What it refers to, optional references among them.
    pub(crate) fn references(&self) -> References {
        let mut references = References::default();
        for container in self.every_container() {
            for from in &container.env_from {
                references.config_maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
                references.secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
            }
            for source in container.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
                references.config_maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
                references.secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
            }
        }
        references.secrets.extend(self.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()));
        for volume in &self.spec.volumes {
            references.config_maps.extend(volume.config_map.iter().map(|v| v.name.clone()));
            references.secrets.extend(volume.secret.iter().map(|v| v.secret_name.clone()));
            references.claims.extend(volume.persistent_volume_claim.iter().map(|v| v.claim_name.clone()));
            for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
                references.config_maps.extend(source.config_map.iter().map(|v| v.name.clone()));
                references.secrets.extend(source.secret.iter().map(|v| v.name.clone()));
            }
        }
        references
    }

    /// The user that all of its containers run as; `None` when one names none, or two differ.
    pub(crate) fn one_user(&self) -> Option<u32> {
        let pods = self.spec.security_context.run_as_user;
        let mut users = self.all_containers().map(|container| container.security_context.run_as_user.or(pods));
        let first = users.next()??;
        users.all(|user| user == Some(first)).then_some(first)
    }

    /// How long its containers get to end by themselves: the deletion's grace, else the spec's, else 30 s.
    pub(crate) fn grace(&self) -> std::time::Duration {
        let seconds =
            self.metadata.deletion_grace_period_seconds.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
        std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(GRACE_MAX)
    }

    /// Whether it takes a node that is short of memory.
    pub(crate) fn tolerates_memory_pressure(&self) -> bool {
        self.spec.tolerations.iter().any(|toleration| {
            let is_of_effect = matches!(toleration.effect.as_str(), "" | "NoSchedule");
            let exists = toleration.operator == "Exists";
            let is_of_key = match toleration.key.as_str() {
                "" => exists,
                key => key == "node.kubernetes.io/memory-pressure" && (exists || toleration.value.is_empty()),
            };
            is_of_effect && is_of_key
        })
    }

    /// Kubernetes' quality-of-service class, from requests and limits of CPU and memory.
    pub(crate) fn qos_class(&self) -> api_kube::QosClass {
        let amounts = |container: &Container| {
            ["cpu", "memory"].map(|resource| api_kube::qos::Amounts {
                request: container.resources.requests.get(resource).and_then(Quantity::amount),
                limit: container.resources.limits.get(resource).and_then(Quantity::amount),
            })
        };
        api_kube::QosClass::of_containers(self.all_containers().map(amounts))
    }
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
