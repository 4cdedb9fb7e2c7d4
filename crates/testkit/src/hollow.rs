//! Hollow nodes: thousands of kubelets in one process, with everything of a node but the containers.
//!
//! A hollow node speaks as `node-kubelet` does. It fetches the CA by its token's hash, requests a certificate for a key of its
//! own, and with that opens one HTTP/2 connection for all it says. It registers its Node, reports a status, renews its
//! Lease, lists and watches its own pods and its own NodeAssignment, reports each pod Running and Ready (or, if the plan
//! has it so, as succeeded when nobody starts it again), and deletes what is being terminated. When the connection ends it backs off with jitter, dials again, and resumes each watch from the
//! last revision it knows.
//!
//! What it adds is distrust. Each watch checks its own stream, and the process what all nodes saw together:
//!
//! ```text
//! a watch      revisions rise: an equal one is a duplicate, a lower one is out of order
//!              an object added twice, or deleted without having been there, is a gap or a duplicate
//! `check`      what the watches have built up equals a fresh list: a difference is a gap
//! all nodes    one revision belongs to one object: a second one means that the hub gave it twice
//! writes       what was acknowledged is there, at that revision or a later one: else it was lost
//! ```
//!
//! The process is driven by JSON lines on its standard input and answers with JSON lines (see [`Fleet`], the end that tests
//! hold), so that its CPU and memory can be kept apart from the hub's.

mod control;
mod follow;
mod ledger;
mod node;
mod writers;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub use control::Fleet;
use ledger::Ledger;
use node::Node;
pub use node::request_certificate;

/// What a fleet is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The hub, `ip:port`.
    pub hub: String,
    /// Join tokens, one a line: one for all nodes, or one each.
    pub tokens: PathBuf,
    /// The hub's kubeconfig, for what only an administrator may do (the writers). Not used by nodes.
    pub kubeconfig: Option<PathBuf>,
    /// Names are `PREFIX-NUMBER`.
    pub prefix: String,
    /// The name of the only node, in place of one with a number.
    pub name: Option<String>,
    /// What every pod has for an address.
    pub pod_address: String,
    /// Whether pods that are not started again end well at once, and do not run for ever.
    pub pods_end: bool,
    /// How many nodes.
    pub nodes: usize,
    /// How many join at once; a fleet that is switched on at once is not the usual case, but may be asked for.
    pub join_parallel: usize,
    /// Zero: no Lease.
    pub lease_period: Duration,
    /// Whether each node watches its assignment, too.
    pub assignments: bool,
    /// A third watch on each connection, of the services of a namespace that has none: as stock kubelets hold several.
    pub extra_watches: usize,
    /// Administrator's writers that create and change ConfigMaps and remember every acknowledgement.
    pub writers: usize,
    /// How much the process gives way to others, 0 to 19. Real nodes have processors of their own; here they share the hub's,
    /// and a hub that gives way to them (as its own request threads do to its sockets) would be measured by their greed.
    pub niceness: i32,
}

impl Plan {
    /// Reads `--key value` pairs.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut plan = Self {
            hub: String::new(),
            tokens: PathBuf::new(),
            kubeconfig: None,
            prefix: "hollow".to_owned(),
            name: None,
            pod_address: "127.0.0.1".to_owned(),
            pods_end: false,
            nodes: 1,
            join_parallel: 64,
            lease_period: Duration::from_secs(10),
            assignments: true,
            extra_watches: 0,
            writers: 0,
            niceness: 0,
        };
        let mut args = args.into_iter();
        while let Some(key) = args.next() {
            let value = args.next().with_context(|| format!("{key} needs a value"))?;
            match key.as_str() {
                "--hub" => plan.hub = value.trim_start_matches("https://").to_owned(),
                "--tokens" => plan.tokens = value.into(),
                "--kubeconfig" => plan.kubeconfig = Some(value.into()),
                "--prefix" => plan.prefix = value,
                "--name" => plan.name = Some(value),
                "--pod-address" => plan.pod_address = value,
                "--pods-end" => plan.pods_end = value.parse().context("--pods-end")?,
                "--nodes" => plan.nodes = value.parse().context("--nodes")?,
                "--join-parallel" => plan.join_parallel = value.parse().context("--join-parallel")?,
                "--lease-seconds" => plan.lease_period = Duration::from_secs(value.parse().context("--lease-seconds")?),
                "--assignments" => plan.assignments = value.parse().context("--assignments")?,
                "--extra-watches" => plan.extra_watches = value.parse().context("--extra-watches")?,
                "--writers" => plan.writers = value.parse().context("--writers")?,
                "--niceness" => plan.niceness = value.parse().context("--niceness")?,
                other => bail!("`{other}` is no setting of hollow nodes"),
            }
        }
        if plan.hub.is_empty() || plan.tokens.as_os_str().is_empty() {
            bail!("--hub and --tokens are needed");
        }
        if plan.name.is_some() && plan.nodes != 1 {
            bail!("--name is the name of one node");
        }
        Ok(plan)
    }
}

