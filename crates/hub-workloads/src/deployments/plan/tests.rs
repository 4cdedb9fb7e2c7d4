//! Tests of `plan`: its decisions, as data.

use super::*;

fn rolling(replicas: i64, surge: i64, unavailable: i64) -> Demand {
    Demand { replicas, strategy: Strategy::Rolling(Limits { surge, unavailable }), counted: 0 }
}

fn size(replicas: i64, available: i64) -> Size {
    Size { replicas, present: replicas, available, max_replicas: None }
}

/// The new set is the last one.
fn check_roll(demand: Demand, sizes: &[(i64, i64)], expected: &[Scale]) {
    let sizes: Vec<Size> = sizes.iter().map(|(replicas, available)| size(*replicas, *available)).collect();
    assert_eq!(roll(demand, &sizes, sizes.len() - 1), expected, "{demand:?} {sizes:?}");
}

#[test]
fn a_rollout_surges_first_and_takes_old_pods_as_new_ones_become_available() {
    let demand = rolling(10, 3, 2);
    check_roll(demand, &[(10, 10), (0, 0)], &[(1, 3)]);
    check_roll(demand, &[(10, 10), (3, 0)], &[(0, 8)]);
    check_roll(demand, &[(8, 8), (3, 0)], &[(1, 5)]);
    check_roll(demand, &[(8, 8), (5, 0)], &[]);
    check_roll(demand, &[(8, 8), (5, 4)], &[(0, 4)]);
    check_roll(demand, &[(0, 0), (10, 10)], &[]);
    check_roll(demand, &[(0, 0), (12, 10)], &[(1, 10)]);
}

#[test]
fn pods_that_do_not_work_are_deleted_first_and_block_nothing() {
    // Three of the old pods fail; the new ones are not available yet.
    check_roll(rolling(10, 3, 0), &[(10, 7), (3, 0)], &[]);
    check_roll(rolling(10, 3, 2), &[(10, 7), (3, 0)], &[(0, 8)]);
    // The oldest set goes first.
    check_roll(rolling(4, 1, 1), &[(2, 0), (2, 2), (1, 1)], &[(0, 0)]);
    // One node holds its pod as not ready; the rest still moves on.
    check_roll(rolling(3, 1, 0), &[(3, 2), (1, 1)], &[(0, 2)]);
}

#[test]
fn without_a_surge_old_pods_are_deleted_before_new_ones_come() {
    let demand = rolling(3, 0, 1);
    check_roll(demand, &[(3, 3), (0, 0)], &[(0, 2)]);
    check_roll(demand, &[(2, 2), (0, 0)], &[(1, 1)]);
    check_roll(demand, &[(2, 2), (1, 0)], &[]);
    check_roll(demand, &[(2, 2), (1, 1)], &[(0, 1)]);
}

#[test]
fn recreating_waits_for_the_last_old_pod() {
    let demand = Demand { replicas: 2, strategy: Strategy::Recreate, counted: 0 };
    let check = |sizes: &[(i64, i64)], new, is_old_running, expected: &[Scale]| {
        let sizes: Vec<Size> = sizes.iter().map(|(replicas, available)| size(*replicas, *available)).collect();
        assert_eq!(recreate(demand, &sizes, new, is_old_running), expected, "{sizes:?}");
    };
    check(&[(2, 2)], None, true, &[(0, 0)]);
    check(&[(0, 0)], None, true, &[]);
    check(&[(0, 0), (0, 0)], Some(1), true, &[]);
    check(&[(0, 0), (0, 0)], Some(1), false, &[(1, 2)]);
    check(&[(0, 0), (2, 2)], Some(1), false, &[]);
    check(&[(2, 2), (2, 2)], Some(0), false, &[(1, 0)]);
}

