//! CronJobs.

use hub_runtime::kinds::Kind;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::hub::{Hub, is, name_of, template};

const SOME_MONTHS: i64 = 24 * 100;

/// A time that lies so many hours back.
fn hours_ago(hours: i64) -> String {
    (Timestamp::now() - SignedDuration::from_hours(hours)).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Hub {
    /// A CronJob for the first of each month, of which some months were missed.
    async fn cron_job(&self, name: &str, spec: Value) -> Value {
        let job = json!({"metadata": {"labels": {"cron": name}}, "spec": {"template": template()}});
        let mut full = json!({"schedule": "@monthly", "jobTemplate": job, "suspend": true});
        full.as_object_mut()
            .expect("a spec is an object")
            .extend(spec.as_object().expect("a spec is an object").clone());
        let made = self.make(Kind::CronJob, json!({"metadata": {"name": name}, "spec": full})).await;
        let status = json!({"lastScheduleTime": hours_ago(SOME_MONTHS)});
        self.admin.merge_status(Kind::CronJob, ("default", name), &status).await.expect("the API takes the status");
        self.patch(Kind::CronJob, name, json!({"spec": {"suspend": false}})).await;
        made
    }

    /// Waits for so many jobs of a CronJob.
    async fn jobs(&self, cron_job: &str, count: usize) -> Vec<Value> {
        let look = async || {
            let mut jobs = self.list(Kind::Job).await;
            jobs.retain(|job| job["metadata"]["labels"]["cron"] == cron_job);
            if jobs.len() == count { Ok(jobs) } else { Err(jobs) }
        };
        let jobs = hub_testing::until(look).await;
        jobs.unwrap_or_else(|last| panic!("{count} jobs of {cron_job} did not come to be; last seen: {last:#?}"))
    }

    async fn completes(&self, job: &Value) {
        let pods = self.running(name_of(job), 1).await;
        self.ends(&pods[0], 0, 0).await;
        self.with(Kind::Job, name_of(job), |job| is(job, "Complete")).await;
    }

    /// The clock moves on: the last job was started so many hours ago.
    async fn hours_pass(&self, cron_job: &str, hours: i64) {
        let status = json!({"lastScheduleTime": hours_ago(hours)});
        self.admin.merge_status(Kind::CronJob, ("default", cron_job), &status).await.expect("the API takes the status");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_starts_the_most_recent_time_once() {
    let mut hub = Hub::start().await;
    let cron_job = hub.cron_job("monthly", json!({})).await;
    let jobs = hub.jobs("monthly", 1).await;
    let metadata = &jobs[0]["metadata"];
    let owner = &metadata["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("CronJob"), &cron_job["metadata"]["uid"]));
    let scheduled = metadata["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str();
    let scheduled = scheduled.expect("a job says when it was due");
    let minutes = scheduled.parse::<Timestamp>().expect("it is a time").as_second() / 60;
    assert_eq!(name_of(&jobs[0]), format!("monthly-{minutes}"));
    let seen = hub.with(Kind::CronJob, "monthly", |seen| !seen["status"]["active"].is_null()).await;
    assert_eq!(seen["status"]["lastScheduleTime"], scheduled);
    assert_eq!(seen["status"]["active"][0]["uid"], metadata["uid"]);
    hub.event_of("monthly", "SuccessfulCreate").await;
    // A controller that is restarted, and one that forgot, starts it no second time.
    hub.settled().await;
    hub.stop_controllers().await;
    let forgotten = json!({"lastScheduleTime": hours_ago(SOME_MONTHS), "active": null});
    hub.admin.merge_status(Kind::CronJob, ("default", "monthly"), &forgotten).await.expect("the API takes the status");
    hub.start_controllers().await;
    hub.with(Kind::CronJob, "monthly", |seen| seen["status"]["active"][0]["uid"] == metadata["uid"]).await;
    hub.jobs("monthly", 1).await;

    hub.completes(&jobs[0]).await;
    let seen = hub.with(Kind::CronJob, "monthly", |seen| seen["status"]["active"].is_null()).await;
    assert!(!seen["status"]["lastSuccessfulTime"].is_null());
    assert_eq!(
        hub.event_of("monthly", "SawCompletedJob").await["message"],
        format!("Saw completed job: monthly-{minutes}, status: Complete")
    );
    let before = hub.settled().await;
    hub.patch(Kind::CronJob, "monthly", json!({"metadata": {"annotations": {"a": "b"}}})).await;
    assert_eq!(hub.settled().await, before + 1, "nothing else is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_may_keep_the_next_one_waiting_or_be_replaced() {
    let hub = Hub::start().await;
    hub.cron_job("waits", json!({"concurrencyPolicy": "Forbid"})).await;
    let first = hub.jobs("waits", 1).await.remove(0);
    hub.with(Kind::CronJob, "waits", |seen| !seen["status"]["active"].is_null()).await;
    // As if its time came again: the name of the same time is taken, so it is renamed by another schedule.
    hub.hours_pass("waits", 2).await;
    hub.patch(Kind::CronJob, "waits", json!({"spec": {"schedule": "@every 61m"}})).await;
    hub.event_of("waits", "JobAlreadyActive").await;
    assert_eq!(hub.jobs("waits", 1).await.len(), 1);
    hub.completes(&first).await;
    hub.jobs("waits", 2).await;

    hub.cron_job("replaces", json!({"concurrencyPolicy": "Replace"})).await;
    let first = hub.jobs("replaces", 1).await.remove(0);
    hub.with(Kind::CronJob, "replaces", |seen| !seen["status"]["active"].is_null()).await;
    hub.hours_pass("replaces", 2).await;
    hub.patch(Kind::CronJob, "replaces", json!({"spec": {"schedule": "@every 61m"}})).await;
    let seen = hub
        .with(Kind::CronJob, "replaces", |seen| {
            let active = &seen["status"]["active"];
            active.as_array().is_some_and(|active| active.len() == 1) && active[0]["uid"] != first["metadata"]["uid"]
        })
        .await;
    assert!(hub.find(Kind::Job, name_of(&first)).await.is_none(), "{seen:#?}");
    hub.event_of("replaces", "SuccessfulDelete").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_jobs_are_kept_up_to_a_limit() {
    let hub = Hub::start().await;
    let cron_job = hub.cron_job("monthly", json!({"successfulJobsHistoryLimit": 2})).await;
    let first = hub.jobs("monthly", 1).await.remove(0);
    let owner = first["metadata"]["ownerReferences"][0].clone();
    assert_eq!(owner["uid"], cron_job["metadata"]["uid"]);
    // Three more of the months before, as the CronJob would have created them.
    for name in ["monthly-1", "monthly-2", "monthly-3"] {
        let metadata = json!({"name": name, "labels": {"cron": "monthly"}, "ownerReferences": [owner]});
        hub.make(Kind::Job, json!({"metadata": metadata, "spec": {"template": template()}})).await;
        hub.completes(&json!({"metadata": {"name": name}})).await;
    }
    let pods = hub.running(name_of(&first), 1).await;
    hub.ends(&pods[0], 0, 0).await;
    hub.settled().await;
    let kept = hub.jobs("monthly", 2).await;
    assert!(kept.iter().all(|job| name_of(job) != "monthly-1"), "{kept:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_deletes_is_missed() {
    let hub = Hub::start().await;
    hub.cron_job("monthly", json!({})).await;
    let job = hub.jobs("monthly", 1).await.remove(0);
    hub.with(Kind::CronJob, "monthly", |seen| !seen["status"]["active"].is_null()).await;
    hub.settled().await;
    hub.delete_job(&job).await;
    hub.with(Kind::CronJob, "monthly", |seen| seen["status"]["active"].is_null()).await;
    let event = hub.event_of("monthly", "MissingJob").await;
    assert_eq!(event["message"], format!("Active job went missing: {}", name_of(&job)));
    hub.jobs("monthly", 0).await;
}
