//! What the suites share: systems in the shapes that users run, and what they look for in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::image::Image;
use testkit::kubectl::Kubectl;
use testkit::process;
use testkit::program::{Selvedge, run, signal};
use testkit::wait::eventually;

/// Long against everything that is awaited; a test that needs it all has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the long checks run at their full size.
pub fn is_full() -> bool {
    std::env::var("SELVEDGE_TEST_SIZE").is_ok_and(|size| size == "full")
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the checkout").to_owned()
}

/// The setting that lets the example's programs run, and those of a test in a directory of its own.
fn image_prefixes(modules: &Path) -> String {
    format!("imagePrefixes: [/bin, /usr/bin, {}, {}]\n", root().join("examples").display(), modules.display())
}

/// `selvedge up`, with kubectl at hand.
pub struct Up {
    pub kubectl: Kubectl,
    pub program: Selvedge,
    // Last, so that the directory outlives the program that writes into it.
    pub dir: tempfile::TempDir,
}

impl Up {
    /// Starts it and waits until its node is Ready. `None` where there is no kubectl.
    pub fn start(args: &[&str]) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let data_dir = dir.path().join("data");
        let Some(kubectl) = Kubectl::newest(&data_dir.join("kubeconfig")) else { return Ok(None) };
        let config = dir.path().join("up.yaml");
        let modules = dir.path().join("modules");
        std::fs::create_dir_all(&modules)?;
        // A busy machine may take longer to stop than a person would wait.
        std::fs::write(&config, format!("hub:\n  shutdownGraceSeconds: 60\nnode:\n  {}", image_prefixes(&modules)))?;
        let config = config.to_string_lossy().into_owned();
        let mut all = vec!["up", "--node-name", "box", "--config", &config];
        all.extend(args);
        let mut program = Selvedge::start(&data_dir, &all)?;
        program.address("hub-api")?;
        node_is_ready(&kubectl, "box")?;
        Ok(Some(Self { kubectl, program, dir }))
    }
}

/// Hub and node as processes of their own.
pub struct Fleet {
    pub kubectl: Kubectl,
    pub node: Selvedge,
    pub hub: Selvedge,
    pub hub_address: String,
    pub dir: tempfile::TempDir,
}

impl Fleet {
    /// Starts a hub and one node `edge-1` that joins by token. `None` where there is no kubectl.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with("")
    }

    /// The same with more settings of the node.
    pub fn start_with(settings: &str) -> Result<Option<Self>> {
        Self::start_in(tempfile::tempdir()?, settings)
    }

    /// A fleet whose node runs containers and has images of this name and config, each a busybox; `None` after a printed reason
    /// where containers of images cannot be tested.
    pub fn with_images(images: &[(String, Value)]) -> Result<Option<Self>> {
        // SAFETY: it has no arguments and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            testkit::skip("containers of images need root");
            return Ok(None);
        }
        let Some(busybox) = Image::busybox() else {
            testkit::skip("there is no static /bin/busybox; install busybox-static");
            return Ok(None);
        };
        let Some(fleet) = Self::start()? else { return Ok(None) };
        let data_dir = fleet.node.data_dir().to_string_lossy().into_owned();
        for (number, (name, config)) in images.iter().enumerate() {
            let archive = fleet.dir.path().join(format!("{number}.tar"));
            std::fs::write(&archive, busybox.clone().config(config.clone()).layout_tar(name))?;
            run(["image", "import", &archive.to_string_lossy(), "--data-dir", &data_dir])?.ok()?;
        }
        Ok(Some(fleet))
    }

    /// The same in a directory where the node's data directory `node` may be already.
    pub fn start_in(dir: tempfile::TempDir, settings: &str) -> Result<Option<Self>> {
        let hub_dir = dir.path().join("hub");
        let Some(kubectl) = Kubectl::newest(&hub_dir.join("kubeconfig")) else { return Ok(None) };
        let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
        let hub_address = hub.address("hub-api")?;
        let token = token(&hub_dir)?;
        let url = format!("https://{hub_address}");
        let config = dir.path().join("node.yaml");
        let modules = dir.path().join("modules");
        std::fs::create_dir_all(&modules)?;
        std::fs::write(&config, image_prefixes(&modules) + settings)?;
        let config = config.to_string_lossy().into_owned();
        let node = Selvedge::start(
            &dir.path().join("node"),
            &["node", "--hub", &url, "--token", &token, "--node-name", "edge-1", "--config", &config],
        )?;
        let fleet = Self { kubectl, node, hub, hub_address, dir };
        node_is_ready(&fleet.kubectl, "edge-1")?;
        Ok(Some(fleet))
    }

    /// Starts the hub again on the port it had, since nodes know it by that.
    pub fn hub_again(&mut self) -> Result<()> {
        start_on_its_port(&mut self.hub, self.dir.path(), &self.hub_address)
    }
}

/// A join token of the hub in a data directory.
pub fn token(hub_dir: &Path) -> Result<String> {
    let printed = eventually("join token", PATIENCE, || {
        run(["token", "create", "--data-dir", &hub_dir.to_string_lossy()]).and_then(|outcome| outcome.ok())
    })?;
    Ok(printed.trim().to_owned())
}

