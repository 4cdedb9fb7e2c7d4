//! Files: nothing that a container writes leads out of what it was given.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Box, pod};
use crate::common::is_full;

/// Deep enough to be the root of the host from within any volume.
const UP: &str = "../../../../../../../../../../../../../../../../../../..";

#[test]
fn a_volume_of_configuration_is_no_lever_on_the_host() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let victim = site.victim()?;
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"key": value}});
    site.create(&map("before"))?;
    let script = format!(
        "cd /cfg; rm -f ..data && echo removed; ln -s {UP}{} ..data && echo planted; echo x > new && echo wrote; \
         mount -o remount,rw /cfg && echo remounted; while ! grep -q after key; do sleep 0.1; done; echo changed",
        victim.display()
    );
    let mut attacker = pod("attacker", &script);
    attacker["spec"]["volumes"] = json!([{"name": "cfg", "configMap": {"name": "c"}}]);
    attacker["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "cfg", "mountPath": "/cfg"}]);
    site.create(&attacker)?;
    site.wait_for("attacker", |pod| pod["status"]["phase"] == "Running")?;
    site.create(&map("after"))?;
    let (_, log) = site.wait_end("attacker")?;
    let said: Vec<&str> =
        log.lines().filter(|line| ["removed", "planted", "wrote", "remounted"].contains(line)).collect();
    ensure!(said.is_empty() && log.ends_with("changed\n"), "{log}");
    site.check_victim()?;
    site.check_others()
}

#[test]
fn a_link_in_a_volume_is_no_sub_path() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let victim = site.victim()?;
    let mut attacker = pod("attacker", "echo x > /mnt/written");
    attacker["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    attacker["spec"]["initContainers"] = json!([{
        "name": "planter", "image": "file:///bin/ln", "args": ["-s", format!("{UP}{}", victim.display()), "/work/link"],
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
    }]);
    attacker["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "work", "mountPath": "/mnt", "subPath": "link/made-by-the-kubelet"}]);
    site.create(&attacker)?;
    let pod = site.wait_for("attacker", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["state"]["waiting"]["message"].is_string() || status["state"]["terminated"].is_object()
    })?;
    let said = pod["status"]["containerStatuses"][0]["state"].to_string();
    ensure!(said.contains("link/made-by-the-kubelet"), "{said}");
    site.check_victim()?;
    site.delete("attacker")?;
    site.check_others()
}

#[test]
fn a_directory_that_becomes_a_link_while_it_is_opened_is_no_sub_path() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let victim = site.victim()?;
    let (pods, containers) = if is_full() { (40, 10) } else { (4, 10) };
    let dir = site.fleet.dir.path().join("shared");
    std::fs::create_dir(&dir)?;
    let volumes = json!([{"name": "work", "hostPath": {"path": dir, "type": "Directory"}}]);
    // By renames alone: this program sees the host, as processes do, and must not follow the link itself.
    let script = format!(
        "cd /work; mkdir plain; ln -s {UP}{} link; while true; do mv -T plain real; mv -T real plain; mv -T link real; \
         mv -T real link; done",
        victim.display()
    );
    let mut swapper = pod("swapper", &script);
    swapper["spec"]["volumes"] = volumes.clone();
    swapper["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
    site.create(&swapper)?;
    for number in 0..pods {
        let mut writer = pod(&format!("writer-{number}"), "");
        writer["spec"]["volumes"] = volumes.clone();
        let one = |index: usize| {
            json!({
                "name": format!("c{index}"), "image": "file:///bin/sh", "args": ["-c", "echo x > /mnt/written"],
                "volumeMounts": [{"name": "work", "mountPath": "/mnt", "subPath": "real"}],
            })
        };
        writer["spec"]["containers"] = (0..containers).map(one).collect();
        site.create(&writer)?;
    }
    for number in 0..pods {
        // Started, or not started with a reason: none of them is left undecided.
        site.wait_for(&format!("writer-{number}"), |pod| {
            let statuses = pod["status"]["containerStatuses"].as_array();
            statuses.is_some_and(|all| {
                all.iter()
                    .all(|one| one["state"]["terminated"].is_object() || one["state"]["waiting"]["message"].is_string())
            })
        })?;
    }
    site.check_victim()?;
    site.delete("swapper")?;
    site.check_others()
}

#[test]
fn the_nodes_keys_and_other_pods_secrets_are_out_of_sight() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "never-to-be-seen"},
    });
    site.create(&secret)?;
    let mut holder = pod("holder", "sleep 1000000");
    holder["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]);
    holder["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "s", "mountPath": "/s"}]);
    holder["spec"]["containers"][0]["env"] =
        json!([{"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}]);
    site.create(&holder)?;
    site.wait_for("holder", |pod| pod["status"]["phase"] == "Running")?;
    let data = site.fleet.node.data_dir();
    ensure!(data.join("node/pki/identity.json").is_file() && data.join("node/pods").is_dir());
    let script = format!(
        "grep -rsl -e never-to-be-seen -e PRIVATE {data} /run /proc/[0-9]*/environ 2>/dev/null; ls -A {data}/node/pki 2>/dev/null; \
         touch {data}/node/x 2>/dev/null; echo end",
        data = data.display()
    );
    site.create(&pod("thief", &script))?;
    let (_, log) = site.wait_end("thief")?;
    ensure!(log == "end\n", "{log}");
    // What it may have written there was its own.
    ensure!(!data.join("node/x").exists());
    site.check_others()
}
