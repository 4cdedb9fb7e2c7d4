use super::*;

fn name() -> PodName {
    PodName { namespace: "d".into(), name: "p".into() }
}

fn registry() -> StatusRegistry {
    StatusRegistry::new("n")
}

/// A publisher to which a worker has reported this phase of pod `u`; the hub is known to show Running.
fn with_status(publisher: &Publisher, uid: &str, phase: &str) {
    publisher.status(uid, name(), &json!({"phase": phase}), &Packed::from(&json!({"phase": "Running"})));
}

fn has_news(publisher: &Publisher, uid: &str) -> bool {
    publisher.state().entries[uid].has_news
}

fn pod(uid: &str, revision: u64, phase: &str) -> Object {
    let metadata = json!({"name": "p", "namespace": "d", "uid": uid, "resourceVersion": revision.to_string()});
    Object::new(json!({"metadata": metadata, "status": {"phase": phase}})).unwrap()
}

#[test]
fn only_differences_are_news() {
    let shown = json!({"phase": "Running", "podIP": "10.0.0.1", "extra": 1});
    assert!(shows(&shown, &json!({"phase": "Running"})));
    assert!(!shows(&shown, &json!({"phase": "Failed"})));
    assert!(!shows(&shown, &json!({"reason": "x"})));
    assert!(!shows(&Value::Null, &json!({"phase": "Running"})));
}

#[test]
fn addresses_that_a_node_has_no_more_do_not_stay() {
    let patch = as_patch(&json!({"hostIPs": [{"ip": "10.0.0.2"}], "podIPs": [{"ip": "10.0.0.2"}], "phase": "Running"}));
    let replaced = json!([{"$patch": "replace"}, {"ip": "10.0.0.2"}]);
    assert_eq!((&patch["hostIPs"], &patch["podIPs"]), (&replaced, &replaced));
    assert_eq!(as_patch(&json!({"phase": "Running"})), json!({"phase": "Running"}));
}

#[test]
fn conditions_of_others_are_no_news_and_ours_that_were_changed_are() {
    let ready = |status: &str| json!({"type": "Ready", "status": status, "lastTransitionTime": "t"});
    let ours = json!({"conditions": [ready("True")]});
    let others = json!({"type": "DisruptionTarget", "status": "True"});
    assert!(shows(&json!({"conditions": [others, ready("True")]}), &ours));
    assert!(!shows(&json!({"conditions": [others, ready("False")]}), &ours));
    assert!(!shows(&json!({"conditions": [others]}), &ours));
}

#[test]
fn what_the_hub_shows_counts_when_it_is_newer_than_what_it_confirmed() {
    let publisher = Publisher::default();
    // Heard of before the pod's worker has said anything.
    publisher.shown(&pod("u", 5, "Pending"), false);
    assert!(!has_news(&publisher, "u"));
    with_status(&publisher, "u", "Running");
    assert!(has_news(&publisher, "u"), "the hub says Pending");
    // A patch whose response comes before its own echo, and that of the patch before it.
    let shown = Answer::Shown { status: json!({"phase": "Running"}), revision: 7 };
    publisher.answered(&Key::Pod("u".into()), Ok(shown), &registry());
    publisher.shown(&pod("u", 6, "Pending"), false);
    publisher.shown(&pod("u", 7, "Running"), false);
    assert!(!has_news(&publisher, "u"));
    publisher.shown(&pod("u", 8, "Failed"), false);
    assert!(has_news(&publisher, "u"), "a status that somebody else wrote is corrected");
}

#[test]
fn a_pod_that_no_list_names_is_forgotten() {
    let publisher = Publisher::default();
    let static_uid = format!("{STATIC_UID_PREFIX}h1");
    for uid in ["here", "ended", &static_uid] {
        with_status(&publisher, uid, "Running");
    }
    publisher.listed(&BTreeSet::from(["here".to_owned()]));
    assert_eq!(publisher.state().entries.keys().collect::<Vec<_>>(), ["here", static_uid.as_str()]);
}

#[test]
fn a_night_of_changes_is_one_piece_of_news() {
    let publisher = Publisher::default();
    for phase in ["Pending", "Failed", "Running"] {
        with_status(&publisher, "u", phase);
    }
    assert!(!has_news(&publisher, "u"), "it is back where the hub knows it");
    with_status(&publisher, "u", "Failed");
    assert!(has_news(&publisher, "u"));
}

