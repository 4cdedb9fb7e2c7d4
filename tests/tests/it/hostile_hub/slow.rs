//! A hub that is slow, or fails for one thing, holds up nothing else; a thin line carries all there is to know.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use testkit::proxy::{Action, Client, Proxy, Rule};
use testkit::wait::eventually;

use super::{PATIENCE, PODS, Site, needs_a_hub};
use crate::common::is_full;

/// How long a container that ended twice waits before its second start.
const BACK_OFF: Duration = Duration::from_secs(10);

#[test]
fn a_hub_that_is_slow_to_take_statuses_holds_up_no_start_and_no_stop() -> Result<()> {
    let (pods, delay) = (60, 15);
    let site = Site::start()?;
    site.create_pods(0..pods)?;
    let first = site.wait_programs(0..pods, PATIENCE)?;
    site.wait_shown(0..pods, PATIENCE)?;
    site.proxy.rule(Rule::new("PATCH", "/pods/.*/status").then(Action::Delay(Duration::from_secs(delay))));
    let renewed = |before: &[u32], deadline: Duration| {
        eventually("programs that all run anew", deadline, || {
            let now = site.wait_programs(0..pods, Duration::ZERO).map_err(|error| error.to_string())?;
            let old = now.iter().filter(|pid| before.contains(pid)).count();
            if old == 0 { Ok(now) } else { Err(format!("{old} are the old ones")) }
        })
    };
    // The first end is answered by a start at once, the second one by a start after the back-off.
    site.kill_programs();
    let second = renewed(&first, Duration::from_secs(15))?;
    site.kill_programs();
    let start = Instant::now();
    renewed(&second, BACK_OFF + Duration::from_secs(15))?;
    println!(
        "{pods} ended pods ran again {:.1} s after they were killed, statuses taking {delay} s",
        start.elapsed().as_secs_f64()
    );
    site.api.delete(&format!("{PODS}/p0"))?;
    site.wait_no_program(0, Duration::from_secs(4))
}

#[test]
fn a_hub_that_fails_for_one_pods_status_gets_those_of_all_others() -> Result<()> {
    let mut site = Site::start()?;
    // Created while nobody looks, so that the rule is there before the first status.
    site.node.kill();
    site.create_pods(0..6)?;
    let list = site.api.get(PODS)?;
    let items = list["items"].as_array().context("a list")?;
    // The first one in any order that the kubelet may have.
    let ill = items.iter().min_by_key(|pod| pod["metadata"]["uid"].to_string()).context("six pods")?;
    let ill = ill["metadata"]["name"].as_str().context("a name")?.trim_start_matches('p').parse::<usize>()?;
    let rule = site.proxy.rule(Rule::new("PATCH", &format!("/pods/p{ill}/status")).then(Action::status(500, "{}")));
    site.node.start_again("ephemeral")?;
    site.wait_shown(0..ill, PATIENCE)?;
    site.wait_shown(ill + 1..6, PATIENCE)?;
    ensure!(site.wait_shown(ill..ill + 1, Duration::ZERO).is_err() && site.proxy.acted(rule) > 0);
    site.proxy.clear();
    site.wait_shown(0..6, PATIENCE)
}

/// A node behind one proxy, and another way to the same hub that it does not know of yet.
fn with_second_hub() -> Result<(Site, Proxy)> {
    let mut other = None;
    let other_slot = &mut other;
    let site = Site::start_with(None, move |address, hub, node_dir| {
        let ca = hub.ca()?;
        *other_slot = Some(Proxy::start(address, &ca, Client::NodeDir(node_dir.clone()))?);
        Proxy::start(address, &ca, Client::NodeDir(node_dir))
    })?;
    let other = other.context("it was started")?;
    Ok((site, other))
}

#[test]
fn the_second_hub_is_used_when_the_first_one_answers_500_to_everything() -> Result<()> {
    let (mut site, other) = with_second_hub()?;
    site.node.kill();
    let url = other.url();
    site.node.change_args(|args| args.extend(["--hub".to_owned(), url]));
    site.node.start_again("ephemeral")?;
    site.wait_ready()?;
    site.proxy.rule(Rule::new(".*", "").then(Action::status(500, "{}")));
    let start = Instant::now();
    site.proxy.reset_connections();
    site.create_pods(0..1)?;
    site.wait_programs(0..1, Duration::from_secs(30))?;
    println!("the second hub was used {:.1} s after the first one failed", start.elapsed().as_secs_f64());
    site.wait_shown(0..1, PATIENCE)?;
    Ok(())
}

