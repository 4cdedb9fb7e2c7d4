//! EndpointSlice: where a Service's traffic goes, in pieces.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    checks,
    kinds::core::service::endpoint_address,
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    generation: true,
    metadata_on_update: OnUpdate::Whole,
    defaults: |slice| {
        for port in slice.items_mut("ports") {
            port.default_to("name", "");
            port.default_to("protocol", "TCP");
        }
    },
    prepare_create: |slice, _| drop_topology(slice, &[]),
    prepare_update: |new, old| {
        let (metadata, before) = (new.part("metadata"), old.part("metadata"));
        if !checks::same(metadata.part("labels"), before.part("labels")) {
            let generation = before.int("generation").saturating_add(1);
            new.make("metadata").set("generation", generation);
        }
        if !checks::same(new.part("endpoints"), old.part("endpoints")) {
            drop_topology(new, old.items("endpoints"));
        }
    },
    validate: |slice, errors| validate(slice, None, errors),
    validate_update: Some(|new, old, errors| {
        validate(new, Some(old), errors);
        checks::immutable_text(new, old, "addressType", &Path::ROOT, errors);
    }),
    warnings: |slice, old| {
        const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
        let mut warnings = Vec::new();
        if old.is_none() && slice.text("addressType") == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let manager = slice.part("metadata").part("labels").text(MANAGED_BY);
        if !matches!(manager, "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io") {
            let at = Path::at("endpoints");
            for (number, endpoint) in slice.items("endpoints").iter().enumerate() {
                let at = at.index(number);
                let at = at.field("addresses");
                for (number, address) in endpoint.texts("addresses").enumerate() {
                    warnings.extend(checks::ip_warning(address, &at.index(number)));
                }
            }
        }
        warnings
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

const HOST_LABEL: &str = "kubernetes.io/hostname";

/// Takes the topology of old away; a node that an old client writes there is kept in its new place.
fn drop_topology(slice: &mut Value, before: &[Value]) {
    let known: HashSet<&str> =
        before.iter().map(|endpoint| endpoint.part("deprecatedTopology").text(HOST_LABEL)).collect();
    for endpoint in slice.items_mut("endpoints") {
        let node = endpoint.part("deprecatedTopology").text(HOST_LABEL).to_owned();
        if !node.is_empty()
            && !endpoint.has("nodeName")
            && known.contains(node.as_str())
            && checks::dns_subdomain(&node).is_empty()
        {
            endpoint.set("nodeName", node);
        }
        if endpoint.is_object() {
            endpoint.unset("deprecatedTopology");
        }
    }
}

const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const ENDPOINTS_MAX: usize = 1000;
const HINTS_MAX: usize = 8;

fn validate(slice: &Value, old: Option<&Value>, errors: &mut Errors) {
    let kind = slice.text("addressType");
    match kind {
        "" => errors.required(&Path::at("addressType"), ""),
        "FQDN" | "IPv4" | "IPv6" => {}
        other => errors.not_supported(&Path::at("addressType"), other, &["FQDN", "IPv4", "IPv6"]),
    }
    check_ports(slice.items("ports"), errors);
    // What is there already may stay, whatever it is.
    if old.is_some_and(|old| checks::same(old.part("endpoints"), slice.part("endpoints"))) {
        return;
    }
    let (at, endpoints) = (Path::at("endpoints"), slice.items("endpoints"));
    if endpoints.len() > ENDPOINTS_MAX {
        return errors.too_many(&at, endpoints.len(), ENDPOINTS_MAX);
    }
    for (number, endpoint) in endpoints.iter().enumerate() {
        if errors.is_full() {
            break;
        }
        check_endpoint(endpoint, kind, &at.index(number), errors);
    }
}

fn check_ports(ports: &[Value], errors: &mut Errors) {
    let at = Path::at("ports");
    if ports.len() > PORTS_MAX {
        return errors.too_many(&at, ports.len(), PORTS_MAX);
    }
    let mut names = HashSet::new();
    for (number, port) in ports.iter().enumerate() {
        let (at, name) = (at.index(number), port.text("name"));
        if !name.is_empty() {
            errors.invalid_each(&at.field("name"), name, checks::dns_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(&at.field("name"), name);
        }
        match port.part("protocol").as_str() {
            None => errors.required(&at.field("protocol"), ""),
            Some(protocol) if checks::is_protocol(protocol) => {}
            Some(other) => errors.not_supported(&at.field("protocol"), other, &["SCTP", "TCP", "UDP"]),
        }
        if let Some(protocol) = port.part("appProtocol").as_str() {
            errors.invalid_each(&at.field("appProtocol"), protocol, checks::qualified_name(protocol));
        }
    }
}

fn check_endpoint(endpoint: &Value, kind: &str, at: &Path<'_>, errors: &mut Errors) {
    let addresses_at = at.field("addresses");
    let addresses = endpoint.items("addresses");
    if addresses.is_empty() {
        errors.required(&addresses_at, "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.too_many(&addresses_at, addresses.len(), ADDRESSES_MAX);
    }
    for (number, address) in endpoint.texts("addresses").enumerate() {
        let at = addresses_at.index(number);
        let before = errors.len();
        match kind {
            "IPv4" => checks::legacy_ip(address, &[], &at, errors),
            "IPv6" => checks::ip(address, &at, errors),
            "FQDN" => checks::fully_qualified_domain_name(address, &at, errors),
            _ => {}
        }
        if errors.len() == before
            && matches!(kind, "IPv4" | "IPv6")
            && let Some(parsed) = checks::parse_ip(address)
        {
            if parsed.is_ipv4() != (kind == "IPv4") {
                errors.invalid(&addresses_at, address, format!("must be an {kind} address"));
            }
            endpoint_address(address, &at, errors);
        }
    }
    if let Some(node) = endpoint.part("nodeName").as_str() {
        errors.invalid_each(&at.field("nodeName"), node, checks::dns_subdomain(node));
    }
    if let Some(host) = endpoint.part("hostname").as_str() {
        errors.invalid_each(&at.field("hostname"), host, checks::dns_label(host));
    }
    let at = at.field("hints");
    for (list, rule) in
        [("forZones", checks::label_value as fn(&str) -> checks::Messages), ("forNodes", checks::dns_subdomain)]
    {
        let (at, hints) = (at.field(list), endpoint.part("hints").items(list));
        if hints.len() > HINTS_MAX {
            return errors.too_many(&at, hints.len(), HINTS_MAX);
        }
        let mut names = HashSet::new();
        for (number, hint) in hints.iter().enumerate() {
            let (at, name) = (at.index(number), hint.text("name"));
            if !names.insert(name) {
                errors.duplicate(&at.field("name"), name);
            }
            errors.invalid_each(&at.field("name"), name, rule(name));
        }
    }
}

static PRINTER: Printer = Printer {
    columns: columns::ENDPOINT_SLICE,
    cells: |slice, now| {
        let ports = slice.items("ports").iter().map(|port| match (port.some_int("port"), port.part("name").as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        });
        let addresses = slice.items("endpoints").iter().flat_map(|endpoint| endpoint.texts("addresses"));
        vec![
            name(slice),
            slice.text("addressType").into(),
            shown(ports).into(),
            shown(addresses.map(str::to_owned)).into(),
            age_of(slice, now),
        ]
    },
};

/// The first three, and how many more there are.
fn shown(mut all: impl Iterator<Item = String>) -> String {
    const SHOWN_MAX: usize = 3;
    let list: Vec<String> = all.by_ref().take(SHOWN_MAX).collect();
    let more = all.count();
    match (list.is_empty(), more) {
        (true, _) => "<unset>".to_owned(),
        (false, 0) => list.join(","),
        (false, more) => format!("{} + {more} more...", list.join(",")),
    }
}
