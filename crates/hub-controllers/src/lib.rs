//! The hub's controllers: what should exist because something else does.
//!
//! Each is level-triggered: it reads through a [`cache::Lister`], decides in a plain function, and writes through
//! the Kubernetes API, so it works with the embedded API and with a real cluster alike. A run that failed is repeated; a
//! run that finds nothing to do writes nothing.
//!
//! ```text
//! API ──watch──▶ cache ──changed──▶ driver ──▶ reconcile: plan(objects) → steps ──▶ writer ──▶ API
//! ```
//!
//! - `bootstrap`: namespaces, runtime classes and our own kinds, before anything else.
//! - `daemonsets`, `garbage`: pods on labelled nodes, and their end.
//! - `csr`: certificates of nodes. `nodes`: nodes out of reach are marked, their pods left alone.
//! - `assignments`: devices, streams, rules and exports become one `NodeAssignment` per node; what nodes report is summed up.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base_pki::Ca;
use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod assignments;
mod bootstrap;
pub mod cache;
mod csr;
mod daemonsets;
mod driver;
mod events;
mod fleet_status;
mod garbage;
pub mod kinds;
mod namespaces;
mod nodes;
mod pods;
mod selector;
pub mod writer;

use cache::{Cache, Lister};
use events::Recorder;
use kinds::Kind;
use writer::{WriteError, Writer};

/// Everything that a controller reads, watched once for all of them.
const WATCHED: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::ServiceAccount,
    Kind::CertificateSigningRequest,
    Kind::DaemonSet,
    Kind::ControllerRevision,
    Kind::DeviceProfile,
    Kind::Device,
    Kind::Stream,
    Kind::Rule,
    Kind::Export,
    Kind::NodeAssignment,
];

/// The running controllers.
pub struct Controllers {
    tasks: TaskTracker,
}

impl Controllers {
    /// Makes what a hub needs from the start, then starts all controllers. The API behind `client` must be served
    /// already, and `client` must be allowed everything.
    ///
    /// # Errors
    /// When the API refuses what a hub needs from the start. Nothing runs then.
    pub async fn start(client: Client, ca: Arc<Ca>, shutdown: CancellationToken) -> Result<Self, WriteError> {
        let writer = Writer::new(client.clone());
        bootstrap::run(&writer).await?;
        let tasks = TaskTracker::new();
        let (recorder, record) = Recorder::new(writer.clone(), shutdown.clone());
        tasks.spawn(record);
        let surroundings = Surroundings {
            lister: Cache::start(&client, WATCHED, &tasks, &shutdown),
            writer,
            recorder,
            tasks: tasks.clone(),
            shutdown,
        };
        surroundings.run_all(ca);
        tasks.close();
        Ok(Self { tasks })
    }

    /// Waits until every controller has ended, after the shutdown that was handed to [`Controllers::start`].
    pub async fn wait(&self) {
        self.tasks.wait().await;
    }
}

/// What every controller is handed.
#[derive(Clone)]
struct Surroundings {
    lister: Arc<dyn Lister>,
    writer: Writer,
    recorder: Recorder,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Surroundings {
    fn run_all(&self, ca: Arc<Ca>) {
        self.run(
            "namespaces",
            &[Kind::Namespace, Kind::ServiceAccount, Kind::Pod],
            Some(namespaces::LOOK_PERIOD),
            |all| async move { namespaces::reconcile(&*all.lister, &all.writer).await },
        );
        self.run("csr", &[Kind::CertificateSigningRequest], None, move |all| {
            let ca = ca.clone();
            async move { csr::reconcile(&ca, &*all.lister, &all.writer, &all.recorder, Timestamp::now()).await }
        });
        // State is taken out for a run and put back after it: one task runs it, so it is never missed.
        let sets = Arc::new(Mutex::new(daemonsets::DaemonSets::default()));
        let reads = &[Kind::DaemonSet, Kind::Node, Kind::Pod, Kind::ControllerRevision];
        // A failed pod is replaced after its pause, which no change announces.
        self.run("daemonsets", reads, Some(std::time::Duration::from_secs(1)), move |all| {
            let sets = sets.clone();
            async move {
                let mut state = std::mem::take(&mut *sets.lock().expect("no holder panics"));
                let done = state.reconcile(&*all.lister, &all.writer, &all.recorder, Instant::now()).await;
                *sets.lock().expect("no holder panics") = state;
                done
            }
        });
        self.run("garbage", &[Kind::DaemonSet, Kind::Pod, Kind::ControllerRevision], None, |all| async move {
            garbage::reconcile(&*all.lister, &all.writer).await
        });
        let heartbeats = Arc::new(Mutex::new(nodes::Heartbeats::default()));
        self.run("nodes", &[Kind::Node], Some(nodes::LOOK_PERIOD), move |all| {
            let heartbeats = heartbeats.clone();
            async move {
                let mut state = std::mem::take(&mut *heartbeats.lock().expect("no holder panics"));
                let (now, wall) = (Instant::now(), Timestamp::now());
                let done = state.reconcile(&*all.lister, &all.writer, &all.recorder, now, wall).await;
                *heartbeats.lock().expect("no holder panics") = state;
                done
            }
        });
        self.run("pods", &[Kind::Pod, Kind::Node], None, |all| async move {
            pods::reconcile(&*all.lister, &all.writer, &all.recorder, Timestamp::now()).await
        });
        let reads = &[
            Kind::Node,
            Kind::DeviceProfile,
            Kind::Device,
            Kind::Stream,
            Kind::Rule,
            Kind::Export,
            Kind::NodeAssignment,
        ];
        self.run("assignments", reads, None, |all| async move {
            assignments::reconcile(&*all.lister, &all.writer, &all.recorder, Timestamp::now()).await
        });
    }

    fn run<F, R>(
        &self,
        name: &'static str,
        reads: &'static [Kind],
        period: Option<std::time::Duration>,
        mut reconcile: F,
    ) where
        F: FnMut(Surroundings) -> R + Send + 'static,
        R: Future<Output = Result<(), WriteError>> + Send + 'static,
    {
        let all = self.clone();
        self.tasks.spawn(driver::drive(name, self.lister.clone(), reads, period, self.shutdown.clone(), move || {
            reconcile(all.clone())
        }));
    }
}
