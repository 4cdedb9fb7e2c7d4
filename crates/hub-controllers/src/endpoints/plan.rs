//! Which endpoints a Service has, and which slice each is in: plain functions on data.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use hub_runtime::kinds::Kind;
use hub_runtime::views::{ConditionView, NodeView, ObjectMeta, Text, condition, nullable};
use hub_runtime::{ObjectRef, Reader};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// As upstream's controller fills them.
const SLICE_ENDPOINTS_MAX: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

/// One of a Service's ports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PortView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    protocol: Text<'a>,
    port: u16,
    #[serde(borrow)]
    target_port: Option<TargetPort<'a>>,
    #[serde(borrow)]
    app_protocol: Option<Text<'a>>,
}

/// A port by its number, or by its name in the pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum TargetPort<'a> {
    Number(i64),
    #[serde(borrow)]
    Name(Text<'a>),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn read(name: &str) -> Option<Self> {
        match name {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, address: &str) -> bool {
        match address.parse() {
            Ok(IpAddr::V4(_)) => self == Self::V4,
            Ok(IpAddr::V6(_)) => self == Self::V6,
            Err(_) => false,
        }
    }
}

/// The ports of a slice, in the order of the Service's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ports(Vec<Port>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Port {
    name: String,
    protocol: String,
    port: u16,
    app_protocol: Option<String>,
}

impl Ports {
    pub fn to_json(&self) -> Value {
        let port = |port: &Port| {
            let mut object = json!({"name": port.name, "protocol": port.protocol, "port": port.port});
            if let Some(app_protocol) = &port.app_protocol {
                object["appProtocol"] = app_protocol.as_str().into();
            }
            object
        };
        self.0.iter().map(port).collect()
    }

    fn read(ports: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let port = |port: &Value| Port {
            name: text(&port["name"]),
            protocol: text(&port["protocol"]),
            port: port["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or_default(),
            app_protocol: port["appProtocol"].as_str().map(str::to_owned),
        };
        Self(ports.as_array().into_iter().flatten().map(port).collect())
    }

    /// The ports of a Service as a pod has them; a port whose name the pod does not know is left out.
    fn of(service: &[PortView<'_>], pod: &Endpoint) -> Self {
        let port = |port: &PortView<'_>| {
            let protocol = if port.protocol.is_empty() { "TCP" } else { &*port.protocol };
            let number = match &port.target_port {
                None => port.port,
                Some(TargetPort::Number(0)) => port.port,
                Some(TargetPort::Number(number)) => u16::try_from(*number).ok()?,
                Some(TargetPort::Name(name)) => pod.port(name, protocol)?,
            };
            Some(Port {
                name: port.name.to_string(),
                protocol: protocol.to_owned(),
                port: number,
                app_protocol: port.app_protocol.as_ref().map(ToString::to_string),
            })
        };
        Self(service.iter().filter_map(port).collect())
    }
}

/// A pod as an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoint {
    namespace: String,
    name: String,
    uid: String,
    addresses: Vec<String>,
    node: String,
    zone: Option<String>,
    hostname: Option<String>,
    is_ready: bool,
    is_terminating: bool,
    named_ports: Vec<(String, String, u16)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: PodSpec<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: PodStatus<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    node_name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    hostname: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    subdomain: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    init_containers: Vec<Container<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    restart_policy: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    ports: Vec<ContainerPort<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    protocol: Text<'a>,
    container_port: u16,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    phase: Text<'a>,
    #[serde(borrow, rename = "podIP", deserialize_with = "nullable")]
    pod_ip: Text<'a>,
    #[serde(borrow, rename = "podIPs", deserialize_with = "nullable")]
    pod_ips: Vec<PodIp<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    conditions: Vec<ConditionView<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodIp<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    ip: Text<'a>,
}

