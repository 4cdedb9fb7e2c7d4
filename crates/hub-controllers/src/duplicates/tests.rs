use super::*;
use crate::testing::TestApi;

fn reporter(machine: &str, boot: &str) -> Reporter {
    Reporter { machine_id: machine.to_owned(), boot_id: boot.to_owned() }
}

/// Boot ids as they are reported, with the minute of each; whether two boxes are known to take turns after the last one.
#[track_caller]
fn check(reports: &[(u64, &str)], expected: bool) {
    let (mut reporters, start) = (Reporters::default(), Instant::now());
    let mut now = start;
    for (minute, boot) in reports {
        now = start + Duration::from_secs(minute * 60);
        reporters.note(reporter("m", boot), now);
    }
    assert_eq!(reporters.turns(now).is_some(), expected, "{reports:?}");
    assert!(reporters.boxes.len() <= BOXES_MAX);
}

#[test]
fn a_box_that_reboots_is_one_and_boxes_that_take_turns_are_two() {
    check(&[(0, "a"), (5, "a"), (10, "a")], false);
    check(&[(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e"), (5, "f")], false);
    check(&[(0, "a"), (1, "b"), (5, "a")], true);
    check(&[(0, "a"), (1, "b"), (5, "a"), (6, "b"), (7, "b")], true);
    // Three of one name.
    check(&[(0, "a"), (1, "b"), (2, "c"), (5, "a")], true);
    // One was switched off: the other reports alone from then on.
    check(&[(0, "a"), (1, "b"), (5, "a"), (16, "a")], false);
    // A disk that was put back after a week is one box at a time.
    check(&[(0, "a"), (1, "b"), (10_000, "a")], false);
}

/// The condition of a Node, as far as tests look.
async fn duplicate(api: &TestApi) -> Option<(String, String)> {
    let node = api.find(Kind::Node, ("", "gw-1")).await.unwrap();
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found = conditions.into_iter().find(|condition| condition["type"] == CONDITION)?;
    Some((text(&found["status"]), text(&found["message"])))
}

#[tokio::test]
async fn two_boxes_of_one_name_are_named_until_one_is_left() {
    let (api, name) = (TestApi::start().await, Box::from("gw-1"));
    let duplicates = Duplicates::new(api.context.clone());
    api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    assert_eq!(duplicates.reconcile(&name).await.unwrap(), Next::OnChange);
    assert_eq!(duplicate(&api).await, None, "a node of one box has no such condition");

    let now = Instant::now();
    let note = |boot: &str, at: Instant| {
        duplicates.nodes.lock().entry(name.clone()).or_default().note(reporter("m1", boot), at);
    };
    for boot in ["a", "b", "a"] {
        note(boot, now);
    }
    assert!(matches!(duplicates.reconcile(&name).await.unwrap(), Next::After(left) if left <= WINDOW));
    let (status, message) = duplicate(&api).await.expect("two boxes");
    assert_eq!(status, "True");
    for part in ["boot a", "boot b", "machine m1", "a copy of the other's disk", "selvedge reset"] {
        assert!(message.contains(part), "{message} has {part}");
    }

    // A hub that has just started waits for both to have reported to it.
    duplicates.nodes.lock().clear();
    note("a", now);
    assert!(matches!(duplicates.reconcile(&name).await.unwrap(), Next::After(left) if left <= WINDOW));
    assert_eq!(duplicate(&api).await.map(|found| found.0).as_deref(), Some("True"));

    duplicates.nodes.lock().clear();
    note("a", now.checked_sub(WINDOW).expect("this machine runs for longer"));
    assert_eq!(duplicates.reconcile(&name).await.unwrap(), Next::OnChange);
    assert_eq!(duplicate(&api).await.map(|found| found.0).as_deref(), Some("False"));
}

#[tokio::test]
async fn what_a_node_reports_is_noted_as_it_is_written() {
    let api = TestApi::start().await;
    let duplicates = Duplicates::new(api.context.clone());
    let queue = Queue::new(hub_runtime::QueueOptions::default());
    api.make(Kind::Node, json!({"metadata": {"name": "gw-1"}})).await;
    for boot in ["a", "b", "a"] {
        let report = |mut node: Value| {
            node["status"]["nodeInfo"]["machineID"] = json!("m1");
            node["status"]["nodeInfo"]["bootID"] = json!(boot);
            node
        };
        assert!(api.context.writer.replace_status_of(Kind::Node, "gw-1", report).await.unwrap());
        let node = api.context.reader.get(Kind::Node, "", "gw-1").expect("it is stored");
        duplicates.observe_node(&node, &queue);
    }
    let nodes = duplicates.nodes.lock();
    let (one, other, _) = nodes["gw-1"].turns(Instant::now()).expect("a came back");
    assert_eq!((&*one.boot_id, &*other.boot_id), ("a", "b"));
}