/// What all nodes of the process count together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    joined: AtomicU64,
    connections: AtomicU64,
    disconnects: AtomicU64,
    dial_failures: AtomicU64,
    events: AtomicU64,
    bookmarks: AtomicU64,
    lists: AtomicU64,
    resumes: AtomicU64,
    expired: AtomicU64,
    duplicates: AtomicU64,
    out_of_order: AtomicU64,
    added_twice: AtomicU64,
    unknown_deletes: AtomicU64,
    leases: AtomicU64,
    statuses: AtomicU64,
    rejected: AtomicU64,
    last_error: parking_lot::Mutex<String>,
}

impl Tally {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn error(&self, text: impl Into<String>) {
        *self.last_error.lock() = text.into();
    }

    fn report(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "joined": read(&self.joined),
            "connections": read(&self.connections),
            "disconnects": read(&self.disconnects),
            "dialFailures": read(&self.dial_failures),
            "events": read(&self.events),
            "bookmarks": read(&self.bookmarks),
            "lists": read(&self.lists),
            "resumes": read(&self.resumes),
            "expired": read(&self.expired),
            "duplicates": read(&self.duplicates),
            "outOfOrder": read(&self.out_of_order),
            "addedTwice": read(&self.added_twice),
            "unknownDeletes": read(&self.unknown_deletes),
            "leases": read(&self.leases),
            "statuses": read(&self.statuses),
            "rejected": read(&self.rejected),
            "lastError": self.last_error.lock().clone(),
        })
    }
}

/// What every node shares.
pub(crate) struct Shared {
    plan: Plan,
    tally: Tally,
    ledger: Ledger,
    joining: Semaphore,
    /// While it is true nobody is connected.
    paused: tokio::sync::watch::Sender<bool>,
}

/// Runs a fleet until its standard input ends or says `quit`.
///
/// # Errors
/// When the tokens cannot be read. Nodes that fail say so in the report.
pub fn run(plan: Plan) -> Result<()> {
    lift_descriptor_limit();
    // SAFETY: `setpriority` takes numbers only; it is called before there is another thread, so that all inherit it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, plan.niceness) } != 0 {
        bail!("failed to set the niceness to {}: {}", plan.niceness, std::io::Error::last_os_error());
    }
    let tokens = std::fs::read_to_string(&plan.tokens).context("failed to read the tokens")?;
    let tokens: Vec<base_pki::JoinToken> =
        tokens.lines().map(str::parse).collect::<Result<_, _>>().context("failed to read the tokens")?;
    if tokens.is_empty() {
        bail!("{} holds no token", plan.tokens.display());
    }
    // One thread: the machine is the hub's, and what this process uses is counted apart.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async move {
        let joining = Semaphore::new(plan.join_parallel.max(1));
        let paused = tokio::sync::watch::Sender::new(false);
        let shared = Arc::new(Shared { tally: Tally::default(), ledger: Ledger::default(), joining, paused, plan });
        let nodes: Vec<Arc<Node>> = (0..shared.plan.nodes)
            .map(|number| {
                let token = tokens[number % tokens.len()].clone();
                let name = shared.plan.name.clone().unwrap_or_else(|| format!("{}-{number}", shared.plan.prefix));
                Arc::new(Node::new(name, token, shared.clone()))
            })
            .collect();
        for node in &nodes {
            tokio::spawn(node::live(node.clone()));
        }
        let writers = writers::start(&shared)?;
        let (lines_tx, mut lines) = tokio::sync::mpsc::unbounded_channel();
        // A read of standard input cannot be cancelled, so it has a thread that ends with the process.
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if lines_tx.send(line).is_err() {
                    return;
                }
            }
        });
        while let Some(line) = lines.recv().await {
            let answer = match line.trim() {
                "report" => report(&shared, &nodes, &writers),
                "check" => check(&shared, &nodes).await,
                "pause" | "resume" => {
                    shared.paused.send_replace(line.trim() == "pause");
                    json!({"paused": *shared.paused.borrow()})
                }
                "sever" => {
                    nodes.iter().for_each(|node| node.sever());
                    json!({"severed": nodes.len()})
                }
                "verify-writers" => writers.verify().await,
                "quit" => break,
                other => json!({"error": format!("`{other}` is no command")}),
            };
            println!("{answer}");
        }
        Ok(())
    })
}

