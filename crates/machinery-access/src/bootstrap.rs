//! What a cluster has before anyone has said anything: namespaces, priority classes, the default policy of roles.
//!
//! As the hooks of kube-apiserver after its start. What is there already stays; of the policy, what is lacking is added.

use futures::{StreamExt as _, TryStreamExt as _};
use http::Method;
use machinery_kinds::flow_control;
use machinery_server::Server;
use machinery_store::{Key, Store};
use serde_json::{Value, json};

use crate::client::{Client, RequestError};
use crate::json::decoded;
use crate::rbac::{Reconciled, aggregate_roles, default_policy, reconciled};

/// Namespaces that every cluster has.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes that wait together for the disk.
const AT_ONCE: usize = 64;

/// Aggregated roles are made of aggregated roles; the default ones are three deep.
const AGGREGATION_ROUNDS_MAX: usize = 8;

const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

/// Creates and completes all of it.
pub(crate) async fn run(server: &Server, store: &Store) -> Result<(), RequestError> {
    let client = Client::new(server, "system:apiserver", "kube-apiserver");
    let namespaces = NAMESPACES.map(|name| ("/api/v1/namespaces", json!({"metadata": {"name": name}})));
    let missing = namespaces.into_iter().filter(|(_, object)| is_missing(store, "/namespaces", object));
    each(missing.chain(priority_classes(store)), |(collection, object)| {
        let client = client.clone();
        async move { client.ensure(collection, &object).await }
    })
    .await?;
    services(&client, server, store).await?;
    flow_control(server, store).await?;
    reconcile_policy(&client, store).await?;
    aggregate(server, store).await
}

/// The API's own Service, and the range of which it has the first address.
async fn services(client: &Client, server: &Server, store: &Store) -> Result<(), RequestError> {
    const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
    let (range, port) = (server.service_range(), server.port());
    if is_missing(store, "networking.k8s.io/servicecidrs", &json!({"metadata": {"name": "kubernetes"}})) {
        let object = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [range.cidr()]}});
        client.ensure(RANGES, &object).await?;
        let ready = json!({
            "type": "Ready", "status": "True", "message": "Kubernetes default Service CIDR is ready", "reason": "",
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let status = json!({"status": {"conditions": [ready]}});
        let path = format!("{RANGES}/kubernetes/status");
        client.send(Method::PATCH, &path, "application/merge-patch+json", &status).await?;
    }
    let address = range.first_address().to_string();
    if store.get(&Key::new("/services", "default", "kubernetes")).is_none() {
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": {"provider": "kubernetes", "component": "apiserver"}},
            "spec": {
                "clusterIP": address,
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
                "sessionAffinity": "None",
                "type": "ClusterIP",
            },
        });
        client.ensure("/api/v1/namespaces/default/services", &service).await?;
    }
    let object = json!({
        "metadata": {
            "name": address,
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}},
    });
    if is_missing(store, "networking.k8s.io/ipaddresses", &object) {
        client.ensure("/apis/networking.k8s.io/v1/ipaddresses", &object).await?;
    }
    Ok(())
}

fn is_missing(store: &Store, resource: &str, object: &Value) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    store.get(&Key::new(resource, "", name)).is_none()
}

async fn each<T, F>(items: impl Iterator<Item = T>, act: impl Fn(T) -> F) -> Result<(), RequestError>
where
    F: Future<Output = Result<(), RequestError>>,
{
    futures::stream::iter(items.map(act)).buffer_unordered(AT_ONCE).try_collect().await
}

fn priority_classes(store: &Store) -> impl Iterator<Item = (&'static str, Value)> {
    let classes = [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ];
    classes
        .into_iter()
        .map(|(name, value, description)| {
            let object = json!({"metadata": {"name": name}, "value": value, "description": description});
            ("/apis/scheduling.k8s.io/v1/priorityclasses", object)
        })
        .filter(|(_, object)| is_missing(store, "scheduling.k8s.io/priorityclasses", object))
}

/// The levels and schemas of priority and fairness; schemas come when their levels are there.
async fn flow_control(server: &Server, store: &Store) -> Result<(), RequestError> {
    let client = Client::new(server, "system:apiserver", flow_control::BOOTSTRAP_MANAGER);
    for (collection, object) in flow_control::standard_objects() {
        let plural = collection.rsplit('/').next().unwrap_or_default();
        if is_missing(store, &format!("{}/{plural}", flow_control::GROUP), &object) {
            client.ensure(collection, &object).await?;
        }
    }
    Ok(())
}

async fn reconcile_policy(client: &Client, store: &Store) -> Result<(), RequestError> {
    let (roles, bindings): (Vec<_>, Vec<_>) =
        default_policy().into_iter().partition(|default| !default.resource.ends_with("bindings"));
    // Whoever binds a role must find it.
    for defaults in [roles, bindings] {
        each(defaults.into_iter(), |default| {
            let client = client.clone();
            async move {
                let namespace = default.object["metadata"]["namespace"].as_str().unwrap_or_default();
                let stored = store.get(&Key::new(default.resource, namespace, &default.name));
                let path = format!("{}/{}", default.collection, default.name);
                match stored.map(|stored| reconciled(&decoded(&stored), &default.object)) {
                    None => client.ensure(&default.collection, &default.object).await,
                    Some(Reconciled::Nothing) => Ok(()),
                    Some(Reconciled::Update(next)) => client.replace(&path, &next).await,
                    Some(Reconciled::Recreate(next)) => {
                        client.delete(&path).await?;
                        client.ensure(&default.collection, &next).await
                    }
                }
            }
        })
        .await?;
    }
    Ok(())
}

/// Fills the aggregated roles, those that are made of aggregated ones too.
pub(crate) async fn aggregate(server: &Server, store: &Store) -> Result<(), RequestError> {
    let client = Client::new(
        server,
        "system:serviceaccount:kube-system:clusterrole-aggregation-controller",
        "clusterrole-aggregation-controller",
    );
    for _ in 0..AGGREGATION_ROUNDS_MAX {
        let roles = aggregate_roles(store);
        if roles.is_empty() {
            break;
        }
        each(roles.into_iter(), |(name, rules)| {
            let client = client.clone();
            async move {
                let path = format!("{CLUSTER_ROLES}/{name}");
                let role = json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
                    "rules": rules,
                });
                match client.apply(&path, &role).await {
                    // Applying is not served: the rules are replaced.
                    Err(error) if error.code == http::StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                        let patch = json!({"rules": rules});
                        client.send(Method::PATCH, &path, "application/merge-patch+json", &patch).await.map(|_| ())
                    }
                    done => done,
                }
            }
        })
        .await?;
    }
    Ok(())
}
