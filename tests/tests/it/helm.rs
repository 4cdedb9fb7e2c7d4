//! Helm 3 and 4 with charts whose pods run: `--wait`, hooks, tests, releases that fail and come back by themselves.
//!
//! The charts are those of `tests/charts` beside `everything`, which starts no pod and is tested with a hub alone. A chart is taken
//! through its whole life once with each Helm; what Helm prints and what is left in the API must be what they are with a
//! kube-apiserver. Two charts run in `cargo xtask test`, all six in `--all`.

mod charts;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::program::Outcome;
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE, is_full, root};

const BOX: &str = "example.com/box";

/// Of a tag that nobody has: the pull ends at once, since nobody listens there.
const ABSENT: &str = "image.repository=localhost:1/absent";

/// What a release may take that is to succeed. Others build on the machine at the same time.
const TIMEOUT: &str = "--timeout=90s";

/// What a release is given that cannot succeed: its pods have said why after a second or two.
const SHORT: &str = "--timeout=6s";

/// The same where pods start again before it is undone, for which Helm gives them as much once more.
const SHORT_WITH_START: &str = "--timeout=20s";

/// A Helm and its words, which changed between the two.
struct Tool {
    program: PathBuf,
    is_3: bool,
}

impl Tool {
    /// As it is installed by `cargo xtask test`; `None` after a printed reason.
    fn installed(what: &str, variable: &str) -> Option<Self> {
        let program = std::env::var_os(variable).map(PathBuf::from);
        if program.is_none() {
            testkit::skip(&format!("no {what}; `cargo xtask test` installs it unless --no-install is given"));
        }
        program.map(|program| Self { program, is_3: variable == "SELVEDGE_HELM_3" })
    }

    /// The option by which an upgrade that fails is undone.
    fn undone(&self) -> &'static str {
        if self.is_3 { "--atomic" } else { "--rollback-on-failure" }
    }

    /// The option by which objects are replaced and not patched.
    fn replaced(&self) -> &'static str {
        if self.is_3 { "--force" } else { "--force-replace" }
    }
}

/// One release of a chart in a namespace of its own.
struct Release<'a> {
    tool: &'a Tool,
    fleet: &'a Fleet,
    /// Of the chart, the release and the namespace.
    name: &'static str,
}