#[test]
fn a_thin_line_carries_the_list_while_the_lease_is_renewed_and_pods_start() -> Result<()> {
    // Pods as large as they usually are; random, as names and images are to a compressor.
    let (pods, pod_bytes, bytes_per_second) = if is_full() { (100, 2_000, 8_000) } else { (40, 4_000, 8_000) };
    /// As the kubelet has it.
    const LEASE_PERIOD: Duration = Duration::from_secs(10);
    let mut site = Site::start()?;
    site.node.kill();
    for number in 0..pods {
        let mut pod = site.pod(number);
        let random: Vec<u8> = (0..pod_bytes * 3 / 4).map(|_| fastrand::u8(..)).collect();
        pod["metadata"]["annotations"]["note"] = base64::engine::general_purpose::STANDARD.encode(random).into();
        site.api.create(PODS, &pod)?;
    }
    site.proxy.set_bandwidth(Some(bytes_per_second));
    let before = site.proxy.requests().len();
    let start = Instant::now();
    site.node.start_again("ephemeral")?;
    // One more, while the list is on its way.
    eventually("a list on its way", PATIENCE, || {
        let requests = site.proxy.requests().split_off(before);
        if requests.iter().any(|one| one.path.starts_with("/api/v1/pods?")) { Ok(()) } else { Err("none yet") }
    })?;
    site.create_pods(pods..pods + 1)?;
    site.wait_programs(0..pods + 1, Duration::from_secs(120))?;
    println!("{pods} pods ran {:.1} s after a start at {bytes_per_second} B/s", start.elapsed().as_secs_f64());
    let requests = site.proxy.requests().split_off(before);
    let renewals: Vec<Instant> = requests
        .iter()
        .filter(|one| one.path.contains("/leases/") && one.status == Some(200))
        .filter_map(|one| one.end)
        .collect();
    let times: Vec<Duration> = renewals.iter().map(|at| at.duration_since(start)).collect();
    let edges = [vec![start], renewals, vec![Instant::now()]].concat();
    let longest = edges.windows(2).map(|pair| pair[1].duration_since(pair[0])).max().unwrap_or_default();
    ensure!(longest < LEASE_PERIOD * 2 + Duration::from_secs(2), "{longest:?} without a renewal: {times:?}");
    Ok(())
}

#[test]
fn a_hub_that_hangs_and_one_that_freezes_are_left_for_one_that_answers() -> Result<()> {
    let site = Site::start()?;
    site.create_pods(0..2)?;
    let before = site.wait_programs(0..2, PATIENCE)?;
    // Nothing is answered any more, on a line that is open: only a deadline can end it.
    site.proxy.freeze();
    site.create_pods(2..3)?;
    let frozen = site.proxy.connections();
    eventually("another connection", PATIENCE, || {
        let now = site.proxy.connections();
        if now > frozen { Ok(()) } else { Err(now) }
    })?;
    site.proxy.thaw();
    site.wait_programs(2..3, PATIENCE)?;
    ensure!(site.wait_programs(0..2, Duration::ZERO)? == before);
    Ok(())
}

/// The edge plane calls the hub itself.
#[test]
fn the_edge_plane_uses_the_second_hub_when_the_first_one_is_away() -> Result<()> {
    if needs_a_hub("nobody assigns devices and exports there") {
        return Ok(());
    }
    let (mut site, other) = with_second_hub()?;
    let kubeconfig = site.plane.kubeconfig();
    let Some(kubectl) = testkit::kubectl::Kubectl::newest(&kubeconfig) else { return Ok(()) };
    site.node.kill();
    let url = other.url();
    site.node.change_args(|args| args.extend(["--hub".to_owned(), url]));
    site.proxy.set_away(true);
    site.node.start_again("ephemeral")?;
    for file in ["10-profile.yaml", "20-device.yaml"] {
        kubectl.apply(&crate::common::example_manifest(file, super::NODE)?)?.ok()?;
    }
    crate::common::wait_condition(&kubectl, &["device", "host"], "Ready", "True")?;
    Ok(())
}
