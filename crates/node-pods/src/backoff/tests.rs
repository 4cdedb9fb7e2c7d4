use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn pauses_double_up_to_five_minutes() {
    let mut backoff = Backoff::default();
    let pauses: Vec<u64> = (0..8).map(|_| backoff.ended(Duration::from_secs(1), at(0)).as_secs()).collect();
    assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn a_run_of_ten_minutes_starts_afresh() {
    let mut backoff = Backoff::default();
    for _ in 0..5 {
        backoff.ended(Duration::from_secs(1), at(0));
    }
    assert_eq!(backoff.ended(Duration::from_secs(600), at(1000)), Duration::ZERO);
    assert_eq!(backoff.holds_until(at(1000)), None);
    backoff.ended(Duration::from_secs(599), at(2000));
    assert_eq!(backoff.holds_until(at(2000)), Some(at(2010)));
    assert_eq!(backoff.holds_until(at(2010)), None);
}

proptest! {
    #[test]
    fn a_pause_is_never_longer_than_five_minutes_whatever_the_clock(
        runs in proptest::collection::vec((0_u64..2000, 0_i64..4_000_000_000), 1..40), now in 0_i64..4_000_000_000,
    ) {
        let mut backoff = Backoff::default();
        for (ran, end) in runs {
            prop_assert!(backoff.ended(Duration::from_secs(ran), at(end)) <= LONGEST);
        }
        if let Some(until) = backoff.holds_until(at(now)) {
            prop_assert!(until > at(now) && until <= at(now + 300));
        }
    }
}
