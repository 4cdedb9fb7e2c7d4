//! What a real kube-apiserver answered, requested from the hub: the differential test, `cargo xtask test differential`.
//!
//! `tests/data/kubernetes/recorded` holds sequences of requests ("cases", each in an empty namespace) with the answers of
//! kube-apiserver 1.36.3. All of a topic are replayed over TLS, and each answer is compared to the letter but for what differs from
//! run to run (`machinery-replay`). A step may differ only when a list says so, and what is listed counts as a difference in
//! every figure:
//!
//! - `differences.txt`: `topic/case/step: reason`, for good;
//! - `differences-open.txt`: `topic/case: steps`, not looked into yet. `cargo xtask test --all --bless differential` takes out what is
//!   equal now; it adds nothing.
//!
//! In its small size the test replays a fixed third of the cases; `--all` replays all and writes `bench/reports/differential.*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::StreamExt as _;
use http::Request;
use machinery_replay::{Answer, AnswerFuture, Case, Comparison, Sender, StepOutcome, Transport, cases, topics};
use serde_json::{Value, json};
use testkit::program::Selvedge;
use testkit::wire::{Access, Connection, read_kubeconfig};
use tokio::sync::Mutex;

use crate::common::{is_full, root};

/// Cases at a time: most of their time they wait for watches that last a second.
const CASES_AT_ONCE: usize = 16;

/// One case in this many is replayed in the small size.
const SMALL_SHARE: u32 = 3;

/// Steps that are equal in some runs only, each with its reason: neither a difference nor none.
const BY_CHANCE: &[(&str, &str)] = &[
    ("create/delete-propagation/3", "the garbage collector may have been there first"),
    ("create/delete-propagation/4", "the garbage collector may have been there first"),
    ("apply/sets-and-owners/3", "the garbage collector may have been there first"),
    ("apply/sets-and-owners/4", "the garbage collector may have been there first"),
    ("node-authorizer/node-certificate-requests/3", "the certificate may have been signed already"),
    ("node-authorizer/node-certificate-requests/4", "the certificate may have been signed already"),
    ("errors/update-rules-jobs/4", "the garbage collector may have been there first"),
    ("create/delete-options-persistentvolumeclaims/5", "the claim may have been released already"),
    ("admission/namespace-terminating/6", "the namespace may have been deleted already"),
    ("admission/namespace-terminating/7", "the namespace may have been deleted already"),
    ("admission/namespace-terminating/12", "the namespace may have been deleted already"),
    ("admission/namespace-terminating/13", "the namespace may have been deleted already"),
    ("admission/namespace-terminating/14", "the namespace may have been deleted already"),
    ("admission/namespace-terminating/15", "the namespace may have been deleted already"),
];

/// Those that the API itself does not do without.
const CONTROLLERS: &[&str] =
    &["namespaces", "csr", "garbage", "podgc", "nodes", "protection", "daemonsets", "assignments"];

/// Cases of `admission` that need what has an issue of its own, by how their names begin: they are counted apart.
const APART: &[&str] =
    &["quota-", "pod-security-", "limit-range", "polic", "validating-policy", "mutating-policy", "webhook-"];

/// What must be reached, in percent: status codes, bodies, in full.
const LIMITS: [f64; 3] = [99.0, 97.0, 95.0];

fn data() -> PathBuf {
    root().join("tests/data/kubernetes")
}

/// Connections to a hub, one for each sender; one that the hub has closed is opened anew.
pub struct Wire {
    admin: Access,
    anonymous: Access,
    connections: Mutex<BTreeMap<Sender, Arc<Connection>>>,
}

