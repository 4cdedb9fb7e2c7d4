//! Tests of `schedule`: what reads as one, and its times against a walk through every minute.

use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).0
}

/// New York, Berlin, a zone that changes at midnight, one that did so a minute later, one that shifts by half an hour, none.
fn zones() -> Vec<TimeZone> {
    let posix = [
        "EST5EDT,M3.2.0,M11.1.0",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "EET-2EEST,M3.5.0/0,M10.5.0/0",
        "NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01",
        "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
    ];
    let posix = posix.into_iter().map(|text| TimeZone::posix(text).unwrap());
    posix.chain([TimeZone::UTC]).collect()
}

#[test]
fn what_is_no_schedule_says_why_in_upstreams_words() {
    for (text, expected) in [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        ("@often", "unrecognized descriptor: @often"),
        ("@every x", "failed to parse duration @every x: time: invalid duration"),
        ("@every 1h 5m", "failed to parse duration @every 1h 5m: time: invalid duration"),
        ("@every 99999999999h", "failed to parse duration @every 99999999999h: time: invalid duration"),
        ("TZ=UTC", "invalid schedule format: TZ=UTC"),
    ] {
        assert_eq!(Schedule::parse(text).map_err(|error| error.to_string()), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn a_schedule_may_be_written_in_several_ways() {
    for (one, other) in [
        ("@yearly", "0 0 1 jan ?"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * SUN"),
        ("@midnight", "@daily"),
        ("@hourly", "0 */1 * * *"),
        ("1-5,7 * * * *", "1,2,3,4,5,7 * * * *"),
        ("50/4 * * * *", "50,54,58 * * * *"),
        ("0-10/5 * * * *", "0,5,10 * * * *"),
        ("0 0 1 Jan-mar mon-WED", "0 0 1 1,2,3 1-3"),
        ("@every 1h30m", "@every 90m"),
        ("@every 1.5h", "@every 5400s"),
        ("@every 10ms", "@every 1s"),
        ("@every -5m", "@every 1s"),
        ("@every 1500ms", "@every 1s"),
    ] {
        assert_eq!(schedule(one), schedule(other), "{one}");
    }
    assert_eq!(
        Schedule::parse("CRON_TZ=Europe/Berlin  5 * * * *").unwrap(),
        (schedule("5 * * * *"), Some("Europe/Berlin"))
    );
}

/// Zone, schedule, time, next time.
#[test]
fn next_times() {
    let zones = zones();
    let [new_york, berlin, cairo, .., utc] = &zones[..] else { panic!("six zones") };
    for (zone, text, after, expected) in [
        (utc, "*/15 * * * *", "2026-07-09T14:45:00Z", "2026-07-09T15:00:00Z"),
        (utc, "*/15 * * * *", "2026-07-09T14:44:59.9Z", "2026-07-09T14:45:00Z"),
        (utc, "0 0 29 2 *", "2026-07-09T14:45:00Z", "2028-02-29T00:00:00Z"),
        (utc, "59 23 31 12 *", "2026-12-31T23:59:00Z", "2027-12-31T23:59:00Z"),
        // Day of month and day of week: either, unless one of them is free.
        (utc, "0 0 13 * 5", "2026-07-01T00:00:00Z", "2026-07-03T00:00:00Z"),
        (utc, "0 0 13 * *", "2026-07-01T00:00:00Z", "2026-07-13T00:00:00Z"),
        (utc, "0 0 ? * 1", "2026-07-01T00:00:00Z", "2026-07-06T00:00:00Z"),
        // A step makes a `*` a list like any other.
        (utc, "0 0 */10 * 5", "2026-07-01T00:00:00Z", "2026-07-03T00:00:00Z"),
        (berlin, "0 9 * * *", "2026-01-01T08:00:00Z", "2026-01-02T08:00:00Z"),
        (berlin, "0 9 * * *", "2026-07-01T08:00:00Z", "2026-07-02T07:00:00Z"),
        // 02:30 does not come on the day on which clocks are put forward.
        (new_york, "30 2 * * *", "2026-03-07T08:00:00Z", "2026-03-09T06:30:00Z"),
        // 01:30 comes twice when they are put back.
        (new_york, "30 1 * * *", "2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z"),
        (new_york, "30 1 * * *", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"),
        (new_york, "30 1 * * *", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"),
        // Midnight does not come.
        (cairo, "0 0 * * *", "2026-03-28T12:00:00Z", "2026-03-29T21:00:00Z"),
        (utc, "@every 90s", "2026-07-09T14:45:00.7Z", "2026-07-09T14:46:30Z"),
    ] {
        let next = schedule(text).next(zone, time(after));
        assert_eq!(next, Some(time(expected)), "{text} after {after}");
    }
    for never in ["0 0 31 2 *", "0 0 30 feb *", ", * * * *", "0 0 31 4,6,9,11 *"] {
        assert_eq!(schedule(never).next(utc, time("2026-07-09T14:45:00Z")), None, "{never}");
        let (long_ago, now) = (time("1970-01-01T00:00:00Z"), time("2026-07-09T14:45:00Z"));
        assert_eq!(schedule(never).last_between(utc, long_ago, now), None, "{never}");
    }
}

#[test]
fn the_last_of_many_missed_times_is_found_without_a_walk() {
    let utc = TimeZone::UTC;
    for (text, after, now, expected) in [
        ("* * * * *", "1970-01-01T00:00:00Z", "2026-07-09T14:45:10Z", Some("2026-07-09T14:45:00Z")),
        ("0 0 29 2 *", "1970-01-01T00:00:00Z", "2026-07-09T14:45:10Z", Some("2024-02-29T00:00:00Z")),
        ("* 10 * * 1-5", "2025-07-01T10:30:00Z", "2026-07-11T09:00:00Z", Some("2026-07-10T10:59:00Z")),
        ("@every 7s", "1970-01-01T00:00:00Z", "2026-07-09T14:45:10Z", Some("2026-07-09T14:45:09Z")),
        ("@every 1h", "2026-07-09T14:00:00Z", "2026-07-09T14:59:59Z", None),
        ("0 * * * *", "2026-07-09T14:00:00Z", "2026-07-09T14:59:59Z", None),
        ("0 * * * *", "2026-07-09T14:00:00Z", "2026-07-09T15:00:00Z", Some("2026-07-09T15:00:00Z")),
        // A clock that was put back.
        ("0 * * * *", "2026-07-09T14:00:00Z", "2026-07-09T12:10:00Z", None),
        ("@every 1h", "2026-07-09T14:00:00Z", "2026-07-09T12:10:00Z", None),
    ] {
        let last = schedule(text).last_between(&utc, time(after), time(now));
        assert_eq!(last, expected.map(time), "{text} in {after} to {now}");
    }
}

/// Whether a minute matches, field by field.
fn matches(fields: &Fields, zone: &TimeZone, at: Timestamp) -> bool {
    let local = zone.to_datetime(at);
    local.second() == 0
        && (fields.minutes >> local.minute()) & 1 == 1
        && (fields.hours >> local.hour()) & 1 == 1
        && fields.matches_day(local.date())
}

const WALK_DAYS: i64 = 40;

#[test]
fn times_are_those_that_a_walk_through_every_minute_finds() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let zones = zones();
    let mut found = 0;
    for _ in 0..400 {
        let mut field = |min: u32, max: u32, free: f64| {
            if random.f64() < free {
                return "*".to_owned();
            }
            let start = random.u32(min..=max);
            match random.u8(0..4) {
                0 => format!("{start}"),
                1 => format!("{start}-{}", random.u32(start..=max)),
                2 => format!("*/{}", random.u32(1..=max)),
                _ => format!("{start},{}", random.u32(min..=max)),
            }
        };
        let fields = [field(0, 59, 0.2), field(0, 23, 0.4), field(1, 31, 0.6), field(1, 12, 0.7), field(0, 6, 0.6)];
        let text = fields.join(" ");
        let Schedule::Fields(fields) = schedule(&text) else { panic!("{text} has fields") };
        let zone = &zones[random.usize(..zones.len())];
        // Half of them around a change of an offset.
        let mut start = Timestamp::from_second(random.i64(1_735_000_000..1_900_000_000)).unwrap();
        if random.bool()
            && let Some(change) = zone.following(start).next()
        {
            start = change.timestamp() + SignedDuration::from_secs(random.i64(-90_000..90_000));
        }
        let first = start.as_second().div_euclid(60) + 1;
        let minute = |number: i64| Timestamp::from_second(number * 60).unwrap();
        let walked = (first..first + WALK_DAYS * 24 * 60).map(minute).find(|at| matches(&fields, zone, *at));
        let next = fields.next(zone, start);
        match walked {
            Some(_) => assert_eq!(next, walked, "{text} after {start} in {zone:?}; SEED={seed}"),
            None => {
                assert!(next.is_none_or(|next| next > minute(first + WALK_DAYS * 24 * 60 - 1)), "{text}; SEED={seed}")
            }
        }
        // Backwards: the last time up to somewhere after it is what walking back finds.
        let to = random.i64(0..3 * 24 * 60);
        let now = minute(first + to) + SignedDuration::from_secs(random.i64(0..60));
        let walked = (first..=first + to).rev().map(minute).find(|at| matches(&fields, zone, *at));
        assert_eq!(fields.last_between(zone, start, now), walked, "{text} in {start} to {now}, {zone:?}; SEED={seed}");
        found += usize::from(walked.is_some());
    }
    assert!(found > 20, "most schedules have times");
}

#[test]
fn no_text_does_harm() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let parts = [
        "0",
        "1",
        "7",
        "59",
        "99999999999999999999",
        "*",
        "/",
        "-",
        ",",
        "?",
        "@",
        " ",
        " ",
        "TZ=",
        "CRON_TZ=",
        "UTC",
        "@every ",
        "@daily",
        "1h",
        "5m",
        "0.5s",
        "µs",
        "-",
        "+",
        ".",
        "jan",
        "MON",
        "é",
        "\u{0}",
    ];
    let now = time("2026-07-09T14:45:10Z");
    let zones = zones();
    let mut read = 0;
    for _ in 0..20_000 {
        let mut text: String = (0..random.usize(0..8)).map(|_| parts[random.usize(..parts.len())]).collect();
        if random.bool() {
            text = format!("{text} * * {} *", parts[random.usize(..parts.len())]);
        }
        let Ok((schedule, _)) = Schedule::parse(&text) else { continue };
        read += 1;
        let zone = &zones[random.usize(..zones.len())];
        for at in [now, Timestamp::UNIX_EPOCH, Timestamp::MIN, Timestamp::MAX] {
            let next = schedule.next(zone, at);
            assert!(next.is_none_or(|next| next > at), "{text:?} after {at}; SEED={seed}");
            let last = schedule.last_between(zone, at, now);
            assert!(last.is_none_or(|last| at < last && last <= now), "{text:?} from {at}; SEED={seed}");
        }
    }
    assert!(read > 100, "{read} read");
}
