//! What of a Deployment's pods a step of its rollout is about.
//!
//! A rollout is decided by the sizes of its sets alone ([`plan`](super::plan)). Pods that it has to leave as they are (on nodes out of
//! reach, held by the owner of the box, or not of the canary's nodes) are taken off before, from the sets and from what is demanded,
//! and added again after: so the limits hold for the pods that the step is about, and nobody waits for the others.
//!
//! Say three replicas, one of them on a node out of reach: the step sees a Deployment of two. It ends with two pods of the new set and
//! one of the old set, which has its turn when its node is back.

use super::plan::{Demand, Scale, Size};

/// Pods of one set that a step leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    pub pods: i64,
    /// Those of them that are available.
    pub available: i64,
}

/// What a step is about.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub demand: Demand,
    pub sizes: Vec<Size>,
    /// How many pods of each set are left out.
    left: Vec<i64>,
}

impl Scope {
    /// `left` is in the order of `sizes`; a set of which nothing is said is whole. At least `floor` pods are demanded of the new set.
    pub fn new(demand: Demand, sizes: &[Size], left: &[Left], floor: i64) -> Self {
        let mut off = Vec::with_capacity(sizes.len());
        let narrowed = sizes.iter().enumerate().map(|(index, size)| {
            let left = left.get(index).copied().unwrap_or_default();
            let pods = left.pods.clamp(0, size.replicas.max(0));
            off.push(pods);
            let replicas = size.replicas - pods;
            Size {
                replicas,
                present: size.present.saturating_sub(pods).max(replicas),
                available: (size.available - left.available.clamp(0, pods)).clamp(0, replicas),
                ..*size
            }
        });
        let sizes = narrowed.collect();
        let taken = off.iter().fold(0_i64, |sum, pods| sum.saturating_add(*pods));
        let replicas = demand.replicas.saturating_sub(taken).max(floor.min(demand.replicas)).max(0);
        Self { demand: Demand { replicas, ..demand }, sizes, left: off }
    }

    /// The sizes that sets get, with what was left out of them.
    pub fn widen(&self, scales: Vec<Scale>) -> Vec<Scale> {
        scales.into_iter().map(|(index, size)| (index, size.saturating_add(self.left_of(index)))).collect()
    }

    /// Whether anything is left out.
    pub fn has_left(&self) -> bool {
        self.left.iter().any(|pods| *pods > 0)
    }

    /// How many pods of a set are left out.
    fn left_of(&self, index: usize) -> i64 {
        self.left.get(index).copied().unwrap_or_default()
    }