impl Wire {
    pub fn new(admin: Access, anonymous: Access) -> Self {
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

/// The same third in every run, on every machine.
fn is_of_this_run(case: &str) -> bool {
    let digest =
        case.bytes().fold(0x811c_9dc5_u32, |digest, byte| (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    is_full() || digest.is_multiple_of(SMALL_SHARE)
}

fn is_apart(case: &str) -> bool {
    case.strip_prefix("admission/").is_some_and(|name| APART.iter().any(|start| name.starts_with(start)))
}

/// `topic/case: 1 2 5`, one case a line.
fn read_open(text: &str) -> BTreeMap<String, BTreeSet<u64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": "));
    lines
        .map(|(case, steps)| (case.to_owned(), steps.split(' ').filter_map(|step| step.parse().ok()).collect()))
        .collect()
}

fn write_open(open: &BTreeMap<String, BTreeSet<u64>>) -> String {
    let mut text = "# Steps whose answer differs from a kube-apiserver's and that nobody has looked into. The list only shrinks.\n".to_owned();
    for (case, steps) in open.iter().filter(|(_, steps)| !steps.is_empty()) {
        let steps: Vec<String> = steps.iter().map(u64::to_string).collect();
        let _ = writeln!(text, "{case}: {}", steps.join(" "));
    }
    text
}

/// `topic/case/step: reason`, one a line.
fn read_reasoned(text: &str) -> BTreeMap<(String, u64), String> {
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": "));
    lines
        .filter_map(|(step, reason)| {
            let (case, step) = step.rsplit_once('/')?;
            Some(((case.to_owned(), step.parse().ok()?), reason.to_owned()))
        })
        .collect()
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

/// What the cases of a topic came to.
#[derive(Clone, Copy, Default)]
struct Counts {
    cases: usize,
    steps: usize,
    statuses: usize,
    bodies: usize,
    in_full: usize,
}

impl Counts {
    fn add(&mut self, outcomes: &[StepOutcome]) {
        let count = |is_counted: fn(&Comparison) -> bool| {
            outcomes.iter().filter(|one| one.compared.as_ref().is_ok_and(is_counted)).count()
        };
        self.cases += 1;
        self.steps += outcomes.len();
        self.statuses += count(Comparison::is_status_equal);
        self.bodies += count(|one| one.body.is_empty());
        self.in_full += count(Comparison::is_equal);
    }

    fn sum(mut self, other: &Self) -> Self {
        self.cases += other.cases;
        self.steps += other.steps;
        self.statuses += other.statuses;
        self.bodies += other.bodies;
        self.in_full += other.in_full;
        self
    }

    /// Status codes, bodies, in full, in percent.
    fn percent(&self) -> [f64; 3] {
        let of = |count: usize| if self.steps == 0 { 100.0 } else { count as f64 * 100.0 / self.steps as f64 };
        [of(self.statuses), of(self.bodies), of(self.in_full)]
    }

    fn row(&self, name: &str) -> String {
        let [status, body, in_full] = self.percent();
        format!("| {name} | {} | {} | {status:.1} | {body:.1} | {in_full:.1} |\n", self.cases, self.steps)
    }
}

/// What a replay came to.
#[derive(Default)]
struct Replayed {
    topics: BTreeMap<String, Counts>,
    equal: BTreeSet<(String, u64)>,
    /// Of each step that differs: the first difference.
    differences: BTreeMap<(String, u64), String>,
}

impl Replayed {
    fn add(&mut self, topic: &str, case: &str, outcomes: &[StepOutcome]) {
        let topic = if is_apart(case) { format!("{topic}, with an issue of its own") } else { topic.to_owned() };
        self.topics.entry(topic).or_default().add(outcomes);
        for outcome in outcomes {
            let step = (case.to_owned(), outcome.step);
            match difference(&outcome.compared) {
                None => drop(self.equal.insert(step)),
                Some(difference) => drop(self.differences.insert(step, difference)),
            }
        }
    }

    /// All topics but what is counted apart.
    fn all(&self) -> Counts {
        let counted = self.topics.iter().filter(|(topic, _)| !topic.contains(','));
        counted.fold(Counts::default(), |sum, (_, counts)| sum.sum(counts))
    }

