//! What kubectl and Helm print when they talk to a real kube-apiserver, and what they print here.
//!
//! `tests/data/kubernetes/commands` holds command lines with exit code and output. Each case is run in a namespace of its own, in
//! order; a hollow node takes the kubelet's place, as a program of the same kind did when they were recorded. A command that waits
//! for something that is still to come is named in `waiting.txt` and not compared, one that differs without such an excuse is in
//! `open.txt`, a list that only shrinks (`cargo xtask test --all --bless commands` takes out what is equal now).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use regex_lite::Regex;
use serde_json::{Value, json};
use testkit::hollow;
use testkit::kubectl::Kubectl;
use testkit::program::{Outcome, Selvedge};
use testkit::wait::eventually;

use crate::common::{PATIENCE, is_full, root};

/// More than the recorded commands need.
const RECORDED_BYTES_MAX: u64 = 8 << 20;

/// How long a new namespace is waited for until it has what controllers put there.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(3);

/// Cases at a time: a command is mostly the client's own start.
const CASES_AT_ONCE: usize = 3;

fn dir() -> PathBuf {
    root().join("tests/data/kubernetes/commands")
}

/// One recorded command line.
struct Recorded {
    /// `tool/case/number`.
    name: String,
    tool: String,
    command: String,
    exit: i32,
    stdout: String,
    stderr: String,
}

/// The commands by case, in order.
fn recorded(file: &str) -> Result<BTreeMap<String, Vec<Recorded>>> {
    let path = dir().join(file);
    let packed = fs::File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).take(RECORDED_BYTES_MAX).read_to_string(&mut text)?;
    let mut cases: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let text = |key: &str| line[key].as_str().map(str::to_owned).with_context(|| format!("a command has a {key}"));
        let case = text("case")?;
        let name = format!("{case}/{}", line["n"]);
        let exit = line["exit"].as_i64().and_then(|exit| exit.try_into().ok()).context("a command has an exit code")?;
        let one = Recorded {
            name,
            tool: text("tool")?,
            command: text("command")?,
            exit,
            stdout: text("stdout")?,
            stderr: text("stderr")?,
        };
        cases.entry(case).or_default().push(one);
    }
    Ok(cases)
}

/// What each of the commands waits for that are not compared.
fn waiting() -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(dir().join("waiting.txt"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, parts) = line.split_once(": ").with_context(|| format!("nothing to wait for in {line:?}"))?;
            Ok((name.to_owned(), parts.to_owned()))
        })
        .collect()
}

/// The commands between recorded ones that are not recorded themselves, by the recorded one that they came before.
fn before() -> Result<BTreeMap<String, Vec<String>>> {
    let text = fs::read_to_string(dir().join("before.txt"))?;
    let mut before: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, command) = line.split_once(": ").with_context(|| format!("no command in {line:?}"))?;
        before.entry(name.to_owned()).or_default().push(command.to_owned());
    }
    Ok(before)
}

/// A line of `waiting.txt` or `before.txt` is for a tool in one version, or in all.
fn find<'a, T>(lines: &'a BTreeMap<String, T>, name: &str) -> Option<&'a T> {
    let (tool, rest) = name.split_once('/')?;
    let family = tool.split('-').next()?;
    lines.get(name).or_else(|| lines.get(&format!("{family}/{rest}")))
}

/// Replaced in turn: what differs from run to run, and how wide columns are because of it.
static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rows = [
        ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+0000 UTC", "<time>"),
        (r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000", "<time>"),
        (r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4}", "<time>"),
        (r#"(resourceVersion"?: ?"?)\d+"#, "${1}<version>"),
        (r"(Resource Version: +)\d+", "${1}<version>"),
        (r"(kube-api-access|debugger|once|agent)-[a-z0-9]{5,10}\b", "${1}-<suffix>"),
        // The hash is of another text than Go's.
        (r"\b(first-chart)-[a-z0-9]{8,10}-[a-z0-9]{5}\b", "${1}-<hash>-<suffix>"),
        // How often an event was repeated by the time that somebody looked.
        (r"(\d+s) \(x\d+ over \d+s\)", "${1}"),
        (r"\b10\.96\.\d+\.\d+\b", "<address>"),
        (r"https://127\.0\.0\.1:\d+", "https://SERVER"),
        (r"Server Version: v1\.36\.\S+", "Server Version: v1.36"),
        (r"(^|[ \t\n])(\d+d)?(\d+h)?(\d+m)?\d+s($|[ \t\n])", "${1}<age>${5}"),
        (r"[ \t]+", " "),
        (r" ?\n", "\n"),
    ];
    rows.map(|(expression, place)| (Regex::new(expression).expect("an expression"), place)).into()
});

