use std::time::Duration;

use serde_json::{Value, json};

use super::claims::{OfPod, Owners, Retention, is_stale, new_claim};
use super::plan::{CHANGES_PER_RUN, Phase, Pod, Scope, Set, Step, Update, plan};
use super::pods::{NewPod, REVISION_LABEL, ordinal_of};
use super::*;
use crate::owner::Owner;
use crate::ready::Clock;
use hub_runtime::rollouts::skipped::Skip;
use hub_runtime::views::{ObjectMeta, OwnerReference};

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn set(replicas: i64) -> Set<'static> {
    Set {
        replicas,
        start: 0,
        is_parallel: false,
        update: Update::Rolling { partition: Some(0) },
        is_terminating: false,
        current: "old",
        updated: "old",
        current_replicas: 0,
        scope: Scope::All,
    }
}

/// `0R` is a ready pod 0 of the revision `old`; `+` is of the revision `new`. Of the letters R is ready, P pending, U running and
/// not ready, F failed; then `!` terminating, `~` on a node out of reach, `h` on one that is held, `x` of a revision whose canary failed, `?` not as it should be, `c` without its claims, `o` with claims of other owners.
fn pod(text: &str) -> Pod {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let mut pod = Pod {
        ordinal: digits.parse().unwrap(),
        revision: "old".to_owned(),
        is_right: true,
        owners_are_right: true,
        ..Pod::default()
    };
    for letter in text[digits.len()..].chars() {
        match letter {
            'R' => (pod.phase, pod.ready_since) = (Phase::Running, Some(at(-10))),
            'P' => pod.phase = Phase::Pending,
            'U' => pod.phase = Phase::Running,
            'F' => pod.phase = Phase::Ended,
            '+' => pod.revision = "new".to_owned(),
            '!' => pod.is_terminating = true,
            '~' => pod.skip = Some(Skip::Unreachable),
            'x' => pod.is_rejected = true,
            'h' => pod.skip = Some(Skip::Held),
            '?' => pod.is_right = false,
            'c' => pod.lacks_claims = true,
            'o' => pod.owners_are_right = false,
            _ => panic!("{text}"),
        }
    }
    pod
}

fn pods(text: &str) -> Vec<Pod> {
    text.split_whitespace().map(pod).collect()
}

