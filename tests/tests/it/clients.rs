//! Other people's clients: Helm 3 and 4, the official Python client, client-go, kube-rs, and every kubectl with server-side apply.
//!
//! Their programs are in `tests/clients` and `tests/charts`; each of them judges for itself and prints what it has seen to work.

mod documents;
mod kube_rs;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use testkit::kubectl::Kubectl;
use testkit::program::{Outcome, Selvedge};

use crate::common::root;

/// A hub alone, and a directory for what clients keep.
pub struct Hub {
    // Ended when it is dropped.
    _program: Selvedge,
    pub kubeconfig: PathBuf,
    // Last, so that the directory outlives the program that writes into it.
    pub dir: tempfile::TempDir,
}

impl Hub {
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// The same with more settings.
    fn start_with(settings: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let hub_dir = dir.path().join("hub");
        let config = dir.path().join("hub.yaml");
        std::fs::write(&config, settings)?;
        let mut program = Selvedge::start(&hub_dir, &["hub", "--config", &config.to_string_lossy()])?;
        program.address("hub-api")?;
        Ok(Self { _program: program, kubeconfig: hub_dir.join("kubeconfig"), dir })
    }
}

/// Suites that have not passed yet, each with what it was seen to wait for. Their failures are printed and fail nothing, so the list
/// only shrinks: whoever sees one of them pass takes it off.
const NOT_YET: &[(&str, &str)] = &[];

/// What a suite came to, unless it is known not to pass yet.
fn judge(suite: &str, outcome: Result<()>) -> Result<()> {
    let Some((_, reason)) = NOT_YET.iter().find(|(name, _)| *name == suite) else {
        return outcome.with_context(|| suite.to_owned());
    };
    match outcome {
        Ok(()) => println!("{suite} passes: take it off NOT_YET"),
        Err(error) => println!("{suite} does not pass yet ({reason}): {error:#}"),
    }
    Ok(())
}

/// A program that `cargo xtask test` has installed; `None` after a printed reason.
fn installed(what: &str, variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        testkit::skip(&format!("no {what}; `cargo xtask test` installs it unless --no-install is given"));
    }
    found
}

struct Helm {
    program: PathBuf,
    home: PathBuf,
    kubeconfig: PathBuf,
    namespace: &'static str,
}

impl Helm {
    fn run(&self, args: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(&self.program);
        // Its caches and settings are its own: two servers on one port after each other must not share discovery.
        command.env("HOME", &self.home).env("TZ", "UTC").arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--namespace", self.namespace]).args(args).current_dir(root().join("tests/charts"));
        Outcome::of(command.stdin(Stdio::null()))
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok()
    }
}

#[test]
fn helm_3_installs_upgrades_rolls_back_and_uninstalls() -> Result<()> {
    helm("Helm 3", "SELVEDGE_HELM_3", "helm-3")
}

#[test]
fn helm_4_installs_upgrades_rolls_back_and_uninstalls() -> Result<()> {
    helm("Helm 4", "SELVEDGE_HELM_4", "helm-4")
}

