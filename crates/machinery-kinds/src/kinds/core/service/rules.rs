//! What a Service must be.

use std::collections::HashSet;

use serde_json::Value;

use super::{is_externally_accessible, is_headless, needs_health_check};
use crate::{
    FieldError, checks,
    kit::{Errors, Path, Read},
};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Rules for a whole Service; `old` when it is a new version.
pub(super) fn validate(service: &Value, old: Option<&Value>, errors: &mut Errors) {
    let old = old.map_or(&Value::Null, |old| old.part("spec"));
    let spec = service.part("spec");
    let (at, kind) = (Path::at("spec"), spec.text("type"));
    check_topology(service.part("metadata").part("annotations"), errors);
    if spec.items("ports").is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&at.field("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&at.field("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => check_external_name(spec, errors),
        _ => {}
    }
    let mut names = HashSet::new();
    let ports = spec.items("ports");
    for (number, port) in ports.iter().enumerate() {
        check_port(port, ports.len() > 1, &mut names, &at.field("ports").index(number), errors);
    }
    checks::labels(spec.part("selector"), &at.field("selector"), errors);
    check_affinity(spec, errors);
    check_addresses(spec, old, errors);
    let held: Vec<&str> = old.texts("externalIPs").collect();
    for (number, address) in spec.texts("externalIPs").enumerate() {
        let at = at.field("externalIPs");
        let before = errors.len();
        checks::legacy_ip(address, &held, &at.index(number), errors);
        if errors.len() == before {
            endpoint_address(address, &at.index(number), errors);
        }
    }
    if kind.is_empty() {
        errors.required(&at.field("type"), "");
    } else if !matches!(kind, "ClusterIP" | "ExternalName" | "LoadBalancer" | "NodePort") {
        let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        errors.not_supported(&at.field("type"), kind, &supported);
    }
    check_node_ports(spec, errors);
    check_source_ranges(service, old, errors);
    let is_balanced = kind == "LoadBalancer";
    if spec.has("allocateLoadBalancerNodePorts") && !is_balanced {
        errors.forbidden(&at.field("allocateLoadBalancerNodePorts"), ONLY_BALANCED);
    }
    if !spec.has("allocateLoadBalancerNodePorts") && is_balanced {
        errors.required(&Path::at("allocateLoadBalancerNodePorts"), "");
    }
    check_class(spec, errors);
    check_traffic(spec, errors);
}

const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";

/// Rules for a new version.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (new.part("spec"), old.part("spec"));
    let is_named = |spec: &Value| spec.text("type") == "ExternalName";
    if !is_named(spec) && !is_named(before) {
        check_changed_addresses(spec, before, errors);
        check_changed_families(spec, before, errors);
    }
    let is_balanced = |spec: &Value| spec.text("type") == "LoadBalancer";
    if is_balanced(spec) && is_balanced(before) && spec.part("loadBalancerClass") != before.part("loadBalancerClass") {
        let class = spec.part("loadBalancerClass").clone();
        errors.invalid(&Path::at("spec.loadBalancerClass"), class, "may not change once set");
    }
    check_class(spec, errors);
    if needs_health_check(before)
        && needs_health_check(spec)
        && spec.int("healthCheckNodePort") != before.int("healthCheckNodePort")
    {
        errors.forbidden(&Path::at("spec.healthCheckNodePort"), "field is immutable");
    }
    validate(new, Some(old), errors);
}