/// The words that must be equal. Kinds of ours are beside upstream's in every list of kinds.
fn words(text: &str, namespace: &str) -> String {
    let ours = |line: &&str| !line.contains("selvedge.dev");
    let text: Vec<&str> = text.lines().filter(ours).collect();
    let mut text = text.join("\n").replace(namespace, "${ns}");
    for (varying, place) in VARYING.iter() {
        text = varying.replace_all(&text, *place).into_owned();
    }
    text.trim_end().to_owned()
}

/// Runs a command line as it was typed, with the tool's words for server and namespace put in.
fn run_line(
    tool: &Path,
    is_helm: bool,
    command: &str,
    namespace: &str,
    kubeconfig: &Path,
    work: &Path,
) -> Result<Outcome> {
    // `EDITOR=M/ed1.sh edit …`: settings for the tool come before its arguments.
    let (settings, arguments) = match command.split_once(' ') {
        Some((first, rest)) if first.contains('=') && !first.starts_with('-') => (first, rest),
        _ => ("", command),
    };
    let arguments = arguments.replace("/NS/", &format!("/{namespace}/"));
    let cache = if is_helm {
        String::new()
    } else {
        format!("--cache-dir {}", work.join(format!("cache-{namespace}")).display())
    };
    let line = format!(
        "{settings} '{}' --kubeconfig '{}' {cache} -n {namespace} {arguments}",
        tool.display(),
        kubeconfig.display()
    );
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(line).current_dir(work).stdin(Stdio::null()).env("HOME", work).env("TZ", "UTC");
    Outcome::of(&mut shell)
}

/// What a command came to.
enum Verdict {
    Waits,
    Equal,
    Differs { is_exit_equal: bool, what: String },
}

/// What the recording kept of an output.
const RECORDED_MAX: usize = 20_000;

fn first_lines(text: &str, count: usize) -> String {
    text.lines().take(count).flat_map(|line| [line, "\n"]).collect()
}

fn judge(one: &Recorded, outcome: &Outcome, namespace: &str) -> Verdict {
    let is_exit_equal = outcome.code == one.exit;
    let mut what = String::new();
    if !is_exit_equal {
        let _ = write!(what, "exit {} instead of {}; ", outcome.code, one.exit);
    }
    for (stream, given, expected) in
        [("stdout", &outcome.stdout, &one.stdout), ("stderr", &outcome.stderr, &one.stderr)]
    {
        let (mut given, mut expected) = (given.clone(), expected.clone());
        if expected.len() == RECORDED_MAX {
            // Its last line is not whole.
            let lines = expected.trim_end_matches(|c| c != '\n').lines().count();
            (given, expected) = (first_lines(&given, lines), first_lines(&expected, lines));
        }
        let (given, expected) = (words(&given, namespace), words(&expected, namespace));
        if given != expected {
            let place = given.lines().zip(expected.lines()).position(|(given, expected)| given != expected);
            let place = place.unwrap_or(given.lines().count().min(expected.lines().count()));
            let line = |text: &str| text.lines().nth(place).unwrap_or("nothing").chars().take(300).collect::<String>();
            let _ = write!(what, "{stream}, line {}: {:?} instead of {:?}; ", place + 1, line(&given), line(&expected));
        }
    }
    if what.is_empty() { Verdict::Equal } else { Verdict::Differs { is_exit_equal, what } }
}

/// What all cases of a tool share.
struct Setting<'a> {
    tools: &'a BTreeMap<String, PathBuf>,
    kubectl: &'a Kubectl,
    kubeconfig: &'a Path,
    work: &'a Path,
    waiting: &'a BTreeMap<String, String>,
    before: &'a BTreeMap<String, Vec<String>>,
}

fn run_case(setting: &Setting<'_>, number: usize, commands: &[Recorded]) -> Result<Vec<(String, Verdict)>> {
    // As long as the recorded names were: the width of a column shows it.
    let namespace = format!("kc-{:02}-{:02}", 10 + number / 90, 10 + number % 90);
    setting.kubectl.ok(&["create", "namespace", &namespace])?;
    // What its pods and lists need is there a moment later; a command that misses it says so.
    for object in ["serviceaccount/default", "configmap/kube-root-ca.crt"] {
        let look = || setting.kubectl.ok(&["get", object, "-n", &namespace]).map_err(|error| error.to_string());
        if let Err(error) = eventually(object, CONTROLLER_PATIENCE, look) {
            println!("{namespace}: {error:#}");
        }
    }
    let mut done = Vec::new();
    for one in commands {
        let tool = setting.tools.get(&one.tool).with_context(|| format!("no {}", one.tool))?;
        let is_helm = one.tool.starts_with("helm");
        let run = |line: &str| run_line(tool, is_helm, line, &namespace, setting.kubeconfig, setting.work);
        for line in find(setting.before, &one.name).into_iter().flatten() {
            run(line)?;
        }
        let verdict = match find(setting.waiting, &one.name) {
            Some(_) => Verdict::Waits,
            None => judge(one, &run(&one.command)?, &namespace),
        };
        done.push((one.name.clone(), verdict));
    }
    setting.kubectl.ok(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(done)
}

fn run_all(setting: &Setting<'_>, cases: &BTreeMap<String, Vec<Recorded>>) -> Result<Vec<(String, Verdict)>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let all: Vec<&Vec<Recorded>> = cases.values().collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..CASES_AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(commands) = all.get(number) else { return anyhow::Ok(done) };
                        done.extend(run_case(setting, number, commands)?);
                    }
                })
            })
            .collect();
        let mut done = Vec::new();
        for worker in workers {
            done.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(done)
    })
}