impl Endpoint {
    /// A pod of a Service; `None` for one that has ended or has no address yet.
    pub fn of(object: &ObjectRef, service: &str, reader: &dyn Reader) -> Option<Self> {
        let pod = object.view_or_log::<PodView<'_>>()?;
        let mut addresses: Vec<&str> = pod.status.pod_ips.iter().map(|one| &*one.ip).collect();
        if addresses.is_empty() {
            addresses.push(&pod.status.pod_ip);
        }
        // A node without a network of pods reports its own loopback: nobody else reaches it, and the API takes no such endpoint.
        addresses.retain(|address| is_reachable(address));
        if addresses.is_empty() || matches!(&*pod.status.phase, "Failed" | "Succeeded") {
            return None;
        }
        let sidecars = pod.spec.init_containers.iter().filter(|one| one.restart_policy == *"Always");
        let ports = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
        let named = ports.filter(|port| !port.name.is_empty()).map(|port| {
            let protocol = if port.protocol.is_empty() { "TCP" } else { &*port.protocol };
            (port.name.to_string(), protocol.to_owned(), port.container_port)
        });
        let has_name = !pod.spec.hostname.is_empty() && pod.spec.subdomain == *service;
        let node = reader.get(Kind::Node, "", &pod.spec.node_name);
        let zone = node.and_then(|node| {
            node.view_or_log::<NodeView<'_>>().and_then(|node| node.metadata.labels.get(ZONE).map(str::to_owned))
        });
        Some(Self {
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: pod.metadata.uid.to_string(),
            addresses: addresses.into_iter().map(str::to_owned).collect(),
            node: pod.spec.node_name.to_string(),
            zone,
            hostname: has_name.then(|| pod.spec.hostname.to_string()),
            is_ready: condition(&pod.status.conditions, "Ready").is_some_and(|ready| ready.status == *"True"),
            is_terminating: pod.metadata.is_terminating(),
            named_ports: named.collect(),
        })
    }

    fn port(&self, name: &str, protocol: &str) -> Option<u16> {
        let is_port = |(held, spoken, _): &&(String, String, u16)| held == name && spoken == protocol;
        self.named_ports.iter().find(is_port).map(|(_, _, port)| *port)
    }

    fn target(&self) -> Value {
        json!({"kind": "Pod", "namespace": self.namespace, "name": self.name, "uid": self.uid})
    }

    /// The endpoint as a slice has it; `None` when it has no address of the family.
    fn to_json(&self, family: Family, publish_not_ready: bool) -> Option<Value> {
        let address = self.addresses.iter().find(|address| family.has(address))?;
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {
                "ready": publish_not_ready || (self.is_ready && !self.is_terminating),
                "serving": self.is_ready, "terminating": self.is_terminating,
            },
        });
        if let Some(hostname) = &self.hostname {
            endpoint["hostname"] = hostname.as_str().into();
        }
        endpoint["targetRef"] = self.target();
        if !self.node.is_empty() {
            endpoint["nodeName"] = self.node.as_str().into();
        }
        if let Some(zone) = &self.zone {
            endpoint["zone"] = zone.as_str().into();
        }
        Some(endpoint)
    }
}

/// Whether an address means the same to everybody, as the API demands of endpoints.
fn is_reachable(address: &str) -> bool {
    match address.parse() {
        Ok(IpAddr::V4(v4)) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast()),
        Ok(IpAddr::V6(v6)) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast())
        }
        Err(_) => false,
    }
}

/// Endpoints that share ports and a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    family: Family,
    ports: Ports,
    /// In order of their names.
    endpoints: Vec<Value>,
}

/// Which endpoint it is, of a slice or of a group: a pod that has another address is another endpoint.
fn identity(endpoint: &Value) -> (&str, &str) {
    (endpoint["targetRef"]["uid"].as_str().unwrap_or_default(), endpoint["addresses"][0].as_str().unwrap_or_default())
}

/// The endpoints of a Service by what slices have in common. There is a group for each family, even if nobody is in it.
pub(super) fn group(
    endpoints: &[Endpoint],
    ports: &[PortView<'_>],
    families: &[Family],
    is_headless: bool,
    publish_not_ready: bool,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for family in families {
        for endpoint in endpoints {
            let Some(object) = endpoint.to_json(*family, publish_not_ready) else { continue };
            let of_pod = Ports::of(ports, endpoint);
            // Nobody can be reached where no port is; only a headless Service may have none.
            if of_pod.0.is_empty() && !(is_headless && ports.is_empty()) {
                continue;
            }
            join(&mut groups, *family, of_pod, object);
        }
        if groups.iter().all(|group| group.family != *family) {
            groups.push(Group { family: *family, ports: Ports::default(), endpoints: Vec::new() });
        }
    }
    groups
}

/// Adds an endpoint to the group that it belongs to.
fn join(groups: &mut Vec<Group>, family: Family, ports: Ports, endpoint: Value) {
    match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
        Some(group) => group.endpoints.push(endpoint),
        None => groups.push(Group { family, ports, endpoints: vec![endpoint] }),
    }
}

