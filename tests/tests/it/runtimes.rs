//! What Kubernetes publishes of pods, over all runtimes of a node: containers of images, the same made by another runtime, programs of the
//! node, and WebAssembly. Every case is one pod for each runtime, all of them run at once, and each must show the same.
//!
//! `cases.rs` has the cases; `docs/reference/pod-behaviours.md` is the table of them, and is compared with the code.

mod cases;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::image::Image;
use testkit::program::run;
use testkit::wait::eventually;

use self::cases::{CASES, Case, Seen};
use crate::common::{Fleet, PATIENCE, root};

const IMAGE: &str = "example.com/box:1";

/// Who makes the containers of a pod.
pub struct Runtime {
    /// In names of pods, and in the table.
    name: &'static str,
    class: Option<&'static str>,
    /// A file of the node, for those that run such.
    image: Option<String>,
}

impl Runtime {
    fn is_wasm(&self) -> bool {
        self.class == Some("selvedge-wasm")
    }

    /// A command that is run in a container.
    fn command(&self, script: &str, words: &[&str]) -> Vec<String> {
        match &self.image {
            Some(image) if self.is_wasm() => {
                let module = image.trim_start_matches("file://");
                [module].iter().chain(words).map(|word| (*word).to_owned()).collect()
            }
            _ => ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        }
    }

    /// A container that does what the script says, or the words.
    fn container(&self, name: &str, script: &str, words: &[&str]) -> Value {
        match &self.image {
            Some(image) if self.is_wasm() => json!({"name": name, "image": image, "args": words}),
            Some(image) => json!({"name": name, "image": image, "args": ["-c", script]}),
            None => json!({
                "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": self.command(script, words),
            }),
        }
    }

    fn has(&self, case: &Case) -> bool {
        case.except.is_none_or(|(name, _)| name != self.name)
    }

