//! Variables by which a program finds Services: `WEB_SERVICE_HOST`, `WEB_SERVICE_PORT`, and those that Docker's links had.
//!
//! Names and values are Kubernetes' own, to the letter.

use std::collections::BTreeMap;

use api_edge::services::{Protocol, ServiceRecord, ServiceType};

/// A port as the variables name it.
pub(super) struct LinkPort<'a> {
    pub name: &'a str,
    pub protocol: Protocol,
    pub port: u16,
}

/// The variables of the Services of a namespace. One without an address of its own has none.
pub(super) fn of_namespace(services: &[ServiceRecord], namespace: &str) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    // That of the API is added by itself, as the node reaches it.
    let is_api = |service: &ServiceRecord| service.namespace == "default" && service.name == "kubernetes";
    for service in services.iter().filter(|service| service.namespace == namespace && !is_api(service)) {
        let address = service.spec.cluster_ips.first().filter(|address| !matches!(address.as_str(), "" | "None"));
        if let Some(address) = address.filter(|_| service.spec.r#type != ServiceType::ExternalName) {
            let ports = service.spec.ports.iter();
            let ports: Vec<LinkPort<'_>> =
                ports.map(|port| LinkPort { name: &port.name, protocol: port.protocol, port: port.port }).collect();
            add(&mut variables, &service.name, address, &ports);
        }
    }
    variables
}

/// Adds those of one Service.
pub(super) fn add(variables: &mut BTreeMap<String, String>, service: &str, address: &str, ports: &[LinkPort<'_>]) {
    let of_service = variable_name(service);
    let mut set = |name: String, value: String| drop(variables.insert(name, value));
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    set(format!("{of_service}_SERVICE_HOST"), address.to_owned());
    for (number, LinkPort { name, protocol, port }) in ports.iter().enumerate() {
        let (upper, lower) = match protocol {
            Protocol::Tcp => ("TCP", "tcp"),
            Protocol::Udp => ("UDP", "udp"),
            Protocol::Sctp => ("SCTP", "sctp"),
        };
        let link = format!("{lower}://{host}:{port}");
        if number == 0 {
            set(format!("{of_service}_SERVICE_PORT"), port.to_string());
            set(format!("{of_service}_PORT"), link.clone());
        }
        if !name.is_empty() {
            set(format!("{of_service}_SERVICE_PORT_{}", variable_name(name)), port.to_string());
        }
        let of_port = format!("{of_service}_PORT_{port}_{upper}");
        set(format!("{of_port}_PROTO"), lower.to_owned());
        set(format!("{of_port}_PORT"), port.to_string());
        set(format!("{of_port}_ADDR"), address.to_owned());
        set(of_port, link);
    }
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
