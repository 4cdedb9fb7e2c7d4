//! A hub of its own for a group of figures, and hollow nodes at it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use testkit::hollow;
use testkit::process;
use testkit::program::Selvedge;
use testkit::wire::{self, Access, MERGE};
use tokio::runtime::Runtime;

/// Beyond it something hangs.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// A hub of its own for a group of figures.
pub struct Hub {
    /// Where requests to it run.
    pub runtime: Runtime,
    /// Its process.
    pub program: Selvedge,
    /// Its port.
    pub address: String,
    ca: String,
    /// An administrator's.
    pub admin: Access,
    /// Last, so that the directory outlives the program that writes into it.
    dir: tempfile::TempDir,
}

impl Hub {
    /// Starts one on an empty directory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let hub_dir = dir.path().join("hub");
        let mut program = Selvedge::start(&hub_dir, &["hub"])?;
        let address = program.address("hub-api")?;
        let kubeconfig = hub_dir.join("kubeconfig");
        let (_, ca, _) = wire::read_kubeconfig(&kubeconfig)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, program, address, ca, admin: Access::kubeconfig(&kubeconfig)?, dir })
    }

    /// Its resident memory.
    pub fn rss_mib(&self) -> f64 {
        process::memory(self.program.pid()).map_or(0.0, |memory| memory.rss_kib as f64 / 1024.0)
    }

    /// Memory of its own: code that is mapped again when it runs for the first time since the start belongs to no pod and no
    /// connection.
    pub fn own_mib(&self) -> f64 {
        process::memory(self.program.pid()).map_or(0.0, |memory| memory.anonymous_kib as f64 / 1024.0)
    }

    /// What a page of metrics says.
    ///
    /// # Errors
    /// When there is no such line.
    pub fn metric(&self, name: &str) -> Result<f64> {
        wire::figure(&self.metrics()?, name)
    }

    /// Processor time that it has used, in seconds.
    pub fn cpu(&self) -> f64 {
        process::cpu_seconds(self.program.pid())
    }

    /// Waits until the hub has nothing more to do, or half a minute has passed.
    pub fn settle(&self) {
        let begin = Instant::now();
        let mut quiet = 0;
        let mut last = self.cpu();
        while quiet < 6 && begin.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.cpu();
            quiet = if now - last < 0.02 { quiet + 1 } else { 0 };
            last = now;
        }
    }

    fn tokens(&self, count: usize) -> Result<PathBuf> {
        let text = hollow::tokens(&self.dir.path().join("hub"), count)?;
        let path = self.dir.path().join("tokens");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Registers a node by this name; its access.
    ///
    /// # Errors
    /// When the hub does not take it.
    pub fn node(&self, name: &str) -> Result<Access> {
        let token = hollow::token_for(&self.dir.path().join("hub"), name)?;
        let identity = self.runtime.block_on(hollow::request_certificate(&self.address, &self.ca, &token, name))?;
        let access = Access::certificate(&self.address, &self.ca, &identity)?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}});
        self.runtime.block_on(async { access.connect().await?.post("/api/v1/nodes", &node).await?.ok() })?;
        Ok(access)
    }

    /// Starts hollow nodes with more settings of theirs, and waits until all of them follow.
    ///
    /// # Errors
    /// When they do not.
    pub fn hollow(&self, nodes: usize, more: &[&str]) -> Result<hollow::Fleet> {
        let program = std::env::current_exe()?.with_file_name("hollow");
        // Nodes have processors of their own; here they take what the hub leaves.
        let more = [more, &["--niceness", "19"]].concat();
        let mut fleet = hollow::Fleet::start(&program, &self.address, &self.tokens(nodes)?, nodes, &more)?;
        fleet.wait_following(PATIENCE)?;
        Ok(fleet)
    }

    /// Creates `count` objects with `clients` connections; answers objects a second.
    ///
    /// # Errors
    /// When the hub rejects one.
    pub fn create_many(
        &self,
        path: &str,
        clients: usize,
        count: usize,
        object: impl Fn(usize) -> Value + Copy,
    ) -> Result<f64> {
        let begin = Instant::now();
        self.runtime.block_on(async {
            let workers = (0..clients).map(|worker| async move {
                let connection = self.admin.connect().await?;
                for number in (worker..count).step_by(clients) {
                    connection.post(path, &object(number)).await?.ok()?;
                }
                anyhow::Ok(())
            });
            futures::future::try_join_all(workers).await
        })?;
        Ok(count as f64 / begin.elapsed().as_secs_f64())
    }

    /// Where the administrator's kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.program.data_dir().join("kubeconfig")
    }

    /// A page of its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        self.runtime.block_on(async { Ok(self.admin.connect().await?.get("/metrics").await?.ok()?.text()) })
    }

    /// An object or a list.
    ///
    /// # Errors
    /// When the hub does not answer with one.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.runtime.block_on(async { Ok(self.admin.connect().await?.get(path).await?.ok()?.json()) })
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the hub rejects it.
    pub fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.runtime.block_on(async { self.admin.connect().await?.post(path, object).await?.ok().map(drop) })
    }

    /// Merges into an object.
    ///
    /// # Errors
    /// When the hub rejects it.
    pub fn merge(&self, path: &str, patch: &Value) -> Result<()> {
        self.runtime.block_on(async { self.admin.connect().await?.patch(path, MERGE, patch).await?.ok().map(drop) })
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the hub rejects it.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.runtime.block_on(async { self.admin.connect().await?.delete(path).await?.ok().map(drop) })
    }
}
