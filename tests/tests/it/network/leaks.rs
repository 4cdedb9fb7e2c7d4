//! What is left of pods once they are deleted, and of an agent that is killed while it sets them up or takes them down: nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::wait::eventually;

use super::site::{PodOptions, Site, in_memory, in_own_network, mounts_of, sh};
use crate::common::{PATIENCE, is_full};

/// The machine's network as far as a node changes it; what pods have of it is in it.
fn network() -> Result<String> {
    // What is in chains of Services changes with the agent, and is theirs.
    sh("nft -s list sets; nft -s list maps; nft list chains | grep svc-; ip -o link show | grep -o 'svp[0-9a-f]*'; \
        ip -o addr show dev lo; ip route show proto 83; ip neigh show nud permanent")
}

/// Lines of a state that others do not have.
fn surplus(state: &str, others: &str) -> Vec<String> {
    let others: BTreeSet<&str> = others.lines().map(str::trim).collect();
    state.lines().map(str::trim).filter(|line| !others.contains(line)).map(str::to_owned).collect()
}

/// Waits until nothing of these pods is left, and the machine's network is as it was before them.
fn nothing_is_left(site: &Site, uids: &BTreeSet<String>, before: &str) -> Result<()> {
    eventually("nothing of the pods", PATIENCE, || {
        let of_uid = |uid: &String| {
            let files = in_memory(uid).into_iter().map(|path| path.display().to_string());
            mounts_of(uid).into_iter().chain(files).collect::<Vec<_>>()
        };
        let mut left: Vec<String> = uids.iter().flat_map(of_uid).collect();
        left.extend(network().map(|now| surplus(&now, before)).map_err(|error| format!("{error:#}"))?);
        left.extend(site.uids().map_err(|error| error.to_string())?);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    })
}

fn uid(site: &Site, pod: &str) -> Result<String> {
    let pod = site.kubectl.json(&["pod", pod])?;
    Ok(pod["metadata"]["uid"].as_str().context("a uid")?.to_owned())
}

/// A pod with a port of the node.
fn port(site: &Site, name: &str, port: usize, is_process: bool) -> Result<String> {
    let ports = format!("      ports: [{{ containerPort: 8080, hostPort: {port} }}]");
    let options = PodOptions { container: &ports, ..PodOptions::default() };
    if is_process { site.process_pod(name, options) } else { site.pod(name, options) }
}

#[test]
fn nothing_is_left_of_pods_that_end_while_the_agent_is_away() -> Result<()> {
    in_own_network(|| {
        let Some(mut site) = Site::start("")? else { return Ok(()) };
        let before = network()?;
        let names = ["kept", "box", "process"];
        let pods = [
            port(&site, "kept", 18000, false)?,
            port(&site, "box", 18001, false)?,
            port(&site, "process", 18002, true)?,
        ];
        let addresses = site.apply(&pods.concat(), &names)?;
        let with_all = network()?;
        ensure!(addresses.iter().all(|address| with_all.contains(address.as_str())), "{with_all}");
        let uids = names.iter().map(|name| uid(&site, name)).collect::<Result<BTreeSet<_>>>()?;
        ensure!(
            uids.iter().all(|uid| !in_memory(uid).is_empty() && !mounts_of(uid).is_empty()),
            "what is looked for is there"
        );
        site.node.kill();
        site.kubectl.ok(&["delete", "pod", "box", "process", "--wait=false", "--force", "--grace-period=0"])?;
        site.node.start_again("ephemeral")?;
        let kept = uid(&site, "kept")?;
        let ended: BTreeSet<String> = uids.iter().filter(|one| **one != kept).cloned().collect();
        eventually("nothing of two pods", PATIENCE, || {
            let now = network().map_err(|error| error.to_string())?;
            let mut left: Vec<String> = ended.iter().flat_map(|uid| mounts_of(uid)).collect();
            left.extend(surplus(&now, &before).into_iter().filter(|line| {
                let mut words = line.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
                words.any(|word| {
                    addresses[1..].iter().any(|address| word == address) || ["18001", "18002"].contains(&word)
                })
            }));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
        })?;
        site.node_shows("busybox wget -q -O - http://127.0.0.1:18000/", |name| name.trim() == "kept")?;

        // Neither the addresses of those nor that of the one that stays come back at once, though nobody has them now.
        site.node.kill();
        site.node.start_again("ephemeral")?;
        let fresh = site.apply(&port(&site, "fresh", 18001, false)?, &["fresh"])?;
        ensure!(!addresses.contains(&fresh[0]), "{fresh:?} of {addresses:?}");
        let mut uids = uids;
        uids.insert(uid(&site, "fresh")?);
        site.kubectl.ok(&["delete", "pod", "kept", "fresh"])?;
        nothing_is_left(&site, &uids, &before)
    })
}

#[test]
fn an_agent_that_is_killed_at_any_moment_loses_no_pod_and_leaves_nothing() -> Result<()> {
    in_own_network(|| {
        let Some(mut site) = Site::start("")? else { return Ok(()) };
        let before = network()?;
        let mut random = fastrand::Rng::with_seed(9);
        let (rounds, pods_of_round) = if is_full() { (40, 6) } else { (5, 4) };
        let mut uids = BTreeSet::new();
        let mut desired: Vec<(String, usize)> = Vec::new();
        for round in 0..rounds {
            let fresh: Vec<(String, usize)> =
                (0..pods_of_round).map(|number| (format!("p-{round}-{number}"), 18000 + round * 10 + number)).collect();
            let manifests = fresh.iter().map(|(name, host)| port(&site, name, *host, random.bool()));
            let manifests = manifests.collect::<Result<Vec<_>>>()?.concat();
            // Some of the pods before end while these begin.
            let ended: Vec<(String, usize)> = desired.extract_if(.., |_| random.u8(..) < 100).collect();
            site.kubectl.apply(&manifests)?.ok()?;
            for (name, _) in &fresh {
                uids.insert(uid(&site, name)?);
            }
            if !ended.is_empty() {
                let names = ended.iter().map(|(name, _)| name.as_str());
                let words = ["delete", "pod", "--wait=false"].into_iter().chain(names);
                site.kubectl.ok(&words.collect::<Vec<_>>())?;
            }
            std::thread::sleep(Duration::from_millis(random.u64(0..400)));
            site.node.kill();
            site.node.start_again("ephemeral")?;
            desired.extend(fresh);
        }
        let mut addresses = BTreeSet::new();
        for (name, host) in &desired {
            let address = site.address(name)?;
            let got =
                site.node_shows(&format!("busybox wget -q -O - http://{address}:8080/"), |got| got.trim() == name);
            got.with_context(|| format!("{name} at {address}"))?;
            site.node_shows(&format!("busybox wget -q -O - http://127.0.0.1:{host}/"), |got| got.trim() == name)?;
            ensure!(addresses.insert(address), "two pods have one address: {name}");
        }
        site.kubectl.ok(&["delete", "pod", "--all"])?;
        nothing_is_left(&site, &uids, &before)
    })
}
