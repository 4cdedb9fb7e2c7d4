//! Floods: one pod that takes all that there is takes what is its own.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{ATTACK, Box, NODE, pod};

/// What a container's log may hold on the disk: ten files of 10 MiB at most, and what is on its way.
const LOG_BYTES_MAX: u64 = 128 * 1024 * 1024;

#[test]
fn a_pod_that_takes_memory_without_end_ends_by_its_own_limit() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let mut attacker = pod("attacker", "x=x; while true; do x=$x$x; done");
    attacker["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "32Mi"}});
    site.create(&attacker)?;
    let (pod, _) = site.wait_end("attacker")?;
    let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(end["reason"] == "OOMKilled", "{end}");
    site.check_others()
}

#[test]
fn a_pod_that_forks_without_end_is_alone_with_it() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    // Each of its processes does so, also when the kernel lets it have no more.
    site.create(&pod("attacker", "exec perl -e 'fork while 1'"))?;
    site.wait_for("attacker", |pod| pod["status"]["phase"] == "Running")?;
    std::thread::sleep(ATTACK);
    site.check_others()?;
    site.delete("attacker")?;
    site.check_others()
}

#[test]
fn a_pod_that_talks_without_end_fills_its_own_log() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    site.create(&pod("attacker", "exec yes this line is written again and again, as fast as it can be written"))?;
    site.wait_for("attacker", |pod| pod["status"]["phase"] == "Running")?;
    std::thread::sleep(ATTACK);
    site.check_others()?;
    let bytes = bytes_below(site.fleet.node.data_dir())?;
    ensure!(bytes < LOG_BYTES_MAX, "{bytes} bytes on the disk");
    let tail = site.fleet.kubectl.ok(&["logs", "attacker", "--tail=1"])?;
    ensure!(tail.starts_with("this line"), "{tail}");
    site.delete("attacker")?;
    site.check_others()
}

fn bytes_below(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten() {
        // What is turned over in this moment is counted under one of its names, or not.
        let Ok(data) = entry.metadata() else { continue };
        bytes += if data.is_dir() { bytes_below(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}

#[test]
fn last_words_are_short_and_are_the_programs_own() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let victim = site.victim()?.join("precious");
    site.create(&pod("long", "head -c 10000000 /dev/zero | tr '\\0' x > /dev/termination-log"))?;
    let link = format!("rm -f /dev/termination-log; ln -sf {} /dev/termination-log; exit 3", victim.display());
    site.create(&pod("link", &link))?;
    for (name, bytes_max) in [("long", 4096), ("link", 0)] {
        let (pod, _) = site.wait_end(name)?;
        let end = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let message = end["message"].as_str().unwrap_or_default();
        ensure!(message.len() <= bytes_max, "{name}: {} bytes: {message:.100}", message.len());
    }
    site.check_victim()?;
    site.check_others()
}

#[test]
fn modules_that_spin_grow_or_are_none_hurt_nobody() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let images = crate::common::root().join("examples");
    let dir = tempfile::tempdir_in(&images)?;
    let modules = [
        (
            "spin",
            wat::parse_str("(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $l (br $l))))")?,
        ),
        (
            "grow",
            wat::parse_str(
                "(module (memory (export \"memory\") 1) (func (export \"_start\") \
                 (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))) unreachable))",
            )?,
        ),
        ("none", b"\0asm\x01\0\0\0 and no module after it".to_vec()),
    ];
    for (name, bytes) in modules {
        let image = dir.path().join(format!("{name}.wasm"));
        std::fs::write(&image, bytes)?;
        site.create(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": NODE, "runtimeClassName": "selvedge-wasm", "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false, "restartPolicy": "Never",
                "containers": [{
                    "name": "main", "image": format!("file://{}", image.display()),
                    "resources": {"limits": {"memory": "16Mi"}},
                }],
            },
        }))?;
    }
    site.wait_for("spin", |pod| pod["status"]["phase"] == "Running")?;
    site.wait_for("grow", |pod| pod["status"]["phase"] == "Failed")?;
    let none = site.wait_for("none", |pod| {
        let state = &pod["status"]["containerStatuses"][0]["state"];
        state["waiting"]["message"].is_string() || state["terminated"]["message"].is_string()
    })?;
    let said = none["status"]["containerStatuses"][0]["state"].to_string();
    ensure!(said.contains("none.wasm"), "{said}");
    site.check_others()?;
    for name in ["spin", "grow", "none"] {
        site.delete(name)?;
    }
    site.check_others()
}
