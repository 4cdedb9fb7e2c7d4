//! Endpoints: where a Service's traffic goes, as clients of old read it.

use serde_json::Value;

use crate::{
    checks,
    kinds::core::service::{check_protocol, endpoint_address},
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    create_on_update: true,
    defaults: |endpoints| {
        for subset in endpoints.items_mut("subsets") {
            subset.items_mut("ports").iter_mut().for_each(|port| port.default_text("protocol", "TCP"));
        }
    },
    metadata_on_update: OnUpdate::WholeAndChanges,
    validate: check_subsets,
    validate_update: Some(|new, old, errors| {
        // What is there already may stay, whatever it is.
        if !checks::same(new.part("subsets"), old.part("subsets")) {
            check_subsets(new, errors);
        }
    }),
    warnings: |endpoints, _| warnings(endpoints),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn check_subsets(endpoints: &Value, errors: &mut Errors) {
    let at = Path::at("subsets");
    for (number, subset) in endpoints.items("subsets").iter().enumerate() {
        let at = at.index(number);
        if subset.items("addresses").is_empty() && subset.items("notReadyAddresses").is_empty() {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            let at = at.field(list);
            for (number, address) in subset.items(list).iter().enumerate() {
                check_address(address, &at.index(number), errors);
            }
        }
        let (at, ports) = (at.field("ports"), subset.items("ports"));
        for (number, port) in ports.iter().enumerate() {
            check_port(port, ports.len() > 1, &at.index(number), errors);
        }
    }
}

fn check_address(address: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (ip, host) = (address.text("ip"), address.text("hostname"));
    checks::legacy_ip(ip, &[], &at.field("ip"), errors);
    if !host.is_empty() {
        errors.invalid_each(&at.field("hostname"), host, checks::dns_label(host));
    }
    if let Some(node) = address.part("nodeName").as_str() {
        errors.invalid_each(&at.field("nodeName"), node, checks::dns_subdomain(node));
    }
    endpoint_address(ip, &at.field("ip"), errors);
}

fn check_port(port: &Value, is_one_of_many: bool, at: &Path<'_>, errors: &mut Errors) {
    match port.text("name") {
        "" if is_one_of_many => errors.required(&at.field("name"), ""),
        "" => {}
        name => errors.invalid_each(&at.field("name"), name, checks::dns_label(name)),
    }
    for message in checks::port_number(port.int("port")) {
        errors.invalid(&at.field("port"), port.int("port"), message);
    }
    check_protocol(port.text("protocol"), &at.field("protocol"), errors);
    if let Some(protocol) = port.part("appProtocol").as_str() {
        errors.invalid_each(&at.field("appProtocol"), protocol, checks::qualified_name(protocol));
    }
}

fn warnings(endpoints: &Value) -> Vec<String> {
    const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
    if endpoints.part("metadata").part("labels").text(MANAGED_BY) == "endpoint-controller" {
        return Vec::new();
    }
    let at = Path::at("subsets");
    let mut warnings = Vec::new();
    for (number, subset) in endpoints.items("subsets").iter().enumerate() {
        let at = at.index(number);
        for list in ["addresses", "notReadyAddresses"] {
            let at = at.field(list);
            for (number, address) in subset.items(list).iter().enumerate() {
                warnings.extend(checks::ip_warning(address.text("ip"), &at.index(number).field("ip")));
            }
        }
    }
    warnings
}

static PRINTER: Printer = Printer {
    columns: columns::ENDPOINTS,
    cells: |endpoints, now| vec![name(endpoints), shown(endpoints).into(), age_of(endpoints, now)],
};

/// The first three addresses with each port, and how many more there are.
fn shown(endpoints: &Value) -> String {
    const SHOWN_MAX: usize = 3;
    let subsets = endpoints.items("subsets");
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let all = subsets.iter().flat_map(|subset| {
        let ports = subset.items("ports");
        let ports: Vec<Option<i64>> =
            if ports.is_empty() { vec![None] } else { ports.iter().map(|port| Some(port.int("port"))).collect() };
        ports
            .into_iter()
            .flat_map(|port| subset.items("addresses").iter().map(move |address| (address.text("ip"), port)))
    });
    let (mut list, mut count) = (Vec::new(), 0);
    for (ip, port) in all {
        count += 1;
        if list.len() < SHOWN_MAX {
            list.push(match port {
                None => ip.to_owned(),
                Some(port) if ip.contains(':') => format!("[{ip}]:{port}"),
                Some(port) => format!("{ip}:{port}"),
            });
        }
    }
    let shown = list.join(",");
    if count > SHOWN_MAX { format!("{shown} + {} more...", count - SHOWN_MAX) } else { shown }
}
