//! `selvedge up`: five lines, one kubeconfig, real readings at the hub, and a clean end.

use anyhow::{Context as _, Result};
use serde_json::Value;
use testkit::program::run;
use testkit::wait::eventually;

use crate::common::{PATIENCE, Up, make_gateway, root, stored_readings, wait_pods};

#[test]
fn one_command_brings_readings_of_this_machine_to_the_hub() -> Result<()> {
    let example = root().join("examples/first-light");
    let Some(mut up) = Up::start(&["--example", &example.to_string_lossy()])? else { return Ok(()) };
    let readings = eventually("readings of the host at the hub", PATIENCE, || {
        let found = stored_readings(&up.kubectl, "box", "host", "CpuUsage").map_err(|error| error.to_string())?;
        if found.len() >= 3 { Ok(found) } else { Err(format!("{} readings", found.len())) }
    })?;
    let usage: f64 = readings[1]["reading"]["value"].as_str().context("a value")?.parse()?;
    assert!((0.0..=100.0).contains(&usage), "{usage}");

    // Those before the end of the first window may be few; the rule's own events arrive like a device's.
    let averages = eventually("the rule's averages at the hub", PATIENCE, || {
        let found =
            stored_readings(&up.kubectl, "box", "cpu-average", "CpuAverage").map_err(|error| error.to_string())?;
        if found.is_empty() { Err("none") } else { Ok(found) }.map_err(str::to_owned)
    })?;
    let average: f64 = averages[0]["reading"]["value"].as_str().context("a value")?.parse()?;
    assert!((0.0..=100.0).contains(&average), "{average}");

    make_gateway(&up.kubectl, "box")?;
    wait_pods(&up.kubectl, "app=heartbeat", 1)?;
    wait_pods(&up.kubectl, "app=greeter", 1)?;

    let data_dir = up.program.data_dir().to_string_lossy().into_owned();
    eventually("a status that says all is well", PATIENCE, || {
        let text = run(["status", "-o", "json", "--data-dir", &data_dir]).and_then(|outcome| outcome.ok());
        let status: Value =
            serde_json::from_str(&text.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        let is_well = status["hub"]["nodes"][0]["name"] == "box"
            && status["hub"]["rules"][0]["ready"] == true
            && status["hub"]["devices"][0]["ready"] == true
            && status["node"]["connected"] == true
            && status["edge"]["journal"]["next"].as_u64().is_some_and(|next| next > 0);
        if is_well { Ok(()) } else { Err(status.to_string()) }
    })?;
    let text = run(["status", "--data-dir", &data_dir])?.ok()?;
    assert!(text.contains("ok box") && text.contains("ok default/cpu-average"), "{text}");

    let said = up.program.log();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("selvedge: ")).collect();
    assert_eq!(lines.len(), 5, "{said}");

    // The rendered files are what runs: applying them by hand changes nothing, and warns of nothing.
    let rendered = up.program.data_dir().join("example").to_string_lossy().into_owned();
    let applied = up.kubectl.ok(&["apply", "-f", &rendered])?;
    assert!(applied.lines().all(|line| line.ends_with(" unchanged")), "{applied}");
    let (_, status) = up.program.interrupt(PATIENCE)?;
    assert!(status.success(), "{status}\n{}", up.program.log());
    Ok(())
}

#[test]
fn what_was_made_is_there_after_a_restart() -> Result<()> {
    let Some(mut up) = Up::start(&[])? else { return Ok(()) };
    up.kubectl.ok(&["create", "configmap", "kept", "--from-literal=a=1"])?;
    let before = up.kubectl.json(&["configmap", "kept"])?;
    up.program.kill();
    up.program.start_again("ephemeral")?;
    up.program.address("hub-api")?;
    let after = eventually("the same object", PATIENCE, || {
        up.kubectl.json(&["configmap", "kept"]).map_err(|error| error.to_string())
    })?;
    assert_eq!(before, after);
    Ok(())
}

#[test]
fn reset_removes_what_was_kept_and_only_with_yes() -> Result<()> {
    let Some(mut up) = Up::start(&[])? else { return Ok(()) };
    let data_dir = up.program.data_dir().to_string_lossy().into_owned();
    // A pod that outlives its node has volumes in memory.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: left, labels: { app: left } }\nspec: { nodeName: box, runtimeClassName: selvedge-process, \
               containers: [{ name: a, image: \"file:///bin/sleep\", args: [\"3600\"] }] }";
    up.kubectl.apply(pod)?.ok()?;
    wait_pods(&up.kubectl, "app=left", 1)?;
    let refusal = run(["reset", "--yes", "--data-dir", &data_dir])?.refused()?;
    assert!(refusal.contains("runs on"), "{refusal}");
    up.program.kill();
    let said = run(["reset", "--data-dir", &data_dir])?.ok()?;
    assert!(said.contains("--yes") && up.program.data_dir().join("hub").exists(), "{said}");
    let notes = up.program.data_dir().join("notes.txt");
    std::fs::write(&notes, "mine")?;
    let config = up.program.data_dir().join("edge/config");
    std::fs::create_dir(&config)?;
    run(["reset", "--yes", "--data-dir", &data_dir])?.ok()?;
    assert!(config.exists() && !up.program.data_dir().join("edge/journal").exists());
    assert!(!up.program.data_dir().join("hub").exists() && !up.program.data_dir().join("node").exists());
    assert!(notes.exists(), "a file that is not ours went too");
    Ok(())
}
