//! Starts everything that looks after pods, each part as a task that is started again when it dies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use node_client::{HubState, Verified, supervise};
use serde_json::Value;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directories::{self, Directories};
use crate::events::PodEvents;
use crate::inbox::Termination;
use crate::manager::{Command, Context, Desired, LogPlace, Manager, Shared};
use crate::outline::PodOutline;
use crate::publisher::{self, Publisher};
use crate::{Runtimes, sources, tokens};

/// Commands that wait for the manager. It serves them without waiting for anybody, so this is full for moments only.
const COMMANDS_MAX: usize = 64;

/// What [`start`] needs.
pub struct PodsParts {
    /// What all workers share.
    pub context: Context,
    /// Who runs containers.
    pub runtimes: Runtimes,
    /// What the Lease says of the hub.
    pub verified: watch::Receiver<Verified>,
    /// The uid of the Node, set anew when it has registered.
    pub node_uid: watch::Receiver<Option<String>>,
    /// All tasks of the node.
    pub tasks: TaskTracker,
    /// Ends them.
    pub shutdown: CancellationToken,
}

/// A handle on the pods of the node; cheap to clone. What it asks for is answered until shutdown.
#[derive(Clone, Debug)]
pub struct Pods {
    commands: mpsc::Sender<Command>,
}

/// The node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kubelet is stopping")]
pub struct Stopping;

type Task = Box<dyn FnMut() -> BoxFuture<'static, ()> + Send>;

/// Starts everything that looks after pods. Those of the offline store are started or adopted at once.
pub fn start(parts: PodsParts) -> Pods {
    let PodsParts { context, runtimes, verified, node_uid, tasks, shutdown } = parts;
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (objects_tx, desired_objects) = watch::channel(BTreeSet::new());
    let (tokens_tx, desired_tokens) = watch::channel(BTreeSet::new());
    let publisher = Publisher::default();
    let events = PodEvents(context.recorder.clone());
    let static_manifests = std::sync::Mutex::new(None);
    let directories = Arc::new(Directories::new(&context.config.data_dir));
    let shared = Arc::new(Shared {
        context: context.clone(),
        events,
        publisher: publisher.clone(),
        static_manifests,
        directories: directories.clone(),
    });
    let desired = Arc::new(Desired { objects: objects_tx, tokens: tokens_tx });
    let spawn = |name, make: Task| supervise(&tasks, name, context.registry.clone(), shutdown.clone(), make);

    // Handed from one life of the manager to the next: what is in it must not be lost with the one that died.
    let receiver = Arc::new(Mutex::new(receiver));
    let (feed, end) = (commands.clone(), shutdown.clone());
    let manager: Task = Box::new(move || {
        let (receiver, end) = (receiver.clone(), end.clone());
        let manager = Manager::new(shared.clone(), runtimes.clone(), feed.clone(), desired.clone(), end.child_token());
        Box::pin(async move { manager.run(&mut *receiver.lock().await, &end).await })
    });
    spawn("pod-manager", manager);

    let (client, registry, of, end) =
        (context.client.clone(), context.registry.clone(), publisher.clone(), shutdown.clone());
    spawn(
        "pod-publisher",
        Box::new(move || {
            let (publisher, registered) = (of.clone(), node_uid.clone());
            Box::pin(publisher::run(publisher, client.clone(), registered, registry.clone(), end.clone()))
        }),
    );
    let (of, feed, end) = (context.clone(), commands.clone(), shutdown.clone());
    let pods: Task = Box::new(move || {
        let source = sources::Pods {
            node: of.config.node_name.clone(),
            store: of.store.clone(),
            commands: feed.clone(),
            publisher: publisher.clone(),
            verified: verified.clone(),
            known: of.store.hub_state(),
            present: Verified::default(),
            kept: watch::channel((0, HubState::default())).0,
            is_incomplete: false,
            registry: of.registry.clone(),
        };
        Box::pin(sources::pods(of.client.clone(), source, of.registry.clone(), end.clone()))
    });
    spawn("pod-list-watch", pods);
    let (of, feed, end) = (context.clone(), commands.clone(), shutdown.clone());
    let objects: Task = Box::new(move || {
        let (client, store, desired) = (of.client.clone(), of.store.clone(), desired_objects.clone());
        Box::pin(sources::objects(client, store, desired, feed.clone(), of.registry.clone(), end.clone()))
    });
    spawn("object-watches", objects);
    let (of, feed, end) = (context.clone(), commands.clone(), shutdown.clone());
    let tokens: Task = Box::new(move || {
        let (client, store, desired) = (of.client.clone(), of.store.clone(), desired_tokens.clone());
        Box::pin(tokens::run(client, store, desired, feed.clone(), of.registry.clone(), end.clone()))
    });
    spawn("pod-tokens", tokens);
    let (of, end) = (context.clone(), shutdown.clone());
    let removals: Task = Box::new(move || {
        let (client, node, registry) = (of.client.clone(), of.config.node_name.clone(), of.registry.clone());
        Box::pin(directories::run(client, directories.clone(), node, registry, end.clone()))
    });
    spawn("volume-removals", removals);
    Pods { commands }
}