fn show(steps: &[Step], pods: &[Pod]) -> String {
    let of = |verb: &str, index: usize| format!("{verb} {}", pods[index].ordinal);
    let show = |step: &Step| match *step {
        Step::Create { ordinal, revision: Which::Current } => format!("create {ordinal} current"),
        Step::Create { ordinal, revision: Which::Updated } => format!("create {ordinal}"),
        Step::Delete(index) => of("delete", index),
        Step::Replace(index) => of("replace", index),
        Step::Claims(index) => of("claims", index),
        Step::Correct(index) => of("correct", index),
        Step::Owners(index) => of("owners", index),
    };
    steps.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn check_with(set: &Set<'_>, text: &str, expected: &str) {
    let pods = pods(text);
    let planned = plan(set, &pods, |_| false, Clock::new(at(0), 0));
    assert_eq!(show(&planned.steps, &pods), expected, "{set:?} {text}");
}

#[test]
fn pods_come_one_after_the_other() {
    for (text, expected) in [
        ("", "create 0"),
        ("0P", ""),
        ("0Pc", "claims 0"),
        ("0Po", "claims 0"),
        ("0U", ""),
        ("0R", "create 1"),
        ("0R 1R", "create 2"),
        ("0R 1R 2R", ""),
        // A pod that is lost comes back before anything else.
        ("0R 2R", "create 1"),
        ("1R 2R", "create 0"),
        ("0R! 1R 2R", ""),
        ("0R 1U 2R", ""),
        ("0F 1R 2R", "replace 0"),
        ("0F! 1R 2R", ""),
        ("0R? 1R 2R", "correct 0"),
        ("0R? 1Ro 2P", "correct 0, correct 1"),
        ("0P? 1R 2R", ""),
    ] {
        check_with(&set(3), text, expected);
    }
    check_with(&Set { start: 5, ..set(2) }, "", "create 5");
    check_with(&Set { start: 5, ..set(2) }, "5R", "create 6");
    // Those before the first ordinal leave once the others are there, from the highest on.
    check_with(&Set { start: 5, ..set(2) }, "0R 1R 5R", "create 6");
    check_with(&Set { start: 5, ..set(2) }, "0R 1R 5R 6R", "delete 1");
    check_with(&Set { is_terminating: true, ..set(3) }, "0R 2F", "");
    check_with(&set(0), "", "");
}

#[test]
fn pods_leave_from_the_highest_ordinal_on() {
    for (text, expected) in [
        ("0R 1R 2R 3R", "delete 3"),
        ("0R 1R 2R 3R!", ""),
        ("0R 1R 2R", "delete 2"),
        ("0R 1R", "delete 1"),
        ("0R", ""),
        // Nothing leaves while a replica is not available.
        ("0U 1R 2R", ""),
        ("1R 2R", "create 0"),
        // One that is not available waits, unless it is the first such pod: then it is the next to leave anyway.
        ("0R 1R 2U", "delete 2"),
        ("0R 1U 2U", ""),
        ("0R 1U 2R", "delete 2"),
        // What has ended is waited for by nobody.
        ("0R 1F 2F", "delete 2"),
        ("0R 1F 2U", "delete 2"),
        ("0R 1F 2F!", ""),
        ("0R 1U 2F", "delete 2"),
        ("0R 1F! 2U", ""),
        ("0R 1R 2Ro", "owners 2, delete 2"),
        ("0R 1Ro 2R!", "owners 1"),
    ] {
        check_with(&set(1), text, expected);
    }
}

#[test]
fn in_parallel_pods_come_and_leave_at_once() {
    let parallel = |replicas| Set { is_parallel: true, ..set(replicas) };
    for (replicas, text, expected) in [
        (3, "", "create 0, create 1, create 2"),
        (3, "1P", "create 0, create 2"),
        (3, "0F 1P?", "replace 0, correct 1, create 2"),
        (3, "0Pc 1Po 2U?", "claims 0, claims 1, correct 2"),
        (1, "0U 1R 2U 3R!", "delete 2, delete 1"),
        (2, "1R 5R", "create 0, delete 5"),
    ] {
        check_with(&parallel(replicas), text, expected);
    }
    let many = plan(&parallel(i64::from(i32::MAX)), &[], |_| false, Clock::new(at(0), 0));
    assert!(many.is_partial);
    assert_eq!(many.steps.len(), CHANGES_PER_RUN);
}

#[test]
fn an_update_goes_from_the_highest_ordinal_down_to_the_partition() {
    let rolling = |partition| Set { updated: "new", update: Update::Rolling { partition }, ..set(3) };
    for (partition, text, expected) in [
        (Some(0), "0R 1R 2R", "delete 2"),
        (Some(0), "0R 1R 2R!", ""),
        (Some(0), "0R 1R", "create 2"),
        (Some(0), "0R 1R 2P+", ""),
        (Some(0), "0R 1R 2R+", "delete 1"),
        (Some(0), "0R 1R+ 2R+", "delete 0"),
        (Some(0), "0R+ 1R+ 2R+", ""),
        // One that does not work is replaced in its turn, and holds the others up until then.
        (Some(0), "0R 1U 2R", ""),
        (Some(2), "0R 1R 2R", "delete 2"),
        (Some(2), "0R 1R 2R+", ""),
        (Some(2), "0R", "create 1 current"),
        (Some(2), "0R 1R", "create 2"),
        (Some(9), "0R 1R 2R", ""),
        (Some(9), "0R 1R", "create 2 current"),
        // A pod above the partition goes back to its revision when it is lost.
        (Some(1), "1R+ 2R+", "create 0 current"),
        (None, "0R 1R", "create 2"),
    ] {
        check_with(&rolling(partition), text, expected);
    }
    let kept = Set { current_replicas: 2, ..rolling(None) };
    check_with(&kept, "0R", "create 1 current");
    let on_delete = Set { update: Update::OnDelete, ..rolling(None) };
    check_with(&on_delete, "0R 1R 2R", "");
    check_with(&on_delete, "0R 1R", "create 2");
    // In parallel a pod that is not available above the next one holds it up as well; one of the old revision does not.
    let parallel = Set { is_parallel: true, ..rolling(Some(0)) };
    for (text, expected) in [
        ("0R 1R 2R", "delete 2"),
        ("0R 1R 2U", "delete 2"),
        ("0U 1U 2U", "delete 2"),
        ("0R 1R 2U+", ""),
        ("0R 1R", "create 2"),
        ("0R 1R 2F", "replace 2"),
    ] {
        check_with(&parallel, text, expected);
    }
}

#[test]
fn a_pod_of_an_unreachable_node_is_neither_replaced_nor_forced_away() {
    // Nobody hears of its node: Ready is Unknown. Then it is evicted, and waits for its node to say that it has ended.
    for text in ["0R 1U 2R", "0R 1U! 2R"] {
        check_with(&set(3), text, "");
        check_with(&Set { is_parallel: true, ..set(3) }, text, "");
    }
    // An update in parallel gets on to it, and waits there.
    let rolling = Set { updated: "new", is_parallel: true, ..set(3) };
    check_with(&rolling, "0R 1U 2R+", "delete 1");
    check_with(&rolling, "0R 1U! 2R+", "");
}

#[test]
fn a_pod_counts_as_available_after_some_time_and_the_next_one_waits_for_it() {
    let mut two = pods("0R 1R");
    two[1].ready_since = Some(at(-3));
    let at_five = plan(&set(3), &two, |_| false, Clock::new(at(0), 5));
    assert_eq!((at_five.steps.len(), at_five.available_after), (0, Some(Duration::from_secs(2))));
    assert_eq!((at_five.counts.ready, at_five.counts.available), (2, 1));
    assert_eq!(show(&plan(&set(3), &two, |_| false, Clock::new(at(2), 5)).steps, &two), "create 2");
}

#[test]
fn a_pod_waits_for_the_end_of_the_claims_of_an_earlier_one() {
    let ready = pods("0R");
    let planned = plan(&set(3), &ready, |ordinal| ordinal == 1, Clock::new(at(0), 0));
    assert_eq!((planned.steps.len(), planned.has_stale_claims), (0, true));
    let parallel = Set { is_parallel: true, ..set(3) };
    let planned = plan(&parallel, &ready, |ordinal| ordinal == 1, Clock::new(at(0), 0));
    assert_eq!((show(&planned.steps, &ready).as_str(), planned.has_stale_claims), ("create 2", true));
}

#[test]
fn the_status_counts_pods_and_knows_when_an_update_is_complete() {
    let rolling = Set { updated: "new", ..set(3) };
    for (text, counted, is_complete) in [
        ("", (0, 0, 0, 0), false),
        ("0R 1U 2P", (3, 1, 3, 0), false),
        ("0R 1R! 2R+", (3, 3, 1, 1), false),
        ("0R+ 1R+ 2R+", (3, 3, 0, 3), true),
        ("0R+ 1R+ 2U+", (3, 2, 0, 3), false),
        ("0R+ 1R+ 2R+ 3R+", (4, 4, 0, 4), false),
        // The one that is deleted now does not count among those of its revision any more.
        ("0R 1R 2R", (3, 3, 2, 0), false),
    ] {
        let counts = plan(&rolling, &pods(text), |_| false, Clock::new(at(0), 0)).counts;
        assert_eq!((counts.replicas, counts.ready, counts.current, counts.updated), counted, "{text}");
        assert_eq!(counts.completes(&rolling), is_complete, "{text}");
    }
}

#[test]
fn a_name_says_which_ordinal_it_is() {
    for (name, expected) in [
        ("web-0", Some(0)),
        ("web-12", Some(12)),
        ("web-2147483647", Some(2_147_483_647)),
        // The last one of a set that begins near the greatest number of 32 bits.
        ("web-4294967294", Some(4_294_967_294)),
        ("web-9999999999999999999", None),
        ("web-01", None),
        ("web-+1", None),
        ("web--1", None),
        ("web-", None),
        ("web", None),
        ("web-db-0", None),
        ("other-0", None),
    ] {
        assert_eq!(ordinal_of("web", name), expected, "{name}");
    }
}

fn meta() -> ObjectMeta<'static> {
    serde_json::from_str(r#"{"name":"web","namespace":"default","uid":"u"}"#).unwrap()
}

#[test]
fn a_pod_has_its_name_its_place_and_its_claims() {
    let meta = meta();
    let template = json!({
        "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
        "spec": {"subdomain": "other", "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]},
    });
    let new = NewPod {
        set: Owner { kind: Kind::StatefulSet, meta: &meta },
        template: &template,
        revision: "web-hash",
        service: "peers",
        claims: &[json!({"metadata": {"name": "data"}})],
        ordinal: 3,
    };
    let pod = new.object();
    assert_eq!(pod["metadata"]["name"], "web-3");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({
            "app": "web", "statefulset.kubernetes.io/pod-name": "web-3", "apps.kubernetes.io/pod-index": "3",
            REVISION_LABEL: "web-hash",
        })
    );
    assert_eq!(pod["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-3"), &json!("peers")));
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-3"}}, {"name": "tmp", "emptyDir": {}},
        ])
    );
    let text = pod.to_string();
    let view: PodView<'_> = serde_json::from_str(&text).unwrap();
    assert!(pods::has_identity(&view) && pods::has_storage(&view, "web", new.claims, 3));
    assert!(!pods::has_storage(&view, "web", new.claims, 2));
    let alone = NewPod { service: "", claims: &[], ..new }.object();
    assert!(alone["spec"].get("subdomain").is_none());
    assert_eq!(alone["spec"]["volumes"], template["spec"]["volumes"]);
}