fn report(shared: &Shared, nodes: &[Arc<Node>], writers: &writers::Writers) -> Value {
    let mut report = shared.tally.report();
    let (mut connected, mut registered, mut following, mut pods, mut running) = (0, 0, 0, 0, 0);
    for node in nodes {
        connected += u64::from(node.is_connected());
        registered += u64::from(node.is_registered());
        following += u64::from(node.is_following());
        let (known, up) = node.pods();
        pods += known;
        running += up;
    }
    report["nodes"] = nodes.len().into();
    report["connected"] = connected.into();
    report["registered"] = registered.into();
    // Connected, and every watch of theirs is open.
    report["following"] = following.into();
    report["pods"] = pods.into();
    report["running"] = running.into();
    report["revisionsSeen"] = shared.ledger.len().into();
    report["revisionsTwice"] = shared.ledger.twice().into();
    report["writes"] = writers.acknowledged().into();
    report["writesRejected"] = writers.rejected().into();
    report["cpuSeconds"] = crate::process::cpu_seconds(std::process::id()).into();
    report["rssKib"] = crate::process::memory(std::process::id()).map_or(0, |memory| memory.rss_kib).into();
    report
}

/// Compares what each node has built up from its watch with a fresh list.
async fn check(shared: &Shared, nodes: &[Arc<Node>]) -> Value {
    let gate = Semaphore::new(32);
    let checks = nodes.iter().map(|node| async {
        let _permit = gate.acquire().await;
        node.check().await
    });
    let mut differences = Vec::new();
    let mut lost = Vec::new();
    for (node, outcome) in nodes.iter().zip(futures::future::join_all(checks).await) {
        match outcome {
            Ok(found) => {
                lost.extend(found.lost.into_iter().map(|text| format!("{}: {text}", node.name)));
                differences.extend(found.differences.into_iter().map(|text| format!("{}: {text}", node.name)));
            }
            Err(error) => differences.push(format!("{}: {error:#}", node.name)),
        }
    }
    json!({
        "differences": differences.len(),
        "first": differences.iter().chain(&lost).take(10).collect::<Vec<_>>(),
        "lost": lost.len(),
        "revisionsTwice": shared.ledger.twice(),
    })
}

/// Nodes that share a token: a hub bounds the requests of one token in a time, and nodes may have to repeat theirs.
const NODES_PER_TOKEN: usize = 20;

/// Join tokens of the hub in a directory for `nodes` nodes, one a line; node `n` takes the line `n` modulo their number.
///
/// # Errors
/// When the hub gives none.
pub fn tokens(hub_dir: &std::path::Path, nodes: usize) -> Result<String> {
    if nodes == 1 {
        return create_token(hub_dir, &[]);
    }
    let uses = NODES_PER_TOKEN.to_string();
    (0..nodes.div_ceil(NODES_PER_TOKEN)).map(|_| create_token(hub_dir, &["--uses", &uses])).collect()
}

/// A join token of the hub in a directory, for the node `name` alone.
///
/// # Errors
/// When the hub gives none.
pub fn token_for(hub_dir: &std::path::Path, name: &str) -> Result<base_pki::JoinToken> {
    create_token(hub_dir, &["--node-name", name])?.trim().parse().context("the token cannot be read")
}

fn create_token(hub_dir: &std::path::Path, limits: &[&str]) -> Result<String> {
    let dir = hub_dir.to_string_lossy();
    crate::wait::eventually("join token", Duration::from_secs(60), || {
        let mut args = vec!["token", "create", "--data-dir", &*dir];
        args.extend(limits);
        let mut outcome = crate::program::run(&args)?;
        if outcome.code == 2 {
            // A program that knows no limits of tokens gives one that any node may use.
            outcome = crate::program::run(&args[..4])?;
        }
        outcome.ok()
    })
}

/// A fleet has more connections than a shell's default allows.
pub fn lift_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a valid pointer to a struct of ours; a failure leaves the limit as it was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