    /// Whether there is nothing left to do, but for what is left out.
    pub fn is_complete(&self, new: usize) -> bool {
        let old = self.sizes.iter().enumerate().filter(|(index, _)| *index != new);
        let is_old_done = old.into_iter().all(|(_, size)| size.present == 0);
        let size = self.sizes[new];
        is_old_done && size.replicas == self.demand.replicas && size.available == size.replicas
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{new_size, present, roll};
    use super::super::view::{Limits, Strategy};
    use super::*;

    fn demand(replicas: i64, surge: i64, unavailable: i64) -> Demand {
        Demand { replicas, strategy: Strategy::Rolling(Limits { surge, unavailable }), counted: 0 }
    }

    fn size(replicas: i64, available: i64) -> Size {
        Size { replicas, present: replicas, available, max_replicas: None }
    }

    /// The new set is the last one. `left` is pods and those of them that are available.
    fn check(demand: Demand, sizes: &[(i64, i64)], left: &[(i64, i64)], floor: i64, expected: &[Scale]) {
        let sizes: Vec<Size> = sizes.iter().map(|(replicas, available)| size(*replicas, *available)).collect();
        let left: Vec<Left> =
            left.iter().map(|(pods, available)| Left { pods: *pods, available: *available }).collect();
        let scope = Scope::new(demand, &sizes, &left, floor);
        let scales = scope.widen(roll(scope.demand, &scope.sizes, sizes.len() - 1));
        assert_eq!(scales, expected, "{demand:?} {sizes:?} {left:?}");
    }

    #[test]
    fn a_rollout_passes_by_pods_on_nodes_out_of_reach() {
        // Three pods, one of them out of reach: the other two are updated, as with two pods.
        let three = demand(3, 1, 0);
        let away = [(1, 0), (0, 0)];
        check(three, &[(3, 2), (0, 0)], &away, 0, &[(1, 1)]);
        check(three, &[(3, 2), (1, 0)], &away, 0, &[]);
        check(three, &[(3, 2), (1, 1)], &away, 0, &[(0, 2)]);
        check(three, &[(2, 1), (1, 1)], &away, 0, &[(1, 2)]);
        check(three, &[(2, 1), (2, 2)], &away, 0, &[(0, 1)]);
        check(three, &[(1, 0), (2, 2)], &away, 0, &[]);
        // It is back.
        check(three, &[(1, 1), (2, 2)], &[(0, 0), (0, 0)], 0, &[(1, 3)]);
        check(three, &[(1, 1), (3, 3)], &[(0, 0), (0, 0)], 0, &[(0, 0)]);
    }

    #[test]
    fn what_is_out_of_reach_is_not_counted_as_unavailable() {
        // Without a surge: the one that may be unavailable is one of those in reach.
        let three = demand(3, 0, 1);
        check(three, &[(3, 2), (0, 0)], &[(1, 0), (0, 0)], 0, &[(0, 2)]);
        check(three, &[(2, 1), (0, 0)], &[(1, 0), (0, 0)], 0, &[(1, 1)]);
        // A new pod came to a node that is out of reach since: the others are not held up.
        check(three, &[(2, 2), (1, 0)], &[(0, 0), (1, 0)], 0, &[(0, 1)]);
        // All of them: nothing to do, and nothing is deleted.
        check(three, &[(3, 0), (0, 0)], &[(3, 0), (0, 0)], 0, &[]);
        check(three, &[(3, 0), (0, 0)], &[(30, 30), (0, 0)], 0, &[]);
    }

    #[test]
    fn a_held_pod_runs_on_and_is_not_replaced() {
        check(demand(3, 1, 0), &[(1, 1), (2, 2)], &[(1, 1), (0, 0)], 0, &[]);
        check(demand(3, 1, 0), &[(2, 2), (2, 2)], &[(1, 1), (0, 0)], 0, &[(0, 1)]);
    }

    #[test]
    fn a_canary_is_as_large_as_what_runs_on_its_nodes() {
        // Two of five on canary nodes.
        let five = demand(5, 1, 0);
        check(five, &[(5, 5), (0, 0)], &[(3, 3), (0, 0)], 1, &[(1, 1)]);
        check(five, &[(5, 5), (1, 1)], &[(3, 3), (0, 0)], 1, &[(0, 4)]);
        check(five, &[(4, 4), (1, 1)], &[(3, 3), (0, 0)], 1, &[(1, 2)]);
        check(five, &[(4, 4), (2, 2)], &[(3, 3), (0, 0)], 1, &[(0, 3)]);
        check(five, &[(3, 3), (2, 2)], &[(3, 3), (0, 0)], 1, &[]);
        // None there: one more comes up, whatever the surge.
        check(demand(5, 0, 1), &[(5, 5), (0, 0)], &[(5, 5), (0, 0)], 1, &[(1, 1)]);
        check(demand(5, 0, 1), &[(5, 5), (1, 1)], &[(5, 5), (0, 0)], 1, &[]);
        // Nothing is demanded of a Deployment of none.
        check(demand(0, 1, 0), &[(0, 0), (0, 0)], &[], 1, &[]);
    }

    #[test]
    fn a_new_set_begins_with_what_the_step_is_about() {
        let scope = Scope::new(demand(1, 1, 0), &[size(1, 0)], &[Left { pods: 1, available: 0 }], 0);
        assert_eq!(new_size(scope.demand, 0, present(&scope.sizes)), 0, "the only pod is out of reach");
        let scope = Scope::new(demand(5, 1, 0), &[size(5, 5)], &[Left { pods: 3, available: 3 }], 1);
        assert_eq!(new_size(scope.demand, 0, present(&scope.sizes)), 1);
    }

    #[test]
    fn a_rollout_is_complete_but_for_what_it_leaves_out() {
        let is_complete = |sizes: &[(i64, i64)], left: i64| {
            let sizes: Vec<Size> = sizes.iter().map(|(replicas, available)| size(*replicas, *available)).collect();
            Scope::new(demand(3, 1, 0), &sizes, &[Left { pods: left, available: 0 }], 0).is_complete(1)
        };
        assert!(is_complete(&[(1, 0), (2, 2)], 1));
        assert!(!is_complete(&[(1, 0), (2, 1)], 1));
        assert!(!is_complete(&[(2, 1), (2, 2)], 1));
        assert!(is_complete(&[(0, 0), (3, 3)], 0));
    }
}
