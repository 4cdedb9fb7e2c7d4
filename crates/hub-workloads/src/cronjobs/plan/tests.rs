//! Tests of `plan`: CronJobs and their jobs, and what is needed next, as data.

use super::*;

fn time(text: &str) -> Timestamp {
    let text = if text.contains('T') { text.to_owned() } else { format!("2026-07-09T{text}Z") };
    text.parse().unwrap()
}

/// One that was created at 10:00:00.
fn cron_job(schedule: &str) -> CronJob {
    CronJob {
        name: "hello".to_owned(),
        created: time("10:00:00"),
        schedule: schedule.to_owned(),
        kept: [(Ending::Complete, Some(3)), (Ending::Failed, Some(1))],
        ..CronJob::default()
    }
}

fn zone_of(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" => Some(TimeZone::UTC),
        "Europe/Berlin" => Some(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()),
        _ => None,
    }
}

fn reference(name: &str) -> Reference {
    Reference { name: name.to_owned(), uid: format!("uid-{name}"), ..Reference::default() }
}

fn child(name: &str, ending: Option<Ending>) -> Child {
    let (start, completion) = (Some(time("10:00:05")), ending.map(|_| time("10:00:30")));
    Child { name: name.to_owned(), uid: format!("uid-{name}"), is_terminating: false, ending, start, completion }
}

fn say(plan: &Plan) -> String {
    let mut said: Vec<String> = plan.notices.iter().map(|notice| notice.reason.to_owned()).collect();
    said.extend(plan.replace.iter().map(|uid| format!("replace {uid}")));
    said.extend(plan.start.as_ref().map(|start| format!("start {} {}", start.name, start.text)));
    said.extend(plan.again.map(|again| format!("again {}", again.as_secs())));
    said.join("; ")
}

fn check(cron_job: &CronJob, now: &str, expected: &str) {
    let plan = plan(cron_job, &[], &HashSet::new(), &zone_of, time(now));
    assert_eq!(say(&plan), expected, "{cron_job:?} at {now}");
}

#[test]
fn a_job_is_started_at_each_time() {
    let hourly = cron_job("30 * * * *");
    check(&hourly, "10:00:01", "again 1799");
    check(&hourly, "10:29:59", "again 1");
    check(&hourly, "10:30:00", "start hello-29726550 2026-07-09T10:30:00Z; again 3600");
    // The most recent of those that were missed.
    check(&hourly, "12:45:00", "start hello-29726670 2026-07-09T12:30:00Z; again 2700");
    let mut started = hourly.clone();
    started.status.last_schedule = Some(time("12:30:00"));
    check(&started, "12:45:00", "again 2700");
    check(&started, "13:30:00", "start hello-29726730 2026-07-09T13:30:00Z; again 3600");
    let every = cron_job("@every 90s");
    check(&every, "10:01:29", "again 1");
    check(&every, "10:04:31", "start hello-29726524 2026-07-09T10:04:30Z; again 89");
    let mut berlin = cron_job("0 14 * * *");
    berlin.zone = Some("Europe/Berlin".to_owned());
    check(&berlin, "12:00:10", "start hello-29726640 2026-07-09T14:00:00+02:00; again 86390");
    let in_schedule = cron_job("TZ=Europe/Berlin 0 14 * * *");
    check(&in_schedule, "12:00:10", "UnsupportedSchedule; start hello-29726640 2026-07-09T12:00:00Z; again 86390");
}

#[test]
fn what_cannot_be_started_says_why() {
    let mut nowhere = cron_job("* * * * *");
    nowhere.zone = Some("Moon/Tycho".to_owned());
    check(&nowhere, "10:05:00", "UnknownTimeZone; again 60");
    check(&cron_job("* * * *"), "10:05:00", "UnparseableSchedule");
    check(&cron_job("TZ=Moon/Tycho * * * * *"), "10:05:00", "UnsupportedSchedule; UnparseableSchedule");
    check(&cron_job("0 0 31 2 *"), "10:05:00", "InvalidSchedule");
    let mut suspended = cron_job("* * * * *");
    suspended.is_suspended = true;
    check(&suspended, "10:05:00", "");
    let mut terminating = cron_job("* * * * *");
    terminating.is_terminating = true;
    check(&terminating, "10:05:00", "");
}

#[test]
fn a_late_start_has_a_deadline() {
    let mut hourly = cron_job("30 * * * *");
    hourly.starting_deadline = Some(SignedDuration::from_secs(60));
    check(&hourly, "10:30:59", "start hello-29726550 2026-07-09T10:30:00Z; again 3541");
    check(&hourly, "10:31:01", "MissSchedule; again 3539");
    // A hub that was off for a year starts nothing, one without a deadline the last one.
    check(&hourly, "2027-07-09T10:00:00Z", "MissSchedule; again 1800");
    let late = plan(&hourly, &[], &HashSet::new(), &zone_of, time("10:31:01"));
    assert_eq!(late.notices[0].message, "Missed scheduled time to start a job: Thu, 09 Jul 2026 10:30:00 +0000");
    hourly.starting_deadline = None;
    check(&hourly, "2027-07-09T10:00:00Z", "TooManyMissedTimes; start hello-30252090 2027-07-09T09:30:00Z; again 1800");
}

