//! A hub and a node of its own for a group of figures.

use std::fmt::Display;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use testkit::image::Image;
use testkit::process;
use testkit::program::{Selvedge, run, signal};
use testkit::proxy::{Client, Proxy};
use testkit::wire::Access;
use tokio::runtime::Runtime;

/// Name of the node.
pub const NODE: &str = "edge-1";
/// Where its pods are at the hub.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
/// Beyond it something hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked, where the moment is the figure; …
const POLL_PERIOD: Duration = Duration::from_millis(1);
/// … and so many times the duration of a look is waited for the next: to look is work that is taken from what is measured.
const POLL_SHARE: u32 = 4;

/// Looks until `look` answers; the time that passed since `start`.
///
/// # Errors
/// With the last answer, when `deadline` has passed.
pub fn until<T, E: Display>(
    what: &str,
    start: Instant,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<Duration> {
    loop {
        let looked_at = Instant::now();
        match look() {
            Ok(_) => return Ok(start.elapsed()),
            Err(last) if start.elapsed() >= deadline => bail!("no {what} within {deadline:?}; last seen: {last}"),
            Err(_) => std::thread::sleep(POLL_PERIOD.max(looked_at.elapsed() * POLL_SHARE)),
        }
    }
}

/// As figures have them.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Hub, node and, where one is asked for, a proxy between them.
pub struct Site {
    /// Where requests to the hub run.
    pub runtime: Runtime,
    /// The hub's API.
    pub access: Access,
    /// The node.
    pub node: Selvedge,
    /// The hub.
    pub hub: Selvedge,
    /// Between them.
    pub proxy: Option<Proxy>,
    kind: Kind,
    /// Last, so that the directory outlives the programs that write into it.
    pub dir: tempfile::TempDir,
}

/// What pods of a site are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A program of the machine, on the machine's network.
    Process,
    /// A container of an image, by name, with an address of its own.
    Container(String),
}

/// What is asked of a site.
#[derive(Default)]
struct Asked<'a> {
    is_proxied: bool,
    image: Option<&'a Image>,
}

/// What the image of containers is called.
const IMAGE: &str = "example.com/box:1";
/// Its pods have addresses.
const POD_SUBNET: &str = "10.39.0.0/16";
/// From this port of the node on, each container pod has one.
pub const HOST_PORTS: usize = 20_000;

