//! A server in this process, called by kube-rs.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
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

#[tokio::test(flavor = "multi_thread")]
async fn each_server_of_a_process_begins_with_the_same_objects_of_its_own() {
    let (first, second) = (machinery::Api::in_memory().await.unwrap(), machinery::Api::in_memory().await.unwrap());
    let mut all = Vec::new();
    for api in [&first, &second] {
        let client = Client::new(api.admin(), "default");
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
        let namespaces: Api<Namespace> = Api::all(client);
        let roles = roles.list(&ListParams::default()).await.unwrap().items;
        let bindings = bindings.list(&ListParams::default()).await.unwrap().items;
        let namespaces = namespaces.list(&ListParams::default()).await.unwrap().items;
        assert!((roles.len(), namespaces.len()) > (60, 3), "{} roles, {} namespaces", roles.len(), namespaces.len());
        let metadata = roles.iter().map(|one| &one.metadata).chain(bindings.iter().map(|one| &one.metadata));
        let metadata = metadata.chain(namespaces.iter().map(|one| &one.metadata));
        let uids: Vec<_> = metadata.clone().map(|metadata| metadata.uid.clone().unwrap()).collect();
        let names: Vec<_> = metadata.map(|metadata| metadata.name.clone().unwrap()).collect();
        let rules: Vec<_> = roles.into_iter().map(|role| role.rules).collect();
        all.push((names, rules, uids));
    }
    let [(names, rules, uids), (other_names, other_rules, other_uids)] = &all[..] else { panic!("two servers") };
    assert_eq!((names, rules), (other_names, other_rules));
    assert!(uids.iter().all(|uid| !other_uids.contains(uid)), "no object of one is an object of the other");
    // And what is written to one is not in the other.
    let maps =
        |api: &machinery::Api| -> Api<ConfigMap> { Api::default_namespaced(Client::new(api.admin(), "default")) };
    maps(&second).create(&PostParams::default(), &map("settings")).await.unwrap();
    assert!(maps(&first).get_opt("settings").await.unwrap().is_none());
}
