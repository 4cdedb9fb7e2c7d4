//! What a status may say of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Options, annotations, containers_of};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

/// Rules for the subresource `status`, metadata apart.
pub(crate) fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    let options = Options::for_update(old).of_pod();
    let metadata_at = Path::at("metadata.annotations");
    annotations::validate_update(new.part("metadata"), old.part("metadata"), &metadata_at, errors);
    annotations::validate(new.part("metadata"), new.part("spec"), options, &metadata_at, errors);
    let at = Path::at("status");
    let (after, before, spec) = (new.part("status"), old.part("status"), new.part("spec"));
    conditions(after, &at.field("conditions"), errors);
    nominated_node(after, before, old.part("spec"), &at.field("nominatedNodeName"), errors);
    generation(after, &at, errors);
    checks::immutable_text(after, before, "qosClass", &at, errors);
    for (list, of) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        restarts(after, before, old.part("spec"), list, of, &at.field(list), errors);
        statuses(after.items(list), Some(spec.items(of)), spec, &at.field(list), errors);
    }
    let list = "ephemeralContainerStatuses";
    each_reborn(after, before, list, |number, _| {
        let detail = "may not be transitioned to non-terminated state";
        errors.forbidden(&at.field(list).index(number).field("state"), detail);
    });
    statuses(after.items(list), None, spec, &at.field(list), errors);
    claims(after, spec, &at, errors);
    addresses(after, before, "podIPs", &at.field("podIPs"), errors);
    if let Some(first) = after.items("hostIPs").first() {
        if after.text("hostIP") != first.text("ip") {
            let at = at.field("hostIPs");
            errors.invalid(&at.index(0).field("ip"), first.text("ip"), "must be equal to `hostIP`");
        }
        addresses(after, before, "hostIPs", &at.field("hostIPs"), errors);
    }
}

fn generation(holder: &Value, path: &Path<'_>, errors: &mut Errors) {
    let generation = holder.int("observedGeneration");
    if generation < 0 {
        errors.invalid(&path.field("observedGeneration"), generation, "must be a non-negative integer");
    }
}

fn conditions(status: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (number, condition) in status.items("conditions").iter().enumerate() {
        let at = path.index(number);
        generation(condition, &at, errors);
        let kind = condition.text("type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            errors.invalid_each(&at.field("Type"), kind, checks::qualified_name(kind));
        }
    }
}

