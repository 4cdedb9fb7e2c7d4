//! Answers that are not what was asked for change nothing, are reported, and are over with the next good one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use testkit::proxy::{Action, Rule};
use testkit::wait::eventually;

use super::{LIST_OF_PODS, PATIENCE, PODS, Site, WATCH_OF_PODS};
use crate::common::is_full;

/// A watch that asks for a new list, as one from a revision that is too old does.
pub(super) const EXPIRED: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Expired","message":"too old resource version","code":410}}
"#;

/// Answers that are no list of this node's pods, with status 200.
pub(super) const LIES: &[&str] = &[
    "{}",
    "null",
    "[]",
    "\"x\"",
    "5",
    "",
    "<html><body>Please sign in to this network.</body></html>",
    r#"{"kind":"Status","status":"Success"}"#,
    r#"{"items":{}}"#,
    r#"{"items":[]}"#,
    r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#,
    r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5","remainingItemCount":3},"items":[]}"#,
];

impl Site {
    /// From now on each watch of pods asks for a list, and each list is this one. Waits until there was one.
    fn lie_in_lists(&self, lie: Action) -> Result<()> {
        self.proxy.rule(Rule::new("GET", WATCH_OF_PODS).then(Action::json(EXPIRED)));
        let lists = self.proxy.rule(Rule::new("GET", LIST_OF_PODS).then(lie));
        self.proxy.reset_connections();
        eventually("a list that is a lie", PATIENCE, || {
            let passed = self.proxy.requests().into_iter().find(|one| one.rule == Some(lists));
            if passed.as_ref().is_some_and(|one| one.end.is_some()) { Ok(()) } else { Err(format!("{passed:?}")) }
        })
    }

    /// The hub is itself again; waits until the node follows it.
    fn be_honest(&self) -> Result<()> {
        self.proxy.clear();
        self.wait_watching(Instant::now())
    }
}

#[test]
fn a_list_that_is_none_stops_no_container() -> Result<()> {
    let site = Site::start()?;
    site.create_pods(0..3)?;
    let programs = site.wait_programs(0..3, PATIENCE)?;
    site.wait_shown(0..3, PATIENCE)?;
    let list = |metadata: Value, items: Value| {
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()
    };
    let mut foreign = site.pod(90);
    foreign["metadata"] = json!({"name": "p90", "namespace": "default", "uid": "90", "resourceVersion": "1"});
    let mut nameless = foreign.clone();
    foreign["spec"]["nodeName"] = "another".into();
    nameless["metadata"]["uid"] = Value::Null;
    let with_item = |item| list(json!({"resourceVersion": "5"}), json!([item]));
    let mut lies: Vec<String> = LIES.iter().map(|lie| (*lie).to_owned()).collect();
    lies.extend([with_item(foreign), with_item(nameless)]);
    let failure = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#;
    let mut acts: Vec<(String, Action)> = lies.into_iter().map(|lie| (lie.clone(), Action::json(lie))).collect();
    acts.push(("a list that ends early".to_owned(), Action::Truncate(200)));
    acts.push(("a list that is cut".to_owned(), Action::CutAfter(200)));
    acts.push(("no such list".to_owned(), Action::status(404, failure)));
    acts.push(("no right to a list".to_owned(), Action::status(403, failure)));
    if !is_full() {
        // Every second one: the others are of the same kinds.
        acts = acts.into_iter().step_by(2).collect();
    }
    for (name, act) in acts {
        site.lie_in_lists(act).with_context(|| name.clone())?;
        // A connection that breaks is no error of its own: it is tried again.
        if !name.contains("cut") {
            eventually(&format!("an error of the node after {name}"), PATIENCE, || {
                let errors = site.status()?["lastErrors"].to_string();
                if errors.contains("/api/v1/pods") { Ok(()) } else { Err(errors) }
            })?;
        }
        // Once it follows the hub again it has dealt with the lie.
        site.be_honest().with_context(|| name.clone())?;
        let now = site.pids();
        ensure!(programs.iter().map(|pid| Some(*pid)).eq(now.iter().copied()), "{name}: {programs:?} became {now:?}");
    }
    // Everything follows: a pod that is new, one that is deleted, and those that there were.
    site.create_pods(3..4)?;
    site.wait_programs(3..4, PATIENCE)?;
    site.api.delete(&format!("{PODS}/p0"))?;
    site.wait_no_program(0, PATIENCE)?;
    let now = site.wait_programs(1..3, PATIENCE)?;
    ensure!(now == programs[1..], "{now:?} were {programs:?}");
    ensure!(site.restarts(1)? == 0);
    Ok(())
}

