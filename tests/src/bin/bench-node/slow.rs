//! A hub that is slow to take statuses, and a line of 64 kbit/s.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use selvedge_tests::figures::Report;
use testkit::program::signal;
use testkit::proxy::{Action, Rule};

use selvedge_tests::site::{PATIENCE, Site, until};

const ENDED: usize = 60;
const DELAY: Duration = Duration::from_secs(15);
const LISTED: usize = 100;
/// Bytes of a pod's annotation; as random as names and digests are to a compressor.
const POD_BYTES: usize = 1_700;
/// 64 kbit/s.
const BYTES_PER_SECOND: u64 = 8_000;

pub fn slow(report: &mut Report) -> Result<()> {
    ended(report)?;
    thin(report)
}

fn ended(report: &mut Report) -> Result<()> {
    let site = Site::start_proxied()?;
    let proxy = site.proxy.as_ref().context("it was asked for")?;
    site.create((0..ENDED).map(|number| site.pod(number)))?;
    site.wait_programs(0..ENDED, Instant::now())?;
    site.wait_shown(ENDED)?;
    proxy.rule(Rule::new("PATCH", "/pods/.*/status").then(Action::Delay(DELAY)));
    let mut taken = Duration::ZERO;
    // The second end waits for the back-off of 10 s.
    for _ in 0..2 {
        let old = site.programs(0..ENDED);
        let start = Instant::now();
        old.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
        taken = until("programs that run anew", start, Duration::from_secs(300), || {
            let now = site.programs(0..ENDED);
            let renewed = now.iter().filter(|pid| !old.contains(pid)).count();
            if renewed == ENDED { Ok(()) } else { Err(format!("{renewed} of {ENDED}")) }
        })?;
    }
    let figure = "60 pods that ended twice run again, a status takes 15 s at the hub";
    report.add(figure, "s", vec![taken.as_secs_f64()], Some("≤ 15"), Some("> 300"));
    Ok(())
}

fn thin(report: &mut Report) -> Result<()> {
    let mut site = Site::start_proxied()?;
    site.node.kill();
    let pods: Vec<_> = (0..LISTED)
        .map(|number| {
            let random: Vec<u8> = (0..POD_BYTES * 3 / 4).map(|_| fastrand::u8(..)).collect();
            let mut pod = site.pod(number);
            pod["metadata"]["annotations"]["note"] = base64::engine::general_purpose::STANDARD.encode(random).into();
            pod
        })
        .collect();
    site.create(pods.into_iter())?;
    site.proxy.as_ref().context("it was asked for")?.set_bandwidth(Some(BYTES_PER_SECOND));
    let start = Instant::now();
    site.node.start_again("ephemeral")?;
    let taken = until("programs of all pods", start, PATIENCE * 3, || {
        let running = site.programs(0..LISTED).len();
        if running == LISTED { Ok(()) } else { Err(format!("{running} of {LISTED}")) }
    })?;
    let renewed = site
        .proxy
        .as_ref()
        .context("it was asked for")?
        .requests()
        .iter()
        .filter(|one| one.start >= start && one.path.contains("/leases/") && one.status == Some(200))
        .count();
    report.add(
        "100 pods of 3.5 kB run, listed at 64 kbit/s",
        "s",
        vec![taken.as_secs_f64()],
        Some("≤ 120"),
        Some("never"),
    );
    report.add("renewals of the Lease meanwhile", "", vec![renewed as f64], None, None);
    Ok(())
}
