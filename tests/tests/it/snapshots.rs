//! What people read, word by word: help, tables, descriptions and error texts, as files in `tests/data/snapshots`.
//!
//! A difference is no fault by itself: `cargo xtask test --bless snapshots` writes the files anew, and whoever changed a text reads
//! it there once more. What varies from run to run is replaced by `<age>` and the like (`docs/pattern.rs`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use expect_test::expect_file;
use testkit::kubectl::Kubectl;
use testkit::program::{Outcome, Selvedge, run};
use testkit::wait::eventually;

use crate::common::{PATIENCE, Up, example_manifest, make_gateway, root, wait_condition, wait_pods};
use crate::docs::normalised;

/// Kinds of ours, which have a description of their own.
const OURS: &[&str] = &["deviceprofiles", "devices", "streams", "rules", "exports"];

/// Kinds of which it depends on the moment what there is; their columns do not.
const OF_THE_MOMENT: &[&str] = &["events", "nodeassignments", "secrets"];

#[test]
fn help_of_every_command() -> Result<()> {
    let mut text = String::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let mut args = command.clone();
        args.push("--help".to_owned());
        let help = run(&args)?.ok()?;
        let help_text: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = writeln!(text, "$ selvedge {}\n{}\n", args.join(" "), help_text.join("\n"));
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // A longer description continues further to the right.
        let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
        for name in names.into_iter().rev().filter(|name| *name != "help") {
            open.push(command.iter().cloned().chain([name.to_owned()]).collect());
        }
    }
    expect_file!["../../data/snapshots/help.txt"].assert_eq(&text);
    Ok(())
}

