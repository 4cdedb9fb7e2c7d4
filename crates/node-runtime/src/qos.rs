//! Whom the kernel kills first when the machine is out of memory, as kubelets of Kubernetes decide it.

use api_kube::QosClass;

/// The agent: without it nothing is restarted.
pub const OOM_SCORE_AGENT: i32 = -999;

/// Of containers that have all they may use reserved.
const OOM_SCORE_GUARANTEED: i32 = -997;

/// Of containers that are promised nothing.
const OOM_SCORE_BEST_EFFORT: i32 = 1000;

/// `oom_score_adj` of a container: the kernel's own score is the share of memory that a process uses, in thousandths, and
/// this is added. So a burstable container that uses more than it asked for comes before one that keeps to it, and all come
/// after those of best-effort pods.
///
/// `memory_request` is the container's; for a sidecar the larger of its own and the smallest of the pod's ordinary containers,
/// so that it does not die before what it serves. `is_critical` is a pod with the priority of `system-node-critical`.
pub fn oom_score_adj(class: QosClass, is_critical: bool, memory_request: u64, memory_capacity: u64) -> i32 {
    match class {
        _ if is_critical => OOM_SCORE_GUARANTEED,
        QosClass::Guaranteed => OOM_SCORE_GUARANTEED,
        QosClass::BestEffort => OOM_SCORE_BEST_EFFORT,
        QosClass::Burstable => {
            // A machine whose memory is not known promises nothing.
            let capacity = u128::from(memory_capacity.max(1));
            let share = (1000 * u128::from(memory_request) / capacity).min(1000) as i32;
            // Always above guaranteed ones, and below best-effort ones.
            (1000 - share).clamp(1000 + OOM_SCORE_GUARANTEED, OOM_SCORE_BEST_EFFORT - 1)
        }
    }
}

/// Lets the kernel take anything else before this process. Only root may; without, the agent is as likely to be killed as
/// what it runs.
pub fn spare_this_process() {
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_AGENT.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_kubelets() {
        let capacity = 4_000_000_000;
        for (class, is_critical, request, score) in [
            (QosClass::Guaranteed, false, 1_000_000_000, -997),
            (QosClass::BestEffort, false, 0, 1000),
            (QosClass::BestEffort, true, 0, -997),
            (QosClass::Burstable, false, 0, 999),
            (QosClass::Burstable, false, 1, 999),
            (QosClass::Burstable, false, 400_000_000, 900),
            (QosClass::Burstable, false, 1_000_000_000, 750),
            (QosClass::Burstable, false, 3_999_000_000, 3),
            (QosClass::Burstable, false, u64::MAX, 3),
        ] {
            assert_eq!(oom_score_adj(class, is_critical, request, capacity), score, "{class:?} {request}");
        }
    }
}
