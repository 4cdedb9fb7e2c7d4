use super::*;

#[test]
fn only_differences_are_news() {
    let told = json!({"phase": "Running", "podIP": "10.0.0.1", "extra": 1});
    assert!(tells(&told, &json!({"phase": "Running"})));
    assert!(!tells(&told, &json!({"phase": "Failed"})));
    assert!(!tells(&told, &json!({"reason": "x"})));
    assert!(!tells(&Value::Null, &json!({"phase": "Running"})));
}

fn status(uid: &str, phase: &str) -> Publication {
    Publication::Status {
        uid: uid.into(),
        namespace: "d".into(),
        name: "p".into(),
        status: json!({"phase": phase}),
        base: json!({"phase": "Running"}),
    }
}

#[test]
fn a_night_of_changes_is_one_piece_of_news() {
    let (mut entries, mut strangers) = (BTreeMap::new(), Vec::new());
    let now = tokio::time::Instant::now();
    for phase in ["Pending", "Failed", "Running"] {
        take(&mut entries, &mut strangers, status("u", phase));
    }
    assert!(!entries["u"].has_news(now), "it is back where the hub knows it");
    take(&mut entries, &mut strangers, status("u", "Failed"));
    assert!(entries["u"].has_news(now));
}

#[test]
fn a_mirror_without_its_static_pod_is_removed() {
    let (mut entries, mut strangers) = (BTreeMap::new(), Vec::new());
    let manifest = json!({"metadata": {"namespace": "kube-system", "name": "edge-n"}});
    take(&mut entries, &mut strangers, Publication::Static { uid: "h1".into(), manifest });
    let mirror = |hash: &str| Publication::Mirror {
        namespace: "kube-system".into(),
        name: "edge-n".into(),
        hub_uid: "hub".into(),
        hash: hash.into(),
    };
    take(&mut entries, &mut strangers, mirror("h1"));
    assert_eq!(entries["h1"].mirror_uid.as_deref(), Some("hub"));
    assert!(strangers.is_empty());
    take(&mut entries, &mut strangers, mirror("h0"));
    assert_eq!(strangers.len(), 1);
}