#[test]
fn claims_are_owned_as_the_retention_policy_says() {
    let meta = meta();
    let reference = |kind: &str, name: &str, uid: &str, controller: bool| {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": controller})
    };
    let (set, pod) = (reference("StatefulSet", "web", "u", true), reference("Pod", "web-0", "p", true));
    let (earlier_set, earlier_pod) = (reference("StatefulSet", "web", "x", true), reference("Pod", "web-0", "x", true));
    let loose = reference("StatefulSet", "web", "u", false);
    let (other, somebody) = (reference("Job", "j", "j", true), reference("Job", "j", "j", false));
    // When the set is deleted, when scaled, whether the pod is scaled away; owners before; whether they are left; owners after.
    type OwnersCase<'a> = (bool, bool, bool, Vec<&'a Value>, Vec<&'a Value>);
    let cases: Vec<OwnersCase<'_>> = vec![
        (false, false, false, vec![], vec![]),
        (false, false, true, vec![&set], vec![]),
        (false, false, false, vec![&other], vec![&other]),
        (false, false, false, vec![&other, &set], vec![&other]),
        (true, false, false, vec![], vec![&set]),
        (true, false, true, vec![&set], vec![&set]),
        (true, false, false, vec![&loose], vec![&set]),
        (true, false, false, vec![&somebody], vec![&somebody, &set]),
        (true, false, false, vec![&other], vec![&other]),
        (true, false, false, vec![&other, &set], vec![&other]),
        (true, false, false, vec![&earlier_set], vec![&earlier_set]),
        (false, true, false, vec![], vec![]),
        (false, true, true, vec![], vec![&pod]),
        (false, true, false, vec![&pod], vec![]),
        (false, true, true, vec![&earlier_pod], vec![&earlier_pod]),
        (true, true, false, vec![], vec![&set]),
        (true, true, true, vec![&set], vec![&pod]),
        (true, true, false, vec![&pod], vec![&set]),
    ];
    for (deletes_with_set, deletes_when_scaled, is_scaled_away, before, after) in cases {
        let owners = Owners {
            set: Owner { kind: Kind::StatefulSet, meta: &meta },
            pod: OfPod { name: "web-0", uid: "p", is_scaled_away },
            retention: Retention { deletes_with_set, deletes_when_scaled },
        };
        let mut references: Vec<Value> = before.into_iter().cloned().collect();
        let (given, text) = (references.clone(), json!(references).to_string());
        let views: Vec<OwnerReference<'_>> = serde_json::from_str(&text).unwrap();
        let is_right = owners.are_right(&views);
        if !is_right {
            owners.corrected(&mut references, owners.is_foreign(&views));
        }
        let names = |references: &[Value]| -> Vec<String> {
            let name = |one: &Value| format!("{}/{}/{}", one["kind"], one["uid"], one["controller"]);
            references.iter().map(name).collect()
        };
        let after: Vec<Value> = after.into_iter().cloned().collect();
        let case = format!("{text} {:?} {is_scaled_away}", owners.retention);
        assert_eq!(names(&references), names(&after), "{case}");
        let text = json!(references).to_string();
        assert!(owners.are_right(&serde_json::from_str::<Vec<OwnerReference<'_>>>(&text).unwrap()), "{case}");
        assert_eq!(is_right, references == given, "{case}");
    }
    let stale = |reference: &Value, uid: &str| {
        let text = json!([reference]).to_string();
        let views: Vec<OwnerReference<'_>> = serde_json::from_str(&text).unwrap();
        is_stale(&views, OfPod { name: "web-0", uid, is_scaled_away: false })
    };
    assert!(stale(&pod, "") && stale(&pod, "other") && !stale(&pod, "p") && !stale(&set, ""));
}

#[test]
fn a_new_claim_has_the_labels_of_its_set() {
    let meta = meta();
    let template = json!({
        "metadata": {"name": "data", "labels": {"tier": "disk", "app": "x"}, "annotations": {"a": "b"}},
        "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"},
    });
    let owners = |deletes_with_set| Owners {
        set: Owner { kind: Kind::StatefulSet, meta: &meta },
        pod: OfPod { name: "web-2", uid: "", is_scaled_away: false },
        retention: Retention { deletes_with_set, deletes_when_scaled: true },
    };
    let claim = new_claim(&template, owners(false), &json!({"app": "web"}), 2);
    let expected = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "data-web-2", "namespace": "default", "labels": {"tier": "disk", "app": "web"}, "annotations": {"a": "b"},
        },
        "spec": {"accessModes": ["ReadWriteOnce"]},
    });
    assert_eq!(claim, expected);
    let owned = new_claim(&template, owners(true), &json!({}), 2);
    assert_eq!(owned["metadata"]["ownerReferences"][0]["uid"], "u");
}

