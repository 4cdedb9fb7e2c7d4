//! How the ReplicaSets of a Deployment are scaled: plain functions of their sizes, in upstream's order.
//!
//! One step is taken at a time. A rollout scales the new set up as far as the surge allows; only when there is nothing to
//! scale up are old sets scaled down as far as availability allows, those with pods that do not work first. The change of a
//! set's status brings the next step.

use super::view::{Limits, Strategy};

/// One ReplicaSet, by what counts here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// `spec.replicas`.
    pub replicas: i64,
    /// Pods that there may be: more than `replicas` while the set has some to delete.
    pub present: i64,
    /// Available pods that are to stay.
    pub available: i64,
    /// `deployment.kubernetes.io/max-replicas`.
    pub max_replicas: Option<i64>,
}

/// What a Deployment demands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub replicas: i64,
    pub strategy: Strategy,
    /// `status.replicas`.
    pub counted: i64,
}

impl Demand {
    fn limits(self) -> Limits {
        self.strategy.limits()
    }

    /// `spec.replicas` and the surge.
    pub fn max_replicas(self) -> i64 {
        self.replicas.saturating_add(self.limits().surge)
    }

    fn min_available(self) -> i64 {
        self.replicas.saturating_sub(self.limits().unavailable)
    }
}

/// The index of a set, and the size that it gets.
pub(super) type Scale = (usize, i64);

fn total(sizes: &[Size]) -> i64 {
    sizes.iter().fold(0, |sum, size| sum.saturating_add(size.replicas))
}

/// Pods of all sets that there may be.
pub(super) fn present(sizes: &[Size]) -> i64 {
    sizes.iter().fold(0, |sum, size| sum.saturating_add(size.present))
}

/// The size of a new set that has `new` pods now, when there may be `present` of all sets. Unlike upstream, pods count that an
/// old set has still to delete: at no moment are there more than the surge allows.
pub(super) fn new_size(demand: Demand, new: i64, present: i64) -> i64 {
    match demand.strategy {
        Strategy::Recreate => demand.replicas,
        Strategy::Rolling(_) => {
            let free = demand.max_replicas().saturating_sub(present);
            new + free.min(demand.replicas - new).max(0)
        }
    }
}

/// One step of a rolling update. `sizes` are all sets, oldest first; `new` is the index of the new one.
pub(super) fn roll(demand: Demand, sizes: &[Size], new: usize) -> Vec<Scale> {
    let size = sizes[new].replicas;
    let up = if size > demand.replicas { demand.replicas } else { new_size(demand, size, present(sizes)) };
    if up != size {
        return vec![(new, up)];
    }
    let unavailable = size.saturating_sub(sizes[new].available);
    let spare = total(sizes).saturating_sub(demand.min_available()).saturating_sub(unavailable);
    let is_old = |index: &usize| *index != new && sizes[*index].replicas > 0;
    let old: Vec<usize> = (0..sizes.len()).filter(is_old).collect();
    if old.is_empty() || spare <= 0 {
        return Vec::new();
    }
    let mut after: Vec<Size> = sizes.to_vec();
    // What does not work may be deleted without anybody missing it; without this, it would hold the rollout up for ever.
    let mut left = spare;
    for index in &old {
        let broken = after[*index].replicas.saturating_sub(after[*index].available).clamp(0, left);
        after[*index].replicas -= broken;
        left -= broken;
    }
    let available = after.iter().fold(0_i64, |sum, size| sum.saturating_add(size.available));
    let mut left = available.saturating_sub(demand.min_available());
    for index in &old {
        let fewer = after[*index].replicas.min(left.max(0));
        after[*index].replicas -= fewer;
        left -= fewer;
    }
    let changed = |index: &usize| after[*index].replicas != sizes[*index].replicas;
    old.iter().copied().filter(changed).map(|index| (index, after[index].replicas)).collect()
}

