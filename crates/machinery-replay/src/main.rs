//! Replays recorded cases against an API server in this process, and prints what differs.
//!
//! ```sh
//! cargo run --profile ci -p machinery-replay -- errors list-watch/selectors
//! ```
//!
//! Of each case the first step that differs is shown, with every place of its answer: later steps often differ because of it.
//! The server is a `machinery-server` over a store in a temporary directory, with nothing of a hub around it.

mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use machinery_replay::{Case, Comparison, Difference, StepOutcome, cases, is_apart, topics};

use crate::fixture::Fixture;

/// Cases at a time: most of their time they wait for watches that last a second.
const CASES_AT_ONCE: usize = 8;

/// Letters of a value that are shown, unless everything is asked for.
const SHOWN_LETTERS: usize = 300;

/// Places of a body that are shown, unless everything is asked for.
const SHOWN_PLACES: usize = 12;

const USAGE: &str = "usage: machinery-replay [--all-differences] [--full] [--quiet] [--list-equal] [TOPIC[/CASE]]…

Replays recorded cases whose name holds CASE (without topics: all) against an API server in this process.

  --all-differences  show every step that differs, and not the first of each case
  --full             show whole values, and all places of a body
  --quiet            show the counts alone
  --list-equal       list the steps that are equal, to be compared with another run's

SELVEDGE_RECORDED=DIR reads the topics there, else tests/data/kubernetes/recorded is read.";

struct Options {
    is_all: bool,
    is_full: bool,
    is_quiet: bool,
    is_list: bool,
    /// Topic, and what the name of a case holds.
    chosen: Vec<(String, String)>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { is_all: false, is_full: false, is_quiet: false, is_list: false, chosen: Vec::new() };
        for argument in arguments {
            match argument.as_str() {
                "--all-differences" => options.is_all = true,
                "--full" => options.is_full = true,
                "--quiet" => options.is_quiet = true,
                "--list-equal" => options.is_list = true,
                other if other.starts_with('-') => bail!("{USAGE}"),
                other => {
                    let (topic, case) = other.split_once('/').unwrap_or((other, ""));
                    options.chosen.push((topic.to_owned(), case.to_owned()));
                }
            }
        }
        Ok(options)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `topic/case/step: reason`, one a line: differences that are known, each of which still counts as one.
fn read_known(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (step, reason) = line.split_once(": ").with_context(|| format!("no reason in {line:?}"))?;
            Ok((step.to_owned(), reason.to_owned()))
        })
        .collect()
}

/// What the cases of a topic came to.
#[derive(Default)]
struct Counts {
    cases: usize,
    cases_equal: usize,
    steps: usize,
    statuses_equal: usize,
    bodies_equal: usize,
    steps_equal: usize,
}

impl Counts {
    fn add(&mut self, outcomes: &[StepOutcome]) {
        let count = |is_counted: fn(&Comparison) -> bool| {
            outcomes.iter().filter(|one| one.compared.as_ref().is_ok_and(is_counted)).count()
        };
        let equal = count(Comparison::is_equal);
        self.cases += 1;
        self.cases_equal += usize::from(equal == outcomes.len());
        self.steps += outcomes.len();
        self.statuses_equal += count(Comparison::is_status_equal);
        self.bodies_equal += count(|one| one.body.is_empty());
        self.steps_equal += equal;
    }

    fn sum(&mut self, other: &Self) {
        self.cases += other.cases;
        self.cases_equal += other.cases_equal;
        self.steps += other.steps;
        self.statuses_equal += other.statuses_equal;
        self.bodies_equal += other.bodies_equal;
        self.steps_equal += other.steps_equal;
    }

    fn line(&self, topic: &str) -> String {
        let of = |count: usize, all: usize| {
            let percent = if all == 0 { 100.0 } else { count as f64 * 100.0 / all as f64 };
            format!("{count:>5} {percent:>5.1}%")
        };
        format!(
            "{topic:<16} {:>5} cases {} equal {:>6} steps: status {} body {} all {}",
            self.cases,
            of(self.cases_equal, self.cases),
            self.steps,
            of(self.statuses_equal, self.steps),
            of(self.bodies_equal, self.steps),
            of(self.steps_equal, self.steps),
        )
    }
}

fn cut(text: &str, options: &Options) -> String {
    if options.is_full || text.chars().count() <= SHOWN_LETTERS {
        return text.to_owned();
    }
    let shown: String = text.chars().take(SHOWN_LETTERS).collect();
    format!("{shown}… ({} bytes)", text.len())
}

