//! What a pod, and a template of pods, must be.
//!
//! The rules of a spec are many; each module has those of one part, in the order in which upstream asks them:
//!
//! | module | what |
//! | --- | --- |
//! | [`volumes`], [`drivers`], [`projected`], [`claims`] | volumes |
//! | [`containers`], [`environment`], [`mounts`], [`handlers`] | containers of the three lists |
//! | [`resources`] | amounts, of containers and of the pod |
//! | [`security`], [`windows`] | security contexts |
//! | [`scheduling`] | affinity, tolerations, spreading, gates |
//! | [`network`] | DNS, host names, ports of the host |
//! | [`annotations`] | annotations that were fields once, or became fields |
//! | [`update`], [`resize`], [`status`] | what may change, by which subresource |
//!
//! Upstream lets an object keep what was allowed when it was created: [`Options`] says what the old one has.

mod annotations;
mod claims;
mod containers;
mod drivers;
mod environment;
mod handlers;
mod mounts;
mod network;
mod projected;
mod resize;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
mod volumes;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{CONTAINER_LISTS, count_references};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};
pub(super) use resize::validate_resize;
pub(super) use status::validate_status;
pub(super) use update::{validate_ephemeral, validate_update};

/// Secrets, ConfigMaps, claims and the like that one pod may refer to: each is kept in the index, for the node authorizer.
const REFERENCES_MAX: usize = 1024;

/// What is not asked of a new version, because the old one has it already; and whether the spec is that of a pod.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// The spec is that of a pod, and not of a template.
    pub is_pod: bool,
    any_deletion_cost: bool,
    any_selector_value: bool,
    any_node_affinity_value: bool,
    any_huge_page_amount: bool,
    any_spread_selector: bool,
    any_spread_keys: bool,
    any_token_path: bool,
    any_sysctl_of_host: bool,
    any_selinux_change_policy: bool,
    any_toleration_operator: bool,
    user_namespace_on_host_network: bool,
    user_namespace_with_devices: bool,
    restart_of_resized_init_containers: bool,
}

impl Options {
    /// For the rules of a pod, or of a template, both with metadata and spec; the old one is null on create.
    pub(crate) fn for_update(old: &Value) -> Self {
        if old.is_null() {
            return Self::default();
        }
        let (metadata, spec) = (old.part("metadata"), old.part("spec"));
        let context = spec.part("securityContext");
        let has_user_namespace = spec.some_flag("hostUsers") == Some(false);
        Self {
            is_pod: false,
            any_deletion_cost: !annotations::has_deletion_cost(metadata),
            any_selector_value: scheduling::has_invalid_affinity_value(spec),
            any_node_affinity_value: scheduling::has_invalid_node_affinity_value(spec),
            any_huge_page_amount: resources::has_indivisible_huge_pages(spec),
            any_spread_selector: scheduling::has_invalid_spread_selector(spec),
            any_spread_keys: scheduling::has_invalid_spread_keys(spec),
            any_token_path: projected::has_outer_token_path(spec),
            any_sysctl_of_host: security::has_sysctl_of_host(spec),
            any_selinux_change_policy: context.has("seLinuxChangePolicy"),
            any_toleration_operator: spec
                .items("tolerations")
                .iter()
                .any(|toleration| matches!(toleration.text("operator"), "Lt" | "Gt")),
            user_namespace_on_host_network: has_user_namespace && spec.flag("hostNetwork"),
            user_namespace_with_devices: has_user_namespace
                && containers_of(spec).any(|(_, _, container)| !container.items("volumeDevices").is_empty()),
            restart_of_resized_init_containers: containers::has_restart_of_resized_init_containers(spec),
        }
    }

    fn of_pod(self) -> Self {
        Self { is_pod: true, ..self }
    }
}

/// Tolerations outside of a pod: `tolerations` of what is not a pod, at the list's place.
pub(crate) fn validate_tolerations(owner: &Value, path: &Path<'_>, errors: &mut Errors) {
    scheduling::tolerations(owner, Options::default(), path, errors);
}

/// What the rules of one part of a spec need to know of the others.
struct Context<'s> {
    spec: &'s Value,
    options: Options,
    /// The volumes that are right, by name: those that containers may mount.
    volumes: BTreeMap<&'s str, &'s Value>,
    /// Names of the pod's claims of devices.
    claims: BTreeSet<&'s str>,
    grace_seconds: Option<i64>,
}

