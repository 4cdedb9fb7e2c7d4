//! Which cluster addresses and node ports a Service gets, and keeps.
//!
//! ```text
//! create   begin_create ─▶ prepare, validate ─▶ store        what was reserved is the Service's
//! update   begin_update ─▶ prepare, validate ─▶ store        what only the old version had is free again
//! delete   store                                             what it had is free
//! ```
//!
//! These functions decide and ask an [`Allocator`] for numbers; whoever writes the Service reserves, confirms and releases
//! them. A cluster has one family of addresses, IPv4.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{has_node_ports, needs_health_check, rules};
use crate::{
    FieldError, checks,
    kit::{Errors, Path, Read, Write},
};

/// Gives out addresses and ports; what it gave is nobody else's until it is released.
pub trait Allocator {
    /// Reserves this address.
    ///
    /// # Errors
    /// When it is not in the range or belongs to another Service.
    fn take_address(&mut self, address: Ipv4Addr) -> Result<(), AllocateError>;

    /// Reserves any address.
    ///
    /// # Errors
    /// When there is none left.
    fn next_address(&mut self) -> Result<Ipv4Addr, AllocateError>;

    /// Reserves this port.
    ///
    /// # Errors
    /// When it is not in the range or belongs to another Service.
    fn take_port(&mut self, port: u16) -> Result<(), AllocateError>;

    /// Reserves any port.
    ///
    /// # Errors
    /// When there is none left.
    fn next_port(&mut self) -> Result<u16, AllocateError>;
}

/// Why there is no such number, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// All numbers are taken.
    #[error("range is full")]
    Full,
    /// Another Service has the address.
    #[error("provided IP is already allocated")]
    AddressTaken,
    /// The address is of another network.
    #[error("the provided network does not match the current range")]
    OtherNetwork,
    /// The first and the last address of a network are nobody's.
    #[error("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")]
    AddressNotInRange {
        /// The address.
        address: Ipv4Addr,
        /// The range in CIDR form.
        range: String,
    },
    /// Another Service has the port.
    #[error("provided port is already allocated")]
    PortTaken,
    /// Ports of nodes are in this range only.
    #[error("provided port is not in the valid range. The range of valid ports is {range}")]
    PortNotInRange {
        /// The range, `30000-32767`.
        range: String,
    },
}

/// Why a Service cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// What it asks for cannot be had.
    #[error("the service is invalid")]
    Invalid(Vec<FieldError>),
    /// There is nothing left to give.
    #[error("{0}")]
    Internal(String),
}

/// The numbers that a Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNumbers {
    /// Cluster addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Node ports, the one for health checks too.
    pub ports: Vec<u16>,
}

const SINGLE: &str = "SingleStack";
const DUAL: &str = "RequireDualStack";

/// The numbers that a stored Service has.
pub fn service_numbers(service: &Value) -> ServiceNumbers {
    let spec = service.part("spec");
    let mut numbers = ServiceNumbers::default();
    if spec.text("type") != "ExternalName" {
        numbers.addresses = spec.texts("clusterIPs").filter_map(v4).collect();
    }
    let health = if needs_health_check(spec) { spec.int("healthCheckNodePort") } else { 0 };
    let ports = spec.items("ports").iter().map(|port| port.int("nodePort")).chain([health]);
    numbers.ports = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).collect();
    numbers
}

/// Fills in what a new Service gets.
///
/// # Errors
/// When it asks for what cannot be had, or nothing is left.
pub fn begin_create(service: &mut Value, allocator: &mut dyn Allocator) -> Result<(), BeginError> {
    let name = service.part("metadata").text("name").to_owned();
    let spec = service.make("spec");
    if !spec.text("clusterIP").is_empty() && spec.items("clusterIPs").is_empty() {
        let ip = spec.text("clusterIP").to_owned();
        spec.set("clusterIPs", json!([ip]));
    }
    init_families(spec, &Value::Null)?;
    allocate_addresses(spec, &name, allocator)?;
    if has_node_ports(spec) {
        init_node_ports(spec, allocator)?;
    }
    if needs_health_check(spec) {
        allocate_health_port(spec, allocator)?;
    }
    Ok(())
}