fn open() -> BTreeMap<String, String> {
    let text = fs::read_to_string(dir().join("open.txt")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(": ").map_or((line.into(), String::new()), |(name, why)| (name.into(), why.into())))
        .collect()
}

fn write_open(open: &BTreeMap<String, String>) -> Result<()> {
    let mut text = "# Commands that differ and wait for no controller. The list only shrinks.\n".to_owned();
    for (name, why) in open {
        let _ = if why.is_empty() { writeln!(text, "{name}") } else { writeln!(text, "{name}: {why}") };
    }
    fs::write(dir().join("open.txt"), text).context("failed to write the list of commands that differ")
}

fn report(done: &[(String, Verdict)]) -> String {
    let mut rows: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for (name, verdict) in done {
        for row in [name.split('/').next().unwrap_or_default(), "all"] {
            let row = rows.entry(row).or_default();
            row[0] += usize::from(!matches!(verdict, Verdict::Waits));
            row[1] += usize::from(matches!(verdict, Verdict::Equal | Verdict::Differs { is_exit_equal: true, .. }));
            row[2] += usize::from(matches!(verdict, Verdict::Equal));
            row[3] += usize::from(matches!(verdict, Verdict::Waits));
        }
    }
    let mut text = "| tool | compared | exit codes % | words % | wait |\n|---|---|---|---|---|\n".to_owned();
    for (name, [compared, exits, words, waits]) in rows {
        let of = |count: usize| count as f64 * 100.0 / compared.max(1) as f64;
        let _ = writeln!(text, "| {name} | {compared} | {:.1} | {:.1} | {waits} |", of(exits), of(words));
    }
    text
}

#[test]
fn commands_print_what_they_print_with_a_kube_apiserver() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let hub_dir = temporary.path().join("hub");
    let kubeconfig = hub_dir.join("kubeconfig");
    let Some(kubectl) = Kubectl::newest(&kubeconfig) else { return Ok(()) };
    let mut tools = BTreeMap::new();
    for (tool, variable) in [
        ("kubectl-1.35", "SELVEDGE_KUBECTL_135"),
        ("kubectl-1.37", "SELVEDGE_KUBECTL_137"),
        ("helm-3", "SELVEDGE_HELM_3"),
        ("helm-4", "SELVEDGE_HELM_4"),
    ] {
        let Some(path) = std::env::var_os(variable) else {
            testkit::skip(&format!("no {tool}; `cargo xtask test` installs it unless --no-install is given"));
            return Ok(());
        };
        tools.insert(tool.to_owned(), PathBuf::from(path));
    }
    let work = temporary.path().join("work");
    copy(&dir().join("M"), &work.join("M"))?;
    // The recorded chart is the one that Helm itself begins with.
    Outcome::of(
        Command::new(&tools["helm-3"]).args(["create", "chart"]).current_dir(work.join("M")).env("HOME", &work),
    )?
    .ok()?;
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    let address = hub.address("hub-api")?;
    let tokens = work.join("tokens");
    fs::write(&tokens, hollow::tokens(&hub_dir, 1)?)?;
    // As the recorded one was.
    let as_recorded = ["--name", "box", "--pod-address", "192.0.2.50", "--pods-end", "true"];
    let hollow = Path::new(env!("CARGO_BIN_EXE_hollow"));
    let mut node = hollow::Fleet::start(hollow, &address, &tokens, 1, &as_recorded)?;
    node.wait_following(PATIENCE)?;

    let waiting = waiting()?;
    let before = before()?;
    let setting = Setting {
        tools: &tools,
        kubectl: &kubectl,
        kubeconfig: &kubeconfig,
        work: &work,
        waiting: &waiting,
        before: &before,
    };
    let mut done = Vec::new();
    let kubectl_cases = recorded("kubectl.jsonl.gz")?;
    // Both versions define the same custom kind, so one after the other.
    for (version, is_small) in [("kubectl-1.37", true), ("kubectl-1.35", false)] {
        let of_version = |(case, _): &(&String, &Vec<Recorded>)| case.starts_with(version);
        let cases: BTreeSet<String> = kubectl_cases.iter().filter(of_version).map(|(case, _)| case.clone()).collect();
        ensure!(!cases.is_empty(), "no case of {version}");
        if is_small || is_full() {
            let mut chosen = recorded("kubectl.jsonl.gz")?;
            chosen.retain(|case, _| cases.contains(case));
            done.extend(run_all(&setting, &chosen).with_context(|| version.to_owned())?);
        }
    }
    done.extend(run_all(&setting, &recorded("helm.jsonl.gz")?).context("helm")?);

    let table = report(&done);
    println!("{table}");
    let mut listed = open();
    let differing: BTreeMap<&String, &String> = done
        .iter()
        .filter_map(|(name, verdict)| match verdict {
            Verdict::Differs { what, .. } => Some((name, what)),
            _ => None,
        })
        .collect();
    let is_bless = std::env::var_os("UPDATE_EXPECT").is_some();
    if is_full() {
        write_report(&table, &waiting)?;
        if is_bless && !dir().join("open.txt").exists() {
            let all = differing.keys().map(|name| ((*name).clone(), String::new()));
            return write_open(&all.collect());
        }
    }
    let mut faults = String::new();
    for (name, what) in &differing {
        println!("{name}: {what}");
        if !listed.contains_key(*name) {
            let _ = writeln!(faults, "{name}: {what}");
        }
    }
    let equal: BTreeSet<&String> =
        done.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Equal)).map(|(name, _)| name).collect();
    let before = listed.len();
    listed.retain(|name, _| !equal.contains(name));
    if listed.len() < before && is_bless {
        write_open(&listed)?;
    } else if listed.len() < before {
        println!("{} open commands are equal now: take them out with --bless", before - listed.len());
    }
    assert!(faults.is_empty(), "commands that no list lets differ:\n{faults}");
    Ok(())
}

