//! Service: one address and name for a set of pods.
//!
//! Its cluster addresses and node ports are the server's to give: [`allocate`] says which, and the server's allocator keeps
//! the books. The rest is here: defaults, what falls away when the type changes, warnings, columns.

pub(crate) mod allocate;
mod rules;

use serde_json::{Value, json};

pub(in crate::kinds) use rules::{balancer_name, check_protocol, endpoint_address};

use crate::{
    checks,
    kit::{Path, Read, Write},
    metadata::NameRule,
    strategy::{Part, Selectable, Strategy},
    table::{Printer, age_of, columns, or_none, printers::labels, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    name_rule: NameRule::Label,
    create_on_update: true,
    selectable: &[Selectable::field("spec.clusterIP"), Selectable::field("spec.type")],
    defaults,
    prepare_create: |service, _| drop_internal_policy(service),
    prepare_update: |new, old| {
        drop_fields_of_other_types(new, old);
        drop_internal_policy(new);
    },
    parts: &[Part { validate: rules::validate_status, ..Part::STATUS }],
    validate: |service, errors| rules::validate(service, None, errors),
    validate_update: Some(rules::validate_update),
    warnings: |service, _| warnings(service),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

/// Who has no address has no traffic within the cluster.
fn drop_internal_policy(service: &mut Value) {
    if service.part("spec").text("type") == "ExternalName" {
        service.make("spec").unset("internalTrafficPolicy");
    }
}

/// How long a client keeps its pod when its Service does not say.
const AFFINITY_SECONDS: i64 = 10_800;

fn defaults(service: &mut Value) {
    let spec = service.make("spec");
    spec.default_text("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => drop(spec.unset("sessionAffinityConfig")),
        "ClientIP" if !spec.part("sessionAffinityConfig").part("clientIP").has("timeoutSeconds") => {
            spec.set("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}));
        }
        _ => {}
    }
    spec.default_text("type", "ClusterIP");
    for port in spec.items_mut("ports") {
        port.default_text("protocol", "TCP");
        let target = port.part("targetPort");
        if target.is_null() || target == 0 || target == "" {
            let number = port.int("port");
            port.set("targetPort", number);
        }
    }
    if is_externally_accessible(spec) {
        spec.default_text("externalTrafficPolicy", "Cluster");
    }
    let kind = spec.text("type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.default_to("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.default_to("allocateLoadBalancerNodePorts", true);
        let balancer = service.some_mut("status").and_then(|status| status.some_mut("loadBalancer"));
        for ingress in balancer.map_or(&mut [][..], |balancer| balancer.items_mut("ingress")) {
            if !ingress.text("ip").is_empty() {
                ingress.default_to("ipMode", "VIP");
            }
        }
    }
}

fn is_externally_accessible(spec: &Value) -> bool {
    match spec.text("type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !spec.items("externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether a load balancer asks each node whether it has a pod.
fn needs_health_check(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(spec.text("type"), "NodePort" | "LoadBalancer")
}

fn is_headless(spec: &Value) -> bool {
    matches!(spec.items("clusterIPs"), [only] if only == "None")
}

/// What the old type had and the new type cannot have falls away, unless the author changed it: then validation speaks.
fn drop_fields_of_other_types(new: &mut Value, old: &Value) {
    let before = old.part("spec");
    let spec = new.make("spec");
    let needs_address = |spec: &Value| spec.text("type") != "ExternalName";
    if needs_address(before) && !needs_address(spec) {
        if spec.text("clusterIP") == before.text("clusterIP")
            && checks::same(spec.part("clusterIPs"), before.part("clusterIPs"))
        {
            spec.unset("clusterIP");
            spec.unset("clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if checks::same(spec.part(field), before.part(field)) {
                spec.unset(field);
            }
        }
    }
    if has_node_ports(before) && !has_node_ports(spec) {
        let held: Vec<i64> = before.items("ports").iter().map(|port| port.int("nodePort")).collect();
        let is_same =
            spec.items("ports").iter().all(|port| !port.has("nodePort") || held.contains(&port.int("nodePort")));
        if is_same {
            spec.items_mut("ports").iter_mut().for_each(|port| drop(port.unset("nodePort")));
        }
    }
    let is_same = |spec: &Value, field: &str| spec.part(field) == before.part(field);
    if needs_health_check(before) && !needs_health_check(spec) && is_same(spec, "healthCheckNodePort") {
        spec.unset("healthCheckNodePort");
    }
    if before.text("type") == "LoadBalancer" && spec.text("type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if is_same(spec, field) {
                spec.unset(field);
            }
        }
    }
    if is_externally_accessible(before) && !is_externally_accessible(spec) && is_same(spec, "externalTrafficPolicy") {
        spec.unset("externalTrafficPolicy");
    }
    if spec.text("type") != "LoadBalancer" {
        new.make("status").set("loadBalancer", json!({}));
    }
}

fn warnings(service: &Value) -> Vec<String> {
    const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let spec = service.part("spec");
    let (at, kind) = (Path::at("spec"), spec.text("type"));
    let is_headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
    let has_external = !spec.items("externalIPs").is_empty();
    let mut warnings = Vec::new();
    if service.part("metadata").part("annotations").has(TOPOLOGY_HINTS) {
        warnings.push(format!(
            "annotation {TOPOLOGY_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    let addresses = |field: &str, warnings: &mut Vec<String>| {
        let at = at.field(field);
        for (number, address) in spec.texts(field).enumerate() {
            warnings.extend(checks::ip_warning(address, &at.index(number)));
        }
    };
    if !matches!(spec.text("clusterIP"), "" | "None") && kind != "ExternalName" {
        addresses("clusterIPs", &mut warnings);
    }
    if is_headless {
        if !spec.text("loadBalancerIP").is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if has_external {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.text("sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    addresses("externalIPs", &mut warnings);
    if has_external && !is_headless && kind != "ExternalName" {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !spec.text("loadBalancerIP").is_empty() {
        warnings.extend(checks::ip_warning(spec.text("loadBalancerIP"), &at.field("loadBalancerIP")));
    }
    for (number, range) in spec.texts("loadBalancerSourceRanges").enumerate() {
        warnings.extend(checks::cidr_warnings(range, &at.field("loadBalancerSourceRanges").index(number)));
    }
    if kind == "ExternalName" && has_external {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !spec.text("externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}

static PRINTER: Printer = Printer {
    columns: columns::SERVICE,
    cells: |service, now| {
        let spec = service.part("spec");
        let ports: Vec<String> = spec
            .items("ports")
            .iter()
            .map(|port| match (port.int("port"), port.int("nodePort"), port.text("protocol")) {
                (number, node @ 1.., protocol) => format!("{number}:{node}/{protocol}"),
                (number, _, protocol) => format!("{number}/{protocol}"),
            })
            .collect();
        vec![
            name(service),
            spec.text("type").into(),
            spec.texts("clusterIPs").next().unwrap_or("<none>").into(),
            external_addresses(service).into(),
            or_none(&ports.join(",")).into(),
            age_of(service, now),
            labels(spec.some("selector")).into(),
        ]
    },
};

fn external_addresses(service: &Value) -> String {
    let spec = service.part("spec");
    let external: Vec<&str> = spec.texts("externalIPs").collect();
    match spec.text("type") {
        "ClusterIP" | "NodePort" => or_none(&external.join(",")).to_owned(),
        "LoadBalancer" => {
            let balanced = balanced_addresses(service.part("status").part("loadBalancer"));
            let all: Vec<&str> = balanced.iter().copied().chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses, or else names, of a load balancer: each once, in order.
pub(in crate::kinds) fn balanced_addresses(balancer: &Value) -> Vec<&str> {
    let points = balancer.items("ingress").iter();
    let points =
        points.map(|point| if point.text("ip").is_empty() { point.text("hostname") } else { point.text("ip") });
    let mut addresses: Vec<&str> = points.filter(|address| !address.is_empty()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
