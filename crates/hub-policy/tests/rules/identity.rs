//! Identity that can be taken back: keys are bound, renewed, revoked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base_http::{Peer, PeerAddr};
use base_pki::{Ca, KeyPair, Usage};
use machinery_server::{Identity, Server};
use machinery_store::Store;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Hub, NODES, node, store_options};

const IDENTITIES: &str = "/apis/edge.selvedge.dev/v1alpha1/nodeidentities";
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub that binds keys, and what it reported of changes.
struct Bound {
    hub: Hub,
    changes: Arc<Mutex<Vec<String>>>,
    ca: Ca,
    _stop: tokio_util::sync::DropGuard,
}

/// A box: its key's hash and what it shows.
struct Gateway {
    peer: Peer,
    key: String,
}

impl Bound {
    /// Starts a hub; `nodes` are there from before keys were bound.
    async fn start(nodes: &[&str]) -> Self {
        Self::start_with(nodes, |_| {}).await
    }

    /// The same; the keeper calls `on_change` and waits for it.
    async fn start_with(nodes: &[&str], on_change: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), store_options()).unwrap();
        let (config, keeper) = hub_policy::server_config(store.clone(), Vec::new(), &crate::harness::access());
        let hub = Hub::over(Server::new(config).unwrap(), store.clone(), dir).await;
        for name in nodes {
            hub.create(NODES, json!({"metadata": {"name": name}})).await;
        }
        keeper.migrate(&hub.server, &store).await.unwrap();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let seen = changes.clone();
        let on_change = Arc::new(move |node: &str| {
            on_change(node);
            seen.lock().push(node.to_owned());
        });
        let stop = CancellationToken::new();
        tokio::spawn(keeper.run(hub.server.clone(), store, on_change, stop.clone()));
        Self { hub, changes, ca: Ca::create("test").unwrap(), _stop: stop.drop_guard() }
    }

    fn gateway(&self, node: &str) -> Gateway {
        let key = KeyPair::generate().unwrap();
        let cn = format!("system:node:{node}");
        let csr = base_pki::make_csr(&key, &cn, &["system:nodes".to_owned()], &[]).unwrap();
        let certificate = self.ca.sign_csr(&csr, Usage::Client, Duration::from_secs(3600)).unwrap();
        let certificate = base_pki::certificates(&certificate).unwrap().remove(0);
        Gateway {
            peer: Peer {
                addr: PeerAddr::Unix,
                client_cert: Some(Arc::new(certificate)),
                is_certificate_expected: true,
            },
            key: base_pki::parse_csr(&csr).unwrap().key_sha256,
        }
    }

    /// Who the hub takes a box for, or why it does not.
    fn identify(&self, gateway: &Gateway) -> Result<Identity, String> {
        let identity = self.hub.server.identify(&gateway.peer, &http::HeaderMap::new());
        identity.map(|identity| identity.expect("it shows a certificate")).map_err(|error| error.reason)
    }

    async fn bind(&self, node: &str, keys: &[&str]) {
        let object = json!({"metadata": {"name": node}, "spec": {"keys": keys, "generation": 1}});
        self.hub.create(IDENTITIES, object).await;
    }

    /// Waits until the identity of a node is as it should be.
    async fn wait(&self, node: &str, is_right: impl Fn(&Value) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let identity = self.hub.call("GET", &format!("{IDENTITIES}/{node}"), Value::Null).await.body;
            if is_right(&identity["spec"]) {
                return;
            }
            assert!(Instant::now() < end, "{identity}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn only_the_bound_key_speaks_as_a_node() {
    let bound = Bound::start(&[]).await;
    let (gateway, thief) = (bound.gateway("gw-1"), bound.gateway("gw-1"));
    assert!(bound.identify(&gateway).unwrap_err().contains("not known to this hub"));
    bound.bind("gw-1", &[&gateway.key]).await;
    let identity = bound.identify(&gateway).unwrap();
    assert_eq!(identity.node_name(), Some("gw-1"));
    assert!(bound.identify(&thief).unwrap_err().contains("bound to another key"));
}

#[tokio::test]
async fn a_deleted_nodes_key_is_refused_at_once_and_for_good() {
    let bound = Bound::start(&[]).await;
    let gateway = bound.gateway("gw-1");
    bound.bind("gw-1", &[&gateway.key]).await;
    let identity = bound.identify(&gateway).unwrap();
    bound.hub.check(&identity, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
    bound.wait("gw-1", |spec| spec["registered"] == true).await;
    assert_eq!(bound.hub.call("DELETE", &format!("{NODES}/gw-1"), Value::Null).await.code, 200);
    // Not after a while: the very next request.
    assert!(bound.identify(&gateway).unwrap_err().contains("gw-1"));
    bound.wait("gw-1", |spec| spec["state"] == "Revoked" && spec["reason"] == "the node was deleted").await;
    // A Node of that name that somebody creates is no way back in.
    bound.hub.create(NODES, json!({"metadata": {"name": "gw-1"}})).await;
    assert!(bound.identify(&gateway).unwrap_err().contains("the node was deleted"));
    assert!(bound.changes.lock().contains(&"gw-1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_races_with_the_deletion_of_its_node_does_not_bring_it_back() {
    let bound = Arc::new(Bound::start(&[]).await);
    for round in 0..20 {
        let name = format!("gw-{round}");
        let gateway = bound.gateway(&name);
        bound.bind(&name, &[&gateway.key]).await;
        // Let in while its key was good; what it sent is carried out whenever.
        let identity = bound.identify(&gateway).unwrap();
        let object = json!({"metadata": {"name": name}});
        let stop = CancellationToken::new();
        let senders: Vec<_> = (0..8)
            .map(|_| {
                let (bound, identity, object, stop) = (bound.clone(), identity.clone(), object.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut created = 0;
                    while !stop.is_cancelled() {
                        let code = bound.hub.send(&identity, "POST", NODES, object.clone()).await.code;
                        assert!(matches!(code, 201 | 403 | 409), "{code}");
                        created += usize::from(code == 201);
                    }
                    created
                })
            })
            .collect();
        let path = format!("{NODES}/{name}");
        let end = Instant::now() + PATIENCE;
        while bound.hub.call("DELETE", &path, Value::Null).await.code != 200 {
            assert!(Instant::now() < end, "the node registers");
        }
        // Long after the keeper has written it down as well.
        bound.wait(&name, |spec| spec["state"] == "Revoked").await;
        bound.hub.check(&identity, "POST", NODES, object, 403).await;
        stop.cancel();
        let mut created = 0;
        for sender in senders {
            created += sender.await.unwrap();
        }
        assert_eq!(created, 1, "it registered once");
        assert_eq!(bound.hub.call("GET", &path, Value::Null).await.code, 404);
        assert!(bound.identify(&gateway).is_err());
    }
}

#[tokio::test]
async fn a_box_that_joins_anew_after_its_node_was_deleted_registers_again() {
    let bound = Bound::start(&[]).await;
    let object = json!({"metadata": {"name": "gw-1"}});
    let (first, second) = (bound.gateway("gw-1"), bound.gateway("gw-1"));
    bound.bind("gw-1", &[&first.key]).await;
    let identity = bound.identify(&first).unwrap();
    bound.hub.check(&identity, "POST", NODES, object.clone(), 201).await;
    bound.hub.check(&identity, "POST", NODES, object.clone(), 409).await;
    assert_eq!(bound.hub.call("DELETE", &format!("{NODES}/gw-1"), Value::Null).await.code, 200);
    bound.wait("gw-1", |spec| spec["state"] == "Revoked").await;
    // As the join of another box with a token writes it.
    let patch = json!({"spec": {"state": "Active", "keys": [second.key], "generation": 2, "registered": false}});
    assert_eq!(bound.hub.call("PATCH", &format!("{IDENTITIES}/gw-1"), patch).await.code, 200);
    bound.hub.check(&identity, "POST", NODES, object.clone(), 403).await;
    let identity = bound.identify(&second).unwrap();
    bound.hub.check(&identity, "POST", NODES, object, 201).await;
    bound.wait("gw-1", |spec| spec["registered"] == true && spec["state"] == "Active").await;
    assert!(bound.identify(&second).is_ok());
    // Nor when the record of its identity was lost, and it is the first again.
    assert_eq!(bound.hub.call("DELETE", &format!("{NODES}/gw-1"), Value::Null).await.code, 200);
    assert_eq!(bound.hub.call("DELETE", &format!("{IDENTITIES}/gw-1"), Value::Null).await.code, 200);
    bound.bind("gw-1", &[&second.key]).await;
    let identity = bound.identify(&second).unwrap();
    bound.hub.check(&identity, "POST", NODES, json!({"metadata": {"name": "gw-1"}}), 201).await;
}

#[tokio::test]
async fn an_administrator_revokes_a_stolen_box() {
    let bound = Bound::start(&[]).await;
    let gateway = bound.gateway("gw-1");
    bound.bind("gw-1", &[&gateway.key]).await;
    assert!(bound.identify(&gateway).is_ok());
    let path = format!("{IDENTITIES}/gw-1");
    let patch = json!({"spec": {"state": "Revoked", "reason": "stolen"}});
    // A node has no say in it.
    bound.hub.check(&node("gw-1"), "PATCH", &path, patch.clone(), 403).await;
    bound.hub.check(&node("gw-1"), "GET", &path, Value::Null, 403).await;
    assert_eq!(bound.hub.call("PATCH", &path, patch).await.code, 200);
    assert!(bound.identify(&gateway).unwrap_err().contains("stolen"));
    // Nor is the record's deletion a pardon.
    assert_eq!(bound.hub.call("DELETE", &path, Value::Null).await.code, 200);
    assert!(bound.identify(&gateway).unwrap_err().contains("not known to this hub"));
}

#[tokio::test]
async fn a_renewed_key_replaces_the_old_one_with_its_first_use() {
    let bound = Bound::start(&[]).await;
    let (old, new) = (bound.gateway("gw-1"), bound.gateway("gw-1"));
    bound.bind("gw-1", &[&old.key, &new.key]).await;
    bound.hub.create(NODES, json!({"metadata": {"name": "gw-1"}})).await;
    assert!(bound.identify(&old).is_ok());
    assert!(bound.identify(&new).is_ok());
    bound.wait("gw-1", |spec| spec["keys"] == json!([new.key])).await;
    assert!(bound.identify(&old).unwrap_err().contains("bound to another key"));
}

#[tokio::test]
async fn nodes_from_before_keys_were_bound_stay_joined_with_the_first_key_they_show() {
    let bound = Bound::start(&["gw-1"]).await;
    let (gateway, thief) = (bound.gateway("gw-1"), bound.gateway("gw-1"));
    assert!(bound.identify(&gateway).is_ok());
    bound.wait("gw-1", |spec| spec["keys"] == json!([gateway.key]) && spec["registered"] == true).await;
    assert!(bound.identify(&thief).unwrap_err().contains("bound to another key"));
    // Nodes that were deleted before, or never joined, are unknown.
    assert!(bound.identify(&bound.gateway("gw-2")).is_err());
}

#[tokio::test]
async fn the_first_keys_of_older_nodes_are_bound_once_whatever_is_deleted() {
    let bound = Bound::start(&["gw-1"]).await;
    let gateway = bound.gateway("gw-1");
    assert!(bound.identify(&gateway).is_ok());
    // An administrator takes a node's identity away, and all ConfigMaps with it.
    assert_eq!(bound.hub.call("DELETE", &format!("{IDENTITIES}/gw-1"), Value::Null).await.code, 200);
    let config_maps = "/api/v1/namespaces/kube-system/configmaps";
    assert_eq!(bound.hub.call("DELETE", config_maps, Value::Null).await.code, 200);
    // The hub starts again.
    let (_, keeper) = hub_policy::bindings();
    keeper.migrate(&bound.hub.server, &bound.hub.store).await.unwrap();
    assert!(bound.identify(&gateway).unwrap_err().contains("not known to this hub"));
}

#[tokio::test]
async fn a_directory_whose_mark_is_a_config_map_is_taken_over() {
    let hub = Hub::start().await;
    hub.create(NODES, json!({"metadata": {"name": "gw-1"}})).await;
    let config_maps = "/api/v1/namespaces/kube-system/configmaps";
    hub.create(config_maps, json!({"metadata": {"name": "selvedge-node-identities"}})).await;
    for _ in 0..2 {
        let (_, keeper) = hub_policy::bindings();
        keeper.migrate(&hub.server, &hub.store).await.unwrap();
        assert!(hub_policy::binding(&hub.store, "gw-1").is_none());
        // From the first start on it is not needed.
        hub.call("DELETE", config_maps, Value::Null).await;
    }
}

#[tokio::test]
async fn a_node_is_created_with_the_labels_of_its_token() {
    let bound = Bound::start(&[]).await;
    let gateway = bound.gateway("gw-1");
    let labels = json!({"selvedge.dev/role": "gateway", "site": "hall-2"});
    let object = json!({"metadata": {"name": "gw-1"}, "spec": {"keys": [gateway.key], "labels": labels}});
    bound.hub.create(IDENTITIES, object).await;
    let identity = bound.identify(&gateway).unwrap();
    let own = json!({"metadata": {"name": "gw-1", "labels": {"kubernetes.io/os": "linux", "site": "vault"}}});
    let created = bound.hub.check(&identity, "POST", NODES, own, 201).await;
    let expected = json!({"kubernetes.io/os": "linux", "selvedge.dev/role": "gateway", "site": "hall-2"});
    assert_eq!(created.body["metadata"]["labels"], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_recorded_of_a_box_after_its_nodes_deletion_does_not_save_its_key() {
    // The keeper comes to the deletion late: it is held up by the change of another node's identity.
    let (held_tx, held_rx) = std::sync::mpsc::channel::<()>();
    let (resume_tx, resume_rx) = std::sync::mpsc::channel::<()>();
    let (held_tx, resume_rx) = (Mutex::new(held_tx), Mutex::new(resume_rx));
    let bound = Bound::start_with(&[], move |node| {
        if node == "slow" {
            let _ = held_tx.lock().send(());
            let _ = resume_rx.lock().recv_timeout(PATIENCE);
        }
    })
    .await;
    let (gateway, renewed) = (bound.gateway("gw-1"), bound.gateway("gw-1"));
    bound.bind("gw-1", &[&gateway.key]).await;
    // It found its Node there, as a box does that replaces another, so no mark says when it registered.
    bound.hub.create(NODES, json!({"metadata": {"name": "gw-1"}})).await;
    bound.identify(&gateway).unwrap();
    bound.wait("gw-1", |spec| spec["registered"] == true).await;
    bound.bind("slow", &["k"]).await;
    tokio::task::block_in_place(|| held_rx.recv_timeout(PATIENCE)).expect("the keeper comes to it");
    assert_eq!(bound.hub.call("DELETE", &format!("{NODES}/gw-1"), Value::Null).await.code, 200);
    // As a renewal that was requested before writes it.
    let patch = json!({"spec": {"keys": [gateway.key, renewed.key]}});
    assert_eq!(bound.hub.call("PATCH", &format!("{IDENTITIES}/gw-1"), patch).await.code, 200);
    resume_tx.send(()).expect("the keeper waits for it");
    bound.wait("gw-1", |spec| spec["state"] == "Revoked").await;
    // So a Node of that name does not let it in again.
    bound.hub.create(NODES, json!({"metadata": {"name": "gw-1"}})).await;
    for key in [&gateway, &renewed] {
        assert!(bound.identify(key).unwrap_err().contains("the node was deleted"));
    }
}