impl<'s> Context<'s> {
    /// Whether the pod shares the users of its host.
    fn has_host_users(&self) -> bool {
        self.spec.some_flag("hostUsers").unwrap_or(true)
    }

    /// The operating system, if the pod names one.
    fn os(&self) -> Option<&'s str> {
        self.spec.some("os").map(|os| os.text("name"))
    }
}

/// Every container of a spec, with its list and its place there.
fn containers_of(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    CONTAINER_LISTS.into_iter().flat_map(move |list| {
        spec.items(list).iter().enumerate().map(move |(number, container)| (list, number, container))
    })
}

/// Calls `visit` with each container and where it is.
pub(super) fn each_container<'s>(spec: &'s Value, path: &Path<'_>, mut visit: impl FnMut(&'s Value, &Path<'_>)) {
    for (list, number, container) in containers_of(spec) {
        visit(container, &path.field(list).index(number));
    }
}

/// Rules for a new pod, its metadata apart.
pub(super) fn validate_create(pod: &Value, errors: &mut Errors) {
    pod_and_spec(pod, Options::default().of_pod(), errors);
    let spec = pod.part("spec");
    let at = Path::at("spec");
    if !spec.items("ephemeralContainers").is_empty() {
        errors.forbidden(&at.field("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.text("nodeName").is_empty() && !spec.items("schedulingGates").is_empty() {
        errors.forbidden(&at.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    annotations::seccomp_matches(pod.part("metadata"), spec, &at, errors);
    annotations::app_armor_matches(pod.part("metadata"), spec, &at, errors);
}

/// What holds of a pod whenever it is written.
fn pod_and_spec(pod: &Value, options: Options, errors: &mut Errors) {
    let (metadata, spec) = (pod.part("metadata"), pod.part("spec"));
    let at = Path::at("spec");
    annotations::validate(metadata, spec, options, &Path::at("metadata.annotations"), errors);
    validate_spec(spec, Some(metadata), options, &at, errors);
    if spec.text("serviceAccountName").is_empty() {
        projected::forbid_tokens(spec, &at, errors);
    }
    for list in ["containers", "initContainers"] {
        for (number, container) in spec.items(list).iter().enumerate() {
            containers::only_for_pod(container, &at.field(list).index(number), errors);
        }
    }
}

/// Rules for a template of pods: labels, annotations, spec.
pub(crate) fn validate_template(template: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let (metadata, spec) = (template.part("metadata"), template.part("spec"));
    let at = path.field("spec");
    checks::labels(metadata.part("labels"), &path.field("labels"), errors);
    checks::annotations(metadata.part("annotations"), &path.field("annotations"), errors);
    annotations::validate(metadata, spec, options, &path.field("annotations"), errors);
    validate_spec(spec, None, options, &at, errors);
    annotations::seccomp_matches(metadata, spec, &at, errors);
    annotations::app_armor_matches(metadata, spec, &at, errors);
    if !spec.items("ephemeralContainers").is_empty() {
        errors.forbidden(&at.field("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Rules for the annotations of a template alone.
pub(crate) fn validate_annotations(template: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    annotations::validate(template.part("metadata"), template.part("spec"), options, path, errors);
}

/// Rules for a pod's spec. The metadata are those of the pod; templates have none that count.
fn validate_spec(spec: &Value, metadata: Option<&Value>, options: Options, path: &Path<'_>, errors: &mut Errors) {
    let grace_seconds = spec.some_int("terminationGracePeriodSeconds");
    if grace_seconds.is_none() {
        errors.required(&path.field("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::validate(spec, metadata, options, &path.field("volumes"), errors);
    let claims = spec.items("resourceClaims").iter().map(|claim| claim.text("name"));
    let claims = claims.filter(|name| !name.is_empty()).collect();
    let context = Context { spec, options, volumes, claims, grace_seconds };
    resources::claims_of_pod(spec, metadata, &path.field("resourceClaims"), errors);
    containers::validate(&context, path, errors);
    resources::of_pod(&context, path, errors);
    network::ports_of_host(spec, options, path, errors);
    restart_policy(spec, path, errors);
    network::dns_policy(spec, path, errors);
    checks::labels(spec.part("nodeSelector"), &path.field("nodeSelector"), errors);
    security::of_pod(&context, &path.field("securityContext"), errors);
    scheduling::affinity(spec.part("affinity"), options, &path.field("affinity"), errors);
    network::dns_config(spec, &path.field("dnsConfig"), errors);
    scheduling::gates(spec, path, errors);
    scheduling::spread_constraints(spec, options, &path.field("topologySpreadConstraints"), errors);
    windows::host_process(spec, path, errors);
    security::user_namespace(&context, path, errors);
    network::host_name_override(spec, path, errors);
    names(spec, path, errors);
    if let Some(seconds) = spec.some_int("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = checks::range_message(1, i64::from(i32::MAX));
        errors.invalid(&path.field("activeDeadlineSeconds"), seconds, detail);
    }
    scheduling::tolerations(spec, options, &path.field("tolerations"), errors);
    network::host_aliases(spec, &path.field("hostAliases"), errors);
    preemption_policy(spec, path, errors);
    if spec.has("overhead") {
        resources::overhead(&context, &path.field("overhead"), errors);
    }
    windows::os(spec, path, errors);
    if let Some(group) = spec.some("schedulingGroup") {
        scheduling::group(group, &path.field("schedulingGroup"), errors);
    }
    environment::files(spec, path, errors);
    let references = count_references(spec);
    if references > REFERENCES_MAX {
        errors.too_many(path, references, REFERENCES_MAX);
    }
}

fn names(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for key in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let name = spec.text(key);
        if !name.is_empty() {
            errors.invalid_each(&path.field(key), name, checks::dns_subdomain(name));
        }
    }
    for key in ["hostname", "subdomain"] {
        let name = spec.text(key);
        if !name.is_empty() {
            errors.invalid_each(&path.field(key), name, checks::dns_label(name));
        }
    }
    if spec.has("runtimeClassName") {
        let name = spec.text("runtimeClassName");
        errors.invalid_each(&path.field("runtimeClassName"), name, checks::dns_subdomain(name));
    }
}

fn restart_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("restartPolicy");
    match spec.text("restartPolicy") {
        "Always" | "OnFailure" | "Never" => {}
        "" => errors.required(&at, ""),
        other => errors.not_supported(&at, other, &["Always", "OnFailure", "Never"]),
    }
}

fn preemption_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(policy) = spec.some("preemptionPolicy") else { return };
    let at = path.field("preemptionPolicy");
    match policy.as_str().unwrap_or_default() {
        "PreemptLowerPriority" | "Never" => {}
        "" => errors.required(&at, ""),
        other => errors.not_supported(&at, other, &["PreemptLowerPriority", "Never"]),
    }
}

/// A field with a word of a closed set: it must be there, and be one of them.
fn one_of(within: &Value, key: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let word = within.text(key);
    if word.is_empty() {
        errors.required(&path.field(key), "");
    } else if !allowed.contains(&word) {
        errors.not_supported(&path.field(key), word, allowed);
    }
}

/// A text that must not be empty.
fn required_text(within: &Value, key: &str, path: &Path<'_>, errors: &mut Errors) {
    if within.text(key).is_empty() {
        errors.required(&path.field(key), "");
    }
}

/// The first of a set of alternatives that is there counts; each further one is forbidden.
fn at_most_one<'v>(
    within: &'v Value,
    alternatives: &[&'static str],
    detail: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Option<(&'static str, &'v Value)> {
    let mut found = None;
    for key in alternatives {
        let Some(value) = within.some(key) else { continue };
        if found.is_none() {
            found = Some((*key, value));
        } else {
            errors.forbidden(&path.field(key), detail);
        }
    }
    found
}

/// A path below a directory: relative, and without `..`.
fn descending_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(text, path, errors);
}

fn no_backsteps(text: &str, path: &Path<'_>, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// The same, and not one of the names that the kubelet uses for itself.
fn local_path(text: &str, path: &Path<'_>, errors: &mut Errors) {
    descending_path(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

fn file_mode(within: &Value, key: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = within.some_int(key)
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(&path.field(key), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