impl Release<'_> {
    /// `helm VERB NAME …`; a verb that takes a chart names it after the release.
    fn run(&self, args: &[&str]) -> Result<Outcome> {
        let mut command = Command::new(&self.tool.program);
        // Its caches and settings are its own: two servers on one port after each other must not share discovery.
        command.env("HOME", self.fleet.dir.path().join("home")).env("TZ", "UTC");
        command.arg("--kubeconfig").arg(self.fleet.dir.path().join("hub/kubeconfig")).args(["--namespace", self.name]);
        command.args(args).current_dir(root().join("tests/charts"));
        Outcome::of(command.stdin(Stdio::null()))
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.ok()
    }

    /// What it complained of.
    fn refused(&self, args: &[&str]) -> Result<String> {
        self.run(args)?.refused()
    }

    fn chart(&self) -> String {
        format!("./{}", self.name)
    }

    /// Installs or upgrades, as `verb` has it, and waits.
    fn deploy(&self, verb: &str, more: &[&str]) -> Result<String> {
        let chart = self.chart();
        let mut args = vec![verb, self.name, &chart, "--wait", TIMEOUT];
        if verb == "install" {
            args.push("--create-namespace");
        }
        args.extend(more);
        let said = self.ok(&args)?;
        ensure!(said.contains("STATUS: deployed"), "{said}");
        Ok(said)
    }

    /// An upgrade whose pods cannot start undoes itself, in Helm's words.
    fn upgrade_comes_back(&self, timeout: &str) -> Result<()> {
        let undone = self.tool.undone();
        let chart = self.chart();
        let said = self.refused(&["upgrade", self.name, &chart, "--reuse-values", "--set", ABSENT, undone, timeout])?;
        let option = undone.trim_start_matches('-');
        let undone = format!("release {} failed, and has been rolled back due to {option} being set", self.name);
        ensure!(said.contains("UPGRADE FAILED") && said.contains(&undone), "{said}");
        Ok(())
    }

    /// The status of each revision.
    fn history(&self) -> Result<Vec<String>> {
        let history: Value = serde_json::from_str(&self.ok(&["history", self.name, "-o", "json"])?)?;
        let revisions = history.as_array().context("revisions are a list")?;
        Ok(revisions.iter().map(|one| one["status"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn has_history(&self, expected: &[&str]) -> Result<()> {
        let history = self.history()?;
        ensure!(history == expected, "{history:?}");
        Ok(())
    }

    /// `kubectl …` in the release's namespace.
    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.name];
        all.extend(args);
        self.fleet.kubectl.ok(&all)
    }

    /// `kubectl get OBJECT -o jsonpath=PATH` in the release's namespace.
    fn path(&self, object: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Waits until a path of an object has a value.
    fn comes_to_be(&self, object: &str, path: &str, expected: &str) -> Result<()> {
        eventually(&format!("{expected:?} at {path} of {object}"), PATIENCE, || {
            let found = self.path(object, path).map_err(|error| error.to_string())?;
            if found == expected { Ok(()) } else { Err(found) }
        })
    }

    /// The pods that are not being deleted, of all of the release.
    fn pods(&self) -> Result<Vec<Value>> {
        let pods = self.fleet.kubectl.json(&["pods", "-n", self.name])?;
        let is_staying = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        Ok(pods["items"].as_array().into_iter().flatten().filter(is_staying).cloned().collect())
    }

    /// Every container of the release's components has this tag; a pod of a hook or test keeps its own.
    fn runs(&self, tag: &str, count: usize) -> Result<()> {
        let image = format!("{BOX}:{tag}");
        eventually(&format!("{count} pods of {image}"), PATIENCE, || {
            let pods = self.pods().map_err(|error| error.to_string())?;
            let of_release = |pod: &&Value| !pod["metadata"]["labels"]["app.kubernetes.io/component"].is_null();
            let images: Vec<&Value> =
                pods.iter().filter(of_release).map(|pod| &pod["spec"]["containers"][0]["image"]).collect();
            if images.len() == count && images.iter().all(|one| **one == image) {
                Ok(())
            } else {
                Err(format!("{images:?}"))
            }
        })
    }

    /// Uninstalls; then the namespace has what every namespace has, and what begins as one of `left`.
    fn uninstall(&self, left: &[&str]) -> Result<()> {
        let said = self.ok(&["uninstall", self.name, "--wait", TIMEOUT])?;
        ensure!(said.contains("uninstalled"), "{said}");
        let kinds = self.fleet.kubectl.ok(&["api-resources", "--namespaced", "--verbs=list,delete", "-o", "name"])?;
        // Events outlive what they are about.
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let kinds = kinds.join(",");
        let of_every = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
        eventually("an empty namespace", PATIENCE, || {
            let found = self.kubectl(&["get", &kinds, "-o", "name"]).map_err(|error| error.to_string())?;
            let of_release = |name: &&str| !of_every.contains(name) && !left.iter().any(|left| name.starts_with(left));
            let found: Vec<&str> = found.lines().filter(of_release).collect();
            if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
        })?;
        let said = self.refused(&["status", self.name])?;
        ensure!(said.contains("release: not found"), "{said}");
        Ok(())
    }
}

/// A fleet whose node has the charts' images.
fn fleet() -> Result<Option<Fleet>> {
    Fleet::with_images(&["1", "2"].map(|tag| {
        let config = json!({"Env": ["PATH=/bin", format!("TAG={tag}")], "Cmd": ["/bin/sh"]});
        (format!("{BOX}:{tag}"), config)
    }))
}

/// A chart and its life.
type Life = (&'static str, fn(&Release<'_>) -> Result<()>);

/// The first ones are those of every run.
const LIVES: [Life; 6] = [
    ("web", charts::web),
    ("hooks", charts::hooks),
    ("database", charts::database),
    ("operator", charts::operator),
    ("batch", charts::batch),
    ("agent", charts::agent),
];

const OF_EVERY_RUN: usize = 2;

/// Lives at a time. Most of a life is spent in waiting.
const AT_ONCE: usize = 2;

fn all_lives(tool: &Tool) -> Result<()> {
    let Some(fleet) = fleet()? else { return Ok(()) };
    let lives = &LIVES[..if is_full() { LIVES.len() } else { OF_EVERY_RUN }];
    let next = std::sync::atomic::AtomicUsize::new(0);
    let live = || -> Result<()> {
        while let Some((name, life)) = lives.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let start = std::time::Instant::now();
            life(&Release { tool, fleet: &fleet, name }).with_context(|| format!("chart {name}"))?;
            println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(live)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a life returns its errors"))
    })
}

#[test]
fn helm_3_takes_charts_through_their_lives() -> Result<()> {
    Tool::installed("Helm 3", "SELVEDGE_HELM_3").map_or(Ok(()), |tool| all_lives(&tool))
}

#[test]
fn helm_4_takes_charts_through_their_lives() -> Result<()> {
    Tool::installed("Helm 4", "SELVEDGE_HELM_4").map_or(Ok(()), |tool| all_lives(&tool))
}