fn nominated_node(after: &Value, before: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = after.text("nominatedNodeName");
    if name.is_empty() || name == before.text("nominatedNodeName") {
        return;
    }
    errors.invalid_each(path, name, checks::dns_subdomain(name));
    if !spec.text("nodeName").is_empty() {
        errors.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// Calls `found` with each container that had ended and has not any more: its place in the old list, and its exit code.
fn each_reborn(after: &Value, before: &Value, list: &str, mut found: impl FnMut(usize, &Value)) {
    for (number, old) in before.items(list).iter().enumerate() {
        if !old.part("state").has("terminated") {
            continue;
        }
        let new = after.items(list).iter().find(|new| new.text("name") == old.text("name"));
        if new.is_some_and(|new| !new.part("state").has("terminated")) {
            found(number, old);
        }
    }
}

fn restarts(after: &Value, before: &Value, spec: &Value, list: &str, of: &str, path: &Path<'_>, errors: &mut Errors) {
    if may_restart_all(spec) {
        return;
    }
    each_reborn(after, before, list, |number, old| {
        let code = old.part("state").part("terminated").int("exitCode");
        let container = spec.items(of).iter().find(|container| container.text("name") == old.text("name"));
        if !container.is_some_and(|container| restarts_after(container, spec, code)) {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(&path.index(number).field("state"), detail);
        }
    });
}

/// Whether some container restarts all others when it ends.
fn may_restart_all(spec: &Value) -> bool {
    containers_of(spec).filter(|(list, ..)| *list != "ephemeralContainers").any(|(_, _, container)| {
        container.items("restartPolicyRules").iter().any(|rule| rule.text("action") == "RestartAllContainers")
    })
}

/// Whether a container is started again after it ended with this code.
fn restarts_after(container: &Value, spec: &Value, code: i64) -> bool {
    let own = container.some("restartPolicy").and_then(Value::as_str);
    if own.is_some() {
        for rule in container.items("restartPolicyRules") {
            let codes = rule.part("exitCodes");
            let is_listed = codes.items("values").iter().any(|value| value.as_i64() == Some(code));
            let applies = match codes.text("operator") {
                "In" => is_listed,
                "NotIn" => !is_listed,
                _ => false,
            };
            if applies {
                return rule.text("action") == "Restart";
            }
        }
    }
    match own.unwrap_or_else(|| spec.text("restartPolicy")) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// What a list of statuses says of users and of devices.
fn statuses(list: &[Value], containers: Option<&[Value]>, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let is_windows = spec.part("os").text("name") == "windows";
    for (number, status) in list.iter().enumerate() {
        let at = path.index(number);
        if let Some(user) = status.part("user").some("linux") {
            let at = at.field("user.linux");
            if is_windows {
                errors.forbidden(&at, "cannot be set for a windows pod");
            } else {
                linux_user(user, &at, errors);
            }
        }
        let devices = status.items("allocatedResourcesStatus");
        let at = at.field("allocatedResourcesStatus");
        let Some(containers) = containers else {
            if !devices.is_empty() {
                errors.forbidden(&at, "must not be specified in container status");
            }
            continue;
        };
        let container = containers.iter().find(|container| container.text("name") == status.text("name"));
        for (number, device) in devices.iter().enumerate() {
            self::device(device, container, &at.index(number), errors);
        }
    }
}

fn linux_user(user: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut check = |id: i64, at: &Path<'_>| {
        for message in checks::unix_id(id) {
            errors.invalid(at, id, message);
        }
    };
    check(user.int("uid"), &path.field("uid"));
    check(user.int("gid"), &path.field("gid"));
    let at = path.field("supplementalGroups");
    for (number, group) in user.items("supplementalGroups").iter().enumerate() {
        check(group.as_i64().unwrap_or_default(), &at.index(number));
    }
}

fn device(device: &Value, container: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
    const MESSAGE_BYTES_MAX: usize = 4096;
    let name = device.text("name");
    if let Some(container) = container {
        let resources = container.part("resources");
        let (is_known, detail) = if name.starts_with("claim:") {
            let is_claim = |claim: &Value| match claim.text("request") {
                "" => name == format!("claim:{}", claim.text("name")),
                request => name == format!("claim:{}/{request}", claim.text("name")),
            };
            let detail = "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or \
                          'claim:<claimName>' if request is empty";
            (resources.items("claims").iter().any(is_claim), detail)
        } else {
            (resources.part("requests").has(name), "must match one of the container's resource requests")
        };
        if !is_known {
            errors.invalid(&path.field("name"), name, detail);
        }
    }
    let mut seen = BTreeSet::new();
    let at = path.field("resources");
    for (number, resource) in device.items("resources").iter().enumerate() {
        let at = at.index(number);
        let health = resource.text("health");
        if !HEALTH.contains(&health) {
            errors.not_supported(&at.field("health"), health, &HEALTH);
        }
        if resource.has("message") {
            match resource.text("message").len() {
                0 => errors.required(&at.field("message"), "must be non-empty if specified"),
                bytes if bytes > MESSAGE_BYTES_MAX => errors.too_long(&at.field("message"), MESSAGE_BYTES_MAX),
                _ => {}
            }
        }
        let id = resource.text("resourceID");
        if !seen.insert(id) {
            errors.duplicate(&at.field("resourceID"), id);
        }
    }
}

/// Which claims of devices were found for the pod.
fn claims(status: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("resourceClaimStatuses");
    let mut seen = BTreeSet::new();
    for (number, claim) in status.items("resourceClaimStatuses").iter().enumerate() {
        let at = at.index(number);
        let name = claim.text("name");
        if !spec.items("resourceClaims").iter().any(|known| known.text("name") == name) {
            errors.invalid(&at.field("name"), name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name) {
            errors.duplicate(&at.field("name"), name);
        }
        if claim.has("resourceClaimName") {
            let name = claim.text("resourceClaimName");
            errors.invalid_each(&at.field("resourceClaimName"), name, checks::dns_subdomain(name));
        }
    }
    if let Some(extended) = status.some("extendedResourceClaimStatus") {
        extended_claim(extended, spec, &path.field("extendedResourceClaimStatus"), errors);
    }
}

fn extended_claim(status: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mappings = status.items("requestMappings");
    let at = path.field("requestMappings");
    if mappings.is_empty() {
        errors.required(&at, "at least one request mapping is required");
    }
    let mut seen = BTreeSet::new();
    for (number, mapping) in mappings.iter().enumerate() {
        let at = at.index(number);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|key| mapping.text(key));
        let mut lists = spec.items("initContainers").iter().chain(spec.items("containers"));
        match lists.rfind(|known| known.text("name") == container) {
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid(&at.field("containerName"), container, detail);
            }
            Some(known) if !known.part("resources").part("requests").has(resource) => {
                let detail = "must match the extended resource name of an entry in \
                              spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.invalid(&at.field("resourceName"), resource, detail);
            }
            Some(_) => {}
        }
        errors.invalid_each(&path.field("requestName"), request, checks::dns_label(request));
        if !seen.insert((container, resource, request)) {
            for (key, value) in [("containerName", container), ("resourceName", resource), ("requestName", request)] {
                errors.duplicate(&at.field(key), value);
            }
        }
    }
    let name = status.text("resourceClaimName");
    if name.is_empty() {
        errors.required(&path.field("resourceClaimName"), "");
    } else {
        errors.invalid_each(&path.field("resourceClaimName"), name, checks::dns_subdomain(name));
    }
}

/// Addresses of the pod or of its host: one of each family.
fn addresses(after: &Value, before: &Value, list: &str, path: &Path<'_>, errors: &mut Errors) {
    let known: Vec<&str> = before.items(list).iter().map(|ip| ip.text("ip")).collect();
    let ips: Vec<&str> = after.items(list).iter().map(|ip| ip.text("ip")).collect();
    for (number, ip) in ips.iter().enumerate() {
        checks::legacy_ip(ip, &known, &path.index(number), errors);
    }
    if ips.len() < 2 {
        return;
    }
    let families: Option<Vec<bool>> = ips.iter().map(|ip| checks::parse_ip(ip).map(|ip| ip.is_ipv4())).collect();
    let is_dual = families.is_some_and(|families| families.contains(&true) && families.contains(&false));
    if !is_dual || ips.len() > 2 {
        // Upstream shows its own type, whose one field begins with a capital.
        let shown: Vec<Value> = ips.iter().map(|ip| serde_json::json!({"IP": ip})).collect();
        errors.invalid(path, shown, "may specify no more than one IP for each IP family");
    }
}
