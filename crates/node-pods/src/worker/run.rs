//! The loop of a worker: decide, act, publish, wait.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{Halt, Phase, Worker};
use crate::backoff::sleep_until;
use crate::inbox::{Done, Messages};
use crate::model::Pod;
use crate::reconcile::{Action, ContainerPhase};

impl Worker {
    /// Works until the pod has ended, or until `life` does, which leaves its containers as they are. Answers whether the pod has ended.
    pub(crate) async fn run(mut self, life: CancellationToken) -> bool {
        let inbox = self.inbox.clone();
        self.pre_pull();
        loop {
            let began = Instant::now();
            let decision = self.decide();
            let mut again = false;
            for action in decision.actions {
                again |= self.act(action);
            }
            again |= self.resize_containers();
            self.publish();
            self.shared.context.sync_seconds.observe(began.elapsed().as_secs_f64());
            if again {
                continue;
            }
            self.report_halted();
            let look_again = decision.look_again_at.map(|at| tokio::time::Instant::now() + until(at));
            let wake = [
                look_again,
                self.volumes.look_at(),
                self.volumes.measure_at(),
                self.keep_reported_at(),
                self.resize_at(),
            ];
            let wake = wake.into_iter().flatten().min();
            tokio::select! {
                () = life.cancelled() => return false,
                () = inbox.wait() => {}
                () = sleep_until(wake) => {
                    self.look_at_volumes();
                    self.measure_volumes();
                    self.keep_reported();
                }
            }
            if self.take(inbox.take()) {
                return true;
            }
        }
    }

    /// Does one thing, or begins it; answers whether to decide again at once.
    fn act(&mut self, action: Action) -> bool {
        match action {
            Action::PrepareVolumes => self.prepare_volumes(),
            Action::Start { container, attempt } => self.start(&container, attempt),
            Action::Stop { container, grace } => self.stop(&container, grace),
            Action::Fail { reason, message } => {
                self.fail(reason, message);
                return true;
            }
            // Decided again when that is done.
            Action::Finish if self.volumes.hold_removal() => {}
            Action::Finish => self.remove(),
        }
        false
    }

    /// Takes note of all that came; answers whether the pod has ended.
    fn take(&mut self, messages: Messages) -> bool {
        if let Some(pod) = messages.update {
            self.update(*pod);
            self.pre_pull();
        }
        if messages.end && self.phase != Phase::Removing {
            self.phase = Phase::Ending;
        }
        if let Some(on_hold) = messages.hold {
            self.state.on_hold = on_hold;
            self.keep_state(true);
        }
        if let Some((grace, done)) = messages.halt {
            self.halt = Some(Halt { grace, done: Some(done) });
        }
        if let Some(termination) = messages.termination {
            self.terminate(termination);
        }
        if messages.refresh {
            self.refresh();
        }
        if messages.images_added {
            self.images_added();
        }
        if let Some(why) = messages.token_rejection {
            self.token_rejected(why);
        }
        let mut has_ended = false;
        for done in messages.done {
            match done {
                Done::Started { id, result } => self.started(id, result),
                Done::NotStarted { container, reason } => self.hold(&container, "CreateContainerConfigError", reason),
                Done::Image { container, image, news } => self.image_news(&container, &image, &news),
                Done::PullSecrets { missing } => self.pull_secrets(missing),
                Done::ImageHere { container, image } => self.image_here(&container, &image),
                Done::PrePulled(pulled) => self.pre_pulled(&pulled),
                Done::Hook { id, kind, result } => self.hook_done(&id, kind, result),
                Done::Resized { id, result } => self.resized(&id, result),
                Done::Stopped { id, result } => self.stopped(&id, result),
                Done::SetUp(instance) => self.set_up(instance),
                Done::NotSetUp { why, is_needed } => self.not_set_up(why, is_needed),
                Done::Volumes(result) => self.volumes_prepared(result),
                Done::VolumesDied(cause) => self.volumes_died(&cause),
                Done::Measured { excess, took } => self.volumes_measured(excess, took),
                Done::VolumesSlow => self.volumes_slow(),
                Done::Rejected(rejection) => self.rejected(rejection),
                Done::Removed(result) => {
                    self.removed(result);
                    has_ended = true;
                }
            }
        }
        for status in messages.containers.into_values() {
            self.accept(status, false);
        }
        for report in messages.probes.into_values() {
            self.probed(report);
        }
        has_ended
    }

    fn update(&mut self, pod: Pod) {
        let old_grace = self.pod.grace();
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_none() {
            self.restart_changed();
            return;
        }
        let hurry = self.is_ending() && self.pod.grace() < old_grace;
        if self.phase != Phase::Removing {
            self.phase = Phase::Ending;
        }
        if hurry {
            // Asked to end sooner than before: a stop with less grace overtakes the one under way.
            let stopping: Vec<String> = self
                .containers
                .iter()
                .filter(|(_, record)| record.acting == Some(ContainerPhase::Stopping))
                .map(|(name, _)| name.clone())
                .collect();
            for name in stopping {
                self.stop(&name, self.pod.grace());
            }
        }
    }

    /// Reports to whoever halted the pod that nothing of it is active any more.
    fn report_halted(&mut self) {
        if self.containers.values().any(|record| record.view().state.is_active()) {
            return;
        }
        if let Some(done) = self.halt.as_mut().and_then(|halt| halt.done.take()) {
            let _ = done.send(());
        }
    }
}

fn until(at: Timestamp) -> Duration {
    // A little past the moment, so that the clock has reached it when the decision is made.
    super::container::between(Timestamp::now(), at) + Duration::from_millis(5)
}
