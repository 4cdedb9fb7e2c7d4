use std::time::Duration;

use machinery_store::{Key, Watch};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Api, ROOT_CA, admin};

/// Longer than any of it takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is true, looking again after each change of a resource.
async fn until(watch: &mut Watch, what: &str, is_true: impl Fn() -> bool) {
    let wait = async {
        while !is_true() {
            watch.next().await.expect("the store is open");
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} never came"));
}

#[tokio::test]
async fn every_namespace_has_a_service_account_and_the_certificate_and_gets_them_back() {
    let api = Api::start().await;
    let shutdown = CancellationToken::new();
    let mut accounts = api.store.watch("/serviceaccounts", api.store.current()).unwrap();
    let mut maps = api.store.watch("/configmaps", api.store.current()).unwrap();
    let test = async {
        api.create("/api/v1/namespaces", json!({"metadata": {"name": "new"}})).await;
        let account = Key::new("/serviceaccounts", "new", "default");
        let map = Key::new("/configmaps", "new", "kube-root-ca.crt");
        let is_published = || {
            api.store.get(&map).is_some_and(|map| {
                serde_json::from_slice::<Value>(&map.bytes).unwrap()["data"] == json!({"ca.crt": ROOT_CA})
            })
        };
        until(&mut accounts, "the service account", || api.store.get(&account).is_some()).await;
        until(&mut maps, "the certificate", is_published).await;
        let first = api.store.get(&account).expect("seen above").revision;
        let delete = async |path: &'static str| api.call(admin(), "DELETE", path, Value::Null).await.ok();
        delete("/api/v1/namespaces/new/serviceaccounts/default").await;
        until(&mut accounts, "the service account again", || {
            api.store.get(&account).is_some_and(|account| account.revision > first)
        })
        .await;
        let changed = json!({"data": {"ca.crt": "false", "more": "x"}});
        api.call(admin(), "PATCH", "/api/v1/namespaces/new/configmaps/kube-root-ca.crt", changed).await.ok();
        until(&mut maps, "the certificate again", is_published).await;
        shutdown.cancel();
    };
    tokio::join!(api.access.run(api.server.clone(), shutdown.clone()), test);
}

#[tokio::test]
async fn an_aggregated_role_follows_those_that_it_is_made_of() {
    let api = Api::start().await;
    let shutdown = CancellationToken::new();
    let resource = "rbac.authorization.k8s.io/clusterroles";
    let mut roles = api.store.watch(resource, api.store.current()).unwrap();
    let test = async {
        let rule = json!({"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]});
        let part = json!({
            "metadata": {"name": "widgets", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, "rules": [rule],
        });
        api.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", part).await;
        // `admin` is made of `edit`, which is made of `view`.
        let has = || {
            let admin = api.store.get(&Key::new(resource, "", "admin")).expect("it is a default role");
            let admin: Value = serde_json::from_slice(&admin.bytes).unwrap();
            admin["rules"].as_array().is_some_and(|rules| rules.contains(&rule))
        };
        until(&mut roles, "the rule", has).await;
        shutdown.cancel();
    };
    tokio::join!(api.access.run(api.server.clone(), shutdown.clone()), test);
}
