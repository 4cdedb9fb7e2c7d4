//! A disk that is full, read-only or has lost a file: the agent starts, pods run, and what is deleted ends.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::disk::FailingDisk;
use testkit::kubectl::Kubectl;
use testkit::process;
use testkit::program::signal;
use testkit::wait::eventually;

use super::{NODE, PATIENCE, PODS, Site, needs_a_hub};
use crate::bad_input::{SmallDisk, fill};
use crate::common::{condition, example_manifest, kill_with_pods};

#[test]
fn on_a_full_disk_the_agent_starts_and_a_deleted_pod_ends() -> Result<()> {
    let Some(disk) = SmallDisk::mount(24 * 1024 * 1024)? else { return Ok(()) };
    let mut site = Site::start_on(disk.path())?;
    site.create_pods(0..3)?;
    let programs = site.wait_programs(0..3, PATIENCE)?;
    site.wait_shown(0..3, PATIENCE)?;
    let ballast = disk.path().join("ballast");
    fill(&ballast)?;
    site.api.delete(&format!("{PODS}/p0"))?;
    site.wait_no_program(0, Duration::from_secs(15))?;
    site.node.kill();
    fill(&ballast)?;
    site.node.start_again("ephemeral")?;
    eventually("the agent's status", PATIENCE, || site.status())?;
    ensure!(site.wait_programs(1..3, Duration::ZERO)? == programs[1..], "they are taken over");
    site.api.delete(&format!("{PODS}/p1"))?;
    site.wait_no_program(1, Duration::from_secs(15))?;
    eventually("no object of a deleted pod", PATIENCE, || {
        let list = site.api.get(PODS).map_err(|error| error.to_string())?;
        if list["items"].as_array().is_some_and(|items| items.len() == 1) { Ok(()) } else { Err(list.to_string()) }
    })?;
    Ok(())
}

#[test]
fn after_a_power_cut_with_a_full_disk_all_pods_run_again() -> Result<()> {
    let Some(disk) = SmallDisk::mount(24 * 1024 * 1024)? else { return Ok(()) };
    let mut site = Site::start_on(disk.path())?;
    site.create_pods(0..4)?;
    site.wait_programs(0..4, PATIENCE)?;
    site.wait_shown(0..4, PATIENCE)?;
    fill(&disk.path().join("ballast"))?;
    site.proxy.set_away(true);
    kill_with_pods(&mut site.node)?;
    site.node.start_again("ephemeral")?;
    site.wait_programs(0..4, PATIENCE).map(|_| ())
}

#[test]
fn on_a_disk_that_became_read_only_pods_run_on_start_again_and_are_stopped() -> Result<()> {
    let Some(disk) = FailingDisk::mount(64 * 1024 * 1024)? else { return Ok(()) };
    let mut site = Site::start_on(&disk.path())?;
    site.create_pods(0..4)?;
    let programs = site.wait_programs(0..4, PATIENCE)?;
    site.wait_shown(0..4, PATIENCE)?;
    disk.fail()?;
    // A program that ends is noticed, and started again.
    let start_again = |site: &Site, number: usize, before: u32| {
        signal(before, libc::SIGKILL);
        eventually(&format!("another program of pod {number}"), PATIENCE, || match site.pid(number) {
            Some(pid) if pid != before => Ok(pid),
            other => Err(format!("{other:?} after {before}")),
        })
    };
    start_again(&site, 0, programs[0])?;
    site.api.delete(&format!("{PODS}/p1"))?;
    site.wait_no_program(1, PATIENCE)?;
    ensure!(site.pids()[2..4] == [Some(programs[2]), Some(programs[3])], "{:?}", site.pids());
    // An agent that starts there takes over what runs, says what is wrong, and acts on deletions.
    site.node.kill();
    site.node.start_again("ephemeral")?;
    let status = eventually("the agent's status", PATIENCE, || site.status())?;
    ensure!(status.to_string().contains("read-only"), "{status}");
    site.api.delete(&format!("{PODS}/p2"))?;
    site.wait_no_program(2, PATIENCE)?;
    ensure!(site.pid(3) == Some(programs[3]), "{:?}", site.pids());
    start_again(&site, 3, programs[3])?;
    site.wait_shown(3..4, PATIENCE)?;
    // Whoever asks the hub learns of it, and reads the logs.
    eventually("a Node that says so", PATIENCE, || {
        let node = site.api.get(&format!("/api/v1/nodes/{NODE}")).map_err(|error| error.to_string())?;
        let condition = condition(&node, "ReadonlyFilesystem").map(|one| one["status"].clone());
        if condition == Some("True".into()) { Ok(()) } else { Err(node["status"]["conditions"].to_string()) }
    })?;
    if !needs_a_hub("it looks for a node by its host name, which is in no DNS")
        && let Some(kubectl) = Kubectl::newest(&site.plane.kubeconfig())
    {
        eventually("a log", PATIENCE, || kubectl.ok(&["logs", "p3"]).map_err(|error| error.to_string()))?;
    }
    // A reset cannot, on such a disk.
    for number in [0, 3] {
        site.api.delete(&format!("{PODS}/p{number}"))?;
        site.wait_no_program(number, PATIENCE)?;
    }
    Ok(())
}

#[test]
fn an_offline_store_that_is_lost_stops_neither_the_edge_plane_nor_a_pod() -> Result<()> {
    if needs_a_hub("nobody assigns devices and exports there") {
        return Ok(());
    }
    let mut site = Site::start()?;
    let Some(kubectl) = Kubectl::newest(&site.plane.kubeconfig()) else { return Ok(()) };
    for file in ["10-profile.yaml", "20-device.yaml"] {
        kubectl.apply(&example_manifest(file, NODE)?)?.ok()?;
    }
    site.create_pods(0..1)?;
    let programs = site.wait_programs(0..1, PATIENCE)?;
    let own = site.node.data_dir().to_string_lossy().into_owned();
    let edge = || -> Vec<u32> {
        let found = process::find(|words| {
            words.get(1).is_some_and(|word| word == "edge") && words.iter().any(|word| word.contains(&own))
        });
        found.into_iter().map(|(pid, _)| pid).collect()
    };
    let before = eventually("the edge plane", PATIENCE, || match edge() {
        pids if pids.is_empty() => Err("no process"),
        pids => Ok(pids),
    })?;
    // A device that is read: the plane has all it needs.
    crate::common::wait_condition(&kubectl, &["device", "host"], "Ready", "True")?;
    site.node.kill();
    std::fs::remove_dir_all(site.node.data_dir().join("node/store"))?;
    site.proxy.set_away(true);
    site.node.start_again("ephemeral")?;
    eventually("the agent's status", PATIENCE, || site.status())?;
    let stopped = eventually("an edge plane or a pod that was stopped", Duration::from_secs(4), || {
        let (now, pid) = (edge(), site.pid(0));
        if now != before || pid != Some(programs[0]) { Ok((now, pid)) } else { Err("they run") }
    });
    ensure!(stopped.is_err(), "{before:?} and {programs:?} became {stopped:?} with no hub");
    let back = Instant::now();
    site.proxy.set_away(false);
    site.wait_watching(back)?;
    site.wait_shown(0..1, PATIENCE)?;
    ensure!(edge() == before && site.pid(0) == Some(programs[0]), "{before:?} became {:?} with the hub", edge());
    Ok(())
}
