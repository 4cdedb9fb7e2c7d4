//! What a node needs of a core/v1 Service: an entry of its assignment with the kind [`KIND`].
//!
//! The fields are a selection of Kubernetes' own, under their names, so a Service's `spec` reads as a [`ServiceSpec`], and written again
//! it is only what a node acts on. What may be `null` in the API means its default.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

/// `kind` of such an entry.
pub const KIND: &str = "Service";

/// How long a client keeps its endpoint where nothing else is said, as in Kubernetes: three hours.
pub const AFFINITY_SECONDS: u32 = 10_800;

/// A Service that concerns a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What the node needs of it.
    pub spec: ServiceSpec,
}

/// What a node needs of a Service's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// How it is reached.
    #[serde(deserialize_with = "null_as_default")]
    pub r#type: ServiceType,
    /// Its addresses, one of each family at most; `None` for a headless one.
    #[serde(rename = "clusterIPs", deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// The name that it is an alias of.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub external_name: String,
    /// Labels of its pods. Where there are none, nothing on the node is behind it.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Its ports.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// Whether a client keeps its endpoint.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_default")]
    pub session_affinity: SessionAffinity,
    /// For how long.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_default")]
    pub session_affinity_config: SessionAffinityConfig,
    /// Whether pods are endpoints before they are ready.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_default")]
    pub publish_not_ready_addresses: bool,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// By its own addresses.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// By ports of the node as well.
    NodePort,
    /// On a node, the same as [`NodePort`](Self::NodePort).
    LoadBalancer,
    /// Not at all: it is an alias in DNS.
    ExternalName,
}

/// One of `spec.ports` of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name; one alone may have none.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its protocol.
    #[serde(deserialize_with = "null_as_default")]
    pub protocol: Protocol,
    /// Its number at the Service's addresses.
    pub port: u16,
    /// Where it leads in a pod; to the same number where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<TargetPort>,
    /// Its number at the node's addresses; 0 where it has none.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_default")]
    pub node_port: u16,
}

/// A port of a pod: by number, or by the name that a container gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

/// The protocols that Kubernetes knows ports of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// What is meant where nothing is said.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// Streams of messages.
    Sctp,
}

impl Protocol {
    /// A protocol as objects write it; `None` for one that Kubernetes does not have.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// `spec.sessionAffinity` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// Each connection may have another endpoint.
    #[default]
    None,
    /// A client keeps its endpoint.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

/// `spec.sessionAffinityConfig` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionAffinityConfig {
    /// `clientIP`.
    #[serde(rename = "clientIP", deserialize_with = "null_as_default")]
    pub client_ip: ClientIpConfig,
}

/// `spec.sessionAffinityConfig.clientIP` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds after a client's last connection for which it keeps its endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

impl ServiceSpec {
    /// Whether it has no addresses of its own: its pods' are published in their place.
    pub fn is_headless(&self) -> bool {
        self.cluster_ips.iter().any(|address| address == "None")
    }

    /// Its own addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.cluster_ips.iter().filter_map(|address| address.parse().ok())
    }

    /// For how many seconds a client keeps its endpoint, where it does.
    pub fn affinity_seconds(&self) -> Option<u32> {
        let seconds = self.session_affinity_config.client_ip.timeout_seconds;
        (self.session_affinity == SessionAffinity::ClientIp).then(|| seconds.unwrap_or(AFFINITY_SECONDS))
    }
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_service_only_what_a_node_acts_on_is_left() {
        let service = json!({
            "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"], "selector": {"app": "web"},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080, "appProtocol": "x"},
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
            ],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack", "publishNotReadyAddresses": true,
        });
        let spec: ServiceSpec = serde_json::from_value(service).unwrap();
        assert_eq!(spec.addresses().map(|one| one.to_string()).collect::<Vec<_>>(), ["10.96.0.7", "fd00::7"]);
        assert_eq!((spec.is_headless(), spec.affinity_seconds()), (false, Some(60)));
        let again = serde_json::to_value(&spec).unwrap();
        let expected = json!({
            "type": "NodePort", "clusterIPs": ["10.96.0.7", "fd00::7"], "selector": {"app": "web"},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080},
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353},
            ],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "publishNotReadyAddresses": true,
        });
        assert_eq!(again, expected);
        assert_eq!(serde_json::from_value::<ServiceSpec>(again).unwrap(), spec);
    }

    #[test]
    fn what_is_null_or_missing_has_its_default() {
        let service = json!({
            "clusterIPs": ["None"], "selector": null, "ports": null, "sessionAffinity": null, "sessionAffinityConfig": null,
        });
        let spec: ServiceSpec = serde_json::from_value(service).unwrap();
        let expected = ServiceSpec { cluster_ips: vec!["None".to_owned()], ..ServiceSpec::default() };
        assert_eq!(spec, expected);
        assert_eq!((spec.is_headless(), spec.addresses().count(), spec.affinity_seconds()), (true, 0, None));
        let spec: ServiceSpec = serde_json::from_value(json!({"sessionAffinity": "ClientIP"})).unwrap();
        assert_eq!(spec.affinity_seconds(), Some(AFFINITY_SECONDS));
    }
}
