//! The report of a benchmark: each figure with its unit, its spread over the runs, what it must reach and what it was.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One line of the report.
#[derive(Serialize)]
struct Figure {
    figure: String,
    value: f64,
    unit: &'static str,
    n: usize,
    /// Smallest and largest of the runs.
    spread: [f64; 2],
    /// What the row must reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    /// What it was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'static str>,
    /// What somebody else's program takes, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<PeerFigure>,
}

/// The same of a peer.
#[derive(Serialize)]
struct PeerFigure {
    name: String,
    value: f64,
    n: usize,
    /// Ours by the peer's.
    ratio: f64,
}

/// Somebody else's program, and what it took in the same run.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Whose.
    pub name: String,
    /// As many as there were, at least one.
    pub runs: Vec<f64>,
}

impl Peer {
    /// What was measured of it; nothing where nothing was.
    pub fn new(name: impl Into<String>, runs: Vec<f64>) -> Option<Self> {
        if runs.is_empty() { None } else { Some(Self { name: name.into(), runs }) }
    }
}

/// What was measured so far.
pub struct Report {
    name: &'static str,
    /// What a reader must know of how it was measured.
    preamble: &'static str,
    figures: Vec<Figure>,
    /// What could not be measured, and why.
    notes: Vec<String>,
}

/// The value in the middle. There is at least one.
pub fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

impl Report {
    /// Of the benchmark `name`, with nothing in it.
    pub fn new(name: &'static str, preamble: &'static str) -> Self {
        Self { name, preamble, figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds the median of some runs, at least one, and prints it.
    pub fn add(
        &mut self,
        figure: impl Into<String>,
        unit: &'static str,
        runs: Vec<f64>,
        limit: Option<&str>,
        before: Option<&'static str>,
    ) {
        self.push((figure.into(), unit), runs, limit, before, None);
    }

    /// The same beside a peer that was measured in the same run, where there is one.
    pub fn add_beside(
        &mut self,
        figure: impl Into<String>,
        unit: &'static str,
        runs: Vec<f64>,
        limit: Option<&str>,
        peer: Option<Peer>,
    ) {
        self.push((figure.into(), unit), runs, limit, None, peer);
    }

    /// Says in the report what could not be measured, and why.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        println!("not measured: {text}");
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    fn push(
        &mut self,
        (figure, unit): (String, &'static str),
        mut runs: Vec<f64>,
        limit: Option<&str>,
        before: Option<&'static str>,
        peer: Option<Peer>,
    ) {
        runs.sort_by(f64::total_cmp);
        let value = runs[runs.len() / 2];
        let spread = [runs[0], runs[runs.len() - 1]];
        let beside = limit.map(|limit| format!(", asked for: {limit}")).unwrap_or_default();
        println!("{figure}: {value:.3} {unit} ({:.3}–{:.3}, n = {}){beside}", spread[0], spread[1], runs.len());
        let limit = limit.map(str::to_owned);
        let peer = peer.map(|peer| {
            let (n, other) = (peer.runs.len(), median(peer.runs));
            println!("  {}: {other:.3} {unit} (n = {n}), ratio {:.3}", peer.name, value / other);
            PeerFigure { name: peer.name, value: other, n, ratio: value / other }
        });
        self.figures.push(Figure { figure, value, unit, n: runs.len(), spread, limit, before, peer });
    }

    /// Writes `NAME.json` and `NAME.md` into a directory.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out)?;
        let (name, machine) = (self.name, machine());
        let json = serde_json::json!(
            {"version": 1, "name": name, "machine": machine, "figures": self.figures, "not measured": self.notes}
        );
        std::fs::write(out.join(format!("{name}.json")), serde_json::to_string_pretty(&json)? + "\n")?;
        let mut text = format!("# {name}\n\n{machine}\n\n{}\n\n", self.preamble);
        // One column for what it is compared with: a former state of ours, or somebody else's program.
        let has_peers = self.figures.iter().any(|one| one.peer.is_some());
        let last = if has_peers { "peer in the same run | ratio" } else { "before" };
        let columns = last.split('|').count() + 6;
        let _ = writeln!(text, "| figure | median | unit | n | spread | limit | {last} |\n|{}", "---|".repeat(columns));
        for one in &self.figures {
            let or_dash = |text: Option<&str>| text.unwrap_or("–").to_owned();
            let compared = match &one.peer {
                Some(peer) => format!("{}: {:.2} | {:.2}", peer.name, peer.value, peer.ratio),
                None if has_peers => "– | –".to_owned(),
                None => or_dash(one.before),
            };
            let _ = writeln!(
                text,
                "| {} | {:.2} | {} | {} | {:.2}–{:.2} | {} | {compared} |",
                one.figure,
                one.value,
                one.unit,
                one.n,
                one.spread[0],
                one.spread[1],
                or_dash(one.limit.as_deref()),
            );
        }
        if !self.notes.is_empty() {
            let _ = writeln!(text, "\nNot measured:\n");
            for note in &self.notes {
                let _ = writeln!(text, "- {note}");
            }
        }
        std::fs::write(out.join(format!("{name}.md")), text).context("failed to write the report")
    }
}

/// The machine that this runs on, in a line.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{cores} cores ({}), Linux {}, release profile, load {load} at the end",
        model.unwrap_or("unknown"),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_peers_with_their_ratio_and_says_what_is_missing() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut report = Report::new("some", "How.");
        report.add_beside("start", "ms", vec![4.0, 2.0, 3.0], Some("≤ 5"), Peer::new("runc", vec![10.0, 12.0, 14.0]));
        report.add_beside("stop", "ms", vec![1.0], None, Peer::new("runc", Vec::new()));
        report.note("crun is not installed");
        report.write(dir.path())?;
        let text = std::fs::read_to_string(dir.path().join("some.md"))?;
        assert!(text.contains("| start | 3.00 | ms | 3 | 2.00–4.00 | ≤ 5 | runc: 12.00 | 0.25 |\n"), "{text}");
        assert!(text.contains("| stop | 1.00 | ms | 1 | 1.00–1.00 | – | – | – |\n"), "{text}");
        assert!(text.ends_with("\nNot measured:\n\n- crun is not installed\n"), "{text}");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("some.json"))?)?;
        assert_eq!(json["figures"][0]["peer"]["ratio"], 0.25);
        Ok(())
    }
}