/// Fills in what a new version of a Service keeps and gets.
///
/// # Errors
/// When it asks for what cannot be had, or nothing is left.
pub fn begin_update(new: &mut Value, old: &Value, allocator: &mut dyn Allocator) -> Result<(), BeginError> {
    let name = new.part("metadata").text("name").to_owned();
    let before = old.part("spec");
    let spec = new.make("spec");
    keep_numbers(spec, before);
    normalise_addresses(spec, before);
    init_families(spec, before)?;
    let is_named = |spec: &Value| spec.text("type") == "ExternalName";
    if is_named(before) && !is_named(spec) {
        allocate_addresses(spec, &name, allocator)?;
    }
    if has_node_ports(spec) {
        update_node_ports(spec, before, allocator)?;
    }
    if needs_health_check(spec) && !needs_health_check(before) {
        allocate_health_port(spec, allocator)?;
    }
    Ok(())
}

/// A client that writes a Service back without what the server gave it has not asked for it to be taken away.
fn keep_numbers(spec: &mut Value, before: &Value) {
    let is_named = |spec: &Value| spec.text("type") == "ExternalName";
    if !is_named(before) && !is_named(spec) {
        if spec.text("clusterIP").is_empty() {
            spec.restore("clusterIP", before);
        }
        if spec.items("clusterIPs").is_empty() {
            spec.restore("clusterIPs", before);
        }
    }
    let has_ports = |spec: &Value| match spec.text("type") {
        "NodePort" => true,
        "LoadBalancer" => spec.some_flag("allocateLoadBalancerNodePorts") != Some(false),
        _ => false,
    };
    if has_ports(before) && has_ports(spec) {
        let used = |spec: &Value| -> Vec<i64> { spec.items("ports").iter().map(|port| port.int("nodePort")).collect() };
        let now = used(spec);
        let in_both: Vec<i64> = used(before).into_iter().filter(|port| *port != 0 && now.contains(port)).collect();
        for port in spec.items_mut("ports").iter_mut().filter(|port| port.int("nodePort") == 0) {
            let held = before.items("ports").iter().rev().find(|held| held.text("name") == port.text("name"));
            let held = held.map_or(0, |held| held.int("nodePort"));
            if held != 0 && !in_both.contains(&held) {
                port.set("nodePort", held);
            }
        }
    }
    if needs_health_check(before) && needs_health_check(spec) && spec.int("healthCheckNodePort") == 0 {
        spec.restore("healthCheckNodePort", before);
    }
}

/// `clusterIP` is the first of `clusterIPs`; old clients know the one, and change the one.
fn normalise_addresses(spec: &mut Value, before: &Value) {
    let (now, held) = (spec.text("clusterIP").to_owned(), before.text("clusterIP"));
    if !before.items("clusterIPs").is_empty() && spec.items("clusterIPs").is_empty() && now == held {
        spec.restore("clusterIPs", before);
    }
    let is_same = spec.items("clusterIPs") == before.items("clusterIPs");
    if now != held && is_same {
        if now.is_empty() {
            spec.unset("clusterIPs");
        } else {
            spec.set("clusterIPs", json!([now]));
        }
    }
}