/// Starts a hub that was killed again on the port it had.
pub fn start_on_its_port(hub: &mut Selvedge, dir: &Path, address: &str) -> Result<()> {
    let config = dir.join("hub.yaml");
    std::fs::write(&config, format!("listen: {address}\n"))?;
    let config = config.to_string_lossy().into_owned();
    hub.change_args(|args| {
        if !args.contains(&"--config".to_owned()) {
            args.extend(["--config".to_owned(), config]);
        }
    });
    hub.start_again("default")?;
    hub.address("hub-api")?;
    Ok(())
}

/// Waits until a node is Ready.
pub fn node_is_ready(kubectl: &Kubectl, node: &str) -> Result<()> {
    eventually(&format!("Ready node {node}"), PATIENCE, || {
        let node = kubectl.json(&["node", node]).map_err(|error| error.to_string())?;
        match condition(&node, "Ready") {
            Some(ready) if ready["status"] == "True" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// A condition of an object.
pub fn condition(object: &Value, r#type: &str) -> Option<Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == r#type).cloned()
}

/// Waits until a condition of an object has a status; answers the condition.
pub fn wait_condition(kubectl: &Kubectl, object: &[&str], r#type: &str, status: &str) -> Result<Value> {
    eventually(&format!("{}={status} on {}", r#type, object.join("/")), PATIENCE, || {
        let found = kubectl.json(object).map_err(|error| error.to_string())?;
        match condition(&found, r#type) {
            Some(condition) if condition["status"] == status => Ok(condition),
            _ => Err(found["status"].to_string()),
        }
    })
}

/// Waits until exactly `count` pods with a label run and are ready.
pub fn wait_pods(kubectl: &Kubectl, label: &str, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} running pods {label}"), PATIENCE, || {
        let all = kubectl.json(&["pods", "-l", label]).map_err(|error| error.to_string())?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let ready =
            items.iter().filter(|pod| condition(pod, "Ready").is_some_and(|one| one["status"] == "True")).count();
        if items.len() == count && ready == count {
            return Ok(items);
        }
        Err(serde_json::to_string(&items.iter().map(|pod| &pod["status"]).collect::<Vec<_>>()).unwrap_or_default())
    })
}

/// Labels the node so that the example's workloads run there.
pub fn make_gateway(kubectl: &Kubectl, node: &str) -> Result<()> {
    kubectl.ok(&["label", "node", node, "selvedge.dev/role=gateway", "--overwrite"]).map(|_| ())
}

/// The manifests of the example for a node, as one text.
pub fn example_manifest(file: &str, node: &str) -> Result<String> {
    let example = root().join("examples/first-light");
    let text = std::fs::read_to_string(example.join(file))?;
    Ok(text.replace("${NODE_NAME}", node).replace("${EXAMPLE_DIR}", &example.to_string_lossy()))
}

/// Every stored reading of a device's resource, oldest first, over all pages.
pub fn stored_readings(kubectl: &Kubectl, node: &str, device: &str, resource: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/telemetry/v1/readings?node={node}&device={device}&resource={resource}&limit=1000{after}");
        let answer = kubectl.raw(&path)?;
        let page = answer["readings"].as_array().context("readings is a list")?;
        all.extend(page.iter().cloned());
        match answer["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(all),
        }
    }
}

/// Kills a node and everything of it: shims, and with them their containers and the edge plane.
pub fn kill_with_pods(node: &mut Selvedge) -> Result<()> {
    node.kill();
    let mine = node.data_dir().to_string_lossy().into_owned();
    eventually("no process of the node", PATIENCE, || {
        let left = process::find(|words| words.iter().any(|word| word.contains(&mine)));
        for (pid, _) in &left {
            signal(*pid, libc::SIGKILL);
        }
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
}

/// Keeps a figure in the report `bench/reports/NAME`, in the place of the one of the same name and beside the others. `page` makes the
/// text for people out of the rows of its table, whose cells are `columns` of the figures.
pub fn keep_figures(name: &str, came_to: Value, columns: &[&str], page: impl FnOnce(&str) -> String) -> Result<()> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().map_err(|_| anyhow::anyhow!("another test panicked here"))?;
    let file = |ending: &str| root().join("bench/reports").join(format!("{name}.{ending}"));
    let held = std::fs::read_to_string(file("json")).unwrap_or_default();
    let held: Value = serde_json::from_str(&held).unwrap_or_default();
    let others = held["figures"].as_array().into_iter().flatten().filter(|one| one["figure"] != came_to["figure"]);
    let mut figures: Vec<Value> = others.cloned().chain([came_to.clone()]).collect();
    figures.sort_by_key(|one| one["figure"].to_string());
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.3}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    let row = |one: &Value| {
        let cells: Vec<String> = columns.iter().map(|column| cell(&one[*column])).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    std::fs::write(file("md"), page(&figures.iter().map(row).collect::<String>()))?;
    let json = json!({"version": 1, "name": name, "figures": figures});
    std::fs::write(file("json"), serde_json::to_string_pretty(&json)? + "\n").context("failed to write the report")
}
