//! `selvedge status`: what runs and what is wrong, from the hub's API and the sockets of the roles on this machine.
//!
//! Whatever can be reached is shown; what cannot is named with its reason, so that the command helps most when half
//! of the system is down.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_edge::status::{
    CONTROLLERS_PATH, CONTROLLERS_VERSION, ControllerStatus, ControllersReport, EdgeReport, EntryReport, LIFE_PATH,
    LifeReport, NodeReport,
};
use base_observe::Printable;
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Serialize;

use crate::cli::{Output, StatusArgs};
use crate::kube_access::explained;
use crate::paths::DataDir;

/// A role that does not answer within this time is in trouble, and says so by that.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(3);
/// A report of a node with 110 pods and 1,000 devices is far below.
const REPORT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything that could be learned; `-o json` prints it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<HubStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge: Option<EdgeReport>,
    /// Roles that should have answered and did not, and why.
    unreachable: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct HubStatus {
    nodes: Vec<Line>,
    pods: Vec<Line>,
    devices: Vec<Line>,
    rules: Vec<Line>,
    exports: Vec<Line>,
    controllers: Vec<ControllerStatus>,
    /// Absent where the hub's program is older than this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    life: Option<LifeReport>,
}

/// One object: its name, whether it is well, and a sentence.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    name: String,
    ready: bool,
    message: String,
}

/// The status socket of the node.
pub fn node_socket(data_dir: &DataDir) -> std::path::PathBuf {
    #[cfg(feature = "node")]
    {
        // One of a node that was killed may be left on a disk that became read-only.
        let is_served = |path: &std::path::PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
        let served = node_kubelet::status_sockets(data_dir.path()).into_iter().find(is_served);
        served.unwrap_or_else(|| data_dir.run().join("node.sock"))
    }
    #[cfg(not(feature = "node"))]
    data_dir.run().join("node.sock")
}

/// Prints the status; an error only when nothing at all could be learned.
pub async fn status(args: StatusArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    let mut status = Status { version: 1, ..Status::default() };
    if data_dir.kubeconfig().exists() {
        match hub(&data_dir).await {
            Ok(hub) => status.hub = Some(hub),
            Err(error) => status.unreachable.push(format!("hub: {:#}", explained(error, &data_dir))),
        }
    }
    if data_dir.node().exists() {
        match report(&node_socket(&data_dir)).await {
            Ok(report) => status.node = Some(report),
            Err(error) => status.unreachable.push(format!("node: {error:#}")),
        }
    }
    if data_dir.edge().exists() {
        match report(&data_dir.run().join("edge.sock")).await {
            Ok(report) => status.edge = Some(report),
            Err(error) => status.unreachable.push(format!("edge: {error:#}")),
        }
    }
    let has_anything = status.hub.is_some() || status.node.is_some() || status.edge.is_some();
    if !has_anything && status.unreachable.is_empty() {
        bail!("{} holds no hub, node or edge; name the data directory with --data-dir", data_dir.path().display());
    }
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status).context("a status is JSON")?),
        Output::Text => print!("{}", text(&status)),
    }
    if !has_anything {
        bail!(
            "nothing of {} answers; start its role again with `selvedge up`, `hub`, `node` or `edge` and this --data-dir",
            data_dir.path().display()
        );
    }
    Ok(())
}

async fn hub(data_dir: &DataDir) -> Result<HubStatus> {
    let client = crate::kube_access::client(data_dir).await?;
    let ours = |kind| GroupVersionKind::gvk(api_edge::GROUP, api_edge::VERSION, kind);
    Ok(HubStatus {
        nodes: list(&client, &GroupVersionKind::gvk("", "v1", "Node"), "Ready").await?,
        pods: list(&client, &GroupVersionKind::gvk("", "v1", "Pod"), "Ready").await?,
        devices: list(&client, &ours("Device"), "Ready").await?,
        rules: list(&client, &ours("Rule"), "Ready").await?,
        exports: list(&client, &ours("Export"), "Ready").await?,
        controllers: controllers(&client).await.context("failed to read what the controllers did last")?,
        life: life(&client).await.context("failed to read which life of its state the hub serves")?,
    })
}

async fn controllers(client: &Client) -> Result<Vec<ControllerStatus>> {
    let (code, bytes) = get(client, CONTROLLERS_PATH).await?;
    if code != http::StatusCode::OK {
        bail!("{CONTROLLERS_PATH} is answered with {code}; is the hub's program older than this one?");
    }
    let report: ControllersReport = serde_json::from_slice(&bytes).context("the answer is not a report")?;
    if report.version != CONTROLLERS_VERSION {
        bail!("the report has version {}; use the `selvedge` of the hub", report.version);
    }
    Ok(report.controllers)
}

async fn life(client: &Client) -> Result<Option<LifeReport>> {
    let (code, bytes) = get(client, LIFE_PATH).await?;
    match code {
        http::StatusCode::OK => serde_json::from_slice(&bytes).context("the answer is not a report").map(Some),
        http::StatusCode::NOT_FOUND => Ok(None),
        code => bail!("{LIFE_PATH} is answered with {code}"),
    }
}

