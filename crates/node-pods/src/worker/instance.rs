//! What the containers of a pod share, and how long: its instance.
//!
//! The runtime sets it up and says its id. Another id, after a reboot above all, means that what init containers set up (modules,
//! sysctls, memory volumes, `/run`) is lost: they run again. Attempts are counted on, so each container knows from which one on it
//! is in the present instance.

use std::net::IpAddr;

use node_runtime::{ContainerState, PodInstance};

use super::Worker;
use crate::reconcile::ContainerPhase;
use crate::store::Instance;

impl Worker {
    /// Takes over the instance that was kept, as long as the runtime has not said another.
    pub(super) fn adopt_instance(&mut self) {
        let Some(instance) = &self.state.instance else { return };
        for (name, first) in &instance.first_attempts {
            if let Some(record) = self.containers.get_mut(name) {
                record.first_attempt = *first;
            }
        }
    }

    /// The pod's own addresses; none is the node's.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.state.instance.as_ref().map(|known| known.instance.addresses.as_slice()).unwrap_or_default()
    }

    /// Takes note of the pod's instance as the runtime has set it up.
    pub(super) fn take_instance(&mut self, instance: PodInstance) {
        if self.state.instance.as_ref().is_some_and(|known| known.instance == instance) {
            return;
        }
        let is_another = self.state.instance.as_ref().is_some_and(|known| known.instance.id != instance.id);
        // What runs is in the present instance, whatever was kept; so is everything of a pod that an earlier program ran.
        let any_runs = self.containers.values().any(|record| record.is_running());
        let has_moved = self.addresses() != instance.addresses;
        let mut first_attempts = self.state.instance.take().map(|known| known.first_attempts).unwrap_or_default();
        if is_another && !any_runs {
            first_attempts = self.containers.iter().map(|(name, record)| (name.clone(), record.next_attempt)).collect();
        }
        self.state.instance = Some(Instance { instance, first_attempts });
        self.adopt_instance();
        // Lost in a power cut it is begun again: one more run of the init containers after one more boot. Addresses are kept through that.
        self.keep_state(has_moved);
    }
}

impl super::container::ContainerRecord {
    /// Whether what was seen last of the container ran in an instance before this one.
    pub(super) fn is_former(&self) -> bool {
        let current = self.observed.current.as_ref();
        self.acting != Some(ContainerPhase::Starting)
            && current.is_some_and(|status| {
                status.id.attempt < self.first_attempt && matches!(status.state, ContainerState::Exited(_))
            })
    }
}
