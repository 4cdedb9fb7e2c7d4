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

/// Pods that end together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownGroup {
    /// From this priority on, up to that of the next group. Pods below the first group are in that one.
    pub priority: i32,
    /// How long they have.
    pub grace: Duration,
}

/// How pods end with the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineShutdown {
    /// One after the other, with rising priorities.
    pub groups: Vec<ShutdownGroup>,
    /// Socket of the system's message bus.
    pub bus: PathBuf,
}

impl MachineShutdown {
    /// Where systemd's machines have it.
    pub const BUS: &str = "/run/dbus/system_bus_socket";

    /// Ordinary pods, and after them critical ones, which have a part of the whole time.
    pub fn of_two(grace: Duration, of_critical: Duration) -> Vec<ShutdownGroup> {
        let of_critical = of_critical.min(grace);
        let of = |priority, grace| ShutdownGroup { priority, grace };
        vec![of(0, grace - of_critical), of(CRITICAL_PRIORITY, of_critical)]
    }

    /// How long the shutdown of the machine waits at most.
    fn grace(&self) -> Duration {
        self.groups.iter().map(|group| group.grace).sum()
    }

    /// The group of pods with a priority.
    fn group_of(&self, priority: i32) -> usize {
        self.groups.iter().filter(|group| group.priority <= priority).count().saturating_sub(1)
    }
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
        let grace = self.settings.grace();
        if most < grace {
            let text = format!(
                "logind waits {} s at most where {} s are set: set InhibitDelayMaxSec in /etc/systemd/logind.conf",
                most.as_secs(),
                grace.as_secs()
            );
            warn!("{text}");
            self.registry.error(format!("machine shutdown: {text}"));
        }
        let mut inhibitor = Some(logind.inhibit().await?);
        reported.clear();
        info!(grace_s = grace.as_secs(), "The machine's shutdown waits for its pods.");
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

    /// The least important pods first, those that they may need last.
    async fn end_pods(&self) -> Result<(), Stopping> {
        let outlines = self.pods.outlines().await?;
        for (number, ShutdownGroup { grace, .. }) in self.settings.groups.iter().copied().enumerate() {
            let is_in = |pod: &&PodOutline| !pod.is_over && self.settings.group_of(pod.priority) == number;
            let pods = outlines.iter().filter(is_in);
            let ends = pods.map(|pod| self.pods.end_with_machine(&pod.uid, REASON, MESSAGE.to_owned(), grace));
            let ended = tokio::time::timeout(grace + STOP_OVERHEAD, futures::future::join_all(ends)).await;
            if ended.is_err() {
                warn!("Pods take longer to end than the machine waits.");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_ends_with_the_last_group_that_it_is_important_enough_for() {
        let group = |priority, seconds| ShutdownGroup { priority, grace: Duration::from_secs(seconds) };
        let settings =
            MachineShutdown { groups: vec![group(-10, 5), group(0, 10), group(1000, 3)], bus: PathBuf::new() };
        let of = |priority| settings.group_of(priority);
        assert_eq!([-11, -10, -1, 0, 999, 1000, i32::MAX].map(of), [0, 0, 0, 1, 1, 2, 2]);
        assert_eq!(settings.grace(), Duration::from_secs(18));
        let seconds = Duration::from_secs;
        assert_eq!(MachineShutdown::of_two(seconds(20), seconds(5)), [group(0, 15), group(CRITICAL_PRIORITY, 5)]);
    }
}
