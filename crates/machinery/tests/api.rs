//! A server in this process, called by kube-rs.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use machinery::Identity;

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "data": {"color": "blue"}}))
        .expect("a config map")
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_read_and_deleted() {
    let api = machinery::Api::in_memory().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(api.admin(), "default"));
    let created = maps.create(&PostParams::default(), &map("settings")).await.unwrap();
    assert!(created.uid().is_some() && created.resource_version().is_some());
    assert_eq!(
        maps.list(&ListParams::default())
            .await
            .unwrap()
            .items
            .iter()
            .filter(|one| one.name_any() == "settings")
            .count(),
        1
    );
    maps.delete("settings", &Default::default()).await.unwrap();
    assert!(maps.get_opt("settings").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_role_is_rejected_by_name() {
    let api = machinery::Api::in_memory().await.unwrap();
    let nobody = Client::new(api.as_user(Identity::new("eve", ["system:authenticated"])), "default");
    let error = Api::<ConfigMap>::default_namespaced(nobody).get("settings").await.unwrap_err();
    assert!(error.to_string().contains(r#"User "eve" cannot get resource "configmaps" in API group """#), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_disk_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    for is_first in [true, false] {
        let api = machinery::Api::open(dir.path()).await.unwrap();
        let maps: Api<ConfigMap> = Api::default_namespaced(Client::new(api.admin(), "default"));
        if is_first {
            maps.create(&PostParams::default(), &map("settings")).await.unwrap();
        } else {
            maps.get("settings").await.unwrap();
        }
    }
}
