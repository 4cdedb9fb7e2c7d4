//! What a real kube-apiserver answered, asked of the hub: a differential test that only grows.
//!
//! `tests/data/kubernetes/recorded` holds sequences of requests ("cases", each in an empty namespace) with the answers of
//! kube-apiserver 1.36.3. A case is replayed when the hub serves every kind that it names. `agreed.txt` lists the steps whose answer is
//! equal, but for what differs from run to run (`machinery-replay`); a step that was equal and is no longer fails the test, and
//! `cargo xtask test --bless recorded` adds those that became equal. What is not listed is not judged yet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use http::Request;
use machinery_replay::{Answer, AnswerFuture, Case, Comparison, Sender, Transport, cases};
use serde_json::json;
use testkit::program::Selvedge;
use testkit::wire::{Access, Connection, read_kubeconfig};
use tokio::sync::Mutex;

use crate::common::root;

/// Cases at a time: most of their time they wait for watches that last a second.
const CASES_AT_ONCE: usize = 8;

/// The recorded topics.
const TOPICS: &[&str] = &[
    "admission",
    "apply",
    "cel",
    "certificates",
    "crd",
    "create",
    "discovery",
    "errors",
    "list-watch",
    "node-authorizer",
    "patch",
    "rbac",
    "subresources",
    "tokens",
];

/// Steps that are equal in some runs only, each with its reason. No step that is listed here can be agreed.
const BY_CHANCE: &[(&str, &str)] = &[
    ("create/delete-propagation/3", "the garbage collector may have been there first"),
    ("create/delete-propagation/4", "the garbage collector may have been there first"),
];

fn dir() -> PathBuf {
    root().join("tests/data/kubernetes/recorded")
}

/// Connections to a hub, one for each sender; one that the hub has closed is opened anew.
struct Wire {
    admin: Access,
    anonymous: Access,
    connections: Mutex<BTreeMap<Sender, Arc<Connection>>>,
}

impl Wire {
    fn new(admin: Access, anonymous: Access) -> Self {
        Self { admin, anonymous, connections: Mutex::default() }
    }

    async fn connection(&self, sender: Sender) -> Result<Arc<Connection>> {
        let mut connections = self.connections.lock().await;
        if let Some(connection) = connections.get(&sender).filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let access = match sender {
            Sender::Admin => &self.admin,
            Sender::Anonymous => &self.anonymous,
        };
        let connection = Arc::new(access.connect().await?);
        connections.insert(sender, connection.clone());
        Ok(connection)
    }
}

impl Transport for Wire {
    fn send(&self, request: Request<Bytes>, sender: Sender) -> AnswerFuture<'_> {
        Box::pin(async move {
            let connection = self.connection(sender).await?;
            let (head, body) = request.into_parts();
            let headers: Vec<(&str, &str)> =
                head.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
            let path = head.uri.path_and_query().context("a path")?.as_str();
            let answer = connection.send(head.method, path, &headers, body).await?;
            Ok(Answer { status: answer.status, headers: answer.headers, body: answer.body })
        })
    }
}

/// Plural names that the hub serves.
async fn served(admin: &Connection) -> Result<BTreeSet<String>> {
    let mut paths = vec!["/api/v1".to_owned()];
    let groups = admin.get("/apis").await?.ok()?.json();
    for group in groups["groups"].as_array().context("a list of groups")? {
        for version in group["versions"].as_array().into_iter().flatten() {
            paths.push(format!("/apis/{}", version["groupVersion"].as_str().context("a version")?));
        }
    }
    let mut served = BTreeSet::new();
    for path in paths {
        let list = admin.get(&path).await?.ok()?.json();
        let names = list["resources"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
        served.extend(names.map(str::to_owned));
    }
    // Never stored, so in no list of resources of ours.
    served.extend(["selfsubjectreviews", "selfsubjectaccessreviews", "subjectaccessreviews"].map(str::to_owned));
    Ok(served)
}

/// `topic/case: 1 2 5`, one case a line.
fn read_agreed(text: &str) -> BTreeMap<String, BTreeSet<u64>> {
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(case, steps)| (case.to_owned(), steps.split(' ').filter_map(|step| step.parse().ok()).collect()))
        .collect()
}

fn write_agreed(agreed: &BTreeMap<String, BTreeSet<u64>>) -> String {
    let mut text = String::new();
    for (case, steps) in agreed.iter().filter(|(_, steps)| !steps.is_empty()) {
        let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "{case}: {}", steps.join(" "));
    }
    text
}

/// What a replay came to.
#[derive(Default)]
struct Outcome {
    agreed: BTreeMap<String, BTreeSet<u64>>,
    /// Of each step that differs: the first difference.
    differences: BTreeMap<(String, u64), String>,
    steps: usize,
}