#[test]
fn more_than_a_hundred_missed_times_are_worth_a_warning() {
    let every = cron_job("* * * * *");
    check(&every, "11:40:59", "start hello-29726620 2026-07-09T11:40:00Z; again 1");
    check(&every, "11:41:00", "TooManyMissedTimes; start hello-29726621 2026-07-09T11:41:00Z; again 60");
    let mut limited = every;
    limited.starting_deadline = Some(SignedDuration::from_secs(200));
    check(&limited, "11:41:00", "start hello-29726621 2026-07-09T11:41:00Z; again 60");
    // A clock that began in 1970 and was set.
    let mut early = cron_job("0 0 * * *");
    early.created = Timestamp::UNIX_EPOCH;
    check(&early, "10:00:00", "TooManyMissedTimes; start hello-29725920 2026-07-09T00:00:00Z; again 50400");
}

#[test]
fn a_clock_that_is_put_back_starts_nothing_twice_and_stops_nothing_for_years() {
    let mut hourly = cron_job("30 * * * *");
    hourly.status.last_schedule = Some(time("10:30:00"));
    check(&hourly, "10:29:58", "again 3602");
    // The clock was years ahead when the last job was started.
    hourly.status.last_schedule = Some(time("2099-01-01T00:30:00Z"));
    check(&hourly, "12:45:00", "start hello-29726670 2026-07-09T12:30:00Z; again 2700");
    hourly.created = time("2099-01-01T00:00:00Z");
    check(&hourly, "12:45:00", "again 2700");
    check(&hourly, "13:30:05", "start hello-29726730 2026-07-09T13:30:00Z; again 3595");
}

#[test]
fn jobs_may_exclude_each_other() {
    let mut hourly = cron_job("30 * * * *");
    hourly.status.active = vec![reference("hello-1")];
    check(&hourly, "10:30:00", "start hello-29726550 2026-07-09T10:30:00Z; again 3600");
    hourly.concurrency = Concurrency::Forbid;
    check(&hourly, "10:30:00", "JobAlreadyActive; again 3600");
    hourly.concurrency = Concurrency::Replace;
    check(&hourly, "10:30:00", "replace uid-hello-1; start hello-29726550 2026-07-09T10:30:00Z; again 3600");
    // It was created already, by a hub that did not come to write its time down.
    hourly.status.active = vec![reference("hello-29726550")];
    check(&hourly, "10:30:00", "again 3600");
}

#[test]
fn the_list_of_active_jobs_follows_the_jobs() {
    let mut hourly = cron_job("30 * * * *");
    hourly.status.active = vec![reference("a"), reference("b"), reference("c"), reference("d")];
    let jobs = [
        child("a", None),
        child("b", Some(Ending::Complete)),
        child("c", Some(Ending::Failed)),
        child("e", None),
        child("f", Some(Ending::Failed)),
    ];
    let absent = HashSet::from(["uid-d".to_owned()]);
    let plan = plan(&hourly, &jobs, &absent, &zone_of, time("10:10:00"));
    assert_eq!(plan.status.active, [reference("a")]);
    assert_eq!(plan.status.last_successful, Some(time("10:00:30")));
    let said: Vec<&str> = plan.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert_eq!(
        said,
        [
            "Saw completed job: b, status: Complete",
            "Saw completed job: c, status: Failed",
            "Saw a job that the controller did not create or forgot: e",
            "Active job went missing: d",
        ]
    );
    // A second look at the same says only what still holds, of which a person has heard.
    let again = CronJob { status: plan.status.clone(), ..hourly };
    let later = super::plan(&again, &jobs, &HashSet::new(), &zone_of, time("10:10:00"));
    assert_eq!(later.status, plan.status);
    assert!(later.notices.iter().all(|notice| notice.holds.is_some()));
}

#[test]
fn so_many_finished_jobs_are_kept() {
    let started =
        |name: &str, ending, start: Option<&str>| Child { start: start.map(time), ..child(name, Some(ending)) };
    let mut jobs = vec![
        started("never", Ending::Complete, None),
        started("third", Ending::Complete, Some("10:03:00")),
        started("first", Ending::Complete, Some("10:01:00")),
        started("second", Ending::Complete, Some("10:02:00")),
        started("bad-2", Ending::Failed, Some("10:02:00")),
        started("bad-1", Ending::Failed, Some("10:01:00")),
        child("runs", None),
    ];
    let trimmed = |cron_job: &CronJob, jobs: &[Child]| {
        let plan = plan(cron_job, jobs, &HashSet::new(), &zone_of, time("10:10:00"));
        plan.trim.iter().map(|index| jobs[*index].name.clone()).collect::<Vec<_>>()
    };
    let mut hourly = cron_job("30 * * * *");
    assert_eq!(trimmed(&hourly, &jobs), ["first", "bad-1"]);
    jobs[2].is_terminating = true;
    assert_eq!(trimmed(&hourly, &jobs), ["bad-1"]);
    hourly.kept = [(Ending::Complete, Some(0)), (Ending::Failed, None)];
    assert_eq!(trimmed(&hourly, &jobs), ["second", "third", "never"]);
}
