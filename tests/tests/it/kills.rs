//! Kills and power cuts under load, judged by the clients' own logs.
//!
//! Writers create, replace, patch, apply and delete ConfigMaps and keep what they have sent and what was acknowledged; watchers keep
//! every event and resume from the last revision they know. Meanwhile the hub dies again and again: killed, or with the power of
//! the disk under it. At the end the logs are held against each other:
//!
//! ```text
//! a writer's acknowledgement ──▶ its revision is nobody else's ──▶ every watcher has seen it, once, with that value
//! a watcher's events          ──▶ revisions rise, no object is added twice or deleted unseen ──▶ equal to every other watcher's
//! a last list                 ──▶ the last acknowledged state, or one sent after it whose answer never came
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::Method;
use serde_json::{Value, json};
use testkit::forgetful::ForgetfulDisk;
use testkit::program::Selvedge;
use testkit::wait::eventually;
use testkit::wire::{Access, Connection, JSON, MERGE, WatchError};
use tokio::sync::Mutex;

use crate::common::{is_full, keep_figures, start_on_its_port};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Objects per writer: few, so that each has a long history.
const OBJECTS: u64 = 6;
/// A kill takes the connection; the next one is tried at this pace.
const DIAL_PERIOD: Duration = Duration::from_millis(30);
/// Beyond it something hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// What every watcher reads to: created when the writers have stopped.
const LAST: &str = "last";

/// What a hub dies of.
#[derive(Clone, Copy)]
enum Death {
    Kill,
    PowerCut,
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kill => "SIGKILL",
            Self::PowerCut => "power cut",
        })
    }
}

struct Size {
    deaths: u64,
    writers: usize,
    watchers: usize,
    /// Acknowledgements between two deaths.
    writes: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Absent,
    Value(u64),
}

/// What a writer knows of an object.
#[derive(Clone, Debug)]
struct Known {
    /// The last state that was acknowledged.
    state: State,
    revision: u64,
    /// States sent after it whose answer never came.
    in_doubt: Vec<State>,
}

/// All writers' logs.
#[derive(Default)]
struct Log {
    objects: Mutex<BTreeMap<String, Known>>,
    /// By revision: what was acknowledged.
    acknowledged: Mutex<BTreeMap<u64, (String, u64)>>,
    /// Every value that was ever sent, with its object.
    sent: Mutex<HashMap<u64, String>>,
    faults: Mutex<Vec<String>>,
    count: AtomicU64,
    deletes: AtomicU64,
}

impl Log {
    async fn fault(&self, what: String) {
        self.faults.lock().await.push(what);
    }
}

async fn dial(access: &Access, is_over: &AtomicBool) -> Option<Connection> {
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(connection) = access.connect().await {
            return Some(connection);
        }
        tokio::time::sleep(DIAL_PERIOD).await;
    }
    None
}

/// One writer, until it is over.
async fn write(number: usize, access: Access, log: Arc<Log>, is_over: Arc<AtomicBool>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
    let mut connection: Option<Connection> = None;
    let mut next = number as u64 * 1_000_000_000;
    while !is_over.load(Ordering::Relaxed) {
        let Some(open) = connection.as_ref().filter(|one| !one.is_closed()) else {
            connection = dial(&access, &is_over).await;
            continue;
        };
        next += 1;
        let name = format!("w-{number}-{}", random.u64(0..OBJECTS));
        if let Err(fault) = write_once(open, &log, &name, next, random.u32(0..10)).await {
            log.fault(format!("{name}: {fault:#}")).await;
        }
    }
}