/// The first difference of a step, as a line.
fn difference(compared: &Result<Comparison>) -> Option<String> {
    let compared = match compared {
        Err(error) => return Some(format!("{error:#}")),
        Ok(compared) if compared.is_equal() => return None,
        Ok(compared) => compared,
    };
    if !compared.is_status_equal() {
        return Some(format!("status {} instead of {}", compared.status_given, compared.status_expected));
    }
    let place = compared.headers.iter().chain(&compared.body).next()?;
    let short =
        |value: &Option<String>| -> String { value.as_deref().unwrap_or("nothing").chars().take(200).collect() };
    Some(format!("{}: {} instead of {}", place.place, short(&place.given), short(&place.expected)))
}

async fn replay(wire: &Wire, cases: &[Case]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut running = futures::stream::iter(cases.iter().enumerate().map(|(number, case)| async move {
        let done = case.replay(wire, &format!("kt-{number}")).await;
        (case, done)
    }))
    .buffer_unordered(CASES_AT_ONCE);
    while let Some((case, done)) = running.next().await {
        for step in done {
            outcome.steps += 1;
            match difference(&step.compared) {
                None => drop(outcome.agreed.entry(case.name.clone()).or_default().insert(step.step)),
                Some(difference) => drop(outcome.differences.insert((case.name.clone(), step.step), difference)),
            }
        }
    }
    outcome
}

#[test]
fn what_agreed_with_a_kube_apiserver_still_does() -> Result<()> {
    let dir_of_hub = tempfile::tempdir()?;
    let hub_dir = dir_of_hub.path().join("hub");
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    hub.address("hub-api")?;
    let kubeconfig = hub_dir.join("kubeconfig");
    let (address, ca, _) = read_kubeconfig(&kubeconfig)?;
    let wire = Wire::new(Access::kubeconfig(&kubeconfig)?, Access::anonymous(&address, &ca)?);
    let path = dir().join("agreed.txt");
    let listed = read_agreed(&fs::read_to_string(&path).unwrap_or_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let served = served(&*wire.connection(Sender::Admin).await?).await?;
        let mut replayed = Vec::new();
        for topic in TOPICS {
            replayed.extend(cases(&dir(), topic)?.into_iter().filter(|case| case.is_of(&served)));
        }
        ensure!(replayed.len() > 100, "{} cases", replayed.len());
        anyhow::Ok(replay(&wire, &replayed).await)
    })?;

    let by_chance = |case: &str, step: u64| BY_CHANCE.iter().any(|(name, _)| *name == format!("{case}/{step}"));
    let mut lost = String::new();
    for (case, steps) in &listed {
        for step in steps.iter().filter(|step| !outcome.agreed.get(case).is_some_and(|agreed| agreed.contains(*step))) {
            let difference =
                outcome.differences.get(&(case.clone(), *step)).map_or("it was not replayed", String::as_str);
            let _ = writeln!(lost, "{case}/{step}: {difference}");
        }
    }
    if let Ok(file) = std::env::var("SELVEDGE_RECORDED_DIFFERENCES") {
        let lines =
            outcome.differences.iter().map(|((case, step), difference)| json!([case, step, difference]).to_string());
        fs::write(file, lines.collect::<Vec<_>>().join("\n"))?;
    }
    let count = |steps: &BTreeMap<String, BTreeSet<u64>>| steps.values().map(BTreeSet::len).sum::<usize>();
    let mut all = listed.clone();
    for (case, steps) in &outcome.agreed {
        all.entry(case.clone()).or_default().extend(steps.iter().filter(|step| !by_chance(case, **step)));
    }
    println!("{} of {} replayed steps agree; {} are listed", count(&outcome.agreed), outcome.steps, count(&listed));
    assert!(lost.is_empty(), "answers that were a kube-apiserver's and are no longer:\n{lost}");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, write_agreed(&all))?;
    } else if count(&all) > count(&listed) {
        println!("{} more agree: add them with `cargo xtask test --bless recorded`", count(&all) - count(&listed));
    }
    Ok(())
}

#[test]
fn the_list_is_read_as_it_is_written() {
    let text = "create/a: 1 2 10\nerrors/b: 3\n";
    assert_eq!(write_agreed(&read_agreed(text)), text);
    let agreed = read_agreed(&fs::read_to_string(dir().join("agreed.txt")).expect("it is in the repository"));
    assert!(BY_CHANCE.iter().all(|(step, _)| {
        let (case, step) = step.rsplit_once('/').expect("case and step");
        agreed.get(case).is_none_or(|steps| !steps.contains(&step.parse().expect("a number")))
    }));
    assert!(agreed.values().map(BTreeSet::len).sum::<usize>() > 100, "the list only grows");
}
