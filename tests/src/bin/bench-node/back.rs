//! Back alone: everything is killed while there is no hub, or the agent alone.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use selvedge_tests::figures::Report;
use serde_json::Value;

use selvedge_tests::site::{PATIENCE, Site, milliseconds, until};

const RUNS: usize = 7;
/// Pods, what must be reached in milliseconds, what it was.
const SIZES: [(usize, &str, &str); 3] = [(10, "≤ 60", "70"), (40, "≤ 200", "250"), (110, "≤ 500", "680")];

pub fn back(report: &mut Report) -> Result<()> {
    let mut site = Site::start()?;
    let mut created = 0;
    for (pods, limit, before) in SIZES {
        site.create((created..pods).map(|number| site.pod(number)))?;
        created = pods;
        site.wait_programs(0..pods, Instant::now())?;
        site.wait_shown(pods)?;
        // Frozen, it answers nobody; the next size needs it again.
        site.hub.freeze();
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            site.kill_all(0..pods)?;
            let start = Instant::now();
            site.node.start_again("ephemeral")?;
            runs.push(milliseconds(site.wait_programs(0..pods, start)?));
        }
        report.add(format!("all killed, no hub: {pods} pods run"), "ms", runs, Some(limit), Some(before));
        if pods == 110 {
            adopted(report, &mut site, pods)?;
        }
        site.hub.thaw();
        site.wait_shown(pods)?;
    }
    Ok(())
}

/// The agent alone dies; whether it has its pods again is asked at its socket.
fn adopted(report: &mut Report, site: &mut Site, pods: usize) -> Result<()> {
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        site.node.kill();
        let socket = site.node.data_dir().join("run/node.sock");
        let _ = std::fs::remove_file(&socket);
        let start = Instant::now();
        site.node.start_again("ephemeral")?;
        let taken = until("all pods at the agent", start, PATIENCE, || {
            let status = ask(&socket).map_err(|error| error.to_string())?;
            let running = status["pods"].as_array().into_iter().flatten();
            let running = running.filter(|pod| pod["phase"] == "Running" && pod["ready"] == true).count();
            if running == pods { Ok(()) } else { Err(format!("{running} run")) }
        })?;
        runs.push(milliseconds(taken));
    }
    report.add(format!("agent killed, no hub: {pods} pods adopted"), "ms", runs, Some("≤ 50"), Some("40"));
    Ok(())
}

/// The report at the node's socket.
fn ask(socket: &Path) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // In chunks or as a whole: the report is the one object in it, and none of its lines is another's.
    let object = body.find('{').zip(body.rfind('}')).map_or("", |(start, end)| &body[start..=end]);
    Ok(serde_json::from_str(object)?)
}