impl Pods {
    /// Makes `pods` (Pod manifests as JSON) the node's static pods: new ones are started, changed ones replaced, those no longer
    /// named are stopped. Until the first call, static pods of an earlier kubelet are left as they are.
    pub async fn set_static_pods(&self, pods: Vec<Value>) {
        // The manager ends at shutdown only, when nothing is to be started any more.
        let _ = self.commands.send(Command::StaticPods(pods)).await;
    }

    /// Has pods that wait for an image look whether it is here: some have come to the node.
    pub async fn images_added(&self) {
        // The manager ends at shutdown only, when nothing is to be started any more.
        let _ = self.commands.send(Command::ImagesAdded).await;
    }

    /// Stops every pod's containers within `grace` and waits for it; the pods stay desired and start again with the next kubelet.
    pub async fn stop_all(&self, grace: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::StopAll { grace, done }).await.is_ok() {
            // An error means that the kubelet ended meanwhile.
            let _ = stopped.await;
        }
    }

    /// Stops the pods that are on hold because the hub does not know them; answers which these were.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn accept_hub(&self) -> Result<Vec<String>, Stopping> {
        self.ask(Command::AcceptHub).await
    }

    /// Has a pod fail as a whole, for this reason: its containers get `grace` to end by themselves. Resolves when nothing of it runs.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn terminate(
        &self,
        uid: &str,
        reason: &'static str,
        message: String,
        grace: Duration,
    ) -> Result<(), Stopping> {
        self.end(uid, |done| Termination { reason, message, grace, is_kept: true, done }).await
    }

    /// The same, but for the next start of the agent, which begins with the pod anew unless the hub knows that it has failed.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn end_with_machine(
        &self,
        uid: &str,
        reason: &'static str,
        message: String,
        grace: Duration,
    ) -> Result<(), Stopping> {
        self.end(uid, |done| Termination { reason, message, grace, is_kept: false, done }).await
    }

    async fn end(&self, uid: &str, of: impl FnOnce(oneshot::Sender<()>) -> Termination) -> Result<(), Stopping> {
        let (done, ended) = oneshot::channel();
        let termination = of(done);
        self.commands.send(Command::Terminate { uid: uid.to_owned(), termination }).await.map_err(|_| Stopping)?;
        // A pod that is not here any more drops the other end.
        let _ = ended.await;
        Ok(())
    }

    /// The pods of the node as JSON.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn list(&self) -> Result<Vec<Bytes>, Stopping> {
        self.ask(Command::List).await
    }

    /// The pods of the node, for whoever counts what they use.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn outlines(&self) -> Result<Vec<PodOutline>, Stopping> {
        self.ask(Command::Outlines).await
    }

    /// Where the logs of a container are, or why there are none.
    ///
    /// # Errors
    /// At shutdown.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Result<LogPlace, String>, Stopping> {
        let (namespace, pod, container) = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        self.ask(|answer| Command::Logs { namespace, pod, container, answer }).await
    }

    /// Whether the manager has ended.
    pub fn is_stopped(&self) -> bool {
        self.commands.is_closed()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopping> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| Stopping)?;
        answered.await.map_err(|_| Stopping)
    }
}
