use super::*;

#[test]
fn only_differences_are_news() {
    let told = json!({"phase": "Running", "podIP": "10.0.0.1", "extra": 1});
    assert!(tells(&told, &json!({"phase": "Running"})));
    assert!(!tells(&told, &json!({"phase": "Failed"})));
    assert!(!tells(&told, &json!({"reason": "x"})));
    assert!(!tells(&Value::Null, &json!({"phase": "Running"})));
}

#[test]
fn addresses_that_a_node_has_no_more_do_not_stay() {
    let patch = as_patch(&json!({"hostIPs": [{"ip": "10.0.0.2"}], "podIPs": [{"ip": "10.0.0.2"}], "phase": "Running"}));
    let replaced = json!([{"$patch": "replace"}, {"ip": "10.0.0.2"}]);
    assert_eq!((&patch["hostIPs"], &patch["podIPs"]), (&replaced, &replaced));
    assert_eq!(as_patch(&json!({"phase": "Running"})), json!({"phase": "Running"}));
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
fn conditions_of_others_are_no_news_and_ours_that_were_changed_are() {
    let ready = |status: &str| json!({"type": "Ready", "status": status, "lastTransitionTime": "t"});
    let ours = json!({"conditions": [ready("True")]});
    let others = json!({"type": "DisruptionTarget", "status": "True"});
    assert!(tells(&json!({"conditions": [others, ready("True")]}), &ours));
    assert!(!tells(&json!({"conditions": [others, ready("False")]}), &ours));
    assert!(!tells(&json!({"conditions": [others]}), &ours));
}

#[test]
fn what_the_hub_shows_counts_when_it_is_newer_than_what_it_confirmed() {
    let (mut entries, mut strangers) = (BTreeMap::new(), Vec::new());
    let now = tokio::time::Instant::now();
    let shown = |revision: u64, phase: &str| Publication::Shown {
        uid: "u".into(),
        is_mirror: false,
        revision,
        status: json!({"phase": phase}),
    };
    // Heard of before the pod's worker has said anything.
    take(&mut entries, &mut strangers, shown(5, "Pending"));
    assert!(!entries["u"].has_news(now));
    take(&mut entries, &mut strangers, status("u", "Running"));
    assert!(entries["u"].has_news(now), "the hub says Pending");
    // As after a patch whose response came before its own echo, and that of the patch before it.
    let entry = entries.get_mut("u").unwrap();
    (entry.told, entry.revision) = (json!({"phase": "Running"}), 7);
    take(&mut entries, &mut strangers, shown(6, "Pending"));
    take(&mut entries, &mut strangers, shown(7, "Running"));
    assert!(!entries["u"].has_news(now));
    take(&mut entries, &mut strangers, shown(8, "Failed"));
    assert!(entries["u"].has_news(now));
}

#[test]
fn a_pod_that_no_list_names_is_forgotten() {
    let (mut entries, mut strangers) = (BTreeMap::new(), Vec::new());
    let static_uid = format!("{STATIC_UID_PREFIX}h1");
    for uid in ["here", "ended", &static_uid] {
        take(&mut entries, &mut strangers, status(uid, "Running"));
    }
    // It was deleted at the hub, then the echo of its last status came, and the link broke before its end was told.
    entries.remove("ended");
    let (status, uid) = (json!({"phase": "Succeeded"}), "ended".to_owned());
    take(&mut entries, &mut strangers, Publication::Shown { uid, is_mirror: false, revision: 7, status });
    take(&mut entries, &mut strangers, Publication::Listed { uids: BTreeSet::from(["here".to_owned()]) });
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["here", static_uid.as_str()]);
}

#[test]
fn a_mirror_on_its_way_out_is_removed_and_missed() {
    let (mut entries, mut strangers) = (BTreeMap::new(), Vec::new());
    let manifest = json!({"metadata": {"namespace": "kube-system", "name": "edge-n"}});
    take(&mut entries, &mut strangers, Publication::Static { uid: "h1".into(), manifest });
    let mirror = |hub_uid: &str, is_terminating: bool| Publication::Mirror {
        namespace: "kube-system".into(),
        name: "edge-n".into(),
        hub_uid: hub_uid.into(),
        hash: "h1".into(),
        is_terminating,
    };
    take(&mut entries, &mut strangers, mirror("one", false));
    for _ in 0..2 {
        take(&mut entries, &mut strangers, mirror("one", true));
    }
    assert_eq!((strangers.len(), entries["h1"].mirror_uid.as_deref()), (1, None));
    take(&mut entries, &mut strangers, mirror("two", false));
    // The end of the one before says nothing of this one.
    take(&mut entries, &mut strangers, Publication::MirrorGone { hub_uid: "one".into() });
    assert_eq!(entries["h1"].mirror_uid.as_deref(), Some("two"));
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
        is_terminating: false,
    };
    take(&mut entries, &mut strangers, mirror("h1"));
    assert_eq!(entries["h1"].mirror_uid.as_deref(), Some("hub"));
    assert!(strangers.is_empty());
    take(&mut entries, &mut strangers, mirror("h0"));
    assert_eq!(strangers.len(), 1);
}