    fn table(&self) -> String {
        let mut text =
            "| topic | cases | answers | status codes % | bodies % | in full % |\n|---|---|---|---|---|---|\n"
                .to_owned();
        for (topic, counts) in &self.topics {
            text += &counts.row(topic);
        }
        text + &self.all().row("**all**")
    }

    fn write(&self, reasoned: usize) -> Result<()> {
        let out = root().join("bench/reports");
        let profile = std::env::var("SELVEDGE_PROFILE").unwrap_or_else(|_| "ci".to_owned());
        let machine = format!("the recorded half of kube-apiserver 1.36.3's answers, {profile} profile");
        let mut figures = Vec::new();
        for (name, counts) in
            self.topics.iter().map(|(name, counts)| (name.as_str(), *counts)).chain([("all", self.all())])
        {
            for ((what, value), limit) in
                ["status codes", "bodies", "in full"].into_iter().zip(counts.percent()).zip(LIMITS)
            {
                let limit = (name == "all").then_some(limit);
                figures.push(json!({"figure": format!("{name}: {what}"), "unit": "%", "value": value, "n": counts.steps, "limit": limit}));
            }
        }
        let report: Value = json!({"version": 1, "name": "differential", "machine": machine, "figures": figures});
        fs::write(out.join("differential.json"), serde_json::to_string_pretty(&report)? + "\n")?;
        let [status, body, in_full] = LIMITS;
        let text = format!(
            "# differential\n\n{machine}\n\nAsked for: ≥ {status} % of status codes, ≥ {body} % of bodies, ≥ {in_full} % in full. \
             {} answers differ, {reasoned} of them with a reason in `tests/data/kubernetes/differences.txt`; each counts here.\n\n{}",
            self.differences.len(),
            self.table()
        );
        fs::write(out.join("differential.md"), text).context("failed to write the report")
    }
}

async fn replay(wire: &Wire, topic: &str, cases: &[Case], replayed: &mut Replayed, expected: &BTreeSet<(String, u64)>) {
    let mut running = futures::stream::iter(cases.iter().enumerate().map(|(number, case)| async move {
        let namespace = format!("kt-{}-{number}", topic.replace(|letter: char| !letter.is_ascii_lowercase(), ""));
        (number, case, case.replay(wire, &namespace).await)
    }))
    .buffer_unordered(CASES_AT_ONCE);
    let mut surprising = Vec::new();
    while let Some((number, case, outcomes)) = running.next().await {
        let is_surprise = |one: &StepOutcome| {
            difference(&one.compared).is_some() && !expected.contains(&(case.name.clone(), one.step))
        };
        if outcomes.iter().any(is_surprise) {
            surprising.push((number, case))
        } else {
            replayed.add(topic, &case.name, &outcomes)
        }
    }
    drop(running);
    // What takes a moment to be known (a definition, a role) may take longer beside fifteen other cases on a busy machine.
    for (number, case) in surprising {
        let again = case.replay(wire, &format!("kt-again-{number}")).await;
        replayed.add(topic, &case.name, &again);
    }
}