/// Rules for a new status.
pub(super) fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    let balancer = |service: &Value| service.part("status").part("loadBalancer").clone();
    let (status, before) = (balancer(new), balancer(old));
    let at = Path::at("status.loadBalancer.ingress");
    let points = status.items("ingress");
    if new.part("spec").text("type") != "LoadBalancer" && !points.is_empty() {
        errors.forbidden(&at, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    let held: Vec<&str> = before.items("ingress").iter().map(|point| point.text("ip")).collect();
    for (number, point) in points.iter().enumerate() {
        let (at, ip) = (at.index(number), point.text("ip"));
        if !ip.is_empty() {
            checks::legacy_ip(ip, &held, &at.field("ip"), errors);
        }
        match point.part("ipMode").as_str() {
            None if !ip.is_empty() => errors.required(&at.field("ipMode"), "must be specified when `ip` is set"),
            Some(_) if ip.is_empty() => {
                errors.forbidden(&at.field("ipMode"), "may not be specified when `ip` is not set");
            }
            Some(mode) if !matches!(mode, "Proxy" | "VIP") => {
                errors.not_supported(&at.field("ipMode"), mode, &["Proxy", "VIP"]);
            }
            _ => {}
        }
        balancer_name(point.text("hostname"), &at.field("hostname"), errors);
    }
}

/// The name of a load balancer, if it has one.
pub(in crate::kinds) fn balancer_name(hostname: &str, at: &Path<'_>, errors: &mut Errors) {
    if hostname.is_empty() {
        return;
    }
    errors.invalid_each(at, hostname, checks::dns_subdomain(hostname));
    if checks::parse_ip(hostname).is_some() {
        errors.invalid(at, hostname, "must be a DNS name, not an IP address");
    }
}

/// An address to which traffic can be sent from anywhere in a cluster.
pub(in crate::kinds) fn endpoint_address(text: &str, at: &Path<'_>, errors: &mut Errors) {
    use std::net::IpAddr;
    let Some(address) = checks::parse_ip(text) else {
        return errors.invalid(at, text, "must be a valid IP address");
    };
    let address = address.to_canonical();
    if address.is_unspecified() {
        errors.invalid(at, text, format!("may not be unspecified ({text})"));
    }
    if address.is_loopback() {
        errors.invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (is_link_local, is_link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if is_link_local {
        errors.invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if is_link_multicast {
        errors.invalid(at, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn check_topology(annotations: &Value, errors: &mut Errors) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    if annotations.has(HINTS) && annotations.has(MODE) && annotations.text(HINTS) != annotations.text(MODE) {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(&Path::at("metadata.annotations").key(MODE), annotations.text(MODE), detail);
    }
}

fn check_external_name(spec: &Value, errors: &mut Errors) {
    let at = Path::at("spec");
    let is_set = |field: &str| !spec.items(field).is_empty() || !spec.text(field).is_empty();
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().filter(|field| is_set(field)) {
        errors.forbidden(&at.field(field), "may not be set for ExternalName services");
    }
    let name = spec.text("externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&at.field("externalName"), ""),
        name => errors.invalid_each(&at.field("externalName"), name, checks::dns_subdomain(name)),
    }
}

fn check_port<'p>(
    port: &'p Value,
    is_one_of_many: bool,
    names: &mut HashSet<&'p str>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let name = port.text("name");
    if !name.is_empty() {
        errors.invalid_each(&at.field("name"), name, checks::dns_label(name));
        if !names.insert(name) {
            errors.duplicate(&at.field("name"), name);
        }
    } else if is_one_of_many {
        errors.required(&at.field("name"), "");
    }
    let number = port.int("port");
    for message in checks::port_number(number) {
        errors.invalid(&at.field("port"), number, message);
    }
    check_protocol(port.text("protocol"), &at.field("protocol"), errors);
    port_or_name(port.part("targetPort"), &at.field("targetPort"), errors);
    if let Some(protocol) = port.part("appProtocol").as_str() {
        errors.invalid_each(&at.field("appProtocol"), protocol, checks::qualified_name(protocol));
    }
}

/// `TCP`, `UDP` or `SCTP`.
pub(in crate::kinds) fn check_protocol(protocol: &str, at: &Path<'_>, errors: &mut Errors) {
    match protocol {
        "" => errors.required(at, ""),
        protocol if PROTOCOLS.contains(&protocol) => {}
        protocol => errors.not_supported(at, protocol, &PROTOCOLS),
    }
}

/// A port's number, or its name.
fn port_or_name(port: &Value, at: &Path<'_>, errors: &mut Errors) {
    match port {
        Value::String(name) => errors.invalid_each(at, name, checks::port_name(name)),
        number => {
            let number = number.as_i64().unwrap_or_default();
            for message in checks::port_number(number) {
                errors.invalid(at, number, message);
            }
        }
    }
}

fn check_affinity(spec: &Value, errors: &mut Errors) {
    /// A day.
    const SECONDS_MAX: i64 = 86_400;
    let at = Path::at("spec");
    let (affinity, config) = (spec.text("sessionAffinity"), spec.part("sessionAffinityConfig"));
    match affinity {
        "" => errors.required(&at.field("sessionAffinity"), ""),
        "ClientIP" => {
            let detail = "when session affinity type is ClientIP";
            let config_at = at.field("sessionAffinityConfig");
            let client_at = config_at.field("clientIP");
            let client = config.part("clientIP");
            match client.some_int("timeoutSeconds") {
                Some(seconds) if !(1..=SECONDS_MAX).contains(&seconds) => {
                    let detail = format!("must be greater than 0 and less than {SECONDS_MAX}");
                    errors.invalid(&client_at.field("timeoutSeconds"), seconds, detail);
                }
                Some(_) => {}
                None if config.is_null() => errors.required(&config_at, detail),
                None if client.is_null() => errors.required(&client_at, detail),
                None => errors.required(&client_at.field("timeoutSeconds"), detail),
            }
        }
        "None" if !config.is_null() => {
            errors.forbidden(&at.field("sessionAffinityConfig"), "must not be set when session affinity is None");
        }
        "None" => {}
        other => errors.not_supported(&at.field("sessionAffinity"), other, &["ClientIP", "None"]),
    }
}

/// Cluster addresses and their families, as far as they say something.
pub(super) fn check_addresses(spec: &Value, old: &Value, errors: &mut Errors) {
    if spec.text("type") == "ExternalName" {
        return;
    }
    let at = Path::at("spec");
    let (ips_at, families_at) = (at.field("clusterIPs"), at.field("ipFamilies"));
    let ips: Vec<&str> = spec.texts("clusterIPs").collect();
    let families: Vec<&str> = spec.texts("ipFamilies").collect();
    let shown = || spec.part("clusterIPs").clone();
    match (spec.text("clusterIP"), ips.first()) {
        ("", Some(_)) => errors.invalid(&ips_at, shown(), "must be empty when `clusterIP` is not specified"),
        ("", None) => {}
        (_, None) => errors.required(&ips_at, ""),
        (ip, Some(first)) if ip != *first => errors.invalid(&ips_at, shown(), "first value must match `clusterIP`"),
        _ => {}
    }
    for (number, family) in families.iter().enumerate() {
        if !matches!(*family, "IPv4" | "IPv6") {
            errors.not_supported(&families_at.index(number), *family, &["IPv4", "IPv6"]);
        }
        if families[..number].contains(family) {
            errors.duplicate(&families_at.index(number), *family);
        }
    }
    if let Some(policy) = spec.part("ipFamilyPolicy").as_str()
        && !matches!(policy, "PreferDualStack" | "RequireDualStack" | "SingleStack")
    {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.not_supported(&at.field("ipFamilyPolicy"), policy, &supported);
    }
    let held: Vec<&str> = old.texts("clusterIPs").collect();
    let mut is_bad = false;
    for (number, ip) in ips.iter().enumerate() {
        let before = errors.len();
        if number == 0 && *ip == "None" {
            if ips.len() > 1 {
                errors.invalid(&ips_at, shown(), "'None' must be the first and only value");
            }
        } else {
            checks::legacy_ip(ip, &held, &ips_at.index(number), errors);
        }
        is_bad |= errors.len() != before;
    }
    if ips.len() > 2 {
        errors.invalid(&ips_at, shown(), "may only hold up to 2 values");
    }
    if is_bad {
        return;
    }
    let is_v6 = |ip: &&str| checks::parse_ip(ip).is_some_and(|ip| ip.is_ipv6());
    if ips.len() > 1 && (ips.iter().all(is_v6) || !ips.iter().any(is_v6)) {
        errors.invalid(&ips_at, shown(), "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (number, (ip, family)) in ips.iter().zip(&families).enumerate() {
        let expected = match (*family, is_v6(ip)) {
            ("IPv4", true) => "an IPv4",
            ("IPv6", false) => "an IPv6",
            _ => continue,
        };
        let detail = format!("expected {expected} value as indicated by `ipFamilies[{number}]`");
        errors.invalid(&ips_at.index(number), *ip, detail);
    }
}

fn check_changed_addresses(spec: &Value, before: &Value, errors: &mut Errors) {
    if is_headless(spec) && is_headless(before) {
        return;
    }
    const FIXED: &str = "may not change once set";
    let at = Path::at("spec");
    let ips_at = at.field("clusterIPs");
    let (now, held) = (spec.items("clusterIPs"), before.items("clusterIPs"));
    let shown = || spec.part("clusterIPs").clone();
    if now.len() == held.len() {
        for number in (0..held.len()).filter(|number| held[*number] != now[*number]) {
            errors.invalid(&ips_at.index(number), shown(), FIXED);
        }
        return;
    }
    if now.is_empty() {
        errors.invalid(&ips_at.index(0), shown(), "primary clusterIP can not be unset");
    }
    if let (Some(now), Some(held)) = (now.first(), held.first())
        && now != held
    {
        errors.invalid(&ips_at.index(0), shown(), FIXED);
    }
    if now.len() == 1 && held.len() > 1 && spec.text("ipFamilyPolicy") != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&at.field("ipFamilyPolicy"), spec.part("ipFamilyPolicy").clone(), detail);
    }
}

fn check_changed_families(spec: &Value, before: &Value, errors: &mut Errors) {
    if is_headless(spec) || is_headless(before) {
        return;
    }
    const FIXED: &str = "may not change once set";
    let at = Path::at("spec");
    let first_at = at.field("ipFamilies");
    let first_at = first_at.index(0);
    let (now, held) = (spec.items("ipFamilies"), before.items("ipFamilies"));
    if now.len() == held.len() {
        for _ in (0..held.len()).filter(|number| held[*number] != now[*number]) {
            errors.invalid(&first_at, spec.part("ipFamilies").clone(), FIXED);
        }
        return;
    }
    if now.len() < held.len() && spec.items("clusterIPs").is_empty() {
        errors.invalid(&first_at, spec.part("ipFamilies").clone(), "primary ipFamily can not be unset");
    }
    if let (Some(now), Some(held)) = (now.first(), held.first())
        && now != held
    {
        // Upstream shows the addresses here.
        errors.invalid(&first_at, spec.part("clusterIPs").clone(), FIXED);
    }
    if now.len() == 1 && held.len() > 1 && spec.text("ipFamilyPolicy") != "SingleStack" {
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&at.field("ipFamilyPolicy"), spec.part("ipFamilyPolicy").clone(), detail);
    }
}

fn check_node_ports(spec: &Value, errors: &mut Errors) {
    let at = Path::at("spec.ports");
    let ports = spec.items("ports");
    if spec.text("type") == "ClusterIP" {
        for (number, _) in ports.iter().enumerate().filter(|(_, port)| port.int("nodePort") != 0) {
            errors.forbidden(&at.index(number).field("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let mut seen = HashSet::new();
    for (number, port) in ports.iter().enumerate().filter(|(_, port)| port.int("nodePort") != 0) {
        if !seen.insert((port.text("protocol"), port.int("nodePort"))) {
            errors.duplicate(&at.index(number).field("nodePort"), port.int("nodePort"));
        }
    }
    let mut seen = HashSet::new();
    for (number, port) in ports.iter().enumerate() {
        if !seen.insert((port.text("protocol"), port.int("port"))) {
            // By the names of its fields in Go.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                Value::from(port.text("protocol")),
                port.int("port")
            );
            errors.push(FieldError::duplicate_as(at.index(number).to_string(), &shown));
        }
    }
}

fn check_source_ranges(service: &Value, old: &Value, errors: &mut Errors) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let spec = service.part("spec");
    let is_balanced = spec.text("type") == "LoadBalancer";
    let at = Path::at("spec.LoadBalancerSourceRanges");
    if !spec.items("loadBalancerSourceRanges").is_empty() {
        if !is_balanced {
            errors.forbidden(&at, ONLY_BALANCED);
        }
        let held: Vec<&str> = old.texts("loadBalancerSourceRanges").map(str::trim).collect();
        for (number, range) in spec.texts("loadBalancerSourceRanges").enumerate() {
            checks::legacy_cidr(range.trim(), &held, &at.index(number), errors);
        }
        return;
    }
    let Some(ranges) = service.part("metadata").part("annotations").part(ANNOTATION).as_str() else { return };
    let at = Path::at("metadata.annotations");
    let at = at.key(ANNOTATION);
    if !is_balanced {
        errors.forbidden(&at, ONLY_BALANCED);
    }
    for range in ranges.trim().split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
        checks::legacy_cidr(range, &[], &at, errors);
    }
}

fn check_class(spec: &Value, errors: &mut Errors) {
    let Some(class) = spec.part("loadBalancerClass").as_str() else { return };
    let at = Path::at("spec.loadBalancerClass");
    if spec.text("type") == "LoadBalancer" {
        errors.invalid_each(&at, class, checks::qualified_name(class));
    } else {
        errors.forbidden(&at, ONLY_BALANCED);
    }
}

fn check_traffic(spec: &Value, errors: &mut Errors) {
    let at = Path::at("spec");
    let kind = spec.text("type");
    let external_at = at.field("externalTrafficPolicy");
    match (is_externally_accessible(spec), spec.text("externalTrafficPolicy")) {
        (false, "") | (true, "Cluster" | "Local") => {}
        (true, "") => errors.required(&external_at, ""),
        (true, other) => errors.not_supported(&external_at, other, &["Cluster", "Local"]),
        (false, policy) => {
            errors.invalid(&external_at, policy, "may only be set for externally-accessible services");
        }
    }
    let (health_at, health) = (at.field("healthCheckNodePort"), spec.int("healthCheckNodePort"));
    match (needs_health_check(spec), health) {
        (false, 0) => {}
        (false, port) => {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&health_at, port, detail);
        }
        (true, 0) => errors.required(&health_at, ""),
        (true, port) => {
            for message in checks::port_number(port) {
                errors.invalid(&health_at, port, message);
            }
        }
    }
    let internal_at = at.field("internalTrafficPolicy");
    match spec.part("internalTrafficPolicy").as_str() {
        None if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") => errors.required(&internal_at, ""),
        None | Some("Cluster" | "Local") => {}
        Some(other) => errors.not_supported(&internal_at, other, &["Cluster", "Local"]),
    }
    if let Some(distribution) = spec.part("trafficDistribution").as_str() {
        let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        if !supported.contains(&distribution) {
            errors.not_supported(&at.field("trafficDistribution"), distribution, &supported);
        }
    }
}