fn helm(what: &str, variable: &str, namespace: &'static str) -> Result<()> {
    let Some(program) = installed(what, variable) else { return Ok(()) };
    let hub = Hub::start()?;
    let Some(kubectl) = Kubectl::newest(&hub.kubeconfig) else { return Ok(()) };
    let home = hub.dir.path().join("home");
    let helm = Helm { program, home, kubeconfig: hub.kubeconfig.clone(), namespace };
    let greeting = || -> Result<String> {
        let map = kubectl.json(&["configmap", "first", "-n", namespace])?;
        Ok(map["data"]["greeting"].as_str().context("a greeting")?.to_owned())
    };
    let count = |selector: &str| -> Result<usize> {
        let kinds = "configmap,secret,service,deployment,serviceaccount,role,rolebinding,gauges.charts.example.com";
        let names = kubectl.ok(&["get", kinds, "-n", namespace, "-l", selector, "-o", "name"])?;
        Ok(names.lines().count())
    };

    let printed = helm.ok(&["install", "first", "./everything", "--create-namespace"])?;
    ensure!(printed.contains("STATUS: deployed") && printed.contains("first says hello."), "{printed}");
    assert_eq!(count("app.kubernetes.io/instance=first")?, 8);
    assert_eq!(greeting()?, "hello");
    let gauge = kubectl.json(&["gauges.charts.example.com", "first", "-n", namespace])?;
    assert_eq!(gauge["spec"], serde_json::json!({"unit": "hello", "limit": 10}));

    let again = helm.run(&["install", "first", "./everything"])?.refused()?;
    ensure!(
        again.contains("cannot re-use a name that is still in use") || again.contains("cannot reuse a name"),
        "{again}"
    );
    let printed = helm.ok(&["upgrade", "first", "./everything", "--set", "greeting=bye,extra=true"])?;
    ensure!(printed.contains("first says bye."), "{printed}");
    assert_eq!((greeting()?.as_str(), count("app.kubernetes.io/instance=first")?), ("bye", 9));
    // A change that somebody else has made to a field that the chart does not set stays.
    kubectl.ok(&["annotate", "configmap", "first", "-n", namespace, "note=kept"])?;
    helm.ok(&["upgrade", "first", "./everything", "--set", "greeting=third"])?;
    assert_eq!((greeting()?.as_str(), count("app.kubernetes.io/instance=first")?), ("third", 8));
    let map = kubectl.json(&["configmap", "first", "-n", namespace])?;
    assert_eq!(map["metadata"]["annotations"]["note"], "kept");

    let refused = helm.run(&["upgrade", "first", "./everything", "--set", "replicas=many"])?.refused()?;
    ensure!(refused.contains("UPGRADE FAILED") && refused.contains("replicas"), "{refused}");
    helm.ok(&["rollback", "first", "1"])?;
    assert_eq!(greeting()?, "hello");
    let history: serde_json::Value = serde_json::from_str(&helm.ok(&["history", "first", "-o", "json"])?)?;
    let states: Vec<&str> = history.as_array().into_iter().flatten().filter_map(|one| one["status"].as_str()).collect();
    assert_eq!(states, ["superseded", "superseded", "superseded", "failed", "deployed"]);
    let manifest = helm.ok(&["get", "manifest", "first"])?;
    ensure!(manifest.contains("kind: RoleBinding"), "{manifest}");
    let listed = helm.ok(&["list"])?;
    ensure!(listed.contains("everything-0.1.0"), "{listed}");

    let second = helm.ok(&["upgrade", "--install", "second", "./everything", "--set", "greeting=two"])?;
    ensure!(second.contains("Installing it now."), "{second}");
    helm.ok(&["uninstall", "second"])?;
    helm.ok(&["uninstall", "first"])?;
    assert_eq!(count("app.kubernetes.io/name=everything")?, 0);
    // Definitions outlive the release, as Helm has it.
    kubectl.ok(&["get", "crd", "gauges.charts.example.com"])?;
    Ok(())
}

#[test]
fn the_python_client_works() -> Result<()> {
    let Some(python) = installed("Python client", "SELVEDGE_PYTHON") else { return Ok(()) };
    let hub = Hub::start()?;
    let script = root().join("tests/clients/python/client.py");
    let mut command = Command::new(python);
    command.arg(script).arg(&hub.kubeconfig).arg("python");
    let outcome = Outcome::of(command.stdin(Stdio::null()))?;
    let is_done = outcome.code == 0 && outcome.stdout.ends_with("all of it\n");
    judge("python", if is_done { Ok(()) } else { Err(anyhow::anyhow!("{}{}", outcome.stdout, outcome.stderr)) })
}

#[test]
fn client_go_works_in_json_and_protobuf_with_informers_and_apply() -> Result<()> {
    let Some(program) = std::env::var_os("SELVEDGE_CLIENT_GO") else {
        testkit::skip("no client-go program: it is built where Go is installed");
        return Ok(());
    };
    // Its Deployments are its own to write: a controller that writes as well would be a conflict, with a kube-apiserver too.
    let hub = Hub::start_with("controllers: ['*', -deployments]")?;
    for suite in ["json", "protobuf", "dynamic", "informer", "apply", "leader"] {
        let mut command = Command::new(&program);
        command.arg(&hub.kubeconfig).arg(suite);
        let outcome = Outcome::of(command.stdin(Stdio::null()))?;
        let is_done = outcome.code == 0 && outcome.stdout.ends_with(&format!("all of {suite}\n"));
        let last = outcome.stdout.lines().last().unwrap_or_default();
        let complaint: String = outcome.stderr.chars().take(500).collect();
        let done = if is_done { Ok(()) } else { Err(anyhow::anyhow!("{last} {complaint}")) };
        judge(&format!("client-go {suite}"), done)?;
    }
    Ok(())
}