fn check_rescale(demand: Demand, sizes: &[(i64, i64, i64)], new: Option<usize>, expected: &[Scale]) {
    let size = |(replicas, available, max): &(i64, i64, i64)| Size {
        replicas: *replicas,
        present: *replicas,
        available: *available,
        max_replicas: Some(*max).filter(|max| *max > 0),
    };
    let sizes: Vec<Size> = sizes.iter().map(size).collect();
    let mut scales = rescale(demand, &sizes, new);
    scales.sort_unstable();
    assert_eq!(scales, expected, "{demand:?} {sizes:?}");
}

#[test]
fn scaling_gives_all_to_the_only_set_that_runs() {
    check_rescale(rolling(5, 1, 1), &[(3, 3, 4)], Some(0), &[(0, 5)]);
    check_rescale(rolling(5, 1, 1), &[(0, 0, 4), (3, 3, 4)], Some(0), &[(1, 5)]);
    check_rescale(rolling(5, 1, 1), &[(0, 0, 4), (0, 0, 4)], Some(0), &[(0, 5)]);
    check_rescale(rolling(5, 1, 1), &[(0, 0, 4), (0, 0, 4)], None, &[(1, 5)]);
    check_rescale(rolling(5, 1, 1), &[(5, 5, 6)], Some(0), &[(0, 5)]);
    check_rescale(rolling(1, 0, 1), &[(1, 1, 2), (0, 0, 2)], None, &[(0, 1)]);
    check_rescale(rolling(5, 1, 1), &[], None, &[]);
    check_rescale(rolling(3, 1, 1), &[(2, 2, 4), (3, 3, 4)], Some(1), &[(0, 0), (1, 3)]);
}

/// Sizes and results are those of upstream's documentation of proportional scaling.
#[test]
fn scaling_in_the_middle_of_a_rollout_spreads_over_the_sets() {
    check_rescale(rolling(15, 3, 2), &[(8, 8, 13), (5, 0, 13)], Some(1), &[(0, 11), (1, 7)]);
    check_rescale(rolling(5, 3, 2), &[(8, 8, 13), (5, 0, 13)], Some(1), &[(0, 5), (1, 3)]);
    check_rescale(rolling(0, 3, 2), &[(8, 8, 13), (5, 0, 13)], Some(1), &[(0, 0), (1, 0)]);
    check_rescale(rolling(10, 3, 2), &[(8, 8, 13), (5, 0, 13)], Some(1), &[(0, 8), (1, 5)]);
    let stuck = Demand { strategy: Strategy::Recreate, ..rolling(9, 0, 0) };
    check_rescale(stuck, &[(8, 8, 13), (5, 0, 13)], Some(1), &[(0, 8), (1, 5)]);
}

#[test]
fn shares_add_up_whatever_the_sizes() {
    fastrand::seed(7);
    for _ in 0..2000 {
        let sizes: Vec<Size> = (0..fastrand::usize(2..6))
            .map(|_| Size {
                replicas: fastrand::i64(1..50),
                present: 0,
                available: fastrand::i64(0..50),
                max_replicas: fastrand::bool().then(|| fastrand::i64(1..200)),
            })
            .collect();
        let demand =
            Demand { counted: fastrand::i64(0..100), ..rolling(fastrand::i64(1..200), fastrand::i64(0..20), 1) };
        let scales = shares(demand, &sizes, (0..sizes.len()).collect());
        let sum: i64 = scales.iter().map(|(_, size)| size).sum();
        assert!(scales.iter().all(|(_, size)| *size >= 0), "{demand:?} {sizes:?} {scales:?}");
        assert_eq!(sum, demand.max_replicas(), "{demand:?} {sizes:?} {scales:?}");
    }
}

#[test]
fn pods_that_an_old_set_has_still_to_delete_count() {
    let sizes = [Size { present: 6, ..size(4, 4) }, size(2, 2)];
    assert_eq!(roll(rolling(6, 2, 0), &sizes, 1), [], "there may be eight already");
    assert_eq!(roll(rolling(6, 2, 0), &[size(4, 4), size(2, 2)], 1), [(1, 4)]);
}