#[test]
fn after_a_list_that_is_no_object_the_node_follows_the_next_one() -> Result<()> {
    let site = Site::start()?;
    for (number, lie) in ["[]", "\"x\"", "5"].into_iter().enumerate() {
        site.lie_in_lists(Action::json(lie))?;
        site.be_honest().with_context(|| format!("after the list {lie}"))?;
        site.create_pods(number..number + 1)?;
        site.wait_programs(number..number + 1, PATIENCE).with_context(|| format!("after the list {lie}"))?;
    }
    Ok(())
}

#[test]
fn after_a_line_of_a_watch_that_is_no_event_the_node_follows_the_next_one() -> Result<()> {
    let site = Site::start()?;
    let lines = ["[]\n", "5\n", "{\"type\":\"ADDED\",\"object\":[]}\n", "{\"type\":\"MODIFIED\"}\n", "\"x\"\n", "{\n"];
    for (number, line) in lines.into_iter().enumerate() {
        let inject = Action::InjectWatchLine(Bytes::from_static(line.as_bytes()));
        let rule = site.proxy.rule(Rule::new("GET", WATCH_OF_PODS).times(1).then(inject));
        site.proxy.reset_connections();
        eventually("a watch with the line", PATIENCE, || {
            if site.proxy.acted(rule) == 1 { Ok(()) } else { Err("none yet") }
        })?;
        site.create_pods(number..number + 1)?;
        let context = || format!("after the line {line:?}");
        site.wait_programs(number..number + 1, PATIENCE).with_context(context)?;
    }
    Ok(())
}

#[test]
fn a_line_without_an_end_is_given_up() -> Result<()> {
    const ENDLESS_BYTES: usize = 64 * 1024 * 1024;
    let site = Site::start()?;
    let mut line = br#"{"type":"ADDED","object":{"kind":"Pod","note":""#.to_vec();
    line.resize(ENDLESS_BYTES, b'x');
    let inject = Action::InjectWatchLine(Bytes::from(line));
    let rule = site.proxy.rule(Rule::new("GET", WATCH_OF_PODS).times(1).then(inject));
    let (_, before) = site.proxy.bytes();
    site.proxy.reset_connections();
    eventually("a watch that is given up", PATIENCE, || {
        let passed = site.proxy.requests().into_iter().find(|one| one.rule == Some(rule));
        let is_over = passed.as_ref().is_some_and(|one| one.end.is_some());
        if is_over { Ok(()) } else { Err(format!("{passed:?}")) }
    })?;
    let (_, after) = site.proxy.bytes();
    ensure!(after - before < ENDLESS_BYTES as u64 / 4, "{} bytes were read of a line without an end", after - before);
    site.create_pods(0..1)?;
    site.wait_programs(0..1, PATIENCE)?;
    Ok(())
}

#[test]
fn after_a_config_map_that_is_no_object_its_updates_arrive() -> Result<()> {
    let site = Site::start()?;
    let maps = "/api/v1/namespaces/default/configmaps";
    let seen = site.dir.path().join("seen");
    std::fs::create_dir(&seen)?;
    for (number, lie) in ["[]", "null", "{}", "5"].into_iter().enumerate() {
        let name = format!("settings-{number}");
        // The pod's first fetch of it, and whatever the node tries once more at once.
        let path = format!("configmaps(/{name}|.*{name})");
        let rule = site.proxy.rule(Rule::new("GET", &path).times(2).then(Action::json(lie)));
        let map = |value: &str| json!({"metadata": {"name": name}, "data": {"value": value}});
        site.api.create(maps, &map("first"))?;
        let mut pod = site.pod(number);
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = "file:///bin/sh".into();
        let copy =
            "while :; do cp -f /etc/selvedge-test/map/value /etc/selvedge-test/seen/ 2>/dev/null; sleep 0.2; done";
        container["args"] = json!(["-c", copy]);
        container["volumeMounts"] = json!([
            {"name": "map", "mountPath": "/etc/selvedge-test/map"},
            {"name": "seen", "mountPath": "/etc/selvedge-test/seen"},
        ]);
        let own = seen.join(&name);
        std::fs::create_dir(&own)?;
        pod["spec"]["volumes"] = json!([
            {"name": "map", "configMap": {"name": name}},
            {"name": "seen", "hostPath": {"path": own.to_string_lossy()}},
        ]);
        site.api.create(PODS, &pod)?;
        eventually(&format!("a fetch of {name}"), PATIENCE, || {
            if site.proxy.acted(rule) > 0 { Ok(()) } else { Err("none yet") }
        })?;
        for value in ["first", "second"] {
            site.api.patch(&format!("{maps}/{name}"), &map(value))?;
            eventually(&format!("{value:?} in the pod after {lie}"), Duration::from_secs(90), || {
                match std::fs::read_to_string(own.join("value")) {
                    Ok(text) if text == value => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })?;
        }
        site.proxy.remove(rule);
    }
    Ok(())
}