/// Settles policy and families of a Service's addresses.
fn init_families(spec: &mut Value, before: &Value) -> Result<(), BeginError> {
    if spec.text("type") == "ExternalName" || has_same_preference(spec, before) {
        return Ok(());
    }
    // Without a selector its addresses are somebody else's, of any family.
    let is_free = spec.text("clusterIP") == "None" && spec.entries("selector").next().is_none();
    if !spec.has("ipFamilyPolicy") {
        let policy = match before.part("ipFamilyPolicy").as_str() {
            Some(held) => held,
            None if is_free => DUAL,
            None => SINGLE,
        };
        spec.set("ipFamilyPolicy", policy);
    }
    let mut errors = Errors::default();
    rules::check_addresses(spec, before, &mut errors);
    finish(errors)?;

    let mut errors = Errors::default();
    let at = Path::at("spec");
    let policy = spec.text("ipFamilyPolicy").to_owned();
    let policy_at = at.field("ipFamilyPolicy");
    if !before.is_null() {
        reduce_to_single(spec, before, &policy, &mut errors);
    }
    if policy == SINGLE {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if spec.items(field).len() == 2 {
                let detail =
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                errors.invalid(&policy_at, policy.as_str(), detail);
            }
        }
    }
    let ips: Vec<String> = spec.texts("clusterIPs").map(str::to_owned).collect();
    let mut families: Vec<String> = spec.texts("ipFamilies").map(str::to_owned).collect();
    for (number, ip) in ips.iter().take_while(|ip| *ip != "None").enumerate().skip(families.len()) {
        if v4(ip).is_some() {
            families.push("IPv4".to_owned());
        } else {
            let shown = spec.part("clusterIPs").clone();
            errors.invalid(&at.field("clusterIPs").index(number), shown, "IPv6 is not configured on this cluster");
        }
    }
    finish(errors)?;

    if is_free {
        if families.is_empty() {
            families.push("IPv4".to_owned());
        }
        if families.len() < 2 && policy != SINGLE {
            families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
        }
        spec.set("ipFamilies", families);
        return Ok(());
    }
    let mut errors = Errors::default();
    if policy == DUAL {
        errors.invalid(&policy_at, policy.as_str(), "this cluster is not configured for dual-stack services");
    }
    for (number, family) in families.iter().enumerate().filter(|(_, family)| *family != "IPv4") {
        errors.invalid(&at.field("ipFamilies").index(number), family.as_str(), "not configured on this cluster");
    }
    finish(errors)?;
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    spec.set("ipFamilies", families);
    Ok(())
}

/// Whether nothing changed about a Service that prefers two families: then it keeps what it has.
fn has_same_preference(spec: &Value, before: &Value) -> bool {
    let prefers = |spec: &Value| spec.text("ipFamilyPolicy") == "PreferDualStack";
    !before.is_null()
        && spec.has("ipFamilyPolicy")
        && spec.text("type") == before.text("type")
        && matches!(spec.text("type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        && prefers(spec)
        && (prefers(before) || !before.has("ipFamilyPolicy"))
        && spec.items("clusterIPs") == before.items("clusterIPs")
        && spec.items("ipFamilies") == before.items("ipFamilies")
}

fn reduce_to_single(spec: &mut Value, before: &Value, policy: &str, errors: &mut Errors) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, held) = (spec.items(field), before.items(field));
        if policy != SINGLE {
            if !now.is_empty() && now.len() < held.len() {
                let detail = format!("must be 'SingleStack' to release the secondary {what}");
                errors.invalid(&Path::at("spec.ipFamilyPolicy"), policy, detail);
            }
        } else if now == held && now.len() > 1 {
            let first = now[0].clone();
            spec.set(field, json!([first]));
        }
    }
}

/// Reserves the address that the Service asks for, or any.
fn allocate_addresses(spec: &mut Value, name: &str, allocator: &mut dyn Allocator) -> Result<(), BeginError> {
    if spec.text("type") == "ExternalName" || spec.texts("clusterIPs").next() == Some("None") {
        return Ok(());
    }
    let asked = spec.texts("clusterIPs").next().unwrap_or_default().to_owned();
    if asked.is_empty() {
        let given = allocator.next_address().map_err(|error| {
            BeginError::Internal(format!("failed to allocate a serviceIP for Service {name:?}: {error}"))
        })?;
        spec.set("clusterIPs", json!([given.to_string()]));
        spec.set("clusterIP", given.to_string());
        return Ok(());
    }
    let address = v4(&asked).ok_or_else(|| BeginError::Internal(format!("failed to parse service IP {asked:?}")))?;
    allocator.take_address(address).map_err(|error| {
        let shown = spec.part("clusterIPs").clone();
        invalid(&Path::at("spec.clusterIPs"), shown, format!("failed to allocate IP {asked}: {error}"))
    })?;
    spec.set("clusterIP", asked);
    Ok(())
}

/// Whether ports without a number get one.
fn wants_node_ports(spec: &Value) -> bool {
    match spec.text("type") {
        "NodePort" => true,
        "LoadBalancer" => spec.flag("allocateLoadBalancerNodePorts"),
        _ => false,
    }
}

