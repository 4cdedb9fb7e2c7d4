//! The end of a hollow fleet that a test holds.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::wait::eventually;

/// An answer takes at most as long as the slowest check of all nodes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// A process of hollow nodes. Dropping it ends it.
pub struct Fleet {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    nodes: u64,
}

impl Fleet {
    /// Starts `nodes` hollow nodes of `program` at the hub `address`, with the tokens of a file. More settings as
    /// [`super::Plan::parse`] reads them.
    pub fn start(program: &Path, address: &str, tokens: &Path, nodes: usize, more: &[&str]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["--hub", address, "--nodes", &nodes.to_string(), "--tokens"])
            .arg(tokens)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let input = child.stdin.take().context("it has an input")?;
        let output = BufReader::new(child.stdout.take().context("it has an output")?);
        let (answers_tx, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if answers_tx.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, answers, nodes: nodes as u64 })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives a command and reads the answer: `report`, `check`, `sever`, `verify-writers`.
    pub fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.input, "{command}").context("the hollow nodes have ended")?;
        let line = self.answers.recv_timeout(ANSWER_TIMEOUT).with_context(|| format!("no answer to {command}"))?;
        serde_json::from_str(&line).with_context(|| format!("the answer to {command} is no JSON: {line}"))
    }

    /// Waits until the report satisfies `is_it`; the last report is part of the error.
    pub fn wait(&mut self, what: &str, deadline: Duration, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, deadline, || {
            let report = self.ask("report").map_err(|error| format!("{error:#}"))?;
            if is_it(&report) { Ok(report) } else { Err(report.to_string()) }
        })
    }

    /// Waits until every node is connected, registered and follows all its watches.
    pub fn wait_following(&mut self, deadline: Duration) -> Result<Value> {
        let nodes = self.nodes;
        self.wait("fleet that follows", deadline, |report| {
            report["registered"] == nodes && report["following"] == nodes
        })
    }

    /// Waits until the nodes together know and run exactly `pods` pods.
    pub fn wait_running(&mut self, pods: u64, deadline: Duration) -> Result<Value> {
        self.wait(&format!("{pods} running pods"), deadline, |report| {
            report["pods"] == pods && report["running"] == pods
        })
    }

    /// What no fleet may have seen: duplicates, disorder, gaps. Empty when all is well.
    ///
    /// # Errors
    /// When the process does not answer.
    pub fn faults(&mut self) -> Result<Vec<String>> {
        let check = self.ask("check")?;
        let report = self.ask("report")?;
        let mut faults = Vec::new();
        for (answer, fields) in [
            (&report, &["duplicates", "outOfOrder", "addedTwice", "unknownDeletes", "revisionsTwice"][..]),
            (&check, &["differences", "lost", "revisionsTwice"]),
        ] {
            for field in fields {
                if answer[*field] != 0 {
                    faults.push(format!("{field}: {} ({}{})", answer[*field], answer["first"], answer["lastError"]));
                }
            }
        }
        Ok(faults)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
