//! What follows from what is stored, as kube-controller-manager has it: a service account and the CA's certificate in every
//! namespace, rules of aggregated roles.
//!
//! Each looks at what should be and at what is, and writes the difference; a change only says where to look. What fails is
//! tried again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use machinery_server::Server;
use machinery_store::{Batch, Expired, Key, Store, Watch, WatchEnded};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bootstrap;
use crate::client::{Client, RequestError};
use crate::json::decoded;

/// After a failure, which is a full disk or a server that begins to shut down.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                                   endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                                   guaranteed across distributions of Kubernetes clusters.";

/// Keeps a service account `default` and, where there is a certificate to publish, a ConfigMap `kube-root-ca.crt` in every
/// namespace that is not being deleted, until `shutdown`.
pub(crate) async fn furnish_namespaces(
    server: Server,
    store: Store,
    root_ca: Option<Arc<str>>,
    shutdown: CancellationToken,
) {
    let furnisher = Furnisher {
        accounts: Client::new(
            &server,
            "system:serviceaccount:kube-system:service-account-controller",
            "kube-controller-manager",
        ),
        certificates: Client::new(
            &server,
            "system:serviceaccount:kube-system:root-ca-cert-publisher",
            "kube-controller-manager",
        ),
        store,
        root_ca,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = furnisher.run() => {}
    }
}

struct Furnisher {
    accounts: Client,
    certificates: Client,
    store: Store,
    root_ca: Option<Arc<str>>,
}

impl Furnisher {
    async fn run(&self) {
        loop {
            // Watched first, then listed: nothing is missed between the two.
            let Ok([mut namespaces, mut accounts, mut certificates]) = self.watches() else {
                tokio::time::sleep(RETRY_PERIOD).await;
                continue;
            };
            let all = self.store.snapshot("/namespaces");
            let mut due: BTreeSet<String> = all.iter(None, None).map(|one| one.key.name.to_string()).collect();
            drop(all);
            loop {
                due = self.furnish(due).await;
                let is_retried = !due.is_empty();
                let batch = tokio::select! {
                    batch = namespaces.next() => batch.map(|batch| names(&batch, |key| &key.name)),
                    batch = accounts.next() => batch.map(|batch| names(&batch, |key| &key.namespace)),
                    batch = certificates.next() => batch.map(|batch| names(&batch, |key| &key.namespace)),
                    () = tokio::time::sleep(RETRY_PERIOD), if is_retried => Ok(BTreeSet::new()),
                };
                match batch {
                    Ok(more) => due.extend(more),
                    Err(WatchEnded::Closed) => return,
                    // Too much has happened meanwhile: everything is looked at anew.
                    Err(WatchEnded::Lagged) => break,
                }
            }
        }
    }

    fn watches(&self) -> Result<[Watch; 3], Expired> {
        let from = self.store.current();
        Ok([
            self.store.watch("/namespaces", from)?,
            self.store.watch_where("/serviceaccounts", from, "metadata.name", ACCOUNT)?,
            self.store.watch_where("/configmaps", from, "metadata.name", ROOT_CA)?,
        ])
    }

    /// Brings namespaces up to date; answers those in which that failed.
    async fn furnish(&self, due: BTreeSet<String>) -> BTreeSet<String> {
        let mut failed = BTreeSet::new();
        for namespace in due {
            if let Err(error) = self.furnish_one(&namespace).await {
                warn!(namespace, %error, "Failed to bring a namespace's service account and CA up to date; trying again.");
                failed.insert(namespace);
            }
        }
        failed
    }

    async fn furnish_one(&self, namespace: &str) -> Result<(), RequestError> {
        let is_active = || {
            let stored = self.store.get(&Key::new("/namespaces", "", namespace));
            stored.is_some_and(|stored| stored.field("status.phase") != Some("Terminating"))
        };
        if !is_active() {
            return Ok(());
        }
        let result = async {
            if self.store.get(&Key::new("/serviceaccounts", namespace, ACCOUNT)).is_none() {
                let account = json!({"metadata": {"name": ACCOUNT}});
                self.accounts.ensure(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account).await?;
            }
            match &self.root_ca {
                Some(root_ca) => self.publish(namespace, root_ca).await,
                None => Ok(()),
            }
        };
        match result.await {
            // It ends meanwhile, which is no failure.
            Err(_) if !is_active() => Ok(()),
            done => done,
        }
    }

    async fn publish(&self, namespace: &str, root_ca: &str) -> Result<(), RequestError> {
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        let data = json!({"ca.crt": root_ca});
        let annotations = json!({"kubernetes.io/description": ROOT_CA_DESCRIPTION});
        let Some(stored) = self.store.get(&Key::new("/configmaps", namespace, ROOT_CA)) else {
            let map = json!({"metadata": {"name": ROOT_CA, "annotations": annotations}, "data": data});
            return self.certificates.ensure(&collection, &map).await;
        };
        let mut map = decoded(&stored);
        if map.get("data") == Some(&data) {
            return Ok(());
        }
        map["data"] = data;
        if let Value::Object(annotations) = annotations {
            for (key, value) in annotations {
                map["metadata"]["annotations"][key] = value;
            }
        }
        self.certificates.replace(&format!("{collection}/{ROOT_CA}"), &map).await
    }
}

fn names(batch: &Batch, of: impl Fn(&Key) -> &Arc<str>) -> BTreeSet<String> {
    batch.changes.iter().map(|change| of(&change.object.key).to_string()).collect()
}

/// Keeps aggregated ClusterRoles filled until `shutdown`.
pub(crate) async fn aggregate_roles(server: Server, store: Store, shutdown: CancellationToken) {
    let run = async {
        loop {
            let Ok(mut roles) = store.watch("rbac.authorization.k8s.io/clusterroles", store.current()) else {
                tokio::time::sleep(RETRY_PERIOD).await;
                continue;
            };
            loop {
                let is_retried = match bootstrap::aggregate(&server, &store).await {
                    Ok(()) => false,
                    Err(error) => {
                        warn!(%error, "Failed to fill the aggregated roles; trying again.");
                        true
                    }
                };
                let ended = tokio::select! {
                    batch = roles.next() => batch.err(),
                    () = tokio::time::sleep(RETRY_PERIOD), if is_retried => None,
                };
                match ended {
                    None => {}
                    Some(WatchEnded::Closed) => return,
                    Some(WatchEnded::Lagged) => break,
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = run => {}
    }
}