/// What differs in a step, as lines for a person.
fn describe(case: &str, outcome: &StepOutcome, known: Option<&String>, options: &Options) -> String {
    let mut lines = vec![format!("{case}/{} {}", outcome.step, outcome.request)];
    if let Some(reason) = known {
        lines.push(format!("    known: {reason}"));
    }
    match &outcome.compared {
        Err(error) => lines.push(format!("    no answer: {error:#}")),
        Ok(compared) => {
            if !compared.is_status_equal() {
                lines.push(format!("    status: expected {}, got {}", compared.status_expected, compared.status_given));
            }
            let places_max = if options.is_full { usize::MAX } else { SHOWN_PLACES };
            let places: Vec<&Difference> = compared.headers.iter().chain(&compared.body).collect();
            for place in places.iter().take(places_max) {
                let value = |value: &Option<String>| value.as_ref().map_or("nothing".to_owned(), |v| cut(v, options));
                lines.push(format!("    {}", place.place));
                lines.push(format!("        expected {}", value(&place.expected)));
                lines.push(format!("        got      {}", value(&place.given)));
            }
            if places.len() > places_max {
                lines.push(format!("    … and {} more places (--full)", places.len() - places_max));
            }
        }
    }
    lines.join("\n")
}

async fn replay(
    fixture: &Fixture,
    topic: &str,
    cases: &[Case],
    options: &Options,
    known: &BTreeMap<String, String>,
) -> Counts {
    let mut running = futures::stream::iter(cases.iter().enumerate().map(|(number, case)| async move {
        let namespace = format!("kt-{}-{number}", topic.replace(|letter: char| !letter.is_ascii_lowercase(), ""));
        (case, case.replay(fixture, &namespace).await)
    }))
    .buffer_unordered(CASES_AT_ONCE);
    let mut counts = Counts::default();
    while let Some((case, outcomes)) = running.next().await {
        counts.add(&outcomes);
        let differing = outcomes.iter().filter(|one| !one.compared.as_ref().is_ok_and(Comparison::is_equal));
        if options.is_list {
            let equal = outcomes.iter().filter(|one| one.compared.as_ref().is_ok_and(Comparison::is_equal));
            let steps: Vec<String> = equal.map(|one| one.step.to_string()).collect();
            if !steps.is_empty() {
                println!("{}: {}", case.name, steps.join(" "));
            }
        }
        let shown = if options.is_quiet || options.is_list {
            0
        } else if options.is_all {
            usize::MAX
        } else {
            1
        };
        for outcome in differing.take(shown) {
            let reason = known.get(&format!("{}/{}", case.name, outcome.step));
            println!("{}\n", describe(&case.name, outcome, reason, options));
        }
    }
    counts
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let dir = std::env::var_os("SELVEDGE_RECORDED")
        .map_or_else(|| root().join("tests/data/kubernetes/recorded"), PathBuf::from);
    let known = read_known(&root().join("tests/data/kubernetes/differences.txt"))?;
    let mut chosen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (topic, case) in &options.chosen {
        chosen.entry(topic.clone()).or_default().push(case.clone());
    }
    if chosen.is_empty() {
        chosen = topics(&dir)?.into_iter().map(|topic| (topic, vec![String::new()])).collect();
    }
    let fixture = Arc::new(Fixture::start().await?);
    let mut lines = Vec::new();
    let mut all = Counts::default();
    for (topic, parts) in &chosen {
        let mut cases = cases(&dir, topic)?;
        cases.retain(|case| parts.iter().any(|part| case.name[topic.len() + 1..].contains(part.as_str())));
        ensure!(!cases.is_empty(), "no case of {topic} is named like that");
        let (apart, cases): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| is_apart(&case.name));
        let counts = replay(&fixture, topic, &cases, &options, &known).await;
        all.sum(&counts);
        lines.push(counts.line(topic));
        if !apart.is_empty() {
            let counts = replay(&fixture, topic, &apart, &options, &known).await;
            lines.push(counts.line(&format!("{topic} apart")));
        }
    }
    if lines.len() > 1 {
        lines.push(all.line("all"));
    }
    println!("{}", lines.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_known_difference_names_a_recorded_step_and_a_reason() -> Result<()> {
        let root = root();
        let dir = root.join("tests/data/kubernetes/recorded");
        let mut steps = BTreeSet::new();
        for topic in topics(&dir)? {
            for case in cases(&dir, &topic)? {
                steps.extend(case.step_names());
            }
        }
        let known = read_known(&root.join("tests/data/kubernetes/differences.txt"))?;
        let strange: Vec<&String> = known.keys().filter(|step| !steps.contains(*step)).collect();
        assert!(strange.is_empty(), "no such steps: {strange:?}");
        assert!(known.values().all(|reason| reason.len() > 10), "each has its reason");
        Ok(())
    }
}
