//! Memory, CPU and the disk's work.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use selvedge_tests::figures::Report;
use serde_json::{Value, json};
use testkit::process;
use testkit::program::signal;

use selvedge_tests::site::{Site, until};

/// How long an agent is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(15);
const PODS_MAX: usize = 110;
/// Six rounds of probes every ten seconds.
const PROBED: Duration = Duration::from_secs(60);
const PROBES: usize = 40;
/// Pods whose starts are counted together.
const STARTS: usize = 10;

fn pss_mb(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| process::memory(*pid)).map(|memory| memory.pss_kib as f64 / 1000.0 * 1.024).sum()
}

pub fn memory(report: &mut Report) -> Result<()> {
    let site = Site::start()?;
    std::thread::sleep(REST);
    let agent = [site.node.pid()];
    report.add("PSS of the agent, idle", "MB", vec![pss_mb(&agent)], Some("≤ 10"), Some("10.8"));
    site.create((0..PODS_MAX).map(|number| site.pod(number)))?;
    site.wait_shown(PODS_MAX)?;
    std::thread::sleep(REST);
    report.add("PSS of the agent, 110 pods", "MB", vec![pss_mb(&agent)], Some("≤ 14"), Some("16.1"));
    let keepers = site.keepers(0..PODS_MAX);
    report.add(
        "PSS of shims and init processes of 110 pods",
        "MB",
        vec![pss_mb(&keepers)],
        Some("≤ 55"),
        Some("194.9"),
    );
    let before = process::cpu_seconds(agent[0]);
    std::thread::sleep(PROBED);
    let share = (process::cpu_seconds(agent[0]) - before) / PROBED.as_secs_f64() * 100.0;
    report.add("CPU of the agent, 110 quiet pods", "% of a core", vec![share], None, None);
    Ok(())
}

pub fn probes(report: &mut Report) -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    std::thread::spawn(move || answer(&server));
    let http = json!({"httpGet": {"port": port, "host": "127.0.0.1", "path": "/"}, "periodSeconds": 10});
    let exec = json!({"exec": {"command": ["/bin/true"]}, "periodSeconds": 10});
    for (kind, probe, limit, before) in [("exec", exec, "≤ 0.4", "2.0"), ("HTTP", http, "≤ 0.1", "0.12")] {
        let site = Site::start()?;
        site.create((0..PROBES).map(|number| with_probe(site.pod(number), "livenessProbe", &probe)))?;
        site.wait_shown(PROBES)?;
        std::thread::sleep(REST);
        let mut all = site.keepers(0..PROBES);
        all.push(site.node.pid());
        let used = || all.iter().map(|pid| process::cpu_seconds_with_children(*pid)).sum::<f64>();
        let start = used();
        std::thread::sleep(PROBED);
        let share = (used() - start) / PROBED.as_secs_f64() * 100.0;
        let figure = format!("CPU of agent, shims and probes, {PROBES} {kind} probes at 10 s");
        report.add(figure, "% of a core", vec![share], Some(limit), Some(before));
    }
    Ok(())
}

/// Answers each connection once, for as long as the program lives.
fn answer(server: &TcpListener) {
    use std::io::{Read as _, Write as _};
    for mut stream in server.incoming().flatten() {
        // A probe's request is one segment; what it was is of no interest.
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    }
}

fn with_probe(mut pod: Value, kind: &str, probe: &Value) -> Value {
    pod["spec"]["containers"][0][kind] = probe.clone();
    pod
}

/// Flushes that the agent and the shims that it starts ask for, as strace sees them.
struct Flushes {
    strace: std::process::Child,
    trace: std::path::PathBuf,
}

impl Flushes {
    fn follow(site: &Site) -> Result<Self> {
        let trace = site.dir.path().join("trace");
        // Not a pipe: strace says something of each new thread, and ends when nobody reads it.
        let said = site.dir.path().join("strace");
        let strace = Command::new("strace")
            .args(["-f", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range,msync", "-o"])
            .arg(&trace)
            .args(["-p", &site.node.pid().to_string()])
            .stderr(Stdio::from(std::fs::File::create(&said)?))
            .spawn()
            .context("strace is needed")?;
        until("strace that follows the agent", Instant::now(), REST, || {
            let text = std::fs::read_to_string(&said).map_err(|error| error.to_string())?;
            if text.contains("attached") { Ok(()) } else { Err(text) }
        })?;
        Ok(Self { strace, trace })
    }

    /// What was asked for until now. It is written when strace ends.
    fn end(mut self) -> Result<f64> {
        signal(self.strace.id(), libc::SIGINT);
        self.strace.wait()?;
        let trace = std::fs::read_to_string(&self.trace)?;
        // A call that another one interrupted has a second line, without the parenthesis.
        Ok(trace.lines().filter(|line| line.contains("sync(") || line.contains("sync_file_range(")).count() as f64)
    }
}

pub fn disk(report: &mut Report) -> Result<()> {
    let site = Site::start()?;
    site.create(std::iter::once(site.pod(STARTS)))?;
    site.wait_shown(1)?;
    let flushes = Flushes::follow(&site)?;
    site.create((0..STARTS).map(|number| site.pod(number)))?;
    site.wait_shown(STARTS + 1)?;
    std::thread::sleep(REST);
    let each = flushes.end()? / STARTS as f64;
    report.add("flushes to the disk per pod that starts", "calls", vec![each], Some("≤ 4"), Some("9"));
    let flag = site.dir.path().join("flag");
    let script = format!("if [ -e {0} ]; then rm {0}; exit 1; else : > {0}; fi", flag.display());
    let probe = json!({"exec": {"command": ["/bin/sh", "-c", script]}, "periodSeconds": 2, "failureThreshold": 1});
    site.create(std::iter::once(with_probe(site.pod(STARTS + 1), "readinessProbe", &probe)))?;
    site.wait_shown(STARTS + 2)?;
    until("first probe", Instant::now(), PROBED, || if flag.exists() { Ok(()) } else { Err("none yet") })?;
    let flushes = Flushes::follow(&site)?;
    std::thread::sleep(PROBED);
    let calls = flushes.end()?;
    report.add(
        "flushes in a minute of a readiness that flaps every 2 s",
        "calls",
        vec![calls],
        Some("≤ 2"),
        Some("31"),
    );
    Ok(())
}