/// The endpoints that somebody wrote into an Endpoints object, the first so many of each subset; and whether there were more.
pub(super) fn mirrored(subsets: &Value, subset_max: usize) -> (Vec<Group>, bool) {
    let (mut groups, mut is_over) = (Vec::new(), false);
    for subset in subsets.as_array().into_iter().flatten() {
        let ports = Ports::read(&subset["ports"]);
        let mut seen = HashSet::new();
        for (field, is_ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in subset[field].as_array().into_iter().flatten() {
                let Some(ip) = address["ip"].as_str() else { continue };
                let family = if ip.contains(':') { Family::V6 } else { Family::V4 };
                if !seen.insert(ip) {
                    continue;
                }
                if seen.len() > subset_max {
                    is_over = true;
                    continue;
                }
                let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": is_ready}});
                for field in ["hostname", "nodeName", "targetRef"] {
                    if !address[field].is_null() {
                        endpoint[field] = address[field].clone();
                    }
                }
                join(&mut groups, family, ports.clone(), endpoint);
            }
        }
    }
    (groups, is_over)
}

/// One slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub name: String,
    pub uid: String,
    /// Empty for one that is to be created.
    pub revision: String,
    pub labels: Map<String, Value>,
    pub annotations: Map<String, Value>,
    pub family: Family,
    pub ports: Ports,
    pub endpoints: Vec<Value>,
    pub is_changed: bool,
}

impl Slice {
    /// A stored slice, if it is this manager's.
    pub fn read(object: &ObjectRef, label: &str, manager: &str) -> Option<Self> {
        let mut value = object.value().ok()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if value["metadata"]["labels"][label] != manager {
            return None;
        }
        let Value::Array(endpoints) = value["endpoints"].take() else {
            return Self::read_parts(&value, Vec::new(), text);
        };
        Self::read_parts(&value, endpoints, text)
    }

    fn read_parts(value: &Value, endpoints: Vec<Value>, text: impl Fn(&Value) -> String) -> Option<Self> {
        let metadata = &value["metadata"];
        Some(Self {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            revision: text(&metadata["resourceVersion"]),
            labels: metadata["labels"].as_object().cloned().unwrap_or_default(),
            annotations: metadata["annotations"].as_object().cloned().unwrap_or_default(),
            family: Family::read(value["addressType"].as_str()?)?,
            ports: Ports::read(&value["ports"]),
            endpoints,
            is_changed: false,
        })
    }
}

/// What slices a Service needs.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Those that are to be there; of stored ones those that stay as they are, too.
    pub write: Vec<Slice>,
    pub delete: Vec<Slice>,
}

/// Decides what is in which slice. What is in one stays there; others fill the gaps, and then new slices.
pub(super) fn plan(service: &str, stored: &[Slice], groups: Vec<Group>) -> Plan {
    let mut plan = Plan::default();
    let mut taken: HashSet<&str> = HashSet::new();
    let mut names: HashSet<String> = stored.iter().map(|slice| slice.name.clone()).collect();
    for group in groups {
        let mut missing: BTreeMap<usize, &Value> = BTreeMap::new();
        let places: HashMap<(&str, &str), usize> =
            group.endpoints.iter().enumerate().map(|(at, endpoint)| (identity(endpoint), at)).collect();
        for (at, endpoint) in group.endpoints.iter().enumerate() {
            missing.insert(at, endpoint);
        }
        let of_group = stored.iter().filter(|slice| slice.family == group.family && slice.ports == group.ports);
        let mut slices: Vec<Slice> = Vec::new();
        for slice in of_group {
            taken.insert(&slice.name);
            let mut kept = Slice { endpoints: Vec::new(), ..slice.clone() };
            for endpoint in &slice.endpoints {
                // Twice in two slices is once too often.
                let current = places.get(&identity(endpoint)).and_then(|at| missing.remove(at));
                kept.endpoints.extend(current.cloned());
            }
            kept.is_changed = kept.endpoints != slice.endpoints;
            slices.push(kept);
        }
        let mut missing = missing.into_values().cloned();
        for slice in &mut slices {
            let before = slice.endpoints.len();
            slice.endpoints.extend(missing.by_ref().take(SLICE_ENDPOINTS_MAX.saturating_sub(before)));
            slice.is_changed |= slice.endpoints.len() > before;
        }
        // One slice says that there is nobody.
        let is_placeholder = group.ports == Ports::default();
        let mut rest = missing.peekable();
        while rest.peek().is_some() || (slices.is_empty() && is_placeholder) {
            let name = free_name(service, &mut names);
            let endpoints: Vec<Value> = rest.by_ref().take(SLICE_ENDPOINTS_MAX).collect();
            slices.push(Slice {
                name,
                uid: String::new(),
                revision: String::new(),
                labels: Map::new(),
                annotations: Map::new(),
                family: group.family,
                ports: group.ports.clone(),
                endpoints,
                is_changed: true,
            });
        }
        // Of empty ones the first is the placeholder.
        let has_some = slices.iter().any(|slice| !slice.endpoints.is_empty());
        let mut is_first = true;
        for slice in slices {
            let is_kept = !slice.endpoints.is_empty() || (!has_some && std::mem::take(&mut is_first));
            match is_kept {
                true => plan.write.push(slice),
                false => plan.delete.push(slice),
            }
        }
    }
    plan.delete.extend(stored.iter().filter(|slice| !taken.contains(&*slice.name)).cloned());
    // What is to be created and is not needed needs no deletion.
    plan.delete.retain(|slice| !slice.revision.is_empty());
    plan
}

