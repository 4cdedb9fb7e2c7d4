//! A hub that has lost or restored its store, another hub, and a certificate that has expired: pods run on.
//!
//! Absence is no deletion: a list of a hub that does not know a pod because it has forgotten it stops nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base_pki::{KeyPair, Usage};
use serde_json::json;
use testkit::program::{Outcome, Selvedge, run};
use testkit::proxy::node_identity;
use testkit::wait::eventually;

use super::{NODE, PATIENCE, PODS, Site, needs_a_hub};
use crate::common::{condition, token};

impl Site {
    /// Where the hub keeps its objects.
    fn store(&self) -> std::path::PathBuf {
        self.dir.path().join("hub/hub/store")
    }

    fn ensure_runs_on(&self, programs: &[u32]) -> Result<()> {
        // What stops a pod sends it a signal at once; two statuses of the node later nothing has.
        for _ in 0..2 {
            let status = self.status().map_err(anyhow::Error::msg)?;
            let now = self.wait_programs(0..programs.len(), Duration::ZERO).with_context(|| status.to_string())?;
            ensure!(now == programs, "{programs:?} became {now:?}: {status}");
        }
        Ok(())
    }

    /// Waits until the Node and the node's own status say that pods are on hold, and what to do.
    fn wait_held(&self) -> Result<()> {
        eventually("pods on hold", PATIENCE, || {
            let node = self.api.get(&format!("/api/v1/nodes/{NODE}")).map_err(|error| error.to_string())?;
            let held = condition(&node, "PodsOnHold").unwrap_or_default();
            let is_named = held["message"].as_str().is_some_and(|message| message.contains("accept-hub"));
            let status = self.status()?;
            let is_shown = status.to_string().contains("accept-hub");
            if held["status"] == "True" && is_named && is_shown { Ok(()) } else { Err(format!("{held} {status}")) }
        })
    }

    /// The pods 0 and 2, which a backup is to have.
    fn create_pods_of_a_backup(&self) -> Result<()> {
        for number in [0, 2] {
            self.create_pods(number..number + 1)?;
            self.wait_shown(number..number + 1, PATIENCE)?;
        }
        Ok(())
    }

    /// Pod 2 is deleted and pod 1 created, of which a backup does not know; the programs of 0 and 1.
    fn change_since_the_backup(&self) -> Result<Vec<u32>> {
        self.api.delete(&format!("{PODS}/p2"))?;
        self.wait_no_program(2, PATIENCE)?;
        self.create_pods(1..2)?;
        let programs = self.wait_programs(0..2, PATIENCE)?;
        self.wait_shown(0..2, PATIENCE)?;
        Ok(programs)
    }

    /// A node that starts again has not forgotten that pods are on hold.
    fn ensure_stays_held(&mut self, programs: &[u32]) -> Result<()> {
        self.node.kill();
        self.node.start_again("ephemeral")?;
        self.wait_held()?;
        self.ensure_runs_on(programs)
    }

    /// A person decides that what the hub says now counts.
    fn accept_hub(&self) -> Result<()> {
        let data_dir = self.node.data_dir().to_string_lossy().into_owned();
        run(["node", "accept-hub", "--data-dir", &data_dir])?.ok().map(|_| ())
    }

