//! Security contexts of the pod and of its containers.

use serde_json::Value;

use super::{Context, descending_path, each_container, windows};
use crate::{
    checks,
    kinds::internal,
    kit::{Errors, Path, Read},
};

const SYSCTL_CHARS_MAX: usize = 253;
const SYSCTL_REGEX: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Parameters of the kernel that are one for each IPC namespace.
const IPC_SYSCTLS: [&str; 10] = [
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "kernel.shm",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.msg",
];

pub(super) fn of_pod(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(security) = context.spec.some("securityContext") else { return };
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        unix_id(security.part(key), &path.field(key), errors);
    }
    let at = path.field("supplementalGroups");
    for (number, group) in security.items("supplementalGroups").iter().enumerate() {
        unix_id(group, &at.index(number), errors);
    }
    if context.spec.flag("shareProcessNamespace") && context.spec.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.field("shareProcessNamespace"), true, detail);
    }
    sysctls(context, security, &path.field("sysctls"), errors);
    word(security, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], path, errors);
    if let Some(profile) = security.some("seccompProfile") {
        seccomp_profile(profile, &path.field("seccompProfile"), errors);
    }
    windows::options(security.part("windowsOptions"), &path.field("windowsOptions"), errors);
    if let Some(profile) = security.some("appArmorProfile") {
        app_armor_profile(profile, &path.field("appArmorProfile"), errors);
    }
    word(security, "supplementalGroupsPolicy", &["Merge", "Strict"], path, errors);
    let policies: &[&str] =
        if context.options.any_selinux_change_policy { &["MountOption", "Recursive"] } else { &["Recursive"] };
    word(security, "seLinuxChangePolicy", policies, path, errors);
}

pub(super) fn of_container(context: &Context<'_>, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(security) = container.some("securityContext") else { return };
    for key in ["runAsUser", "runAsGroup"] {
        unix_id(security.part(key), &path.field(key), errors);
    }
    if security.has("procMount") {
        let mount = security.text("procMount");
        let at = path.field("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.not_supported(&at, mount, &["Default", "Unmasked"]);
        }
        if context.has_host_users() && mount == "Unmasked" {
            errors.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    if let Some(profile) = security.some("seccompProfile") {
        seccomp_profile(profile, &path.field("seccompProfile"), errors);
    }
    if security.some_flag("allowPrivilegeEscalation") == Some(false) {
        let shown = || internal::json("SecurityContext", security);
        if security.flag("privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid_as(path, &shown(), detail);
        }
        for _ in security.part("capabilities").texts("add").filter(|name| *name == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid_as(path, &shown(), detail);
        }
    }
    windows::options(security.part("windowsOptions"), &path.field("windowsOptions"), errors);
    if let Some(profile) = security.some("appArmorProfile") {
        app_armor_profile(profile, &path.field("appArmorProfile"), errors);
    }
}

fn unix_id(id: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(id) = id.as_i64() {
        for message in checks::unix_id(id) {
            errors.invalid(path, id, message);
        }
    }
}

/// A word of a closed set, where it is there.
fn word(within: &Value, key: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let word = within.text(key);
    if within.has(key) && !allowed.contains(&word) {
        errors.not_supported(&path.field(key), word, allowed);
    }
}

pub(super) fn seccomp_profile(profile: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = profile.text("type");
    match kind {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => errors.required(&path.field("type"), "type is required when seccompProfile is set"),
        other => {
            errors.not_supported(&path.field("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
    let at = path.field("localhostProfile");
    match (kind == "Localhost", profile.some("localhostProfile")) {
        (true, None) => errors.required(&at, "must be set when seccomp type is Localhost"),
        (true, Some(place)) => descending_path(place.as_str().unwrap_or_default(), &at, errors),
        (false, Some(_)) => {
            let shown = internal::json("SeccompProfile", profile);
            errors.invalid_as(&at, &shown, "can only be set when seccomp type is Localhost");
        }
        (false, None) => {}
    }
}

fn app_armor_profile(profile: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REQUIRED: &str = "must be set when AppArmor type is Localhost";
    const BYTES_MAX: usize = 4095;
    let at = path.field("localhostProfile");
    match profile.text("type") {
        "Localhost" => match profile.some("localhostProfile").and_then(Value::as_str) {
            None => errors.required(&at, REQUIRED),
            Some(name) => {
                if name.trim() != name {
                    errors.invalid(&at, name, "must not be padded with whitespace");
                } else if name.is_empty() {
                    errors.required(&at, REQUIRED);
                }
                if name.len() > BYTES_MAX {
                    errors.too_long(&at, BYTES_MAX);
                }
            }
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = profile.some("localhostProfile") {
                errors.invalid(&at, name.clone(), "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(&path.field("type"), "type is required when appArmorProfile is set"),
        other => {
            errors.not_supported(&path.field("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
}

fn sysctls(context: &Context<'_>, security: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut names = std::collections::BTreeSet::new();
    for (number, sysctl) in security.items("sysctls").iter().enumerate() {
        let at = path.index(number);
        let at = at.field("name");
        let name = sysctl.text("name");
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            let detail = format!("must have at most {SYSCTL_CHARS_MAX} characters and match regex {SYSCTL_REGEX}");
            errors.invalid(&at, name, detail);
        } else if names.contains(name) {
            errors.duplicate(&at, name);
        }
        names.insert(name);
        if context.options.any_sysctl_of_host {
            continue;
        }
        if let Some(detail) = sysctl_of_host(name, context.spec) {
            errors.invalid(&at, name, detail);
        }
    }
}

/// Segments of lower-case letters, digits, dashes and underscores, with dots or slashes between them.
fn is_sysctl(name: &str) -> bool {
    let is_segment = |segment: &str| {
        let is_end = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = segment.as_bytes();
        is_end(bytes.first())
            && is_end(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= SYSCTL_CHARS_MAX && name.split(['.', '/']).all(is_segment)
}

/// Why a parameter cannot be set by a pod that shares the namespace in which it is.
fn sysctl_of_host(name: &str, spec: &Value) -> Option<&'static str> {
    // Slashes and dots mean the same, by which of them comes first.
    let name = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    };
    let name = name.split_once('*').map_or(name.as_str(), |(begin, _)| begin.trim_end_matches('.'));
    let is_in = |prefix: &str| name == prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
    if spec.flag("hostNetwork") && is_in("net") {
        Some("may not be specified when 'hostNetwork' is true")
    } else if spec.flag("hostIPC") && (IPC_SYSCTLS.contains(&name) || is_in("fs.mqueue")) {
        Some("may not be specified when 'hostIPC' is true")
    } else {
        None
    }
}

/// Whether the spec has a parameter of a namespace that it shares with its host.
pub(super) fn has_sysctl_of_host(spec: &Value) -> bool {
    let sysctls = spec.part("securityContext").items("sysctls");
    sysctls.iter().any(|sysctl| sysctl_of_host(sysctl.text("name"), spec).is_some())
}

/// Users of their own go with few namespaces of the host.
pub(super) fn user_namespace(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "when `hostUsers` is false";
    let (spec, options) = (context.spec, context.options);
    if context.has_host_users() {
        return;
    }
    if spec.flag("hostNetwork") && !options.user_namespace_on_host_network {
        errors.forbidden(&path.field("hostNetwork"), DETAIL);
    }
    for (key, shown) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(key) {
            errors.forbidden(&path.field(shown), DETAIL);
        }
    }
    if !options.user_namespace_with_devices {
        each_container(spec, path, |container, at| {
            if !container.items("volumeDevices").is_empty() {
                errors.forbidden(&at.field("volumeDevices"), DETAIL);
            }
        });
    }
}
