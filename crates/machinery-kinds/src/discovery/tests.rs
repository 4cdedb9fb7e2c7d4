//! The documents that clients request first.

use serde_json::json;

use super::DiscoveryVersion;
use crate::Registry;

fn registry() -> Registry {
    let mut registry = Registry::builtin();
    registry.install_crd(&crate::registry::tests::widgets()).expect("the definition is good");
    registry
}

#[test]
fn old_style_documents_name_groups_resources_and_subresources() {
    let registry = registry();
    assert_eq!(registry.api_versions("h:6443")["versions"], json!(["v1"]));
    let groups = registry.api_group_list();
    let names: Vec<&str> =
        groups["groups"].as_array().expect("groups").iter().filter_map(|group| group["name"].as_str()).collect();
    assert!(names.contains(&"apps") && names.contains(&"example.com"), "{names:?}");
    let core = registry.api_resource_list("", "v1").expect("core is served");
    let names: Vec<&str> =
        core["resources"].as_array().expect("resources").iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"pods") && names.contains(&"pods/log") && names.contains(&"pods/status"), "{names:?}");
    assert!(core.get("apiVersion").is_none(), "as upstream has it");
    let first = groups["groups"].as_array().and_then(|groups| groups.first()).expect("a group");
    assert_eq!(first["name"], "apiregistration.k8s.io");
    let bindings = core["resources"].as_array().expect("resources").iter().find(|one| one["name"] == "bindings");
    assert!(bindings.is_some_and(|one| one.get("storageVersionHash").is_none()), "nothing of it is stored");
    let apps = registry.api_resource_list("apps", "v1").expect("built in");
    let scale = apps["resources"].as_array().expect("resources").iter().find(|one| one["name"] == "deployments/scale");
    assert_eq!(scale.map(|one| (&one["group"], &one["version"])), Some((&json!("autoscaling"), &json!("v1"))));
    let widgets = registry.api_resource_list("example.com", "v1").expect("installed");
    assert_eq!(widgets["groupVersion"], "example.com/v1");
    assert_eq!(
        (&widgets["resources"][0]["shortNames"], &widgets["resources"][0]["singularName"]),
        (&json!(["wd"]), &json!("widget"))
    );
    assert_eq!(
        registry.api_group("apps").expect("served")["preferredVersion"],
        json!({"groupVersion": "apps/v1", "version": "v1"})
    );
    assert!(registry.api_resource_list("apps", "v2").is_none() && registry.api_group("").is_none());
}

#[test]
fn the_aggregated_document_holds_everything_once() {
    let registry = registry();
    let core = registry.aggregated_discovery(true, DiscoveryVersion::V2);
    assert_eq!(
        (&core["apiVersion"], core["items"].as_array().map(Vec::len)),
        (&json!("apidiscovery.k8s.io/v2"), Some(1))
    );
    let others = registry.aggregated_discovery(false, DiscoveryVersion::V2Beta1);
    assert_eq!(others["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    let widgets = others["items"]
        .as_array()
        .expect("groups")
        .iter()
        .find(|group| group["metadata"]["name"] == "example.com")
        .expect("installed");
    let widget = &widgets["versions"][0]["resources"][0];
    assert_eq!(widget["responseKind"], json!({"group": "example.com", "version": "v1", "kind": "Widget"}));
    assert_eq!(widget["subresources"][0]["subresource"], "status");
}
