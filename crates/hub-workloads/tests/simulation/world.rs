//! Steps: what is done or breaks next, and what is checked after it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::kinds::Kind;
use hub_runtime::{Manager, Reader, StatusRegistry};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Faults, NAMESPACE, Who};
use crate::feed::{DELAY_MAX, Feed};
use crate::kubelet::Kubelets;
use crate::metrics::Load;
use crate::rest;
use crate::user::User;

/// Steps between two times at which everything comes to rest.
const STEPS_TO_REST: u32 = 1000;
/// Steps that a report shows.
const SHOWN: usize = 40;
/// Everything comes to rest within this time: Jobs wait six minutes between two failures, DaemonSets fifteen.
const REST_WITHIN: Duration = Duration::from_secs(90 * 60);
/// Then nothing is written for so long, …
const QUIET: Duration = Duration::from_secs(10 * 60);
/// … but for so much: what is looked at every some minutes may be late once.
const QUIET_WRITES_MAX: u64 = 10;

/// Kinds whose watches are slow now and then.
const SLOWED: &[Kind] = &[
    Kind::Pod,
    Kind::Pod,
    Kind::ReplicaSet,
    Kind::Deployment,
    Kind::StatefulSet,
    Kind::Job,
    Kind::Node,
    Kind::ControllerRevision,
];

/// The hub's controllers while they run.
pub(crate) struct Hub {
    pub managers: Vec<Manager>,
    /// Of all their controllers.
    statuses: StatusRegistry,
    shutdown: CancellationToken,
}

/// A simulation.
pub(crate) struct World {
    pub api: Arc<Api>,
    pub kubelets: Kubelets,
    pub user: User,
    pub load: Arc<Load>,
    pub hub: Option<Hub>,
    random: fastrand::Rng,
    is_behind: bool,
    authorities: (Arc<base_pki::Ca>, Arc<base_pki::Ca>),
    log: VecDeque<String>,
    is_verbose: bool,
    seed: u64,
    restarts: u64,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, steps: u32) -> Result<(), String> {
    // What controllers draw for their pauses, they draw from the thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be made");
    let began = std::time::Instant::now();
    runtime.block_on(async {
        let start: Timestamp = "2026-03-01T00:00:00Z".parse().expect("it is a time");
        let mut world = World::new(seed, start).await;
        let nodes = world.random.usize(3..=12);
        for index in 0..nodes {
            world.kubelets.join(&format!("gw-{index}"), &json!({"zone": format!("zone-{}", index % 3)}));
        }
        let done = world.steps(steps).await;
        let simulated = world.api.clock.now().duration_since(start);
        let checked = world.api.truth.lock().checked.clone();
        println!(
            "seed {seed}: {steps} steps, {simulated:#} simulated in {:?}, {} changes, {nodes} nodes, behind: {}, checked {checked:?}",
            began.elapsed(),
            world.api.truth.lock().seq,
            world.is_behind,
        );
        let stopped = world.stop_hub().await;
        done.and(stopped).map_err(|error| world.report(&error))
    })
}

impl World {
    /// A hub without nodes, whose clock shows this time.
    pub(crate) async fn new(seed: u64, start: Timestamp) -> Self {
        let load = Arc::new(Load::default());
        let api = Api::new(seed, start, &load);
        let authority = |name| Arc::new(base_pki::Ca::create(name).expect("a CA can be made"));
        let mut world = Self {
            kubelets: Kubelets::new(api.clone(), seed),
            user: User::new(api.clone(), seed),
            load,
            hub: None,
            random: fastrand::Rng::with_seed(seed),
            is_behind: seed % 2 == 1,
            authorities: (authority("client"), authority("serving")),
            log: VecDeque::new(),
            is_verbose: std::env::var("SEED").is_ok(),
            seed,
            restarts: 0,
            api,
        };
        world.start_hub().await;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        world.api.must(Who::User, Method::POST, "/api/v1/namespaces", Some(&namespace));
        world.advance(Duration::from_secs(5)).await;
        world
    }