/// A name that is not taken. The first is always the same, so that whoever acts twice on an old view creates nothing twice.
fn free_name(service: &str, names: &mut HashSet<String>) -> String {
    let service: String = service.chars().take(240).collect();
    let name =
        (0..).map(|number| format!("{service}-{}", letters(&service, number))).find(|name| !names.contains(name));
    let name = name.expect("there are more numbers than slices");
    names.insert(name.clone());
    name
}

/// Five letters, as Kubernetes draws them.
fn letters(service: &str, number: u32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in service.bytes().chain(number.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut letter = || {
        let letter = ALPHABET[usize::try_from(hash % ALPHABET.len() as u64).unwrap_or_default()];
        hash /= ALPHABET.len() as u64;
        char::from(letter)
    };
    (0..5).map(|_| letter()).collect()
}

/// The same as `subsets` of an Endpoints object.
pub(super) fn subsets(
    endpoints: &[Endpoint],
    ports: &[PortView<'_>],
    is_headless: bool,
    publish_not_ready: bool,
) -> Vec<Value> {
    let mut subsets: Vec<(Ports, Vec<Value>, Vec<Value>)> = Vec::new();
    // A pod on its way out is no endpoint there; who must know of it reads slices.
    for endpoint in endpoints.iter().filter(|endpoint| publish_not_ready || !endpoint.is_terminating) {
        let of_pod = Ports::of(ports, endpoint);
        if of_pod.0.is_empty() && !(is_headless && ports.is_empty()) {
            continue;
        }
        let Some(ip) = endpoint.addresses.first() else { continue };
        let mut address = json!({"ip": ip});
        if let Some(hostname) = &endpoint.hostname {
            address["hostname"] = hostname.as_str().into();
        }
        if !endpoint.node.is_empty() {
            address["nodeName"] = endpoint.node.as_str().into();
        }
        address["targetRef"] = endpoint.target();
        let at = match subsets.iter().position(|(ports, ..)| *ports == of_pod) {
            Some(at) => at,
            None => {
                subsets.push((of_pod, Vec::new(), Vec::new()));
                subsets.len() - 1
            }
        };
        let (_, ready, not_ready) = &mut subsets[at];
        if publish_not_ready || endpoint.is_ready { ready.push(address) } else { not_ready.push(address) }
    }
    subsets
        .into_iter()
        .map(|(ports, ready, not_ready)| {
            let mut subset = json!({});
            for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                if !addresses.is_empty() {
                    subset[field] = addresses.into();
                }
            }
            if !ports.0.is_empty() {
                // A port without a name has none there.
                let port = |mut port: Value| {
                    if port["name"] == ""
                        && let Some(fields) = port.as_object_mut()
                    {
                        fields.remove("name");
                    }
                    port
                };
                let ports = ports.to_json();
                subset["ports"] = ports.as_array().into_iter().flatten().cloned().map(port).collect();
            }
            subset
        })
        .collect()
}

#[cfg(test)]
mod tests;
