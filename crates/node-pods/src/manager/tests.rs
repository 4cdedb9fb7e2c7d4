use serde_json::json;

use super::static_pods::static_pod;
use super::*;

#[test]
fn a_static_pod_gets_what_the_hub_would_give() {
    let manifest = json!({"metadata": {"name": "edge"}, "spec": {"containers": [{"name": "edge"}]}});
    let (uid, pod) = static_pod(manifest.clone(), "n");
    assert_eq!(pod["metadata"]["name"], "edge-n");
    assert_eq!(pod["metadata"]["namespace"], "default");
    assert_eq!(pod["spec"]["nodeName"], "n");
    let parsed = Pod::from_json(pod.to_string().as_bytes()).unwrap();
    assert!(parsed.is_static() && !parsed.is_mirror());
    assert_eq!(static_pod(manifest, "n").0, uid, "the same manifest is the same pod");
    let other = json!({"metadata": {"name": "edge"}, "spec": {"containers": [{"name": "edge", "image": "x"}]}});
    assert_ne!(static_pod(other, "n").0, uid);
}

#[test]
fn the_longest_name_of_a_pod_has_a_directory() {
    let uid = "e9aa38d2-e740-46ac-b9a1-7c71e7711bc8";
    assert_eq!(dir_name("default", "p", uid), format!("default_p_{uid}"));
    let long = dir_name(&"s".repeat(63), &"n".repeat(253), uid);
    assert!(long.len() == FILE_NAME_BYTES_MAX && long.ends_with(&format!("_{uid}")), "{long}");
}

#[test]
fn our_own_status_coming_back_is_no_news() {
    let pod = |spec: &str, version: &str, phase: &str| {
        let json = json!({
            "metadata": {"name": "p", "resourceVersion": version},
            "spec": {"hostname": spec, "containers": []}, "status": {"phase": phase},
        });
        Pod::from_json(json.to_string().as_bytes()).unwrap()
    };
    assert!(only_status_differs(&pod("a", "1", "Pending"), &pod("a", "2", "Running")));
    assert!(!only_status_differs(&pod("a", "1", "Pending"), &pod("b", "2", "Pending")));
}
