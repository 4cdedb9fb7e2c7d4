//! The chain of CNI plugins that containerd runs for a pod, run one after the other as it does.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::site::milliseconds;
use serde_json::{Value, json};

use crate::place::Namespaces;

/// Where Debian has them.
pub const PLUGINS: &str = "/usr/lib/cni";
const VERSION: &str = "0.4.0";
/// The first ones make the bridge and its rules.
const WARM: usize = 2;

/// A bridge, addresses of a range, ports of the node.
pub fn list(dir: &Path) -> Value {
    let ipam = json!({
        "type": "host-local", "dataDir": dir.join("ipam"),
        "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
    });
    json!({
        "cniVersion": VERSION, "name": "bench",
        "plugins": [
            {"type": "bridge", "bridge": "bench0", "isGateway": true, "ipMasq": true, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Milliseconds to add a pod with a port of the node, and to delete it.
pub fn measure(dir: &Path, count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let list = list(dir);
    let plugins = list["plugins"].as_array().context("the list has plugins")?;
    let (mut added, mut deleted) = (Vec::new(), Vec::new());
    for number in 0..count + WARM {
        let namespaces = Namespaces::new(false)?;
        let (_, netns) = namespaces.paths().next().context("there is one")?;
        let pod = Pod { number, netns };
        let start = Instant::now();
        let mut result = Value::Null;
        for plugin in plugins {
            result = pod.run("ADD", plugin, &result)?;
        }
        added.push(milliseconds(start.elapsed()));
        let start = Instant::now();
        for plugin in plugins.iter().rev() {
            pod.run("DEL", plugin, &result)?;
        }
        deleted.push(milliseconds(start.elapsed()));
    }
    Ok((added.split_off(WARM), deleted.split_off(WARM)))
}

struct Pod {
    number: usize,
    netns: String,
}

impl Pod {
    fn run(&self, command: &str, plugin: &Value, previous: &Value) -> Result<Value> {
        let mut config = plugin.clone();
        config["cniVersion"] = VERSION.into();
        config["name"] = "bench".into();
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        if plugin["type"] == "portmap" {
            let port = json!({"hostPort": 30_000 + self.number, "containerPort": 80, "protocol": "tcp"});
            config["runtimeConfig"] = json!({"portMappings": [port]});
        }
        let kind = plugin["type"].as_str().context("a plugin has a type")?;
        let mut child = Command::new(Path::new(PLUGINS).join(kind))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("bench-{}", self.number))
            .env("CNI_NETNS", &self.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {kind}"))?;
        child.stdin.take().context("it has an input")?.write_all(config.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{kind} {command}: {said}");
        if said.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&said)?) }
    }
}