async fn get(client: &Client, path: &str) -> Result<(http::StatusCode, bytes::Bytes)> {
    let answer = client.send(http::Request::get(path).body(kube::client::Body::empty())?).await?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), REPORT_BYTES_MAX).collect().await;
    Ok((code, body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes()))
}

async fn list(client: &Client, kind: &GroupVersionKind, condition: &str) -> Result<Vec<Line>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(kind));
    let objects = api.list(&ListParams::default()).await.with_context(|| format!("failed to list {}s", kind.kind))?;
    Ok(objects.items.iter().map(|object| line(object, condition)).collect())
}

fn line(object: &DynamicObject, condition: &str) -> Line {
    let name = match (&object.metadata.namespace, &object.metadata.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (_, name) => name.clone().unwrap_or_default(),
    };
    let conditions = object.data["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|one| one["type"] == condition);
    let words: Vec<&str> =
        [found.and_then(|one| one["reason"].as_str()), found.and_then(|one| one["message"].as_str())]
            .into_iter()
            .flatten()
            .filter(|word| !word.is_empty())
            .collect();
    let message = match (object.data["status"]["phase"].as_str(), words.is_empty()) {
        (Some(phase), true) => phase.to_owned(),
        (_, false) => words.join(": "),
        (None, true) => "no status yet".to_owned(),
    };
    Line { name, ready: found.is_some_and(|one| one["status"] == "True"), message }
}

/// Asks a role over its socket.
async fn report<T: serde::de::DeserializeOwned>(socket: &Path) -> Result<T> {
    let ask = async {
        let answer = crate::socket::get(socket, "/status").await?;
        let body = Limited::new(answer.into_body(), REPORT_BYTES_MAX);
        let bytes = body.collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        serde_json::from_slice(&bytes).context("its answer is not a report")
    };
    tokio::time::timeout(SOCKET_TIMEOUT, ask)
        .await
        .with_context(|| format!("no answer on {} within {SOCKET_TIMEOUT:?}", socket.display()))?
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    if let Some(hub) = &status.hub {
        for (title, lines) in [
            ("NODES", &hub.nodes),
            ("PODS", &hub.pods),
            ("DEVICES", &hub.devices),
            ("RULES", &hub.rules),
            ("EXPORTS", &hub.exports),
        ] {
            section(&mut out, title, lines.iter().map(|line| (line.name.as_str(), line.ready, line.message.clone())));
        }
        write_controllers(&mut out, &hub.controllers);
        write_restored(&mut out, hub.life.as_ref());
    }
    if let Some(node) = &status.node {
        let link = if node.connected { "connected to the hub" } else { "not connected to a hub" };
        let _ = writeln!(out, "NODE {}: {link}, {}", Printable(&node.node), count(node.pods.len() as u64, "pod"));
        section(
            &mut out,
            "PODS HERE",
            node.pods.iter().map(|pod| {
                (pod.pod.as_str(), pod.ready, format!("{}, {}", pod.phase, count(pod.restarts.into(), "restart")))
            }),
        );
        errors(&mut out, &node.last_errors);
    }
    if let Some(edge) = &status.edge {
        let journal = &edge.journal;
        let _ = writeln!(
            out,
            "EDGE: {} to be exported, {} on disk ({} bytes)",
            count(journal.depth, "event"),
            journal.next.saturating_sub(journal.first),
            journal.bytes
        );
        let shown = |entry: &EntryReport| format!("{}, {}", entry.message, count(entry.events, "event"));
        let names: Vec<String> = edge.entries.iter().map(|entry| format!("{} {}", entry.kind, entry.name)).collect();
        section(
            &mut out,
            "RUNNING HERE",
            edge.entries.iter().zip(&names).map(|(entry, name)| (name.as_str(), entry.ready, shown(entry))),
        );
        errors(&mut out, &edge.last_errors);
    }
    for role in &status.unreachable {
        let _ = writeln!(out, "UNREACHABLE {}", Printable(role));
    }
    out
}

/// `1 pod`, `2 pods`.
fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// One line for all while they are well, else one for each that is not.
fn write_controllers(out: &mut String, controllers: &[ControllerStatus]) {
    let is_well = |one: &ControllerStatus| one.synced && one.failing == 0;
    if controllers.iter().all(is_well) {
        let runs: u64 = controllers.iter().map(|one| one.processed).sum();
        let due: usize = controllers.iter().map(|one| one.queue_length + one.running).sum();
        let _ = writeln!(out, "CONTROLLERS: all {} are well, {runs} runs, {due} due", controllers.len());
        return;
    }
    let why = |one: &ControllerStatus| match (&one.last_error, one.synced) {
        (_, false) => "has not seen everything that it reads".to_owned(),
        (Some(error), true) => {
            format!("fails for {}; last for {}: {}", count(one.failing as u64, "object"), error.key, error.message)
        }
        (None, true) => format!("fails for {}", count(one.failing as u64, "object")),
    };
    let failing = controllers.iter().filter(|one| !is_well(one));
    section(out, "CONTROLLERS", failing.map(|one| (one.name.as_str(), false, why(one))));
}

/// Only of a hub that was restored: of others there is nothing to say.
fn write_restored(out: &mut String, life: Option<&LifeReport>) {
    let Some((life, restored)) = life.and_then(|life| Some((life, life.restored.as_ref()?))) else { return };
    let when = restored.time.map(|time| format!(" at {time:.0}")).unwrap_or_default();
    let _ = writeln!(
        out,
        "RESTORED{when} from a backup of revision {}; epoch {}",
        restored.revision,
        Printable(&life.epoch)
    );
}

fn section<'a>(out: &mut String, title: &str, lines: impl Iterator<Item = (&'a str, bool, String)>) {
    let mut lines = lines.peekable();
    let _ = writeln!(out, "{title}{}", if lines.peek().is_none() { ": none" } else { "" });
    for (name, ready, message) in lines {
        let mark = if ready { "ok" } else { "--" };
        // Nodes and devices write these: on a terminal they must not pass for other lines.
        let _ = writeln!(out, "  {mark} {}  {}", Printable(name), Printable(message));
    }
}