fn write_report(table: &str, waiting: &BTreeMap<String, String>) -> Result<()> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for part in waiting.values().flat_map(|parts| parts.split(", ")) {
        *counts.entry(part).or_default() += 1;
    }
    let waits: Vec<String> = counts.iter().map(|(name, count)| format!("- {name}: {count}\n")).collect();
    let out = root().join("bench/reports");
    let text = format!(
        "# commands\n\nRecorded command lines of kubectl and Helm, run against the hub.\n\n{table}\nWhat the others wait for:\n\n{}",
        waits.concat()
    );
    fs::write(out.join("commands.md"), text)?;
    let rows: Vec<Vec<&str>> =
        table.lines().skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let figures: Vec<Value> = rows
        .iter()
        .flat_map(|row| {
            [("exit codes", 2), ("words", 3)].map(|(what, column)| {
                json!({"figure": format!("{}: {what}", row[0]), "unit": "%", "value": row[column].parse::<f64>().unwrap_or_default(), "n": row[1].parse::<u64>().unwrap_or_default()})
            })
        })
        .collect();
    let json = json!({"version": 1, "name": "commands", "figures": figures});
    fs::write(out.join("commands.json"), serde_json::to_string_pretty(&json)? + "\n")
        .context("failed to write the report")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("failed to list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn every_listed_command_is_a_recorded_one() -> Result<()> {
    let mut names = BTreeSet::new();
    for file in ["kubectl.jsonl.gz", "helm.jsonl.gz"] {
        names.extend(recorded(file)?.into_values().flatten().map(|one| one.name));
    }
    for listed in waiting()?.keys().chain(before()?.keys()) {
        let (tool, rest) = listed.split_once('/').context("tool/case/number")?;
        let is_there = names.iter().any(|name| name.starts_with(tool) && name.ends_with(&format!("/{rest}")));
        assert!(is_there, "{listed} of a list is no recorded command");
    }
    let waiting = waiting()?;
    for name in open().keys() {
        assert!(names.contains(name), "{name} in open.txt is no recorded command");
        assert!(find(&waiting, name).is_none(), "{name} is in both lists");
    }
    Ok(())
}

#[test]
fn what_varies_is_set_aside_and_nothing_else() {
    let given = "NAME   DATA   AGE\nsettings   2      10s\n";
    assert_eq!(words(given, "kc-10-10"), words("NAME       DATA   AGE\nsettings   2      0s\n", "kc-35-03"));
    assert_eq!(
        words("configmap \"a\" deleted from kc-10-10 namespace\n", "kc-10-10"),
        "configmap \"a\" deleted from ${ns} namespace"
    );
    assert_eq!(words("Updated: 2026-11-25T21:24:27Z", "x"), "Updated: <time>");
    assert_ne!(words("a 2 1s", "x"), words("a 3 1s", "x"));
}