    /// Gives the node, which does not run, this token for its next start.
    fn set_token(&mut self, token: Option<String>) {
        self.node.change_args(|args| {
            if let Some(at) = args.iter().position(|arg| arg == "--token") {
                args.drain(at..at + 2);
            }
            args.extend(token.into_iter().flat_map(|token| ["--token".to_owned(), token]));
        });
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    Outcome::of(Command::new("cp").arg("-a").arg(from).arg(to))?.ok().map(|_| ())
}

#[test]
fn a_hub_that_has_lost_its_store_stops_no_pod_until_a_person_accepts_it() -> Result<()> {
    if needs_a_hub("its store is removed") {
        return Ok(());
    }
    let mut site = Site::start()?;
    site.create_pods(0..2)?;
    let programs = site.wait_programs(0..2, PATIENCE)?;
    site.wait_shown(0..2, PATIENCE)?;
    site.hub()?.kill();
    let store = site.store();
    ensure!(store.is_dir(), "{} is the store", store.display());
    std::fs::remove_dir_all(&store)?;
    site.hub_again()?;
    // It knows no node, and rejects this one's key until it is given a token.
    site.node.kill();
    let fresh = token(site.hub()?.data_dir())?;
    site.set_token(Some(fresh));
    site.node.start_again("ephemeral")?;
    site.wait_ready()?;
    site.ensure_runs_on(&programs)?;
    site.wait_held()?;
    site.ensure_runs_on(&programs)?;
    // What the hub asks for now is done beside it.
    site.create_pods(2..3)?;
    site.wait_programs(2..3, PATIENCE)?;
    site.accept_hub()?;
    site.wait_no_program(0, PATIENCE)?;
    site.wait_no_program(1, PATIENCE)?;
    site.wait_shown(2..3, PATIENCE)
}

#[test]
fn a_hub_restored_from_a_backup_stops_no_pod_that_it_does_not_know() -> Result<()> {
    if needs_a_hub("its store is put back") {
        return Ok(());
    }
    let mut site = Site::start()?;
    site.create_pods_of_a_backup()?;
    site.hub()?.kill();
    let backup = site.dir.path().join("backup");
    copy(&site.store(), &backup)?;
    site.hub_again()?;
    let programs = site.change_since_the_backup()?;
    // What the Lease had come to is by what a node knows a hub again: a backup is older than the last few renewals.
    let renewals = || site.proxy.requests_of("PATCH", "/leases/").iter().filter(|one| one.status == Some(200)).count();
    let before = renewals();
    eventually("three renewals of the Lease", PATIENCE, || {
        let now = renewals();
        if now >= before + 3 { Ok(()) } else { Err(now - before) }
    })?;
    site.hub()?.kill();
    // A start lists, whatever a watch from before would have been sent.
    site.node.kill();
    std::fs::remove_dir_all(site.store())?;
    copy(&backup, &site.store())?;
    site.hub_again()?;
    // Others bring it further than it had ever come.
    for number in 0..100 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{number}")}});
        site.api.create("/api/v1/namespaces/default/configmaps", &object)?;
    }
    site.node.start_again("ephemeral")?;
    site.wait_held()?;
    site.ensure_runs_on(&programs)?;
    site.ensure_stays_held(&programs)?;
    // What was deleted since the backup is there again.
    site.wait_programs(2..3, PATIENCE)?;
    // Who takes the place of one on hold waits for the decision: never are there two.
    site.create_pods(1..2)?;
    eventually("an event of the pod that waits", PATIENCE, || {
        let events = site.api.get("/api/v1/namespaces/default/events").map_err(|error| error.to_string())?;
        let is_it = |event: &&serde_json::Value| event["reason"] == "WaitsForPodOnHold";
        events["items"].as_array().into_iter().flatten().find(is_it).map(|_| ()).ok_or_else(|| events.to_string())
    })?;
    site.ensure_runs_on(&programs)?;
    site.accept_hub()?;
    eventually("the program of the pod that waited", PATIENCE, || match site.pid(1) {
        Some(pid) if pid != programs[1] => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    site.ensure_runs_on(&programs[..1])
}

/// A hub that is made of a backup by command has a higher revision than the one that was lost, so a node knows it by its new Lease.
#[test]
fn a_hub_restored_by_command_stops_no_pod_that_it_does_not_know() -> Result<()> {
    if needs_a_hub("another one is made of its backup") {
        return Ok(());
    }
    let mut site = Site::start()?;
    site.create_pods_of_a_backup()?;
    let (lost, backup) = (site.hub()?.data_dir().to_owned(), site.dir.path().join("hub.backup"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    run(["hub", "backup", "--data-dir", &text(&lost), "--to", &text(&backup)])?.ok()?;
    let programs = site.change_since_the_backup()?;
    // The machine is lost; the node runs on and is never started again.
    site.hub()?.kill();
    std::fs::rename(&lost, site.dir.path().join("lost"))?;
    run(["hub", "restore", "--data-dir", &text(&lost), &text(&backup)])?.ok()?;
    site.hub_again()?;
    site.wait_held()?;
    site.ensure_runs_on(&programs)?;
    // What was deleted since the backup is there again, and what the hub asks for now is done.
    site.wait_programs(2..3, PATIENCE)?;
    site.create_pods(3..4)?;
    site.wait_programs(3..4, PATIENCE)?;
    site.wait_ready()?;
    site.ensure_stays_held(&programs)?;
    site.accept_hub()?;
    site.wait_no_program(1, PATIENCE)?;
    site.ensure_runs_on(&programs[..1])
}

#[test]
fn another_hub_under_the_address_stops_no_pod_and_is_named() -> Result<()> {
    if needs_a_hub("a second hub takes its place") {
        return Ok(());
    }
    let mut site = Site::start_tunnelled()?;
    site.create_pods(0..2)?;
    let programs = site.wait_programs(0..2, PATIENCE)?;
    let mut other = Selvedge::start(&site.dir.path().join("other"), &["hub"])?;
    let address = other.address("hub-api")?;
    site.proxy.set_hub(&address);
    let before = site.proxy.connections();
    site.proxy.reset_connections();
    eventually("the other hub among the errors", PATIENCE, || {
        let errors = site.status()?["lastErrors"].to_string();
        if errors.contains("another CA") { Ok(()) } else { Err(errors) }
    })?;
    ensure!(site.proxy.connections() > before);
    site.ensure_runs_on(&programs)?;
    // The right one again.
    site.proxy.set_hub(&site.hub_address);
    site.create_pods(2..3)?;
    site.wait_programs(2..3, PATIENCE)?;
    site.ensure_runs_on(&programs)?;
    site.node.kill();
    Ok(())
}

/// Gives the node, which does not run, a certificate of its key that is over.
fn expire(site: &Site) -> Result<()> {
    let path = site.node.data_dir().join("node/pki/identity.json");
    let identity = node_identity(site.node.data_dir())?;
    let key = KeyPair::from_pem(&identity.key_pem)?;
    let csr = base_pki::make_csr(&key, &format!("system:node:{NODE}"), &["system:nodes".to_owned()], &[])?;
    let short = site.plane.ca()?.sign_csr(&csr, Usage::Client, Duration::from_secs(1))?;
    let mut text: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    text["certPem"] = short.clone().into();
    // As a former version wrote it, without a checksum.
    text["version"] = 1.into();
    text.as_object_mut().context("an object")?.remove("sha256");
    std::fs::write(&path, text.to_string())?;
    let (_, until) = base_pki::validity(&short)?;
    eventually("a certificate that is over", PATIENCE, || {
        let now = jiff::Timestamp::now().as_second();
        if now > until { Ok(()) } else { Err(format!("{now} of {until}")) }
    })
}

#[test]
fn an_expired_certificate_hammers_no_hub_stops_no_pod_and_a_token_replaces_it() -> Result<()> {
    if needs_a_hub("a hub refuses what has expired in the handshake") {
        return Ok(());
    }
    let mut site = Site::start_tunnelled()?;
    site.create_pods(0..2)?;
    let programs = site.wait_programs(0..2, PATIENCE)?;
    site.wait_shown(0..2, PATIENCE)?;
    site.node.kill();
    expire(&site)?;
    // A box that was off for a year comes back without a token.
    site.set_token(None);
    let before = site.proxy.connections();
    site.node.start_again("ephemeral")?;
    site.node.address("node-kubelet")?;
    // Half a second, one, two, four: each with its jitter.
    const WINDOW: Duration = Duration::from_secs(12);
    const DIALS_MAX: u64 = 9;
    let hammered = eventually("a hub that is hammered", WINDOW, || {
        let dials = site.proxy.connections() - before;
        if dials > DIALS_MAX { Ok(dials) } else { Err(dials) }
    });
    ensure!(hammered.is_err(), "{hammered:?} handshakes within {WINDOW:?}");
    ensure!(site.proxy.connections() > before, "it tries at all");
    site.ensure_runs_on(&programs)?;
    site.node.kill();
    // Another box of this name may be alive for all the hub knows: its Lease is young. This token says that it is this one's.
    let hub_dir = site.hub()?.data_dir().to_string_lossy().into_owned();
    let token = run(["token", "create", "--node-name", NODE, "--data-dir", &hub_dir])?.ok()?;
    site.set_token(Some(token.trim().to_owned()));
    let old = node_identity(site.node.data_dir())?.cert_pem;
    site.node.start_again("ephemeral")?;
    eventually("a new certificate", PATIENCE, || {
        let now = node_identity(site.node.data_dir()).map_err(|error| error.to_string())?.cert_pem;
        if now == old { Err(site.status().unwrap_or_default().to_string()) } else { Ok(()) }
    })?;
    site.create_pods(2..3)?;
    site.wait_programs(2..3, PATIENCE)?;
    site.wait_shown(0..3, PATIENCE)?;
    site.ensure_runs_on(&programs)
}