    fn pod(&self, case: &Case) -> Value {
        let mut spec = (case.spec)(self);
        spec["nodeName"] = "edge-1".into();
        spec["terminationGracePeriodSeconds"] = 1.into();
        // Descriptors of a module are those of its volumes alone.
        spec["automountServiceAccountToken"] = false.into();
        if let Some(class) = self.class {
            spec["runtimeClassName"] = class.into();
        }
        let metadata = json!({"name": self.pod_name(case), "labels": {"app": "suite"}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    }

    fn pod_name(&self, case: &Case) -> String {
        format!("{}-{}", self.name, case.name)
    }
}

/// Those of this machine.
fn runtimes(dir: &Path) -> Result<Vec<Runtime>> {
    let module = dir.join("modules/tool.wasm");
    let text = std::fs::read_to_string(root().join("tests/tests/it/runtimes/tool.wat"))?;
    std::fs::write(&module, wat::parse_str(text)?)?;
    let file = |path: &Path| Some(format!("file://{}", path.display()));
    let mut all = vec![
        Runtime { name: "images", class: None, image: None },
        Runtime { name: "processes", class: Some("selvedge-process"), image: file(Path::new("/bin/sh")) },
        Runtime { name: "wasm", class: Some("selvedge-wasm"), image: file(&module) },
    ];
    // Where there is none, that was said.
    if let Some(name) = crate::containers::other_runtimes().first() {
        all.push(Runtime { name: "oci", class: Some(*name), image: None });
    }
    Ok(all)
}

/// Lines of all pods, by pod and container, as kubectl prints them.
fn logs(fleet: &Fleet) -> Result<BTreeMap<String, Vec<(String, String)>>> {
    let words = ["logs", "-l", "app=suite", "--all-containers", "--prefix", "--tail=-1", "--ignore-errors"];
    let printed = fleet.kubectl.run(&[&words[..], &["--max-log-requests=300"]].concat())?.stdout;
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for line in printed.lines() {
        let Some((prefix, text)) = line.strip_prefix("[pod/").and_then(|line| line.split_once("] ")) else { continue };
        let (pod, container) = prefix.split_once('/').context("a pod and a container")?;
        found.entry(pod.to_owned()).or_default().push((container.to_owned(), text.to_owned()));
    }
    Ok(found)
}

#[test]
fn what_kubernetes_publishes_of_pods_is_so_in_every_runtime() -> Result<()> {
    // SAFETY: it has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        testkit::skip("containers of images need root");
        return Ok(());
    }
    let Some(busybox) = Image::busybox() else {
        testkit::skip("there is no static /bin/busybox; install busybox-static");
        return Ok(());
    };
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let runtimes = runtimes(fleet.dir.path())?;
    let archive = fleet.dir.path().join("box.tar");
    std::fs::write(&archive, busybox.config(json!({"Env": ["PATH=/bin"]})).layout_tar(IMAGE))?;
    let (archive, data_dir) = (archive.to_string_lossy(), fleet.node.data_dir().to_string_lossy());
    run(["image", "import", &archive, "--data-dir", &data_dir])?.ok()?;
    fleet.kubectl.ok(&["create", "configmap", "suite", "--from-literal=colour=green"])?;
    fleet.kubectl.ok(&["create", "secret", "generic", "suite", "--from-literal=pin=1234"])?;
    let class = |name: &str| json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": name});
    let mut items: Vec<Value> =
        runtimes.iter().filter(|one| one.name == "oci").filter_map(|one| one.class).map(class).collect();
    let desired: Vec<(&Runtime, &Case)> = runtimes
        .iter()
        .flat_map(|runtime| CASES.iter().map(move |case| (runtime, case)))
        .filter(|(runtime, case)| runtime.has(case))
        .collect();
    items.extend(desired.iter().map(|(runtime, case)| runtime.pod(case)));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    fleet.kubectl.apply(&list.to_string())?.ok()?;
    eventually("the same of every runtime", PATIENCE, || {
        let missing = missing(&fleet, &desired).map_err(|error| format!("{error:#}"))?;
        if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
    })?;
    fleet.kubectl.ok(&["delete", "pods", "-l", "app=suite", "--timeout=60s"])?;
    Ok(())
}

/// What is not as it should be yet.
fn missing(fleet: &Fleet, desired: &[(&Runtime, &Case)]) -> Result<Vec<String>> {
    // Before the pods: what a pod that is over has said is complete then.
    let pods = fleet.kubectl.json(&["pods", "-l", "app=suite"])?;
    let logs = logs(fleet)?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    ensure!(pods.len() == desired.len(), "{} pods of {}", pods.len(), desired.len());
    let missing = desired.iter().filter_map(|(runtime, case)| {
        let name = runtime.pod_name(case);
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name.as_str())?;
        let log = logs.get(&name).map(Vec::as_slice).unwrap_or_default();
        let is_so = (case.is_so)(&Seen { pod, log });
        (!is_so).then(|| format!("{name}: {}: {} {log:?}", case.promise, pod["status"]))
    });
    Ok(missing.collect())
}

/// `SELVEDGE_BLESS=1` writes the page anew.
#[test]
fn the_table_of_behaviours_is_that_of_the_suite() -> Result<()> {
    let path = root().join("docs/reference/pod-behaviours.md");
    let page = std::fs::read_to_string(&path)?;
    let mark = "| | images | another runtime | `selvedge-process` | `selvedge-wasm` |\n";
    let (head, _) = page.split_once(mark).context("the head of the table")?;
    let mut table = format!("{head}{mark}| --- | --- | --- | --- | --- |\n");
    for case in &CASES {
        let cell = |name: &str| match case.except {
            Some((without, why)) if without == name => format!("no: {why}"),
            _ => "yes".to_owned(),
        };
        let cells = ["images", "oci", "processes", "wasm"].map(cell);
        table.push_str(&format!("| {} | {} |\n", case.promise, cells.join(" | ")));
    }
    if std::env::var_os("SELVEDGE_BLESS").is_some() {
        std::fs::write(&path, &table)?;
    }
    assert_eq!(std::fs::read_to_string(&path)?, table);
    Ok(())
}