#[test]
fn answers_are_those_of_a_kube_apiserver() -> Result<()> {
    let dir_of_hub = tempfile::tempdir()?;
    let hub_dir = dir_of_hub.path().join("hub");
    // Recorded without controllers: what they write would be a difference, and when they do is chance.
    let config = dir_of_hub.path().join("hub.yaml");
    fs::write(&config, format!("controllers: {}\n", json!(CONTROLLERS)))?;
    let mut hub = Selvedge::start(&hub_dir, &["hub", "--config", &config.to_string_lossy()])?;
    hub.address("hub-api")?;
    let kubeconfig = hub_dir.join("kubeconfig");
    let (address, ca, _) = read_kubeconfig(&kubeconfig)?;
    let wire = Wire::new(Access::kubeconfig(&kubeconfig)?, Access::anonymous(&address, &ca)?);
    let open_path = data().join("differences-open.txt");
    let mut open = read_open(&fs::read_to_string(&open_path).unwrap_or_default());
    let reasoned = read_reasoned(&fs::read_to_string(data().join("differences.txt"))?);
    let mut listed: BTreeSet<(String, u64)> = reasoned.keys().cloned().collect();
    listed.extend(open.iter().flat_map(|(case, steps)| steps.iter().map(|step| (case.clone(), *step))));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let replayed = runtime.block_on(async {
        let mut replayed = Replayed::default();
        for topic in topics(&data().join("recorded"))? {
            let mut cases = cases(&data().join("recorded"), &topic)?;
            cases.retain(|case| is_of_this_run(&case.name));
            replay(&wire, &topic, &cases, &mut replayed, &listed).await;
        }
        anyhow::Ok(replayed)
    })?;
    ensure!(replayed.all().steps > 500, "only {} answers", replayed.all().steps);
    println!("{}", replayed.table());
    if let Ok(file) = std::env::var("SELVEDGE_RECORDED_DIFFERENCES") {
        let lines =
            replayed.differences.iter().map(|((case, step), difference)| json!([case, step, difference]).to_string());
        fs::write(file, lines.collect::<Vec<_>>().join("\n"))?;
    }
    if is_full() {
        replayed.write(replayed.differences.keys().filter(|step| reasoned.contains_key(*step)).count())?;
    }

    let by_chance = |(case, step): &(String, u64)| BY_CHANCE.iter().any(|(name, _)| *name == format!("{case}/{step}"));
    // Where there is no list yet, a full run writes the first one.
    if !open_path.exists() && is_full() && std::env::var_os("UPDATE_EXPECT").is_some() {
        for (case, step) in replayed.differences.keys().filter(|step| !reasoned.contains_key(*step) && !by_chance(step))
        {
            open.entry(case.clone()).or_default().insert(*step);
        }
        fs::write(&open_path, write_open(&open))?;
        return Ok(());
    }
    let mut faults = String::new();
    for ((case, step), difference) in &replayed.differences {
        let step_of = (case.clone(), *step);
        if !listed.contains(&step_of) && !by_chance(&step_of) {
            let _ = writeln!(faults, "{case}/{step}: {difference}");
        }
    }
    for (case, step) in reasoned.keys().filter(|step| replayed.equal.contains(*step)) {
        let _ = writeln!(faults, "{case}/{step} is equal: take its line out of differences.txt");
    }
    let mut resolved = 0;
    for (case, steps) in &mut open {
        let before = steps.len();
        steps.retain(|step| !replayed.equal.contains(&(case.clone(), *step)));
        resolved += before - steps.len();
    }
    if resolved > 0 && std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&open_path, write_open(&open))?;
    } else if resolved > 0 {
        println!(
            "{resolved} open differences are none any more: `cargo xtask test --all --bless differential` takes them out"
        );
    }
    assert!(faults.is_empty(), "answers that no list lets differ:\n{faults}");
    Ok(())
}

#[test]
fn the_lists_of_differences_are_read_as_they_are_written() -> Result<()> {
    let text = write_open(&BTreeMap::from([("create/a".to_owned(), BTreeSet::from([1, 2, 10]))]));
    assert_eq!(write_open(&read_open(&text)), text);
    let mut steps = BTreeSet::new();
    for topic in topics(&data().join("recorded"))? {
        steps.extend(cases(&data().join("recorded"), &topic)?.iter().flat_map(Case::step_names));
    }
    let open = read_open(&fs::read_to_string(data().join("differences-open.txt"))?);
    let reasoned = read_reasoned(&fs::read_to_string(data().join("differences.txt"))?);
    for (case, step) in open.iter().flat_map(|(case, steps)| steps.iter().map(move |step| (case, *step))) {
        assert!(steps.contains(&format!("{case}/{step}")), "{case}/{step} is no recorded step");
        assert!(!reasoned.contains_key(&(case.clone(), step)), "{case}/{step} is in both lists");
    }
    Ok(())
}