const MANIFEST: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: { name: applied, labels: { app: applied } }
data: { a: '1', b: '1' }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: applied, labels: { app: applied } }
spec:
  replicas: 0
  selector: { matchLabels: { app: applied } }
  template:
    metadata: { labels: { app: applied } }
    spec: { containers: [{ name: main, image: 'registry.example/main:1' }] }
";

#[test]
fn every_kubectl_applies_on_the_server() -> Result<()> {
    let hub = Hub::start()?;
    if Kubectl::newest(&hub.kubeconfig).is_none() {
        return Ok(());
    }
    for (version, program) in Kubectl::installed() {
        let done = apply_on_the_server(&hub, &Kubectl::new(program, &hub.kubeconfig), version);
        judge("kubectl", done.with_context(|| version.to_owned()))?;
    }
    Ok(())
}

fn apply_on_the_server(hub: &Hub, kubectl: &Kubectl, version: &str) -> Result<()> {
    let namespace = format!("apply-{}", version.replace('.', "-"));
    kubectl.ok(&["create", "namespace", &namespace])?;
    let file = hub.dir.path().join("applied.yaml");
    let other = hub.dir.path().join("other.yaml");
    std::fs::write(&file, MANIFEST)?;
    std::fs::write(&other, MANIFEST.replace("a: '1'", "a: '2'").replace("main:1", "main:2"))?;
    let (file, other) = (file.to_string_lossy().into_owned(), other.to_string_lossy().into_owned());
    let in_namespace = |args: &[&str]| -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).chain(["-n".to_owned(), namespace.clone()]).collect()
    };
    let run = |args: &[&str]| {
        let all = in_namespace(args);
        kubectl.run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let ok = |args: &[&str]| run(args)?.ok();

    // Objects that a client has applied before are taken over.
    ok(&["apply", "-f", &file])?;
    let printed = ok(&["apply", "--server-side", "-f", &file])?;
    assert_eq!(printed, "configmap/applied serverside-applied\ndeployment.apps/applied serverside-applied\n");
    ok(&["apply", "--server-side", "-f", &file])?;
    let refused = run(&["apply", "--server-side", "--field-manager=other", "-f", &other])?.refused()?;
    ensure!(refused.contains("conflict with \"kubectl\": .data.a"), "{refused}");
    ensure!(refused.contains(".spec.template.spec.containers[name=\"main\"].image"), "{refused}");
    let diff = run(&["diff", "--server-side", "--force-conflicts", "-f", &other])?;
    ensure!(diff.code == 1 && diff.stdout.contains("+  a: \"2\""), "{diff:?}");
    ok(&["apply", "--server-side", "--force-conflicts", "--field-manager=other", "-f", &other])?;
    let data = ok(&["get", "configmap", "applied", "-o", "jsonpath={.data.a}{.data.b}"])?;
    assert_eq!(data, "21");
    let managers = ok(&[
        "get",
        "configmap",
        "applied",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
    ])?;
    ensure!(managers.contains("other") && managers.contains("kubectl"), "{managers}");
    let tried = ok(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", &file])?;
    ensure!(tried.contains("serverside-applied (server dry run)"), "{tried}");
    assert_eq!(ok(&["get", "configmap", "applied", "-o", "jsonpath={.data.a}"])?, "2");

    ok(&["scale", "deployment", "applied", "--replicas=0"])?;
    ok(&["set", "image", "deployment/applied", "main=registry.example/main:3"])?;
    ok(&["label", "deployment", "applied", "seen=yes"])?;
    let explained = kubectl.ok(&["explain", "deployment.spec.strategy"])?;
    ensure!(explained.contains("RollingUpdateDeployment"), "{explained}");
    ok(&["auth", "can-i", "delete", "pods"])?;
    let watched = run(&["get", "configmaps", "-l", "app=applied", "-w", "--request-timeout=1s"])?;
    ensure!(watched.stdout.contains("applied"), "{watched:?}");
    ok(&["delete", "-f", &file])?;
    kubectl.ok(&["delete", "namespace", &namespace, "--wait=false"])?;
    Ok(())
}
