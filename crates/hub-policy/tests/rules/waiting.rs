//! Whoever creates what nothing acts on yet is warned, and whoever creates what works is not bothered.

use serde_json::{Value, json};

use crate::harness::*;

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}})
}

fn workload(name: &str) -> Value {
    let selector = json!({"matchLabels": {"a": "b"}});
    json!({"metadata": {"name": name}, "spec": {"selector": selector, "serviceName": name, "template": template()}})
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[tokio::test]
async fn what_nothing_acts_on_yet_is_created_with_a_warning() {
    let hub = Hub::start().await;
    let rows = [
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"metadata": {"name": "web"}, "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}),
            "Ingress",
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"metadata": {"name": "web"}, "spec": {"podSelector": {}}}),
            "NetworkPolicy",
        ),
    ];
    for (path, object, kind) in rows {
        let warning = format!(r#"299 - "this version stores {kind} \"web\", and nothing acts on it yet""#);
        let created = hub.call("POST", &format!("{path}?fieldValidation=Ignore"), object).await;
        assert_eq!((created.code, created.warnings), (201, vec![warning]), "{}", created.body);
        let changed = hub.call("PATCH", &format!("{path}/web"), json!({"metadata": {"labels": {"a": "b"}}})).await;
        assert_eq!((changed.code, changed.warnings), (200, Vec::new()), "a change is of what its owner knows");
    }
}

#[tokio::test]
async fn what_labels_and_taints_ask_for_and_nothing_does_is_warned_of_once() {
    let hub = Hub::start().await;
    let made = hub.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": "line"}})).await;
    assert_eq!((made.code, made.warnings), (201, Vec::new()), "{}", made.body);
    let made = hub.call("POST", "/api/v1/nodes", json!({"metadata": {"name": "gw-1"}})).await;
    assert_eq!((made.code, made.warnings), (201, Vec::new()), "{}", made.body);
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let taint = |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
    for (path, patch, part) in [
        ("/api/v1/namespaces/line", labels, Some("does not enforce Pod Security Standards")),
        ("/api/v1/nodes/gw-1", taint("repair", "NoSchedule"), None),
        ("/api/v1/nodes/gw-1", taint("node.kubernetes.io/unreachable", "NoExecute"), None),
        ("/api/v1/nodes/gw-1", taint("repair", "NoExecute"), Some("drives none away")),
    ] {
        let changed = hub.call("PATCH", path, patch.clone()).await;
        let warnings = changed.warnings.join("\n");
        assert_eq!(changed.code, 200, "{}", changed.body);
        assert!(part.map_or(warnings.is_empty(), |part| warnings.contains(part)), "{patch}: {warnings}");
        let other = json!({"metadata": {"labels": {"a": part.unwrap_or("none").len().to_string()}}});
        let changed = hub.call("PATCH", path, other).await;
        assert_eq!((changed.code, changed.warnings), (200, Vec::new()), "nothing of it is new");
    }
}

#[tokio::test]
async fn what_works_is_created_without_a_warning() {
    let hub = Hub::start().await;
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let rows = [
        ("/api/v1/namespaces/default/persistentvolumeclaims", json!({"metadata": {"name": "web"}, "spec": claim})),
        (CONFIG_MAPS, json!({"metadata": {"name": "web"}})),
        (PODS, json!({"metadata": {"name": "web"}, "spec": template()["spec"]})),
        ("/apis/apps/v1/namespaces/default/daemonsets", workload("web")),
        ("/apis/apps/v1/namespaces/default/deployments", workload("web")),
        ("/apis/apps/v1/namespaces/default/statefulsets", workload("web")),
        (SERVICES, json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})),
    ];
    for (path, object) in rows {
        let created = hub.call("POST", &format!("{path}?fieldValidation=Ignore"), object).await;
        assert_eq!((created.code, created.warnings), (201, Vec::new()), "{path}: {}", created.body);
    }
}

#[tokio::test]
async fn an_annotation_that_cannot_be_followed_says_so_where_it_is_written() {
    let hub = Hub::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let annotated =
        |value: &str| json!({"metadata": {"annotations": {"selvedge.dev/replace-when-unreachable": value}}});
    hub.create(path, workload("web")).await;
    let web = &format!("{path}/web");
    let wrong = hub.call("PATCH", web, annotated("banana")).await;
    assert!(wrong.code == 200 && wrong.warnings.len() == 1, "{:?}", wrong.warnings);
    assert!(wrong.warnings[0].contains("it is no duration such as 10m"), "{:?}", wrong.warnings);
    for change in [json!({"metadata": {"labels": {"a": "b"}}}), annotated("10m")] {
        let changed = hub.call("PATCH", web, change).await;
        assert_eq!((changed.code, changed.warnings), (200, Vec::new()));
    }
}

#[tokio::test]
async fn a_service_of_which_nodes_serve_a_part_only_says_so() {
    let hub = Hub::start().await;
    let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
    let created = hub.call("POST", SERVICES, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let warning = r#"299 - "nothing gives Service \"web\" the address of a load balancer; it is reached by its cluster address and its node ports""#;
    assert_eq!((created.code, created.warnings), (201, vec![warning.to_owned()]), "{}", created.body);
}