/// One step of `Recreate`: all old sets go down first; the new one goes up when no old pod is left.
pub(super) fn recreate(demand: Demand, sizes: &[Size], new: Option<usize>, is_old_running: bool) -> Vec<Scale> {
    let is_old = |index: &usize| Some(*index) != new && sizes[*index].replicas > 0;
    let down: Vec<Scale> = (0..sizes.len()).filter(is_old).map(|index| (index, 0)).collect();
    if !down.is_empty() || is_old_running {
        return down;
    }
    let up = new.filter(|new| sizes[*new].replicas != demand.replicas);
    up.map(|new| (new, demand.replicas)).into_iter().collect()
}

/// What a change of `spec.replicas` alone means, in the middle of a rollout or while it is paused: one set gets all of it,
/// several get their shares. `sizes` are oldest first. Every set with pods is named, with the size it has if it keeps it: what
/// was demanded is noted on it. Upstream notes it only on sets that change, takes the others for scaled anew at every look, and
/// rolls nothing out ever after.
pub(super) fn rescale(demand: Demand, sizes: &[Size], new: Option<usize>) -> Vec<Scale> {
    let active: Vec<usize> = (0..sizes.len()).filter(|index| sizes[*index].replicas > 0).collect();
    let only = match active[..] {
        [] => new.or(sizes.len().checked_sub(1)),
        [only] => Some(only),
        _ => None,
    };
    if let Some(only) = only {
        return vec![(only, demand.replicas)];
    }
    if active.is_empty() {
        return Vec::new();
    }
    let is_saturated =
        new.is_some_and(|new| sizes[new].replicas == demand.replicas && sizes[new].available == demand.replicas);
    if is_saturated {
        let size = |index: usize| if Some(index) == new { demand.replicas } else { 0 };
        return active.into_iter().map(|index| (index, size(index))).collect();
    }
    match demand.strategy {
        Strategy::Recreate => active.into_iter().map(|index| (index, sizes[index].replicas)).collect(),
        Strategy::Rolling(_) => shares(demand, sizes, active),
    }
}

/// Spreads what is to be added or taken over the active sets, in proportion to their sizes.
fn shares(demand: Demand, sizes: &[Size], mut active: Vec<usize>) -> Vec<Scale> {
    let allowed = if demand.replicas > 0 { demand.max_replicas() } else { 0 };
    let present = active.iter().fold(0_i64, |sum, index| sum.saturating_add(sizes[*index].replicas));
    let change = allowed.saturating_sub(present);
    // The largest first; of equal ones the newer are scaled up first, and the older down.
    match change > 0 {
        true => active.sort_by_key(|index| (-sizes[*index].replicas, usize::MAX - index)),
        false => active.sort_by_key(|index| (-sizes[*index].replicas, *index)),
    }
    let mut after = Vec::with_capacity(active.len());
    let mut changed = 0;
    for index in active {
        let size = sizes[index];
        let share = if change == 0 || changed == change { 0 } else { share(demand, size, change - changed) };
        changed += share;
        after.push((index, size.replicas + share));
    }
    // Rounding leaves a few over: they are the largest set's, as far as it has any to give.
    let mut left = change - changed;
    for (_, size) in &mut after {
        let given = left.max(-*size);
        *size += given;
        left -= given;
    }
    after
}

fn share(demand: Demand, size: Size, left: i64) -> i64 {
    let fraction = if demand.replicas == 0 {
        -size.replicas
    } else {
        let before = size.max_replicas.unwrap_or(demand.counted).max(1);
        rounded(size.replicas.saturating_mul(demand.max_replicas()), before) - size.replicas
    };
    // What was noted of a set may be old: a share never goes the other way.
    if left > 0 { fraction.clamp(0, left) } else { fraction.clamp(left, 0) }
}

/// The quotient of two numbers that are not negative, rounded half up.
fn rounded(dividend: i64, divisor: i64) -> i64 {
    dividend.saturating_mul(2).saturating_add(divisor) / divisor.saturating_mul(2)
}

#[cfg(test)]
mod tests;