    pub(crate) async fn start_hub(&mut self) {
        self.restarts += 1;
        let feed = Feed::new(&self.api.store, self.is_behind, self.seed ^ (self.restarts << 32));
        let shutdown = CancellationToken::new();
        *self.api.feed.lock() = Some(feed.clone());
        base_observe::spawn_detached("feed", feed.clone().run(shutdown.clone()));
        let reader: Arc<dyn Reader> = feed;
        let statuses = StatusRegistry::default();
        let manager = |who| {
            Manager::with_clock(
                self.api.client(who),
                reader.clone(),
                statuses.clone(),
                shutdown.clone(),
                self.api.clock,
            )
        };
        let managers: Vec<Manager> = [Who::Hub, Who::Workloads, Who::Scheduler].map(manager).into();
        loop {
            let (client, serving) = self.authorities.clone();
            let config = ControllersConfig {
                authorities: Authorities { client, serving },
                names: NamePolicy { hub_names: vec!["hub.example.com".into()] },
            };
            // As the program does, which ends and is started again.
            if hub_controllers::start(&managers[0], config).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.api.truth.lock().started = Some(Instant::now());
        hub_workloads::start(&managers[1]);
        hub_scheduler::start(&managers[2], &base_observe::Metrics::new());
        self.hub = Some(Hub { managers, statuses, shutdown });
    }

    pub(crate) async fn stop_hub(&mut self) -> Result<(), String> {
        let Some(hub) = self.hub.take() else { return Ok(()) };
        hub.shutdown.cancel();
        for manager in &hub.managers {
            let ended = tokio::time::timeout(Duration::from_secs(600), manager.wait()).await;
            ended.map_err(|_| "the controllers do not end at shutdown".to_owned())?;
        }
        *self.api.feed.lock() = None;
        Ok(())
    }

    /// Time passes.
    pub(crate) async fn advance(&mut self, by: Duration) {
        let end = Instant::now() + by;
        let slice = Duration::from_millis(if by > Duration::from_secs(10) { 1000 } else { 250 });
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(slice)).await;
            self.kubelets.tick();
        }
    }

    async fn steps(&mut self, steps: u32) -> Result<(), String> {
        for step in 1..=steps {
            let what = self.step().await?;
            let line = format!("{step} {} {what}", self.api.clock.now());
            if self.is_verbose {
                println!("{line}");
            }
            self.log.push_back(line);
            if self.log.len() > SHOWN {
                self.log.pop_front();
            }
            let pause = match self.random.u32(0..100) {
                0..40 => 0,
                40..98 => self.random.u64(0..3000),
                _ => self.random.u64(10_000..60_000),
            };
            self.advance(Duration::from_millis(pause)).await;
            self.check_violations()?;
            if step.is_multiple_of(STEPS_TO_REST) || step == steps {
                self.rest().await?;
            }
        }
        Ok(())
    }

    fn check_violations(&self) -> Result<(), String> {
        // A key whose run panics is tried again, so nothing else may show it.
        let panicked = self.hub.iter().flat_map(|hub| hub.statuses.snapshot()).find(|status| status.panics > 0);
        if let Some(status) = panicked {
            return Err(format!("the controller {} panicked: {:?}", status.name, status.last_error));
        }
        let truth = self.api.truth.lock();
        if truth.violations.is_empty() { Ok(()) } else { Err(truth.violations.join("\n")) }
    }

    async fn step(&mut self) -> Result<String, String> {
        let drawn = self.random.u32(0..1000);
        Ok(match drawn {
            0..420 => self.user.act(),
            420..540 => self.user.meddle(),
            540..640 => {
                let name = self.any_node();
                let is_linked = !self.kubelets.nodes[&name].is_linked;
                self.kubelets.set_link(&name, is_linked);
                format!("link of {name}: {is_linked}")
            }
            640..650 => {
                let name = self.any_node();
                for _ in 0..self.random.u32(2..7) {
                    let is_linked = !self.kubelets.nodes[&name].is_linked;
                    self.kubelets.set_link(&name, is_linked);
                    let pause = self.random.u64(1000..45_000);
                    self.advance(Duration::from_millis(pause)).await;
                }
                format!("{name} flaps")
            }
            650..700 => {
                let name = self.any_node();
                let is_cordoned = self.random.bool();
                let body = json!({"spec": {"unschedulable": if is_cordoned { json!(true) } else { Value::Null }}});
                self.api.send(Who::User, Method::PATCH, &format!("/api/v1/nodes/{name}"), Some(&body));
                format!("cordon {name}: {is_cordoned}")
            }
            700..720 => {
                let name = self.any_node();
                let body = json!({"metadata": {"labels": {"zone": format!("zone-{}", self.random.u32(0..3))}}});
                self.api.send(Who::User, Method::PATCH, &format!("/api/v1/nodes/{name}"), Some(&body));
                format!("label {name}")
            }
            720..727 => {
                let name = self.any_node();
                self.api.send(Who::User, Method::DELETE, &format!("/api/v1/nodes/{name}"), Some(&json!({})));
                format!("delete node {name}")
            }
            727..740 => {
                self.stop_hub().await?;
                let pause = self.random.u64(0..90_000);
                self.advance(Duration::from_millis(pause)).await;
                self.start_hub().await;
                format!("the hub restarts after {pause} ms")
            }
            740..800 => self.slow_down(),
            800..820 => {
                let Some(feed) = self.api.feed.lock().clone() else { return Ok("no feed".to_owned()) };
                let kinds = feed.kinds();
                let kind = kinds[self.random.usize(0..kinds.len())];
                feed.relist(kind, Duration::from_millis(self.random.u64(0..5000)));
                format!("the watch of {} ends", kind.name())
            }
            820..860 => {
                let faults = match self.random.u32(0..3) {
                    0 => Faults::default(),
                    _ => Faults {
                        failed: self.random.u32(0..60),
                        lost: self.random.u32(0..30),
                        raced: self.random.u32(0..60),
                        latency: Duration::from_millis(self.random.u64(1..1500)),
                    },
                };
                *self.api.faults.lock() = faults;
                format!("{faults:?}")
            }
            860..890 => {
                let load = self.random.i64(20..500);
                self.load.by_app.lock().insert("deployment-2".to_owned(), load);
                format!("the load of deployment-2 is {load}m")
            }
            _ => "nothing".to_owned(),
        })
    }

    fn any_node(&mut self) -> String {
        let index = self.random.usize(0..self.kubelets.nodes.len());
        self.kubelets.nodes.keys().nth(index).expect("it is one of them").clone()
    }

    fn slow_down(&mut self) -> String {
        let Some(feed) = self.api.feed.lock().clone() else { return "no feed".to_owned() };
        if self.random.u32(0..100) < 40 {
            for kind in feed.kinds() {
                feed.slow_down(kind, DELAY_MAX);
            }
            return "watches are fast".to_owned();
        }
        let kind = SLOWED[self.random.usize(0..SLOWED.len())];
        let delay = Duration::from_millis(self.random.u64(100..8000));
        feed.slow_down(kind, delay);
        format!("the watch of {} is up to {delay:?} late", kind.name())
    }

    /// Nothing breaks any more, and nobody does anything: everything becomes as it should be, and then nothing is written.
    async fn rest(&mut self) -> Result<(), String> {
        *self.api.faults.lock() = Faults::default();
        if let Some(feed) = self.api.feed.lock().clone() {
            for kind in feed.kinds() {
                feed.slow_down(kind, DELAY_MAX);
            }
        }
        self.kubelets.do_crash = false;
        let names: Vec<String> = self.kubelets.nodes.keys().cloned().collect();
        for name in names {
            self.kubelets.set_link(&name, true);
            let body = json!({"spec": {"unschedulable": null}});
            self.api.send(Who::User, Method::PATCH, &format!("/api/v1/nodes/{name}"), Some(&body));
        }
        self.user.settle();
        let began = Instant::now();
        let mut last;
        loop {
            self.advance(Duration::from_secs(60)).await;
            self.check_violations()?;
            last = rest::problems(&self.api.truth.lock(), self.kubelets.nodes.len());
            if last.is_empty() {
                break;
            }
            if began.elapsed() > REST_WITHIN {
                return Err(format!("not at rest after {REST_WITHIN:?}:\n{}", last.join("\n")));
            }
        }
        // What follows from the last change, deadlines of rollouts among it.
        self.advance(Duration::from_secs(12 * 60)).await;
        let before = self.api.writes.load(Ordering::Relaxed);
        self.api.written.lock().clear();
        self.advance(QUIET).await;
        let writes = self.api.writes.load(Ordering::Relaxed) - before;
        if writes > QUIET_WRITES_MAX {
            let written = self.api.written.lock().join("\n");
            return Err(format!("{writes} writes in {QUIET:?} in which nothing happened:\n{written}"));
        }
        let after = rest::problems(&self.api.truth.lock(), self.kubelets.nodes.len());
        if !after.is_empty() {
            return Err(format!("was at rest and is not any more:\n{}", after.join("\n")));
        }
        self.check_violations()?;
        self.kubelets.do_crash = true;
        Ok(())
    }

    fn report(&self, error: &str) -> String {
        let log: Vec<String> = self.log.iter().cloned().collect();
        let violated = self.api.violated.lock();
        let written = violated.clone().unwrap_or_else(|| self.api.last_writes());
        format!("{error}\n--- the last steps\n{}\n--- the last writes\n{written}", log.join("\n"))
    }
}
