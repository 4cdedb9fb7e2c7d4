//! What every controller of the hub runs on.
//!
//! ```text
//! Reader ──first list, then changes──▶ observe ──keys──▶ Queue ──one key at a time──▶ reconcile ──▶ Writer ──▶ API
//!   ▲                                                     ▲  back-off, requeue after      │
//!   └──────────────── get, by_field ──────────────────────┴───────────────────────────────┘
//! ```
//!
//! - [`Reader`]: the objects of the API, encoded and shared. [`StoreReader`] looks into the store of the embedded API;
//!   [`Reflector`] keeps one watch per kind of a real cluster.
//! - [`views`]: what is read of an object, borrowed from its bytes; [`selector`]: whom labels and a node's properties match.
//! - [`volumes`]: words on volumes that controllers and the scheduler agree on.
//! - [`rollouts`]: which nodes a rollout leaves out, and which come first.
//! - [`Queue`]: keys that are due. One key never runs twice at a time; a key that comes often runs once.
//! - [`Expectations`]: what a key has written and the reader does not show yet.
//! - [`writer::Writer`] and [`events::Recorder`]: what is written, and what a person is to see of it.
//! - [`WallClock`]: what time it is, by the machine or by a simulation.
//! - [`StatusRegistry`]: what each controller did last, for `selvedge status` and `/metrics`.
//! - [`Manager`]: starts a [`Reconciler`] with all of these.
//!
//! A reconciler is level-triggered: it reads what should be and what is, and takes idempotent steps. A change only says
//! which key to look at.

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod batch;
mod clock;
mod controller;
pub mod events;
mod expectations;
pub mod kinds;
mod queue;
mod reader;
mod reflector;
pub mod rollouts;
mod selection;
pub mod selector;
mod status;
mod store_reader;
pub mod views;
pub mod volumes;
pub mod writer;

pub use clock::{WallClock, plausible_since, seen_since};
pub use controller::{Next, ReconcileError, Reconciler, run_again};
pub use expectations::Expectations;
pub use queue::{Queue, QueueLengths, QueueOptions};
pub use reader::{Change, CustomEvent, Event, Field, ObjectRef, ReadObjectError, Reader, Subscription};
pub use reflector::Reflector;
pub use selection::{Selection, UnknownController};
pub use status::{ControllerError, ControllerStatus, Recorded, StatusRegistry};
pub use store_reader::StoreReader;

use events::Recorder;
use writer::Writer;

/// What every controller is handed.
#[derive(Clone)]
pub struct Context {
    /// What is.
    pub reader: Arc<dyn Reader>,
    /// Changes it.
    pub writer: Writer,
    /// Says so.
    pub recorder: Recorder,
    /// What time it is.
    pub clock: WallClock,
}

/// Starts controllers, and waits for their end.
pub struct Manager {
    context: Context,
    registry: StatusRegistry,
    selection: Selection,
    tasks: TaskTracker,
    failed: CancellationToken,
    shutdown: CancellationToken,
}

impl Manager {
    /// What controllers run on, without any yet: `client` must be allowed everything that they write, and `reader` must show
    /// every kind that they read.
    pub fn new(client: Client, reader: Arc<dyn Reader>, registry: StatusRegistry, shutdown: CancellationToken) -> Self {
        Self::with_clock(client, reader, registry, shutdown, WallClock::System)
    }

    /// As [`Self::new`], with another clock than the machine's.
    pub fn with_clock(
        client: Client,
        reader: Arc<dyn Reader>,
        registry: StatusRegistry,
        shutdown: CancellationToken,
        clock: WallClock,
    ) -> Self {
        let (writer, tasks, failed) = (Writer::new(client), TaskTracker::new(), CancellationToken::new());
        let (recorder, record) = Recorder::new(writer.clone(), clock, shutdown.clone());
        base_observe::spawn_vital(&tasks, "event-recorder", &failed, record);
        let selection = Selection::default();
        Self { context: Context { reader, writer, recorder, clock }, registry, selection, tasks, failed, shutdown }
    }

    /// Runs those controllers alone that are selected; all are, unless this is called.
    pub fn selecting(self, selection: Selection) -> Self {
        Self { selection, ..self }
    }

    /// Whether the controller of this name runs: for one that is not started by [`Manager::run`].
    pub fn selects(&self, name: &'static str) -> bool {
        self.selection.has(name)
    }

    /// Checks the selection, once all controllers were started.
    ///
    /// # Errors
    /// When it names a controller that there is not.
    pub fn check_selection(&self) -> Result<(), UnknownController> {
        self.selection.check()
    }

    /// Starts the controller that `make` makes, if it is selected.
    pub fn run<R: Reconciler>(&self, make: impl FnOnce(Context) -> R) {
        let reconciler = make(self.context.clone());
        if !self.selects(reconciler.name()) {
            return;
        }
        controller::spawn(
            reconciler,
            &self.context.reader,
            &self.registry,
            &self.tasks,
            (&self.failed, &self.shutdown),
        );
    }

    /// What controllers are handed, for what runs beside them.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Tasks of what runs beside the controllers; they must end with [`Manager::shutdown`].
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when a task has panicked without which the others are of no use: the hub is to be ended, and started again.
    pub fn failed(&self) -> &CancellationToken {
        &self.failed
    }

    /// What ends all of it.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// What each controller did last.
    pub fn status(&self) -> &StatusRegistry {
        &self.registry
    }

    /// Waits until every controller has ended, after the shutdown that was handed to [`Manager::new`].
    pub async fn wait(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