/// Sends one change and notes what came of it.
async fn write_once(connection: &Connection, log: &Log, name: &str, value: u64, choice: u32) -> Result<()> {
    let known = log.objects.lock().await.get(name).cloned();
    let mut known = known.unwrap_or(Known { state: State::Absent, revision: 0, in_doubt: Vec::new() });
    let path = format!("{MAPS}/{name}");
    if !known.in_doubt.is_empty() {
        // What came of the last change is looked up before the next one: a client that lost an answer reads first.
        let Ok(answer) = connection.get(&path).await else { return Ok(()) };
        let (state, revision) = match answer.status {
            404 => (State::Absent, known.revision),
            200 => read(&answer.json())?,
            // A hub that is still starting.
            _ => return Ok(()),
        };
        let is_possible = state == known.state || known.in_doubt.contains(&state);
        ensure!(is_possible, "{state:?} is there, not {:?} nor one of {:?}", known.state, known.in_doubt);
        known = Known { state, revision, in_doubt: Vec::new() };
        log.objects.lock().await.insert(name.to_owned(), known.clone());
    }
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value.to_string()}});
    let (expected, sent) = match (&known.state, choice) {
        (State::Absent, _) => (State::Value(value), (Method::POST, MAPS.to_owned(), JSON, object)),
        (State::Value(_), 0) => (State::Absent, (Method::DELETE, path, JSON, Value::Null)),
        (State::Value(_), 1..=3) => {
            let mut object = object;
            object["metadata"]["resourceVersion"] = known.revision.to_string().into();
            (State::Value(value), (Method::PUT, path, JSON, object))
        }
        (State::Value(_), 4..=6) => {
            (State::Value(value), (Method::PATCH, path, MERGE, json!({"data": {"value": value.to_string()}})))
        }
        (State::Value(_), _) => {
            let path = format!("{path}?fieldManager=kills&force=true");
            (State::Value(value), (Method::PATCH, path, "application/apply-patch+yaml", object))
        }
    };
    log.sent.lock().await.insert(value, name.to_owned());
    known.in_doubt.push(expected.clone());
    log.objects.lock().await.insert(name.to_owned(), known.clone());
    let (method, path, content_type, body) = sent;
    let answer = if method == Method::DELETE {
        connection.delete(&path).await
    } else {
        connection.write(method.clone(), &path, content_type, &body).await
    };
    let Ok(answer) = answer else { return Ok(()) };
    match answer.status {
        200 | 201 if method == Method::DELETE => {
            log.deletes.fetch_add(1, Ordering::Relaxed);
            known.in_doubt.clear();
            known.state = State::Absent;
        }
        200 | 201 => {
            let (state, revision) = read(&answer.json())?;
            ensure!(state == expected, "{state:?} was acknowledged, {expected:?} was sent");
            let before = log.acknowledged.lock().await.insert(revision, (name.to_owned(), value));
            ensure!(before.is_none(), "revision {revision} was given twice, before to {before:?}");
            known = Known { state, revision, in_doubt: Vec::new() };
        }
        // Too many at once, or a hub that is on its way up: nothing was done.
        429 | 503 => {
            known.in_doubt.clear();
        }
        // The disk under the hub fails: what it has of the change is not known.
        500 => return Ok(()),
        status => bail!("{method} {path} was answered by {status}: {}", answer.text()),
    }
    log.objects.lock().await.insert(name.to_owned(), known);
    log.count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Value and revision of an object.
fn read(object: &Value) -> Result<(State, u64)> {
    let number = |pointer: &str| -> Result<u64> {
        let text = object.pointer(pointer).and_then(Value::as_str).with_context(|| format!("{pointer} in {object}"))?;
        Ok(text.parse()?)
    };
    Ok((State::Value(number("/data/value")?), number("/metadata/resourceVersion")?))
}

/// What a watcher has seen, in order.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    revision: u64,
    name: String,
    kind: String,
    value: u64,
}

/// Watches until the last object comes, over all deaths; returns its log.
async fn watch(access: Access, from: u64) -> Result<Vec<Seen>> {
    let (mut log, mut revision) = (Vec::new(), from);
    let never = AtomicBool::new(false);
    loop {
        let Some(connection) = dial(&access, &never).await else { bail!("it dials until it is connected") };
        let mut lines = match connection.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await {
            Ok(lines) => lines,
            Err(WatchError::Status(code, text)) if ![429, 503, 500].contains(&code) => {
                bail!("no watch from {revision}: {code} {text}")
            }
            Err(_) => {
                tokio::time::sleep(DIAL_PERIOD).await;
                continue;
            }
        };
        while let Ok(Some(line)) = lines.next().await {
            // A line that a kill has cut is no event; what it held comes again.
            let Ok(event) = serde_json::from_slice::<Value>(&line) else { break };
            let kind = event["type"].as_str().unwrap_or_default().to_owned();
            ensure!(
                ["ADDED", "MODIFIED", "DELETED"].contains(&kind.as_str()),
                "an event {event} after revision {revision}"
            );
            let name = event["object"]["metadata"]["name"].as_str().context("a name")?.to_owned();
            if name == LAST {
                return Ok(log);
            }
            if !name.starts_with("w-") {
                continue;
            }
            let (State::Value(value), at) = read(&event["object"])? else { bail!("an event has a value: {event}") };
            ensure!(at > revision, "revision {at} of {name} comes after {revision}");
            revision = at;
            log.push(Seen { revision, name, kind, value });
        }
    }
}