/// Gives each port a number; one that is served in two protocols has one number.
fn init_node_ports(spec: &mut Value, allocator: &mut dyn Allocator) -> Result<(), BeginError> {
    let wants = wants_node_ports(spec);
    let asked: Vec<(i64, i64)> =
        spec.items("ports").iter().map(|port| (port.int("port"), port.int("nodePort"))).collect();
    let mut given: Vec<(i64, i64)> = Vec::new();
    for (number, port) in spec.items_mut("ports").iter_mut().enumerate() {
        let (own, node) = (port.int("port"), port.int("nodePort"));
        if node == 0 && !wants {
            continue;
        }
        match given.iter().find(|(port, _)| *port == own).map(|(_, node)| *node) {
            None => {
                let requested = asked.iter().find(|(port, node)| *port == own && *node != 0).map(|(_, node)| *node);
                let node = match requested {
                    Some(node) => take_port(number, node, allocator)?,
                    None => next_port(allocator)?,
                };
                port.set("nodePort", node);
                given.push((own, node));
            }
            Some(same) if node == 0 => port.set("nodePort", same),
            Some(same) if same != node => drop(take_port(number, node, allocator)?),
            Some(_) => {}
        }
    }
    Ok(())
}

fn update_node_ports(spec: &mut Value, before: &Value, allocator: &mut dyn Allocator) -> Result<(), BeginError> {
    let wants = wants_node_ports(spec);
    let held: Vec<i64> = before.items("ports").iter().map(|port| port.int("nodePort")).collect();
    let mut taken = Vec::new();
    let mut seen = Vec::new();
    for (number, port) in spec.items_mut("ports").iter_mut().enumerate() {
        let node = match port.int("nodePort") {
            0 if !wants => continue,
            0 => {
                let node = next_port(allocator)?;
                port.set("nodePort", node);
                node
            }
            node => {
                if !held.contains(&node) && !taken.contains(&node) {
                    take_port(number, node, allocator)?;
                    taken.push(node);
                }
                node
            }
        };
        let protocol = port.text("protocol").to_owned();
        if seen.contains(&(protocol.clone(), node)) {
            return Err(BeginError::Internal(format!("duplicate nodePort: {{{protocol} {node}}}")));
        }
        seen.push((protocol, node));
    }
    Ok(())
}

fn take_port(number: usize, node: i64, allocator: &mut dyn Allocator) -> Result<i64, BeginError> {
    // What is no port at all is in no range either; the allocator says so of zero.
    let port = u16::try_from(node).unwrap_or(0);
    allocator.take_port(port).map_err(|error| {
        let at = Path::at("spec.ports");
        invalid(&at.index(number).field("nodePort"), node.into(), error.to_string())
    })?;
    Ok(node)
}

fn next_port(allocator: &mut dyn Allocator) -> Result<i64, BeginError> {
    let given = allocator.next_port();
    given.map(i64::from).map_err(|error| BeginError::Internal(format!("failed to allocate a nodePort: {error}")))
}

fn allocate_health_port(spec: &mut Value, allocator: &mut dyn Allocator) -> Result<(), BeginError> {
    match spec.int("healthCheckNodePort") {
        0 => {
            let given = allocator.next_port().map_err(|error| {
                BeginError::Internal(format!("failed to allocate a HealthCheck NodePort 0: {error}"))
            })?;
            spec.set("healthCheckNodePort", given);
            Ok(())
        }
        asked => allocator.take_port(u16::try_from(asked).unwrap_or(0)).map_err(|error| {
            BeginError::Internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {error}"))
        }),
    }
}

fn v4(text: &str) -> Option<Ipv4Addr> {
    match checks::parse_ip(text)?.to_canonical() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}

fn finish(errors: Errors) -> Result<(), BeginError> {
    if errors.is_empty() { Ok(()) } else { Err(BeginError::Invalid(errors.into_vec())) }
}

fn invalid(at: &Path<'_>, value: Value, detail: String) -> BeginError {
    BeginError::Invalid(vec![FieldError::invalid(at.to_string(), &value, detail)])
}
