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
}

/// What was measured so far.
pub struct Report {
    name: &'static str,
    /// What a reader must know of how it was measured.
    preamble: &'static str,
    figures: Vec<Figure>,
}

impl Report {
    /// Of the benchmark `name`, with nothing in it.
    pub fn new(name: &'static str, preamble: &'static str) -> Self {
        Self { name, preamble, figures: Vec::new() }
    }

    /// Adds the median of some runs, at least one, and prints it.
    pub fn add(
        &mut self,
        figure: impl Into<String>,
        unit: &'static str,
        mut runs: Vec<f64>,
        limit: Option<&str>,
        before: Option<&'static str>,
    ) {
        runs.sort_by(f64::total_cmp);
        let figure = figure.into();
        let value = runs[runs.len() / 2];
        let spread = [runs[0], runs[runs.len() - 1]];
        let beside = limit.map(|limit| format!(", asked for: {limit}")).unwrap_or_default();
        println!("{figure}: {value:.3} {unit} ({:.3}–{:.3}, n = {}){beside}", spread[0], spread[1], runs.len());
        let limit = limit.map(str::to_owned);
        self.figures.push(Figure { figure, value, unit, n: runs.len(), spread, limit, before });
    }

    /// Writes `NAME.json` and `NAME.md` into a directory.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, out: &Path) -> Result<()> {
        std::fs::create_dir_all(out)?;
        let (name, machine) = (self.name, machine());
        let json = serde_json::json!({"version": 1, "name": name, "machine": machine, "figures": self.figures});
        std::fs::write(out.join(format!("{name}.json")), serde_json::to_string_pretty(&json)? + "\n")?;
        let mut text = format!(
            "# {name}\n\n{machine}\n\n{}\n\n\
             | figure | median | unit | n | spread | limit | before |\n|---|---|---|---|---|---|---|\n",
            self.preamble
        );
        for one in &self.figures {
            let or_dash = |text: Option<&str>| text.unwrap_or("–").to_owned();
            let _ = writeln!(
                text,
                "| {} | {:.2} | {} | {} | {:.2}–{:.2} | {} | {} |",
                one.figure,
                one.value,
                one.unit,
                one.n,
                one.spread[0],
                one.spread[1],
                or_dash(one.limit.as_deref()),
                or_dash(one.before)
            );
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