/// Holds the logs against each other.
fn judge(
    log: &[Seen],
    acknowledged: &BTreeMap<u64, (String, u64)>,
    sent: &HashMap<u64, String>,
) -> Result<BTreeMap<String, u64>> {
    let mut state: BTreeMap<String, u64> = BTreeMap::new();
    let mut by_revision = HashMap::new();
    for seen in log {
        let was = match seen.kind.as_str() {
            "DELETED" => state.remove(&seen.name),
            _ => state.insert(seen.name.clone(), seen.value),
        };
        ensure!(was.is_some() == (seen.kind != "ADDED"), "{seen:?} after {was:?}: an event is missing or repeated");
        ensure!(sent.get(&seen.value) == Some(&seen.name), "{seen:?} was never sent");
        by_revision.insert(seen.revision, seen);
    }
    for (revision, (name, value)) in acknowledged {
        let seen = by_revision
            .get(revision)
            .with_context(|| format!("{name} = {value} at {revision} was acknowledged and never seen"))?;
        ensure!((&seen.name, seen.value) == (name, *value), "{seen:?} where {name} = {value} was acknowledged");
    }
    Ok(state)
}

fn run(size: &Size, death: Death, disk: Option<&ForgetfulDisk>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    if let Some(disk) = disk {
        // The log of the program stays on a disk that forgets nothing.
        std::fs::create_dir(disk.path().join("hub"))?;
        std::fs::File::open(disk.path())?.sync_all()?;
        std::os::unix::fs::symlink(disk.path().join("hub"), &hub_dir)?;
    }
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    let address = hub.address("hub-api")?;
    let access = Access::kubeconfig(&hub_dir.join("kubeconfig"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (log, is_over) = (Arc::new(Log::default()), Arc::new(AtomicBool::new(false)));
    let from: u64 = runtime.block_on(async {
        let list = access.connect().await?.get(&format!("{MAPS}?limit=1")).await?.ok()?.json();
        anyhow::Ok(list["metadata"]["resourceVersion"].as_str().context("a revision")?.parse()?)
    })?;
    let watchers: Vec<_> = (0..size.watchers).map(|_| runtime.spawn(watch(access.clone(), from))).collect();
    let writers: Vec<_> = (0..size.writers)
        .map(|number| runtime.spawn(write(number, access.clone(), log.clone(), is_over.clone(), seed)))
        .collect();
    for number in 0..size.deaths {
        let before = log.count.load(Ordering::Relaxed);
        let target = before + size.writes + random.u64(0..size.writes);
        eventually("writes between two deaths", PATIENCE, || {
            let now = log.count.load(Ordering::Relaxed);
            let faults = runtime.block_on(async { log.faults.lock().await.clone() });
            if now >= target || !faults.is_empty() { Ok(()) } else { Err(format!("{now} of {target}")) }
        })?;
        if let (Death::PowerCut, Some(disk)) = (death, disk) {
            disk.cut(seed.wrapping_mul(1_000_003).wrapping_add(number));
        }
        hub.kill();
        if let Some(disk) = disk {
            disk.power_on();
        }
        start_on_its_port(&mut hub, dir.path(), &address).with_context(|| format!("death {number}"))?;
    }
    let after = log.count.load(Ordering::Relaxed) + size.writes;
    eventually("writes after the last death", PATIENCE, || {
        let now = log.count.load(Ordering::Relaxed);
        if now >= after { Ok(()) } else { Err(now.to_string()) }
    })?;
    is_over.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for writer in writers {
            writer.await?;
        }
        let faults = log.faults.lock().await;
        ensure!(faults.is_empty(), "{faults:#?}");
        let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LAST}, "data": {"value": "0"}});
        access.connect().await?.post(MAPS, &last).await?.ok()?;
        let mut logs: Vec<Vec<Seen>> = Vec::new();
        for watcher in watchers {
            logs.push(tokio::time::timeout(PATIENCE, watcher).await.context("a watcher does not come to the end")???);
        }
        let (acknowledged, sent) = (log.acknowledged.lock().await, log.sent.lock().await);
        let mut state = BTreeMap::new();
        for (number, seen) in logs.iter().enumerate() {
            state = judge(seen, &acknowledged, &sent).with_context(|| format!("watcher {number}"))?;
            ensure!(*seen == logs[0], "watcher {number} has seen something else than watcher 0");
        }
        compare_with_list(&access, &log, &state).await?;
        let came_to = json!({
            "figure": death.to_string(),
            "value": log.count.load(Ordering::Relaxed),
            "unit": "writes",
            "deaths": size.deaths,
            "deletes": log.deletes.load(Ordering::Relaxed),
            "events": logs[0].len(),
            "watchers": logs.len(),
            "seed": seed,
        });
        println!("{came_to}");
        if is_full() { keep(came_to) } else { Ok(()) }
    })
}