impl Site {
    /// Hub and node, and pods that are processes.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Asked::default())
    }

    /// The same with a proxy between hub and node.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start_proxied() -> Result<Self> {
        Self::start_with(Asked { is_proxied: true, image: None })
    }

    /// Hub and node with the network of pods on, and pods that are containers of an image. The machine's network changes: the caller
    /// has left it.
    ///
    /// # Errors
    /// When one of them does not start, or the image cannot be imported.
    pub fn start_containers(image: &Image) -> Result<Self> {
        Self::start_with(Asked { is_proxied: false, image: Some(image) })
    }

    fn start_with(asked: Asked) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let node_dir = dir.path().join("node");
        let mut hub = Selvedge::start(&dir.path().join("hub"), &["hub"])?;
        let address = hub.address("hub-api")?;
        let read = |name: &str| std::fs::read_to_string(hub.data_dir().join("hub/pki").join(name));
        let proxy = match asked.is_proxied {
            true => {
                let ca = base_pki::Ca::load(&read("ca.crt")?, &read("ca.key")?)?;
                Some(Proxy::start(&address, &ca, Client::NodeDir(node_dir.clone()))?)
            }
            false => None,
        };
        let url = proxy.as_ref().map_or_else(|| format!("https://{address}"), Proxy::url);
        let token = run(["token", "create", "--data-dir", &hub.data_dir().to_string_lossy()])?.ok()?;
        let config = dir.path().join("node.yaml");
        let images = examples()?.join("first-light/images");
        std::fs::write(&config, format!("imagePrefixes: [/bin, /usr/bin, {}]\n", images.display()))?;
        let config = config.to_string_lossy().into_owned();
        let args = ["node", "--hub", &url, "--token", token.trim(), "--node-name", NODE, "--config", &config];
        let subnet = asked.image.map_or("none", |_| POD_SUBNET);
        let environment = [("SELVEDGE_NODE_POD_SUBNET", subnet)];
        let node = Selvedge::start_with(&node_dir, &args, "ephemeral", &environment)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let access = Access::kubeconfig(&hub.data_dir().join("kubeconfig"))?;
        let kind = asked.image.map_or(Kind::Process, |_| Kind::Container(IMAGE.to_owned()));
        let site = Self { runtime, access, node, hub, proxy, kind, dir };
        site.wait_ready()?;
        if let Some(image) = asked.image {
            site.import(image)?;
        }
        Ok(site)
    }

    fn import(&self, image: &Image) -> Result<()> {
        let archive = self.dir.path().join("image.tar");
        std::fs::write(&archive, image.layout_tar(IMAGE))?;
        let (archive, data_dir) = (archive.to_string_lossy(), self.node.data_dir().to_string_lossy());
        run(["image", "import", &archive, "--data-dir", &data_dir])?.ok()?;
        Ok(())
    }

    /// Waits until the hub shows the node as Ready.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_ready(&self) -> Result<()> {
        until("Ready node", Instant::now(), PATIENCE, || {
            let node = self.get(&format!("/api/v1/nodes/{NODE}")).map_err(|error| error.to_string())?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            match conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True") {
                true => Ok(()),
                false => Err(format!("{conditions:?}")),
            }
        })?;
        Ok(())
    }

    /// An object or a list at the hub.
    ///
    /// # Errors
    /// When the hub does not answer with one.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.runtime.block_on(async { Ok(self.access.connect().await?.get(path).await?.ok()?.json()) })
    }

    /// Creates all of these, one after the other.
    ///
    /// # Errors
    /// When the hub refuses one.
    pub fn create(&self, pods: impl Iterator<Item = Value>) -> Result<()> {
        self.runtime.block_on(async {
            let connection = self.access.connect().await?;
            for pod in pods {
                connection.post(PODS, &pod).await?.ok()?;
            }
            Ok(())
        })
    }

    /// Deletes these pods, and waits until neither the hub nor the node has anything of them.
    ///
    /// # Errors
    /// When the hub refuses, or something is left.
    pub fn delete(&self, numbers: Range<usize>) -> Result<()> {
        self.runtime.block_on(async {
            let connection = self.access.connect().await?;
            for number in numbers.clone() {
                connection.delete(&format!("{PODS}/p{number}")).await?.ok()?;
            }
            anyhow::Ok(())
        })?;
        until("end of the pods", Instant::now(), PATIENCE, || {
            let list = self.get(PODS).map_err(|error| error.to_string())?;
            let left = list["items"].as_array().map_or(0, Vec::len);
            let running = self.programs(numbers.clone()).len();
            if left + running == 0 { Ok(()) } else { Err(format!("{left} pods, {running} programs")) }
        })?;
        Ok(())
    }

    /// What is in the arguments of this site's programs, and of no other's: the directory's name is random.
    fn mark(&self) -> String {
        let name = self.dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let digits: String = name.bytes().map(|byte| format!("{byte:03}")).collect();
        format!("0.{digits}")
    }

    /// Pod `p{number}`: one program that sleeps. A container has a port of the node as well.
    pub fn pod(&self, number: usize) -> Value {
        let sleep = format!("{}{number:04}", self.mark());
        if let Kind::Container(image) = &self.kind {
            let port = json!({"containerPort": 80, "hostPort": HOST_PORTS + number});
            return json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}")},
                "spec": {
                    "nodeName": NODE, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
                        "command": ["/bin/sleep", "1000000", sleep], "ports": [port],
                    }],
                },
            });
        }
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}")},
            "spec": {
                "nodeName": NODE, "runtimeClassName": "selvedge-process", "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "main", "image": "file:///bin/sleep",
                    "args": ["1000000", sleep],
                }],
            },
        })
    }

    /// Process ids of the programs of pods that run.
    pub fn programs(&self, numbers: Range<usize>) -> Vec<u32> {
        let mark = self.mark();
        let is_ours = |words: &[String]| {
            let number = words.get(2).and_then(|word| word.strip_prefix(&mark)?.parse::<usize>().ok());
            // A shim that has not executed its program yet has other words.
            number.is_some_and(|number| numbers.contains(&number)) && words[0].ends_with("sleep")
        };
        process::find(is_ours).into_iter().map(|(pid, _)| pid).collect()
    }

    /// Waits until all of them run; the time since `start`.
    ///
    /// # Errors
    /// When not all do.
    pub fn wait_programs(&self, numbers: Range<usize>, start: Instant) -> Result<Duration> {
        until("programs of all pods", start, PATIENCE, || {
            let running = self.programs(numbers.clone()).len();
            if running == numbers.len() { Ok(()) } else { Err(format!("{running} of {}", numbers.len())) }
        })
    }

    /// Waits until the hub shows that many pods of the namespace as Running.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_shown(&self, count: usize) -> Result<()> {
        until("pods shown as Running", Instant::now(), PATIENCE, || {
            let list = self.get(PODS).map_err(|error| error.to_string())?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let shown = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
            if shown == count { Ok(()) } else { Err(format!("{shown} of {count}")) }
        })?;
        Ok(())
    }

    /// What stays between the agent and the programs of pods: shims and init processes.
    pub fn keepers(&self, numbers: Range<usize>) -> Vec<u32> {
        let mut above: Vec<u32> = self.programs(numbers).into_iter().flat_map(process::ancestors).collect();
        above.sort_unstable();
        above.dedup();
        let not_ours: Vec<u32> = process::ancestors(self.node.pid()).into_iter().chain([self.node.pid(), 1]).collect();
        above.retain(|pid| !not_ours.contains(pid));
        above
    }

    /// Kills agent, shims, init processes and programs.
    ///
    /// # Errors
    /// When something is left.
    pub fn kill_all(&mut self, numbers: Range<usize>) -> Result<()> {
        self.node.kill();
        until("end of every program", Instant::now(), PATIENCE, || {
            let mut left = self.keepers(numbers.clone());
            left.extend(self.programs(numbers.clone()));
            left.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })?;
        Ok(())
    }
}

/// The checkout's examples.
///
/// # Errors
/// When this was built outside a checkout.
pub fn examples() -> Result<std::path::PathBuf> {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(tests.parent().context("tests lies in the checkout")?.join("examples"))
}