fn errors(out: &mut String, errors: &[String]) {
    if !errors.is_empty() {
        let _ = writeln!(out, "LAST ERRORS");
        for error in errors {
            let _ = writeln!(out, "  {}", Printable(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use api_edge::status::ControllerError;

    use super::*;

    fn controller(name: &str) -> ControllerStatus {
        ControllerStatus { name: name.to_owned(), synced: true, processed: 4, ..ControllerStatus::default() }
    }

    fn check(controllers: &[ControllerStatus], expected: &str) {
        let mut out = String::new();
        write_controllers(&mut out, controllers);
        assert_eq!(out, expected);
    }

    #[test]
    fn what_a_node_says_of_itself_stays_on_its_line() {
        let message = "M\u{1b}[2J\nok fake-node  all is well".to_owned();
        let line = Line { name: "gw-1".to_owned(), ready: false, message };
        let hub = HubStatus { nodes: vec![line], ..HubStatus::default() };
        let shown = text(&Status { hub: Some(hub), unreachable: vec!["edge: a\nb".to_owned()], ..Status::default() });
        assert!(shown.contains("  -- gw-1  M\\u{1b}[2J\\nok fake-node  all is well\n"), "{shown}");
        assert!(shown.contains("UNREACHABLE edge: a\\nb\n"), "{shown}");
    }

    #[test]
    fn numbers_and_empty_lists_read_as_sentences() {
        let pod = |restarts| api_edge::status::PodReport {
            pod: "default/a".to_owned(),
            phase: "Running".to_owned(),
            ready: true,
            restarts,
        };
        let node = NodeReport { node: "gw-1".to_owned(), pods: vec![pod(1)], ..NodeReport::default() };
        let edge = EdgeReport::default();
        let shown = text(&Status { node: Some(node), edge: Some(edge), ..Status::default() });
        assert_eq!(
            shown,
            "NODE gw-1: not connected to a hub, 1 pod\nPODS HERE\n  ok default/a  Running, 1 restart\n\
             EDGE: 0 events to be exported, 0 on disk (0 bytes)\nRUNNING HERE: none\n"
        );
    }

    #[test]
    fn controllers_take_one_line_while_they_are_well() {
        let busy = ControllerStatus { queue_length: 2, running: 1, ..controller("pods") };
        // A failure that a later run has mended is no news.
        let last_error = Some(ControllerError { key: "gw-1".to_owned(), ..ControllerError::default() });
        let mended = ControllerStatus { last_error, ..controller("nodes") };
        check(&[busy, mended], "CONTROLLERS: all 2 are well, 8 runs, 3 due\n");
    }

    #[test]
    fn a_restored_hub_says_so_and_no_other_does() {
        let restored = api_edge::status::RestoredReport {
            time: Some("2026-03-01T08:00:00.5Z".parse().expect("a time")),
            revision: 41,
            ..Default::default()
        };
        let life = LifeReport { epoch: "ab".to_owned(), restored: Some(restored), ..LifeReport::default() };
        for (life, expected) in [
            (Some(&life), "RESTORED at 2026-03-01T08:00:00Z from a backup of revision 41; epoch ab\n"),
            (Some(&LifeReport { restored: None, ..life.clone() }), ""),
            (None, ""),
        ] {
            let mut out = String::new();
            write_restored(&mut out, life);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn each_controller_that_fails_says_why() {
        let error = ControllerError { key: "default/a".to_owned(), message: "no space".to_owned(), time: None };
        let failing = ControllerStatus { failing: 3, last_error: Some(error), ..controller("daemonsets") };
        let starting = ControllerStatus { synced: false, ..controller("garbage") };
        check(
            &[failing, starting, controller("nodes")],
            "CONTROLLERS\n  -- daemonsets  fails for 3 objects; last for default/a: no space\n  -- garbage  has not seen everything that it reads\n",
        );
    }
}