/// Keeps what a run of the full size came to, beside that of the other kind of death.
fn keep(came_to: Value) -> Result<()> {
    let columns = ["figure", "deaths", "value", "deletes", "events", "watchers", "seed"];
    keep_figures("kills", came_to, &columns, |rows| {
        format!(
            "# Kills and power cuts\n\n`cargo xtask test --all kills`: a hub under load dies again and again, by SIGKILL, or with a disk that forgets what was not \
         synced. No revision is given twice, and every watcher sees each event once.\n\n\
         | death | deaths | writes | deletes | events each | watchers | seed |\n|---|---|---|---|---|---|---|\n{rows}"
        )
    })
}

/// What is there at last is what the watchers have built up, and what the writers were promised.
async fn compare_with_list(access: &Access, log: &Log, state: &BTreeMap<String, u64>) -> Result<()> {
    let list = access.connect().await?.get(MAPS).await?.ok()?.json();
    let mut listed = BTreeMap::new();
    for item in list["items"].as_array().context("a list of objects")? {
        let name = item["metadata"]["name"].as_str().context("a name")?;
        if let (true, (State::Value(value), _)) = (name.starts_with("w-"), read(item).unwrap_or((State::Absent, 0))) {
            listed.insert(name.to_owned(), value);
        }
    }
    ensure!(listed == *state, "the list is not what the watchers have built up: {listed:?}, {state:?}");
    for (name, known) in log.objects.lock().await.iter() {
        let there = listed.get(name).map_or(State::Absent, |value| State::Value(*value));
        let is_possible = there == known.state || known.in_doubt.contains(&there);
        ensure!(is_possible, "{name} is {there:?}, promised was {:?}, in doubt {:?}", known.state, known.in_doubt);
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() -> Result<()> {
    let size = if is_full() {
        Size { deaths: 100, writers: 32, watchers: 16, writes: 200 }
    } else {
        Size { deaths: 4, writers: 8, watchers: 4, writes: 100 }
    };
    run(&size, Death::Kill, None)
}

#[test]
fn nothing_acknowledged_is_lost_by_power_cuts() -> Result<()> {
    let Some(disk) = ForgetfulDisk::mount_or_skip("nothing_acknowledged_is_lost_by_power_cuts") else { return Ok(()) };
    let size = if is_full() {
        Size { deaths: 40, writers: 8, watchers: 4, writes: 60 }
    } else {
        Size { deaths: 2, writers: 4, watchers: 2, writes: 30 }
    };
    run(&size, Death::PowerCut, Some(&disk))
}

#[test]
fn a_judge_sees_what_is_lost_repeated_or_never_sent() -> Result<()> {
    let seen = |revision, kind: &str, value| Seen { revision, name: "w-0-0".into(), kind: kind.into(), value };
    let log = [seen(5, "ADDED", 1), seen(6, "MODIFIED", 2), seen(8, "DELETED", 2), seen(9, "ADDED", 3)];
    let acknowledged = |pairs: &[(u64, u64)]| -> BTreeMap<u64, (String, u64)> {
        pairs.iter().map(|(revision, value)| (*revision, ("w-0-0".to_owned(), *value))).collect()
    };
    let sent: HashMap<u64, String> = (1..4).map(|value| (value, "w-0-0".to_owned())).collect();
    assert_eq!(
        judge(&log, &acknowledged(&[(5, 1), (6, 2), (9, 3)]), &sent)?,
        BTreeMap::from([("w-0-0".to_owned(), 3)])
    );
    for (log, acknowledged, what) in [
        (&log[..], acknowledged(&[(7, 2)]), "never seen"),
        (&log[..], acknowledged(&[(6, 3)]), "was acknowledged"),
        (&log[1..], acknowledged(&[]), "missing or repeated"),
        (&[seen(5, "ADDED", 1), seen(6, "ADDED", 2)], acknowledged(&[]), "missing or repeated"),
        (&[seen(5, "ADDED", 7)], acknowledged(&[]), "never sent"),
    ] {
        let error = judge(log, &acknowledged, &sent).expect_err(what);
        assert!(format!("{error:#}").contains(what), "{error:#} is not {what}");
    }
    Ok(())
}