#[tokio::test(start_paused = true)]
async fn one_pod_whose_status_the_hub_cannot_take_delays_no_other() {
    let publisher = Publisher::default();
    for uid in ["a", "b", "c"] {
        with_status(&publisher, uid, "Failed");
    }
    let now = Instant::now();
    let due = publisher.take_due(now, 8);
    assert_eq!(due.len(), 3);
    assert!(publisher.take_due(now, 8).is_empty(), "they are under way");
    let failed = || ApiError::Status {
        act: "PATCH".into(),
        code: 500,
        reason: String::new(),
        message: String::new(),
        fields: Vec::new(),
    };
    publisher.answered(&Key::Pod("a".into()), Err(failed()), &registry());
    for uid in ["b", "c"] {
        let shown = Answer::Shown { status: json!({"phase": "Failed"}), revision: 2 };
        publisher.answered(&Key::Pod(uid.into()), Ok(shown), &registry());
        with_status(&publisher, uid, "Succeeded");
    }
    let due = |at| publisher.take_due(at, 8).len();
    assert_eq!(due(now), 2, "b and c");
    assert_eq!(due(now + Duration::from_secs(1)), 1, "a, after its own pause");
}

#[tokio::test(start_paused = true)]
async fn a_new_phase_and_the_end_are_sent_at_once_and_all_else_together() {
    let publisher = Publisher::default();
    let now = Instant::now();
    let due = |after| publisher.take_due(now + after, 8).len();
    let answer = |status: Value| {
        let shown = Answer::Shown { status, revision: 0 };
        publisher.answered(&Key::Pod("u".into()), Ok(shown), &registry());
    };
    let status = |phase: &str, restarts: u32| json!({"phase": phase, "restarts": restarts});
    publisher.status("u", name(), &status("Pending", 0), &Packed::from(&json!({"phase": "Pending"})));
    assert_eq!(due(Duration::ZERO), 0, "it may run in a moment");
    assert_eq!(publisher.next_at(now), Some(now + DEBOUNCE));
    publisher.status("u", name(), &status("Running", 0), &Packed::default());
    assert_eq!(due(Duration::ZERO), 1, "it runs");
    answer(status("Running", 0));
    publisher.status("u", name(), &status("Running", 1), &Packed::default());
    assert_eq!((due(Duration::ZERO), due(DEBOUNCE)), (0, 1), "a restart is sent with what follows");
    answer(status("Running", 1));
    publisher.finalize("u", name());
    assert_eq!(due(Duration::ZERO), 1, "its end");
}

fn static_pod(publisher: &Publisher) {
    publisher.static_pod("h1", json!({"metadata": {"namespace": "kube-system", "name": "edge-n"}}));
}

fn orphaned(publisher: &Publisher) -> usize {
    publisher.state().orphaned_mirrors.len()
}

#[test]
fn a_mirror_on_its_way_out_is_removed_and_missed() {
    let publisher = Publisher::default();
    static_pod(&publisher);
    let mirror_uid = |publisher: &Publisher| publisher.state().entries["h1"].mirror_uid.clone();
    publisher.mirror(name(), "one", "h1", false);
    for _ in 0..2 {
        publisher.mirror(name(), "one", "h1", true);
    }
    assert_eq!((orphaned(&publisher), mirror_uid(&publisher)), (1, None));
    publisher.mirror(name(), "two", "h1", false);
    // The end of the one before says nothing of this one.
    publisher.mirror_deleted("one");
    assert_eq!((orphaned(&publisher), mirror_uid(&publisher).as_deref()), (0, Some("two")));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_is_created_anew_as_soon_as_the_one_before_is_deleted() {
    let publisher = Publisher::default();
    static_pod(&publisher);
    publisher.mirror(name(), "one", "h1", true);
    let due = publisher.take_due(Instant::now(), 8);
    assert_eq!(due.len(), 2, "the old one is deleted, a new one created");
    publisher.answered(&Key::Pod("h1".into()), Ok(Answer::MirrorExists), &registry());
    assert!(publisher.take_due(Instant::now(), 8).is_empty());
    publisher.mirror_deleted("one");
    assert!(matches!(&publisher.take_due(Instant::now(), 8)[..], [(_, Request::Mirror(..))]));
}

#[test]
fn an_answer_that_comes_after_the_watch_holds_nothing_up() {
    for is_deleted in [false, true] {
        let publisher = Publisher::default();
        static_pod(&publisher);
        with_status(&publisher, "h1", "Running");
        assert_eq!(publisher.take_due(Instant::now(), 8).len(), 1, "the mirror is created");
        match is_deleted {
            true => publisher.mirror_deleted("one"),
            false => publisher.mirror(name(), "two", "h1", false),
        }
        publisher.answered(&Key::Pod("h1".into()), Ok(Answer::MirrorExists), &registry());
        let due = publisher.take_due(Instant::now() + DEBOUNCE, 8);
        assert_eq!(due.len(), 1, "it is created again, or given its status: {due:?}");
    }
}

#[test]
fn a_mirror_without_its_static_pod_is_removed() {
    let publisher = Publisher::default();
    static_pod(&publisher);
    publisher.mirror(name(), "hub", "h1", false);
    assert_eq!((orphaned(&publisher), publisher.state().entries["h1"].mirror_uid.as_deref()), (0, Some("hub")));
    publisher.mirror(name(), "hub", "h0", false);
    assert_eq!(orphaned(&publisher), 1);
}
