//! Which of the node's own pods are behind a Service.

use api_edge::services::{Protocol, ServicePort, ServiceRecord, ServiceSpec, ServiceType, TargetPort};
use node_pods::PodRecord;

/// A pod that is behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// The pod; it has an address.
    pub pod: &'a PodRecord,
    /// Where the Service's ports lead in it. A port whose name no container of the pod gives is not among them.
    pub ports: Vec<EndpointPort>,
}

/// Where a port of a Service leads in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Which of the Service's ports, counted from 0.
    pub index: usize,
    /// Its number in the pod.
    pub target: u16,
}

impl Endpoint<'_> {
    /// Where the Service's port of this index leads.
    pub fn target(&self, index: usize) -> Option<u16> {
        self.ports.iter().find(|port| port.index == index).map(|port| port.target)
    }
}

/// The pods behind a Service, in the order of `pods`: those of its namespace with its labels, an address, and the condition `Ready`
/// unless the Service takes them before; none that is ending.
///
/// A Service without a selector has none here: whoever made it names its endpoints, which are not on this node's word.
pub fn endpoints<'a>(service: &ServiceRecord, pods: impl IntoIterator<Item = &'a PodRecord>) -> Vec<Endpoint<'a>> {
    let ServiceRecord { namespace, spec, .. } = service;
    if spec.selector.is_empty() || spec.r#type == ServiceType::ExternalName {
        return Vec::new();
    }
    let is_behind = |pod: &&PodRecord| {
        pod.namespace == *namespace
            && !pod.is_ending
            && (pod.is_ready || spec.publish_not_ready_addresses)
            && !pod.addresses.is_empty()
            && has_labels(pod, spec)
    };
    let endpoint = |pod: &'a PodRecord| {
        let ports = spec.ports.iter().enumerate();
        let ports = ports.filter_map(|(index, port)| Some(EndpointPort { index, target: target(port, pod)? }));
        Endpoint { pod, ports: ports.collect() }
    };
    pods.into_iter().filter(is_behind).map(endpoint).collect()
}

fn has_labels(pod: &PodRecord, spec: &ServiceSpec) -> bool {
    spec.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
}

/// The number that a port leads to in a pod: what is given, or that of the first container port with the name and the protocol.
fn target(port: &ServicePort, pod: &PodRecord) -> Option<u16> {
    let is_called = |name: &str, protocol: Protocol| {
        let found = pod.ports.iter().find(|one| one.name.as_deref() == Some(name) && one.protocol == protocol);
        found.map(|one| one.port)
    };
    match &port.target_port {
        None | Some(TargetPort::Number(0)) => Some(port.port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => is_called(name, port.protocol),
    }
}

#[cfg(test)]
mod tests {
    use node_pods::PodPort;

    use super::*;

    fn service(spec: serde_json::Value) -> ServiceRecord {
        let spec = serde_json::from_value(spec).unwrap();
        ServiceRecord { namespace: "d".into(), name: "web".into(), uid: "s".into(), spec }
    }

    fn pod(name: &str) -> PodRecord {
        let port = |name: &str, port, protocol| PodPort { name: Some(name.to_owned()), port, protocol };
        PodRecord {
            uid: name.to_owned(),
            namespace: "d".into(),
            name: name.to_owned(),
            labels: [("app".to_owned(), "web".to_owned()), ("x".to_owned(), "y".to_owned())].into(),
            addresses: vec!["10.39.0.2".parse().unwrap()],
            is_ready: true,
            ports: vec![
                port("http", 8080, Protocol::Tcp),
                port("dns", 53, Protocol::Tcp),
                port("dns", 5353, Protocol::Udp),
            ],
            ..PodRecord::default()
        }
    }

    fn names(service: &ServiceRecord, pods: &[PodRecord]) -> Vec<String> {
        endpoints(service, pods).into_iter().map(|endpoint| endpoint.pod.name.clone()).collect()
    }

    #[test]
    fn a_pod_of_the_namespace_with_the_labels_is_behind_a_service_while_it_is_ready() {
        let pods = [
            pod("a"),
            PodRecord { namespace: "other".into(), ..pod("b") },
            PodRecord { labels: [("app".to_owned(), "other".to_owned())].into(), ..pod("c") },
            PodRecord { is_ready: false, ..pod("d") },
            PodRecord { is_ending: true, ..pod("e") },
            PodRecord { addresses: Vec::new(), ..pod("f") },
            PodRecord { is_host_network: true, ..pod("g") },
        ];
        assert_eq!(names(&service(serde_json::json!({"selector": {"app": "web"}})), &pods), ["a", "g"]);
        let early = service(serde_json::json!({"selector": {"app": "web"}, "publishNotReadyAddresses": true}));
        assert_eq!(names(&early, &pods), ["a", "d", "g"]);
        let both = service(serde_json::json!({"selector": {"app": "web", "x": "z"}}));
        assert_eq!(names(&both, &pods), [""; 0], "all labels count");
        assert_eq!(names(&service(serde_json::json!({})), &pods), [""; 0], "nobody selects all pods by nothing");
        let alias = service(serde_json::json!({"type": "ExternalName", "selector": {"app": "web"}}));
        assert_eq!(names(&alias, &pods), [""; 0]);
    }

    #[test]
    fn a_port_leads_to_a_number_or_to_what_a_container_calls_so() {
        let ports = serde_json::json!([
            {"name": "same", "port": 80},
            {"name": "number", "port": 81, "targetPort": 8081},
            {"name": "named", "port": 82, "targetPort": "http"},
            {"name": "udp", "port": 53, "protocol": "UDP", "targetPort": "dns"},
            {"name": "other-protocol", "port": 83, "protocol": "UDP", "targetPort": "http"},
            {"name": "nowhere", "port": 84, "targetPort": "metrics"},
        ]);
        let service = service(serde_json::json!({"selector": {"app": "web"}, "ports": ports}));
        let pods = [pod("a"), PodRecord { ports: Vec::new(), ..pod("b") }];
        let found = endpoints(&service, &pods);
        let targets = |endpoint: &Endpoint<'_>| (0..6).map(|index| endpoint.target(index)).collect::<Vec<_>>();
        assert_eq!(targets(&found[0]), [Some(80), Some(8081), Some(8080), Some(5353), None, None]);
        assert_eq!(targets(&found[1]), [Some(80), Some(8081), None, None, None, None], "each pod has its own names");
    }
}
