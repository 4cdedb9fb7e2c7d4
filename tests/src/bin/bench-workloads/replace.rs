//! Processor time of the hub for one deleted pod of a Deployment until another one runs, among few pods and among many.
//!
//! Hollow nodes renew their leases meanwhile, as they do with nothing to do. What the hub uses for that is measured in a window of the
//! same length right before, and taken off.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::hub::{Hub, PATIENCE};
use serde_json::json;

use crate::load::{self, DEPLOYMENTS, PODS};
use crate::{Bench, Size};

const NAME: &str = "app";
/// Each lease is renewed three times: what that takes is the larger part, and differs from one window to the next by less the longer they are.
const WINDOW: Duration = Duration::from_secs(30);

/// Deletes so many pods, spread over the window, and waits for the one in place of each; milliseconds of the hub for one.
fn measure(hub: &Hub, deletions: usize) -> Result<f64> {
    let mut victims = VecDeque::new();
    load::for_each(hub, PODS, |pod| {
        if victims.len() < deletions {
            victims.push_back(pod["metadata"]["name"].as_str().context("a pod has a name")?.to_owned());
        }
        Ok(())
    })?;
    ensure!(victims.len() == deletions, "there are {} pods", victims.len());
    hub.settle();
    let before = hub.cpu();
    std::thread::sleep(WINDOW);
    let idle = hub.cpu() - before;
    let pace = WINDOW / u32::try_from(deletions).context("few pods are deleted")?;
    let begin = Instant::now();
    let before = hub.cpu();
    hub.runtime.block_on(async {
        let connection = hub.admin.connect().await?;
        let mut turn = tokio::time::interval(pace);
        for victim in victims {
            turn.tick().await;
            connection.delete(&format!("{PODS}/{victim}")).await?.ok()?;
        }
        turn.tick().await;
        anyhow::Ok(())
    })?;
    load::wait_rolled_out(hub)?;
    let (used, took) = (hub.cpu() - before, begin.elapsed());
    let of_nothing = idle * took.as_secs_f64() / WINDOW.as_secs_f64();
    Ok(((used - of_nothing) * 1000.0 / deletions as f64).max(0.0))
}

pub fn replace(bench: &mut Bench) -> Result<()> {
    let Size { nodes, replicas, runs, deletions, .. } = bench.size;
    let hub = Hub::start()?;
    let mut fleet = hub.hollow(nodes, &[])?;
    hub.create(DEPLOYMENTS, &load::deployment(NAME, 0))?;
    let mut medians = Vec::new();
    for replicas in replicas {
        hub.merge(&format!("{DEPLOYMENTS}/{NAME}"), &json!({"spec": {"replicas": replicas}}))?;
        fleet.wait_running(replicas as u64, PATIENCE)?;
        load::wait_rolled_out(&hub)?;
        let mut used = Vec::new();
        for _ in 0..runs {
            used.push(measure(&hub, deletions)?);
            fleet.wait_running(replicas as u64, PATIENCE)?;
        }
        medians.push(selvedge_tests::figures::median(used.clone()));
        let figure = format!("CPU of the hub until one deleted pod among {replicas} is replaced");
        bench.report.add(figure, "ms", used, Some("≤ 5"), None);
    }
    if let [few, many] = medians[..] {
        let figure = format!("the same among {} by that among {}", replicas[1], replicas[0]);
        bench.report.add(figure, "times", vec![many / few], Some("about 1"), None);
    }
    Ok(())
}
