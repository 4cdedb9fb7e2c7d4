//! Ends pods in their order before the machine is switched off: systemd-logind is asked to wait for that.
//!
//! ```text
//! Inhibit("shutdown", "delay") ──▶ a file: as long as it is open, logind waits
//! PrepareForShutdown(true) ──▶ the Node is not ready, takes no pods ──▶ pods end ──▶ critical pods end ──▶ the file is closed
//! PrepareForShutdown(false) ─▶ the machine stays on after all
//! ```
//!
//! As upstream's kubelets, a pod that is ended so has failed with the reason `Terminated` for the hub, which replaces it by another one.
//! Unlike there, this node itself keeps no note of that: where the hub was not reached, the pod runs again after the start of the machine,
//! because nobody can have made another one. Static pods run again in any case.

mod bus;
mod logind;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use node_client::{EventRecorder, StatusRegistry, chain};
use node_pods::{PodOutline, Pods, Stopping};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use bus::BusError;
use logind::Logind;

/// From this priority on a pod is critical.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// What the node reports meanwhile, in upstream's words.
const FAULT: &str = "shutdown";
const FAULT_MESSAGE: &str = "node is shutting down";
/// Of a pod that was ended for it, likewise.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// A bus that is not there may come: it is started with the machine, as we are.
const RETRY: Duration = Duration::from_secs(5);
/// A stop takes a moment beyond what its containers get.
const STOP_OVERHEAD: Duration = Duration::from_secs(1);

/// How pods end with the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineShutdown {
    /// How long the shutdown of the machine waits at most.
    pub grace: Duration,
    /// The part of it that critical pods have, after all others.
    pub grace_critical_pods: Duration,
    /// Socket of the system's message bus.
    pub bus: PathBuf,
}

impl MachineShutdown {
    /// Where systemd's machines have it.
    pub const BUS: &str = "/run/dbus/system_bus_socket";
}

/// What the watch works with.
pub(crate) struct Watch {
    pub settings: MachineShutdown,
    pub node: String,
    pub pods: Pods,
    pub events: EventRecorder,
    pub registry: StatusRegistry,
    pub end: CancellationToken,
}

/// Waits for the machine's shutdown until the agent's own.
pub(crate) async fn run(watch: Arc<Watch>) {
    let mut reported = String::new();
    loop {
        let followed = watch.end.run_until_cancelled(watch.follow(&mut reported)).await;
        let Some(Err(error)) = followed else { return };
        let text = chain(&error);
        // A machine without systemd says the same for ever.
        if text == reported {
            debug!(error = %text, "The machine's shutdown is not waited for.");
        } else {
            warn!(error = %text, "Pods are not ended before the machine is: its shutdown cannot be waited for.");
            watch.registry.error(format!("machine shutdown: {text}"));
            reported = text;
        }
        if watch.end.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

impl Watch {
    /// Follows one connection to the bus until it ends.
    async fn follow(&self, reported: &mut String) -> Result<(), BusError> {
        let mut logind = Logind::connect(&self.settings.bus).await?;
        let most = logind.delay_max().await?;
        if most < self.settings.grace {
            let text = format!(
                "logind waits {} s at most where {} s are set: set InhibitDelayMaxSec in /etc/systemd/logind.conf",
                most.as_secs(),
                self.settings.grace.as_secs()
            );
            warn!("{text}");
            self.registry.error(format!("machine shutdown: {text}"));
        }
        let mut inhibitor = Some(logind.inhibit().await?);
        reported.clear();
        info!(grace_s = self.settings.grace.as_secs(), "The machine's shutdown waits for its pods.");
        loop {
            match logind.prepare_for_shutdown().await? {
                true => {
                    self.begin();
                    // At the agent's own end nobody is left to end pods.
                    let _: Result<(), Stopping> = self.end_pods().await;
                    drop(inhibitor.take());
                }
                false => {
                    self.cancel();
                    inhibitor = Some(logind.inhibit().await?);
                }
            }
        }
    }

    fn begin(&self) {
        info!("The machine is being shut down; ending its pods.");
        self.events.node(&self.node, false, "NodeShutdown", "Shutdown manager detected shutdown event");
        self.registry.set_pressure(|pressure| pressure.is_shutting_down = true);
        self.registry.set_fault(FAULT, FAULT_MESSAGE);
    }

    fn cancel(&self) {
        info!("The machine's shutdown was cancelled.");
        self.events.node(&self.node, false, "NodeShutdown", "Shutdown manager detected shutdown cancellation");
        self.registry.set_pressure(|pressure| pressure.is_shutting_down = false);
        self.registry.clear_fault(FAULT);
    }

    /// The ordinary pods first, those that they may need last.
    async fn end_pods(&self) -> Result<(), Stopping> {
        let outlines = self.pods.outlines().await?;
        let (critical, ordinary): (Vec<PodOutline>, Vec<PodOutline>) =
            outlines.into_iter().filter(|pod| !pod.is_over).partition(|pod| pod.priority >= CRITICAL_PRIORITY);
        let of_critical = self.settings.grace_critical_pods.min(self.settings.grace);
        for (pods, grace) in [(ordinary, self.settings.grace.saturating_sub(of_critical)), (critical, of_critical)] {
            let ends = pods.iter().map(|pod| self.pods.end_with_machine(&pod.uid, REASON, MESSAGE.to_owned(), grace));
            let ended = tokio::time::timeout(grace + STOP_OVERHEAD, futures::future::join_all(ends)).await;
            if ended.is_err() {
                warn!("Pods take longer to end than the machine waits.");
            }
        }
        Ok(())
    }
}
