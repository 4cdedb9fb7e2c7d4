//! What a person at a terminal reads when something is wrong: the reason once, with the next step.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::program::{Selvedge, run};
use testkit::wait::eventually;

use crate::common::{PATIENCE, token};

/// A hub, its URL, and where everything is.
struct OneHub {
    hub: Selvedge,
    url: String,
    dir: tempfile::TempDir,
}

impl OneHub {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut hub = Selvedge::start(&dir.path().join("hub"), &["hub"])?;
        let url = format!("https://{}", hub.address("hub-api")?);
        Ok(Self { hub, url, dir })
    }

    fn token(&self) -> Result<String> {
        token(&self.dir.path().join("hub"))
    }

    /// A node that joins in a directory; more arguments after the usual ones.
    fn node(&self, name: &str, token: &str, more: &[&str]) -> Result<Selvedge> {
        let usual = ["node", "--hub", &self.url, "--token", token, "--node-name", name];
        Selvedge::start(&self.dir.path().join(name), &[&usual[..], more].concat())
    }
}

fn wait_log(node: &Selvedge, phrase: &str) -> Result<()> {
    eventually(&format!("`{phrase}` in the log"), PATIENCE, || {
        let log = node.log();
        if log.contains(phrase) { Ok(()) } else { Err(log) }
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn a_refused_token_is_reported_once() -> Result<()> {
    let hub = OneHub::start()?;
    let token = hub.token()?;
    // The hub is the right one, the token is none of its.
    let (known, _) = token.rsplit_once('.').expect("a token has four parts");
    for (wrong, reason) in
        [(format!("{known}.0000000000000000"), "the hub refused the token"), (token, "was used already")]
    {
        if reason == "was used already" {
            let first = hub.node("first", &wrong, &[])?;
            wait_log(&first, "registered and Ready")?;
        }
        let mut node = hub.node("second", &wrong, &[])?;
        let status = node.wait(PATIENCE)?;
        let log = node.log();
        ensure!(status.code() == Some(1) && log.matches(reason).count() == 1, "{status}: {log}");
        ensure!(log.contains("selvedge token create") && log.contains(&hub.url), "{log}");
    }
    Ok(())
}

#[test]
fn a_node_stays_with_its_hub_unless_it_is_given_a_token_of_another() -> Result<()> {
    let (first, second) = (OneHub::start()?, OneHub::start()?);
    let mut node = first.node("gw-1", &first.token()?, &[])?;
    wait_log(&node, "registered and Ready")?;
    node.kill();
    // Without a token it is the URL that is wrong. The node keeps to what it has joined.
    let dir = first.dir.path().join("gw-1");
    let mut node = Selvedge::start(&dir, &["node", "--hub", &second.url])?;
    wait_log(&node, "is not the hub that this node has joined")?;
    wait_log(&node, &format!("Connected to the hub. url={}", first.url))?;
    node.kill();
    // With one it joins the other, and says which it was and which it is.
    let token = second.token()?;
    let mut node = Selvedge::start(&dir, &["node", "--hub", &second.url, "--token", &token])?;
    wait_log(&node, "The token is of another hub")?;
    wait_log(&node, &format!("Joined the hub. node=gw-1 url={}", second.url))?;
    let ca = |token: &str| token.split('.').nth(1).unwrap_or_default().to_owned();
    let said = node.log();
    for word in ["node=gw-1", "selvedge-hub-", &ca(&first.token()?), &first.url, &ca(&token)] {
        ensure!(said.contains(word), "{word}: {said}");
    }
    node.kill();
    Ok(())
}

#[test]
fn labels_that_the_hub_leaves_out_are_in_the_nodes_log() -> Result<()> {
    let hub = OneHub::start()?;
    let config = hub.dir.path().join("node.yaml");
    std::fs::write(&config, "labels: { site: hall-2, node-role.kubernetes.io/gateway: '' }\n")?;
    let node = hub.node("gw-1", &hub.token()?, &["--config", &text(&config)])?;
    wait_log(&node, "registered and Ready")?;
    let log = node.log();
    for label in ["site", "node-role.kubernetes.io/gateway"] {
        ensure!(log.matches(&format!("label {label} is not a node's to set")).count() == 1, "{label}: {log}");
    }
    Ok(())
}

#[test]
fn a_node_has_one_edge_plane_whatever_directory_it_works_in() -> Result<()> {
    let hub = OneHub::start()?;
    let mut node = hub.node("gw-1", &hub.token()?, &[])?;
    wait_log(&node, "registered and Ready")?;
    node.kill();
    let node_dir = text(&hub.dir.path().join("gw-1"));
    let first = Selvedge::start(&hub.dir.path().join("one"), &["edge", "--node-dir", &node_dir])?;
    wait_log(&first, "The edge plane runs.")?;
    for other in [text(&hub.dir.path().join("two")), node_dir.clone()] {
        let said = run(["edge", "--data-dir", &other, "--node-dir", &node_dir])?.refused()?;
        ensure!(said.contains(&format!("runs on {node_dir} as process {}", first.pid())), "{other}: {said}");
    }
    Ok(())
}

#[test]
fn a_hub_that_does_not_run_is_named_with_the_next_step() -> Result<()> {
    let mut hub = OneHub::start()?;
    hub.hub.kill();
    let dir = text(&hub.dir.path().join("hub"));
    for args in [&["status", "--data-dir", &dir][..], &["token", "create", "--data-dir", &dir]] {
        let outcome = run(args)?;
        ensure!(outcome.code == 1, "{outcome:?}");
        let said = outcome.refused()?;
        let step = format!("start it with `selvedge hub --data-dir {dir}`");
        for word in ["does not answer: Connection refused", &hub.url, &step] {
            ensure!(said.contains(word), "{args:?}: no `{word}` in {said}");
        }
        for internal in ["ServiceError", "kube", "client error", "Connect)"] {
            ensure!(!said.contains(internal), "{args:?}: {internal}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_node_without_its_hub_reports_that_itself_and_nothing_else_does() -> Result<()> {
    let mut hub = OneHub::start()?;
    let mut node = hub.node("gw-1", &hub.token()?, &[])?;
    wait_log(&node, "registered and Ready")?;
    node.kill();
    hub.hub.kill();
    let node_dir = text(&hub.dir.path().join("gw-1"));
    let edge = Selvedge::start(&hub.dir.path().join("edge"), &["edge", "--node-dir", &node_dir])?;
    wait_log(&edge, "Cannot watch this node's assignment")?;
    let log = edge.log();
    ensure!(!log.contains("kube_client") && !log.contains("ERROR") && !log.contains("ServiceError"), "{log}");
    Ok(())
}
