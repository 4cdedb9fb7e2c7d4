//! Keeps Services and names in step with the node's pods and with its assignment.
//!
//! Both are made anew from all that is known, each time something has changed: there are as many records as a node has pods and
//! Services, and what has not changed is left alone by those who get it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_edge::services::{Protocol, ServiceRecord, ServiceType};
use node_client::{ApiClient, StatusRegistry, chain};
use node_dns::{EndpointNames, NameRecords, PodNames, PortName, PortProtocol, ServiceNames};
use node_network::{NetworkError, ServiceEntry, ServicePort};
use node_pods::{PodRecord, PodTable, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{API_SERVICE_PORT, NodeNetwork, api_proxy};
use crate::endpoints;

/// How often it is looked whether others have changed what is ours in the kernel, or an uplink has come that has our addresses.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// What the node reports while the kernel refuses its Services.
const FAULT: &str = "services";

/// What is followed.
#[derive(Clone)]
pub(crate) struct Follow {
    pub network: Arc<NodeNetwork>,
    pub table: PodTable,
    pub services: watch::Receiver<Arc<Vec<ServiceRecord>>>,
    pub node_ip: watch::Receiver<Option<IpAddr>>,
    pub client: ApiClient,
    pub store: Arc<Store>,
    pub registry: StatusRegistry,
}

impl Follow {
    /// Works until `shutdown`; what is set up stays.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.serve_api(&shutdown);
        let mut changes = self.table.subscribe();
        let mut known = BTreeSet::new();
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            changes.mark_unchanged();
            self.services.mark_unchanged();
            self.node_ip.mark_unchanged();
            self.bring_up_to_date(&mut known).await;
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = changes.changed() => if changed.is_ok() { break },
                    changed = self.services.changed() => if changed.is_ok() { break },
                    changed = self.node_ip.changed() => if changed.is_ok() { break },
                    _ = looks.tick() => self.look().await,
                }
            }
        }
    }

    fn serve_api(&self, shutdown: &CancellationToken) {
        let listener = self.network.api.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(listener) = listener else { return };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let serve = api_proxy::run(listener, self.network.clone(), self.client.clone(), shutdown.clone());
                base_observe::spawn_detached("api-proxies", serve);
            }
            Err(error) => tracing::warn!(%error, "Pods have no way to the API through this node."),
        }
    }

    /// `known` are the pods of the time before.
    async fn bring_up_to_date(&self, known: &mut BTreeSet<String>) {
        let (network, store, api) = (self.network.clone(), self.store.clone(), self.api_service());
        let (pods, services, node_ip) = (self.table.snapshot(), self.services.borrow().clone(), *self.node_ip.borrow());
        let present = pods.iter().map(|pod| pod.uid.clone()).collect();
        let over: Vec<String> =
            std::mem::replace(known, present).into_iter().filter(|uid| !known.contains(uid)).collect();
        // Milliseconds where there are thousands of names, and calls of the kernel.
        let set = tokio::task::spawn_blocking(move || {
            if let Err(error) = store.put_last_addresses(&network.network.last_addresses()) {
                tracing::debug!(error = %chain(&error), "Failed to keep which addresses were handed out last.");
            }
            // What a pod that is over had of the node's ports is another's to have; its object may stay for long.
            over.iter().try_for_each(|uid| network.network.release_host_ports(uid))?;
            apply(&network, &pods, &services, node_ip, api)
        });
        match set.await {
            Ok(Ok(())) => self.registry.clear_fault(FAULT),
            Ok(Err(error)) => {
                let text = chain(&error);
                tracing::warn!(error = %text, "Failed to program the node's Services.");
                self.registry.set_fault(FAULT, text);
            }
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// The Service `kubernetes`: the agent hands its connections on.
    fn api_service(&self) -> Option<(ServiceNames, ServiceEntry)> {
        let (address, at) = (self.network.api_service_ip()?, self.network.api_address?);
        let (namespace, name) = ("default".to_owned(), "kubernetes".to_owned());
        let port = PortName { name: "https".to_owned(), protocol: PortProtocol::Tcp, port: API_SERVICE_PORT };
        let names = ServiceNames {
            namespace: namespace.clone(),
            name: name.clone(),
            cluster_ips: vec![address],
            ports: vec![port],
            ..ServiceNames::default()
        };
        let port = ServicePort {
            name: "https".to_owned(),
            protocol: node_network::Protocol::Tcp,
            port: API_SERVICE_PORT,
            node_port: None,
            endpoints: vec![(at.ip(), at.port())],
        };
        let ports = vec![port];
        Some((names, ServiceEntry { namespace, name, cluster_ips: vec![address], affinity_secs: None, ports }))
    }

    async fn look(&self) {
        let network = self.network.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let notices = network.network.check_uplinks()?;
            network.network.repair().map(|_| notices)
        });
        match looked.await {
            Ok(Ok(notices)) => notices.iter().for_each(|notice| tracing::warn!("{notice}")),
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "Failed to look after the network of pods."),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Names first: they are what is asked for first.
fn apply(
    network: &NodeNetwork,
    pods: &[Arc<PodRecord>],
    services: &[ServiceRecord],
    node_ip: Option<IpAddr>,
    api: Option<(ServiceNames, ServiceEntry)>,
) -> Result<(), NetworkError> {
    let node_addresses = network.network.node_addresses();
    let reachable = reachable(pods, &node_addresses);
    let mut names: Vec<ServiceNames> = services.iter().map(|service| service_names(service, &reachable)).collect();
    let mut entries: Vec<ServiceEntry> = services.iter().filter_map(|service| entry(service, &reachable)).collect();
    if let Some((api_names, api_entry)) = api {
        names.push(api_names);
        entries.push(api_entry);
    }
    network.names.replace(NameRecords {
        pods: pods.iter().map(|pod| pod_names(pod)).collect(),
        services: names,
        node_addresses: node_ip.into_iter().chain(node_addresses).collect(),
    });
    network.network.set_services(entries)
}

/// Pods by addresses that others on this node reach them at: those on the node's own network by the one that has no uplink.
fn reachable(pods: &[Arc<PodRecord>], node_addresses: &[IpAddr]) -> Vec<PodRecord> {
    let at = |pod: &Arc<PodRecord>| {
        let mut pod = PodRecord::clone(pod);
        if pod.is_host_network {
            pod.addresses = node_addresses.to_vec();
        }
        pod
    };
    pods.iter().map(at).collect()
}

fn pod_names(pod: &PodRecord) -> PodNames {
    let label = |name: &str| pod.labels.get(name).cloned();
    PodNames {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        app_label: label("app").or_else(|| label("app.kubernetes.io/name")),
        name_label: label("name"),
        hostname: pod.hostname.clone(),
        subdomain: pod.subdomain.clone(),
        addresses: pod.addresses.clone(),
        is_ready: pod.is_ready,
        is_host_network: pod.is_host_network,
    }
}

fn service_names(service: &ServiceRecord, pods: &[PodRecord]) -> ServiceNames {
    let spec = &service.spec;
    let port_names = |target: &dyn Fn(usize) -> Option<u16>| -> Vec<PortName> {
        let ports = spec.ports.iter().enumerate();
        let named = ports.filter_map(|(index, port)| {
            let protocol = match port.protocol {
                Protocol::Tcp => PortProtocol::Tcp,
                Protocol::Udp => PortProtocol::Udp,
                Protocol::Sctp => PortProtocol::Sctp,
            };
            Some(PortName { name: port.name.clone(), protocol, port: target(index)? })
        });
        named.collect()
    };
    let of_pods = endpoints(service, pods).into_iter().flat_map(|endpoint| {
        let ports = port_names(&|index| endpoint.target(index));
        let is_named = endpoint.pod.subdomain.as_deref() == Some(&service.name);
        let hostname = endpoint.pod.hostname.clone().filter(|_| is_named);
        let is_ready = endpoint.pod.is_ready;
        let at = move |address: &IpAddr| EndpointNames {
            hostname: hostname.clone(),
            address: *address,
            ports: ports.clone(),
            is_ready,
        };
        endpoint.pod.addresses.iter().map(at).collect::<Vec<_>>()
    });
    let is_alias = spec.r#type == ServiceType::ExternalName;
    ServiceNames {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        cluster_ips: spec.addresses().collect(),
        external_name: is_alias.then(|| spec.external_name.clone()),
        ports: port_names(&|index| spec.ports.get(index).map(|port| port.port)),
        endpoints: of_pods.collect(),
        publish_not_ready: spec.publish_not_ready_addresses,
    }
}

/// What the kernel has to do for a Service; nothing for one that is only a name.
fn entry(service: &ServiceRecord, pods: &[PodRecord]) -> Option<ServiceEntry> {
    let spec = &service.spec;
    let cluster_ips: Vec<IpAddr> = spec.addresses().collect();
    if cluster_ips.is_empty() {
        return None;
    }
    let behind = endpoints(service, pods);
    let ports = spec.ports.iter().enumerate().map(|(index, port)| {
        let of = |endpoint: &crate::Endpoint<'_>| {
            let target = endpoint.target(index);
            endpoint.pod.addresses.iter().filter_map(|address| Some((*address, target?))).collect::<Vec<_>>()
        };
        ServicePort {
            name: port.name.clone(),
            protocol: match port.protocol {
                Protocol::Tcp => node_network::Protocol::Tcp,
                Protocol::Udp => node_network::Protocol::Udp,
                Protocol::Sctp => node_network::Protocol::Sctp,
            },
            port: port.port,
            node_port: Some(port.node_port).filter(|port| *port > 0),
            endpoints: behind.iter().flat_map(of).collect(),
        }
    });
    Some(ServiceEntry {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        cluster_ips,
        affinity_secs: spec.affinity_seconds(),
        ports: ports.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, address: &str) -> PodRecord {
        PodRecord {
            uid: name.to_owned(),
            namespace: "d".to_owned(),
            name: name.to_owned(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            addresses: vec![address.parse().unwrap()],
            is_ready: true,
            ..PodRecord::default()
        }
    }

    fn service(spec: serde_json::Value) -> ServiceRecord {
        let spec = serde_json::from_value(spec).unwrap();
        ServiceRecord { namespace: "d".to_owned(), name: "web".to_owned(), uid: "s".to_owned(), spec }
    }

    #[test]
    fn a_service_leads_to_its_pods_and_names_them() {
        let spec = serde_json::json!({
            "clusterIPs": ["10.96.7.7"], "selector": {"app": "web"}, "sessionAffinity": "ClientIP",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}],
        });
        let node: IpAddr = "10.39.0.1".parse().unwrap();
        let pods = [
            Arc::new(record("a", "10.39.0.2")),
            Arc::new(PodRecord { is_host_network: true, ..record("b", "192.0.2.1") }),
        ];
        let pods = reachable(&pods, &[node]);
        let made = entry(&service(spec.clone()), &pods).unwrap();
        let expected: Vec<(IpAddr, u16)> = vec![("10.39.0.2".parse().unwrap(), 8080), (node, 8080)];
        assert_eq!(
            (&made.ports[0].endpoints, made.ports[0].node_port, made.affinity_secs),
            (&expected, Some(30080), Some(10_800))
        );
        let names = service_names(&service(spec), &pods);
        assert_eq!(names.ports[0].port, 80);
        assert_eq!(names.endpoints.iter().map(|one| one.ports[0].port).collect::<Vec<_>>(), [8080, 8080]);
    }

    #[test]
    fn a_headless_service_is_names_alone_and_one_for_outside_an_alias() {
        let pods = [PodRecord {
            hostname: Some("h".to_owned()),
            subdomain: Some("web".to_owned()),
            ..record("a", "10.39.0.2")
        }];
        let headless = service(serde_json::json!({"clusterIPs": ["None"], "selector": {"app": "web"}}));
        assert_eq!(entry(&headless, &pods), None);
        let names = service_names(&headless, &pods);
        assert_eq!((names.cluster_ips.len(), names.endpoints[0].hostname.as_deref()), (0, Some("h")));
        let alias = service(serde_json::json!({"type": "ExternalName", "externalName": "example.com"}));
        assert_eq!(service_names(&alias, &pods).external_name.as_deref(), Some("example.com"));
        assert_eq!(entry(&alias, &pods), None);
    }
}