#[test]
fn tables_and_descriptions() -> Result<()> {
    let Some(up) = Up::start(&[])? else { return Ok(()) };
    for file in ["10-profile.yaml", "20-device.yaml", "30-rule.yaml", "40-export.yaml", "50-workloads.yaml"] {
        up.kubectl.apply(&example_manifest(file, "box")?)?.ok()?;
    }
    make_gateway(&up.kubectl, "box")?;
    wait_pods(&up.kubectl, "app=greeter", 1)?;
    wait_pods(&up.kubectl, "app=heartbeat", 1)?;
    for object in [["device", "host"], ["rule", "cpu-average"], ["stream", "readings"], ["export", "everything"]] {
        wait_condition(&up.kubectl, &object, "Ready", "True")?;
    }
    eventually("DaemonSets that count their pods", PATIENCE, || {
        let sets = up.kubectl.ok(&["get", "ds", "-o", "jsonpath={.items[*].status.numberAvailable}"]);
        match sets.as_deref() {
            Ok("1 1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;

    // Every kind that is served has columns, so every kind has a table here.
    let served = up.kubectl.ok(&["api-resources", "--verbs=list", "-o", "name", "--cached=false"])?;
    let served: BTreeSet<&str> = served.lines().collect();
    ensure!(served.len() > 15, "{served:?}");
    let mut tables = String::new();
    let info = up.kubectl.json(&["node", "box"])?["status"]["nodeInfo"].clone();
    for kind in served {
        let table = up.kubectl.run(&["get", kind, "-A", "-o", "wide"])?.ok()?;
        let mut table = table.replace(&*root().to_string_lossy(), "<checkout>");
        for machine in ["kernelVersion", "osImage"] {
            table = table.replace(info[machine].as_str().context("the node says what it runs on")?, "<machine>");
        }
        let table = normalised(&table);
        let (head, rows) = table.split_once('\n').unwrap_or((&table, ""));
        let is_of_the_moment = OF_THE_MOMENT.iter().any(|one| kind.starts_with(one));
        // Names that are made up have no order.
        let rows: BTreeSet<&str> = rows.lines().filter(|_| !is_of_the_moment).collect();
        let rows: String = rows.into_iter().flat_map(|row| [row, "\n"]).collect();
        let _ = writeln!(tables, "$ kubectl get {kind} -A -o wide\n{head}\n{rows}");
    }
    expect_file!["../../data/snapshots/tables.txt"].assert_eq(&tables);

    let mut descriptions = String::new();
    for kind in OURS {
        let description = up.kubectl.ok(&["describe", kind])?;
        // Which Events there are yet depends on the moment.
        let without_events = description.split("\nEvents:").next().unwrap_or_default();
        let lines = normalised(without_events);
        // What else was written before is chance.
        let lines = lines.lines().map(|line| line.split_once("Resource Version:").map_or(line, |(start, _)| start));
        let lines: Vec<&str> = lines.map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let _ = writeln!(descriptions, "$ kubectl describe {kind}\n{}\n", lines.join("\n"));
    }
    expect_file!["../../data/snapshots/descriptions.txt"].assert_eq(&descriptions);
    Ok(())
}

/// A hub alone, and what it answers to mistakes.
struct Mistakes {
    kubectl: Kubectl,
    file: PathBuf,
    text: String,
}

impl Mistakes {
    fn note(&mut self, what: &str, outcome: Outcome) -> Result<()> {
        let said = outcome.refused().with_context(|| what.to_owned())?;
        let _ = writeln!(self.text, "$ {what}\n{}\n", normalised(&said));
        Ok(())
    }

    fn run(&mut self, args: &[&str]) -> Result<()> {
        let outcome = self.kubectl.run(args)?;
        self.note(&format!("kubectl {}", args.join(" ")), outcome)
    }

    fn apply(&mut self, manifest: &str) -> Result<()> {
        std::fs::write(&self.file, manifest)?;
        let outcome = self.kubectl.run(&["apply", "-f", &self.file.to_string_lossy()])?;
        self.note(&format!("kubectl apply -f {}    # {manifest}", self.file.display()), outcome)
    }
}

#[test]
fn error_texts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let Some(kubectl) = Kubectl::newest(&hub_dir.join("kubeconfig")) else { return Ok(()) };
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    hub.address("hub-api")?;
    kubectl.ok(&["create", "configmap", "one", "--from-literal=a=1"])?;
    let mut mistakes = Mistakes { kubectl, file: dir.path().join("wrong.yaml"), text: String::new() };
    for args in [
        &["get", "configmap", "two"][..],
        &["get", "things"],
        &["get", "pods", "--field-selector", "spec.colour=red"],
        &["get", "pods", "--selector", "a in b"],
        &["create", "configmap", "one"],
        &["create", "configmap", "One"],
        &["create", "namespace", "a_b"],
        &["get", "nodes", "--as", "jane"],
        &["get", "secrets", "--as", "system:node:gw-1", "--as-group", "system:nodes"],
        &["auth", "can-i", "create", "pods", "--as", "jane"],
        &["patch", "configmap", "one", "--type=json", "-p", r#"[{"op": "test", "path": "/data/a", "value": "2"}]"#],
        &["patch", "configmap", "one", "--type=merge", "-p", r#"{"metadata": {"resourceVersion": "1"}}"#],
        &["patch", "configmap", "one", "--type=merge", "-p", "{"],
        &["delete", "namespace", "default"],
        &["logs", "nobody"],
        &["get", "--raw", "/nowhere"],
        &["get", "--raw", "/telemetry/v1/readings?limit=0"],
        &["create", "token", "nobody"],
    ] {
        mistakes.run(args)?;
    }
    for manifest in [
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dta: {}}",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: 1}}",
        "{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {spec: {containers: []}}}}",
        "{apiVersion: edge.selvedge.dev/v1alpha1, kind: Device, metadata: {name: x}, spec: {nodeNme: a}}",
        "{apiVersion: edge.selvedge.dev/v1alpha1, kind: Rule, metadata: {name: x}, spec: {sql: 7}}",
        "{apiVersion: edge.selvedge.dev/v1alpha1, kind: Export, metadata: {name: x}, spec: {to: {mqtt: {}}}}",
    ] {
        mistakes.apply(manifest)?;
    }

    // Those of the program itself.
    let data_dir = dir.path().join("other").to_string_lossy().into_owned();
    let config = dir.path().join("wrong.yaml");
    let config_path = config.to_string_lossy().into_owned();
    for (role, settings) in [
        ("hub", "listn: 1\ntelemetryBytesMax: many\n"),
        ("node", "hubs: [hub.example]\nimagePrefixes: bin\nnodeNam: a\n"),
        ("edge", "configDir: [1]\n"),
        ("hub", "listen: 0.0.0.0\n"),
        ("hub", "a: [1\n"),
    ] {
        std::fs::write(&config, settings)?;
        let outcome = run([role, "--config", &config_path, "--check-config"])?;
        mistakes.note(&format!("selvedge {role} --check-config    # {settings:?}"), outcome)?;
    }
    for args in [
        &["hbu"][..],
        &["hub", "--prots", "ephemeral"],
        &["token", "create", "--ttl", "soon"],
        &["token", "create", "--data-dir", &data_dir],
        &["node", "--data-dir", &data_dir, "--ports", "ephemeral"],
        &["node", "--data-dir", &data_dir, "--ports", "ephemeral", "--hub", "https://127.0.0.1:1", "--token", "sv1.a"],
        &["status", "--data-dir", &data_dir],
    ] {
        let outcome = run(args)?;
        mistakes.note(&format!("selvedge {}", args.join(" ")), outcome)?;
    }
    let text = mistakes.text.replace(&*dir.path().to_string_lossy(), "<dir>");
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    expect_file!["../../data/snapshots/errors.txt"].assert_eq(&format!("{}\n", text.join("\n").trim_end()));
    Ok(())
}
