//! Memory after many pods came and went.

use std::time::Duration;

use anyhow::{Context as _, Result};
use selvedge_tests::figures::Report;
use serde_json::json;
use testkit::process;

use selvedge_tests::site::Site;

const CYCLES: usize = 4_000;
/// Where growth is counted from: every path through the agent was taken by then.
const WARM: usize = 800;
/// Pods that come and go together.
const BATCH: usize = 40;
const REST: Duration = Duration::from_secs(10);

pub fn cycles(report: &mut Report) -> Result<()> {
    let site = Site::start()?;
    let anonymous_mb = || -> Result<f64> {
        std::thread::sleep(REST);
        let memory = process::memory(site.node.pid()).context("the agent runs")?;
        Ok(memory.anonymous_kib as f64 * 1.024 / 1000.0)
    };
    let mut warm = 0.0;
    for batch in 0..CYCLES / BATCH {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        site.create(numbers.clone().map(|number| {
            let mut pod = site.pod(number);
            pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
            let main = &mut pod["spec"]["containers"][0];
            main["volumeMounts"] = json!([{"name": "work", "mountPath": "/mnt"}]);
            main["readinessProbe"] = json!({"exec": {"command": ["/bin/true"]}});
            pod
        }))?;
        site.wait_shown(BATCH)?;
        site.delete(numbers)?;
        if (batch + 1) * BATCH == WARM {
            warm = anonymous_mb()?;
        }
    }
    let growth = anonymous_mb()? - warm;
    report.add("anonymous memory of the agent after 800 cycles", "MB", vec![warm], None, None);
    report.add("growth of it by 3,200 cycles more", "MB", vec![growth], Some("≤ 1"), Some("2.8"));
    Ok(())
}