#[test]
fn an_update_passes_by_ordinals_on_nodes_that_are_left_out() {
    let updating = Set { updated: "new", ..set(3) };
    // Ordinal 1 is out of reach: the others are updated, in their order.
    check_with(&updating, "0R 1U~ 2R", "delete 2");
    check_with(&updating, "0R 1U~", "create 2");
    check_with(&updating, "0R 1U~ 2U+", "");
    check_with(&updating, "0R 1U~ 2R+", "delete 0");
    check_with(&updating, "1U~ 2R+", "create 0");
    check_with(&updating, "0R+ 1U~ 2R+", "");
    check_with(&updating, "0R+ 1R 2R+", "delete 1");
    // One that was updated and is out of reach is not waited for.
    check_with(&updating, "0R 1R 2U+~", "delete 1");
    // A held one is ready, and stays as it is.
    check_with(&updating, "0R 1R 2Rh", "delete 1");
    check_with(&updating, "0R 1R 2R+h", "delete 1");
    // One that somebody has deleted is passed by as well: its name is not free until its node is back.
    check_with(&updating, "0R 1U~! 2R", "delete 2");
    check_with(&updating, "0R 1U~! 2R+", "delete 0");
    check_with(&updating, "0R 1U! 2R", "");
    check_with(&updating, "0R 1Rh! 2R", "");
    // Without an update, what is missing waits.
    check_with(&set(3), "0R 1U~", "");
    let unset = Set { update: Update::Rolling { partition: None }, current_replicas: 1, ..updating };
    check_with(&unset, "1U~ 2R+", "create 0");
    let parallel = Set { is_parallel: true, ..updating };
    check_with(&parallel, "0R 1U~ 2R+", "delete 0");
    for (pods_are, left_out) in [("0R 1U~ 2Rh 3R+~", &[1, 2][..]), ("0R 1U~! 2Rh!", &[1])] {
        assert_eq!(plan(&updating, &pods(pods_are), |_| false, Clock::new(at(0), 0)).passed, left_out);
    }
    let after =
        plan(&Set { current: "new", ..updating }, &pods("0R+ 1U+~ 2R+"), |_| false, Clock::new(at(0), 0)).passed;
    assert!(after.is_empty(), "nothing is updated");
}

#[test]
fn a_canary_is_updated_alone() {
    let ordinals = BTreeSet::from([0, 2]);
    let canary = Set { updated: "new", scope: Scope::Only(&ordinals), ..set(4) };
    check_with(&canary, "0R 1R 2R 3R", "delete 2");
    check_with(&canary, "0R 1R 3R", "create 2");
    check_with(&canary, "0R 1R 2R+ 3R", "delete 0");
    check_with(&canary, "0R+ 1R 2R+ 3R", "");
    check_with(&canary, "0R+ 1R 2R+", "create 3 current");
    let none = BTreeSet::new();
    let frozen = Set { scope: Scope::Only(&none), ..canary };
    check_with(&frozen, "0R 1R 2R 3R", "");
    check_with(&frozen, "0R 1R 2R", "create 3 current");
    // The template was put back: what has failed is deleted first, and not waited for.
    let back = set(3);
    check_with(&back, "0R 1U+x 2R+x", "delete 1");
    check_with(&back, "0R 2R+x", "create 1");
    check_with(&back, "0R 1R 2R+x", "delete 2");
    let by_hand = Set { update: Update::OnDelete, ..canary };
    check_with(&by_hand, "0R 1R 2R", "create 3");
}
