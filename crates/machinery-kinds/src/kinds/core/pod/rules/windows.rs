//! What goes with one operating system and not with the other.

use serde_json::Value;

use super::{containers_of, each_container};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

const DETAIL: &str = "cannot be set for a windows pod";
const CREDENTIAL_SPEC_KIB_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 256;
const USER_BYTES_MAX: usize = 104;

/// The operating system that a pod names, and what that excludes.
pub(super) fn os(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let Some(os) = spec.some("os") else { return };
    match os.text("name") {
        "" => errors.required(&path.field("os.name"), ""),
        "linux" => linux(spec, path, errors),
        "windows" => windows(spec, path, errors),
        other => errors.not_supported(&path.field("os"), other, &["linux", "windows"]),
    }
}

fn linux(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    const DETAIL: &str = "windows options cannot be set for a linux pod";
    if spec.part("securityContext").has("windowsOptions") {
        errors.forbidden(&path.field("securityContext.windowsOptions"), DETAIL);
    }
    each_container(spec, path, |container, at| {
        if container.part("securityContext").has("windowsOptions") {
            errors.forbidden(&at.field("securityContext.windowsOptions"), DETAIL);
        }
    });
}

fn windows(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let security = spec.part("securityContext");
    let at = path.field("securityContext");
    for key in [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ] {
        if security.has(key) {
            errors.forbidden(&at.field(key), DETAIL);
        }
    }
    for key in ["hostUsers", "shareProcessNamespace"] {
        if spec.has(key) {
            errors.forbidden(&path.field(key), DETAIL);
        }
    }
    for key in ["hostPID", "hostIPC"] {
        if spec.flag(key) {
            errors.forbidden(&path.field(key), DETAIL);
        }
    }
    each_container(spec, path, |container, at| {
        let security = container.part("securityContext");
        let at = at.field("securityContext");
        for key in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if security.has(key) {
                errors.forbidden(&at.field(key), DETAIL);
            }
        }
    });
}

/// Containers that are processes of the host are so all together.
pub(super) fn host_process(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let of = |holder: &Value| holder.part("securityContext").part("windowsOptions").some_flag("hostProcess");
    let of_pod = of(spec);
    let mut of_host = 0;
    each_container(spec, path, |container, at| {
        let own = of(container);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(&at.field("securityContext.windowsOptions.hostProcess"), own, detail);
        }
        of_host += usize::from(own.or(of_pod).unwrap_or(false));
    });
    if of_host == 0 {
        return;
    }
    if of_host != containers_of(spec).count() {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if !spec.flag("hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.field("hostNetwork"), false, detail);
    }
}

/// Options of a security context for Windows.
pub(super) fn options(options: &Value, path: &Path<'_>, errors: &mut Errors) {
    if options.has("gmsaCredentialSpecName") {
        let name = options.text("gmsaCredentialSpecName");
        errors.invalid_each(&path.field("gmsaCredentialSpecName"), name, checks::dns_subdomain(name));
    }
    if options.has("gmsaCredentialSpec") {
        let spec = options.text("gmsaCredentialSpec");
        let at = path.field("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > CREDENTIAL_SPEC_KIB_MAX * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB_MAX} KiB");
            errors.invalid(&at, spec, detail);
        }
    }
    if options.has("runAsUserName") {
        user(options.text("runAsUserName"), &path.field("runAsUserName"), errors);
    }
}

/// `DOMAIN\user`, or `user`.
fn user(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut invalid = |detail: &str| errors.invalid(path, name, detail);
    if name.is_empty() {
        return invalid("runAsUserName cannot be an empty string");
    }
    if name.chars().any(|character| character.is_ascii_control()) {
        return invalid("runAsUserName cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return invalid("runAsUserName cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_BYTES_MAX) {
        invalid(&format!("runAsUserName's Domain length must be under {DOMAIN_BYTES_MAX} characters"));
    }
    if domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)) {
        invalid("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        invalid("runAsUserName's User cannot be empty");
    } else if user.len() > USER_BYTES_MAX {
        invalid(&format!("runAsUserName's User length must not be longer than {USER_BYTES_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|character| matches!(character, '.' | ' ')) {
        invalid("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        invalid(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#);
    }
}

fn is_net_bios(domain: &str) -> bool {
    const EXCLUDED: [char; 9] = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(EXCLUDED)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    })
}
