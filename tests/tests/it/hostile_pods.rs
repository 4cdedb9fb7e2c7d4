//! Pods that attack the box they run on: what they reach is theirs, and nobody else notices.
//!
//! Beside each attacker runs a bystander. After the attack its program is the same process, its readiness never ended, the Node is
//! Ready, the agent is the one that was started, and another pod still starts and ends.
//!
//! ```text
//! files   links, sub-paths and races that lead out of volumes; the node's own keys
//! rights  what a program without privileges tries with the kernel
//! floods  memory, processes, log lines, last words, modules that never end
//! ```

mod files;
mod floods;
mod rights;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::process;
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE, condition, node_is_ready};

const NODE: &str = "edge-1";

/// A hub, a node, and a bystander on it.
struct Box {
    fleet: Fleet,
    bystander: u32,
    agent: u32,
    mark: String,
}

impl Box {
    /// `None` where there is no kubectl.
    fn start() -> Result<Option<Self>> {
        let Some(fleet) = Fleet::start()? else { return Ok(None) };
        // Which bystander is whose: several tests run at once.
        let mark = format!("0.{:010}", fastrand::u32(..));
        let agent = fleet.node.pid();
        let mut this = Self { fleet, bystander: 0, agent, mark };
        let mut bystander = pod("bystander", &format!("exec /bin/sleep 1000000 {}", this.mark));
        bystander["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["/bin/true"]}, "periodSeconds": 1});
        this.create(&bystander)?;
        this.wait_for("bystander", |pod| condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True"))?;
        this.bystander = this.pid_of_bystander()?;
        Ok(Some(this))
    }

    fn pid_of_bystander(&self) -> Result<u32> {
        let found = process::find(|words| words[0].ends_with("sleep") && words.last_non_empty() == Some(&self.mark));
        Ok(found.first().context("the bystander runs")?.0)
    }

    fn create(&self, object: &Value) -> Result<()> {
        self.fleet.kubectl.apply(&object.to_string())?.ok().map(|_| ())
    }

    /// Waits until a pod is as it should be; what it was then.
    fn wait_for(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(&format!("pod {name} as expected"), PATIENCE, || {
            let pod = self.fleet.kubectl.json(&["pod", name]).map_err(|error| error.to_string())?;
            if is_so(&pod) { Ok(pod) } else { Err(pod["status"].to_string()) }
        })
    }

    /// Waits until a pod has ended by itself; what it was then, and what it had said.
    fn wait_end(&self, name: &str) -> Result<(Value, String)> {
        let ended = |pod: &Value| pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
        let pod = self.wait_for(name, ended)?;
        Ok((pod, self.fleet.kubectl.ok(&["logs", name])?))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.fleet.kubectl.ok(&["delete", "pod", name, "--timeout=60s"]).map(|_| ())
    }

    /// Somewhere on the host, outside of all that a pod was given, with a file in it.
    fn victim(&self) -> Result<PathBuf> {
        let victim = self.fleet.dir.path().join("victim");
        std::fs::create_dir_all(&victim)?;
        std::fs::write(victim.join("precious"), "data\n")?;
        Ok(victim)
    }

    /// Nothing of the host was made, changed or deleted by an attack on `victim`.
    fn check_victim(&self) -> Result<()> {
        let victim = self.fleet.dir.path().join("victim");
        let names: Vec<_> = std::fs::read_dir(&victim)?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(names == ["precious"], "{names:?} in {}", victim.display());
        ensure!(std::fs::read_to_string(victim.join("precious"))? == "data\n");
        Ok(())
    }

    /// Nobody else has noticed, and the node serves on.
    fn check_others(&mut self) -> Result<()> {
        ensure!(self.fleet.node.is_running() && self.fleet.node.pid() == self.agent, "{}", self.fleet.node.log());
        // By its id: to read the command line of a process that forks is to wait until it has forked.
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", self.bystander)).unwrap_or_default();
        ensure!(line.contains(&self.mark), "the bystander was started anew, or has ended");
        let bystander = self.fleet.kubectl.json(&["pod", "bystander"])?;
        let restarts = &bystander["status"]["containerStatuses"][0]["restartCount"];
        ensure!(restarts == 0, "{bystander}");
        node_is_ready(&self.fleet.kubectl, NODE)?;
        let next = format!("next-{}", fastrand::u32(..));
        self.create(&pod(&next, "echo served"))?;
        let (_, log) = self.wait_end(&next)?;
        ensure!(log == "served\n", "{log}");
        self.delete(&next)
    }
}

trait LastNonEmpty {
    fn last_non_empty(&self) -> Option<&String>;
}

impl LastNonEmpty for [String] {
    /// A command line ends with an empty word.
    fn last_non_empty(&self) -> Option<&String> {
        self.iter().rev().find(|word| !word.is_empty())
    }
}

/// A pod that runs a script once.
fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "runtimeClassName": "selvedge-process", "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false, "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "file:///bin/sh", "args": ["-c", script]}],
        },
    })
}

/// How long an attack that has no end of its own continues.
const ATTACK: Duration = Duration::from_secs(3);
