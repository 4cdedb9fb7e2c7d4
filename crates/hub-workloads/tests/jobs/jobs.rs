//! Jobs.

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{Hub, INDEX, Source, condition, is, name_of};

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

fn finalizers(pod: &Value) -> Vec<&str> {
    pod["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn indexes(pods: &[Value]) -> Vec<&str> {
    pods.iter().map(|pod| pod["metadata"]["labels"][INDEX].as_str().expect("it has an index")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_until_it_has_its_completions() {
    let hub = Hub::start().await;
    let job = hub.job("work", json!({"completions": 3, "parallelism": 2})).await;
    let pods = hub.running("work", 2).await;
    let owner = &pods[0]["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Job"), &job["metadata"]["uid"]));
    assert_eq!(finalizers(&pods[0]), [FINALIZER]);
    assert!(name_of(&pods[0]).starts_with("work-"));
    let seen = hub.with(Kind::Job, "work", |job| job["status"]["active"] == 2).await;
    assert!(!seen["status"]["startTime"].is_null());
    hub.ends(&pods[0], 0, 0).await;
    hub.with(Kind::Job, "work", |job| job["status"]["succeeded"] == 1).await;
    hub.running("work", 2).await;
    // With two under way no third one is needed.
    for pod in hub.running("work", 2).await {
        hub.ends(&pod, 0, 0).await;
    }
    let job = hub.with(Kind::Job, "work", |job| is(job, "Complete")).await;
    let status = &job["status"];
    assert_eq!((&status["succeeded"], &status["active"], &status["failed"]), (&json!(3), &Value::Null, &Value::Null));
    assert_eq!((&status["ready"], &status["terminating"]), (&json!(0), &json!(0)));
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    assert!(!status["completionTime"].is_null());
    let says = |r#type: &str| (condition(&job, r#type)["reason"].clone(), condition(&job, r#type)["message"].clone());
    let expected = (json!("CompletionsReached"), json!("Reached expected number of succeeded pods"));
    assert_eq!((says("SuccessCriteriaMet"), says("Complete")), (expected.clone(), expected));
    let pods = hub.pods("work").await;
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|pod| finalizers(pod).is_empty()), "{pods:#?}");
    hub.event_of("work", "SuccessfulCreate").await;
    assert_eq!(hub.event_of("work", "Completed").await["message"], "Job completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_pods_fail_too_often_has_failed() {
    let hub = Hub::start().await;
    hub.job("work", json!({"completions": 2, "parallelism": 2, "backoffLimit": 1})).await;
    let pods = hub.running("work", 2).await;
    // One that failed long ago by its node's clock failed at its creation at the earliest: its replacement waits.
    hub.ends(&pods[0], 1, 3600).await;
    let job = hub.with(Kind::Job, "work", |job| job["status"]["failed"] == 1).await;
    assert_eq!((&job["status"]["active"], is(&job, "FailureTarget")), (&json!(1), false));
    hub.settled().await;
    assert_eq!(hub.running("work", 1).await.len(), 1);
    hub.ends(&pods[1], 1, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Failed")).await;
    assert_eq!(job["status"]["failed"], 2);
    for r#type in ["FailureTarget", "Failed"] {
        let condition = condition(&job, r#type);
        assert_eq!(condition["reason"], "BackoffLimitExceeded");
        assert_eq!(condition["message"], "Job has reached the specified backoff limit");
    }
    assert_eq!(hub.event_of("work", "BackoffLimitExceeded").await["type"], "Warning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_failed_says_so_when_its_pods_have_ended() {
    let hub = Hub::start().await;
    let mut template = crate::hub::template();
    // A pod with a node stays until its kubelet has ended it.
    template["spec"]["nodeName"] = json!("gw-1");
    hub.job("work", json!({"completions": 2, "parallelism": 2, "backoffLimit": 0, "template": template})).await;
    let pods = hub.running("work", 2).await;
    hub.ends(&pods[0], 1, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "FailureTarget")).await;
    assert!(!is(&job, "Failed"));
    let job = hub.with(Kind::Job, "work", |job| job["status"]["failed"] == 2).await;
    assert_eq!((&job["status"]["terminating"], is(&job, "Failed")), (&json!(1), false));
    let terminating = hub.find(Kind::Pod, name_of(&pods[1])).await.expect("it is on its way out");
    hub.admin.delete(Kind::Pod, &terminating, Some(0)).await.expect("the kubelet removes it");
    let job = hub.with(Kind::Job, "work", |job| is(job, "Failed")).await;
    assert_eq!((&job["status"]["failed"], &job["status"]["terminating"]), (&json!(2), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_index_is_tried_so_often() {
    let hub = Hub::start().await;
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    hub.job("work", spec).await;
    let pods = hub.running("work", 3).await;
    assert_eq!(indexes(&pods), ["0", "1", "2"]);
    assert_eq!(pods[1]["spec"]["hostname"], "work-1");
    assert!(name_of(&pods[1]).starts_with("work-1-"));
    assert_eq!(pods[1]["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "0");
    let variable = &pods[1]["spec"]["containers"][0]["env"][0];
    assert_eq!(variable["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(variable["valueFrom"]["fieldRef"]["fieldPath"], format!("metadata.labels['{INDEX}']"));
    hub.ends(&pods[1], 1, 0).await;
    hub.with(Kind::Job, "work", |job| job["status"]["failedIndexes"] == "1").await;
    hub.ends(&pods[0], 0, 0).await;
    let job = hub.with(Kind::Job, "work", |job| job["status"]["completedIndexes"] == "0").await;
    assert_eq!((&job["status"]["active"], is(&job, "FailureTarget")), (&json!(1), false));
    // Nothing is due, and nothing is written: the fields above read as they were written.
    let before = hub.settled().await;
    hub.patch(Kind::Pod, name_of(&pods[2]), json!({"metadata": {"annotations": {"a": "b"}}})).await;
    assert_eq!(hub.settled().await, before + 1);
    hub.ends(&pods[2], 0, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Failed")).await;
    let status = &job["status"];
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1")));
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &json!(1)));
    assert_eq!(condition(&job, "Failed")["reason"], "FailedIndexes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_index_keeps_its_pod_until_another_has_its_count() {
    let hub = Hub::start().await;
    let spec = json!({"completions": 1, "parallelism": 1, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    hub.job("work", spec).await;
    let pods = hub.running("work", 1).await;
    hub.ends(&pods[0], 1, 0).await;
    hub.settled().await;
    let failed = hub.find(Kind::Pod, name_of(&pods[0])).await.expect("it is kept");
    assert_eq!(finalizers(&failed), [FINALIZER]);
    // Ten seconds after the failure.
    let next = hub.running("work", 1).await;
    assert_eq!(next[0]["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "1");
    hub.with(Kind::Job, "work", |job| job["status"]["failed"] == 1).await;
    hub.ends(&next[0], 1, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Failed")).await;
    assert_eq!((&job["status"]["failed"], &job["status"]["failedIndexes"]), (&json!(2), &json!("0")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_indexes_may_be_enough() {
    let hub = Hub::start().await;
    let rules = json!({"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]});
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": rules});
    hub.job("work", spec).await;
    let pods = hub.running("work", 3).await;
    hub.ends(&pods[2], 0, 0).await;
    hub.with(Kind::Job, "work", |job| job["status"]["completedIndexes"] == "2").await;
    hub.ends(&pods[1], 0, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Complete")).await;
    assert_eq!(condition(&job, "SuccessCriteriaMet")["reason"], "SuccessPolicy");
    assert_eq!(condition(&job, "Complete")["message"], "Matched rules at index 0");
    assert_eq!((&job["status"]["completedIndexes"], &job["status"]["failed"]), (&json!("1,2"), &Value::Null));
    hub.running("work", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_about_failures_decide() {
    let hub = Hub::start().await;
    let rule = |action: &str, code: i64| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let policy = json!({"rules": [rule("Ignore", 3), rule("FailJob", 42)]});
    hub.job("work", json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": policy})).await;
    let pods = hub.running("work", 1).await;
    hub.ends(&pods[0], 3, 0).await;
    // Ignored, after the pause that every failure brings.
    hub.settled().await;
    let pods = hub.running("work", 1).await;
    hub.ends(&pods[0], 42, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Failed")).await;
    let failed = condition(&job, "Failed");
    assert_eq!((&failed["reason"], &job["status"]["failed"]), (&json!("PodFailurePolicy"), &json!(1)));
    let expected = format!(
        "Container main for pod default/{} failed with exit code 42 matching FailJob rule at index 1",
        name_of(&pods[0])
    );
    assert_eq!(failed["message"], expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_suspended_and_resumed() {
    let hub = Hub::start().await;
    hub.job("work", json!({"completions": 2, "parallelism": 2, "suspend": true, "backoffLimit": 0})).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Suspended")).await;
    assert!(job["status"]["startTime"].is_null());
    hub.event_of("work", "Suspended").await;
    hub.patch(Kind::Job, "work", json!({"spec": {"suspend": false}})).await;
    let pods = hub.running("work", 2).await;
    let job = hub.with(Kind::Job, "work", |job| condition(job, "Suspended")["reason"] == "JobResumed").await;
    assert!(!job["status"]["startTime"].is_null());
    hub.event_of("work", "Resumed").await;
    hub.ends(&pods[0], 0, 0).await;
    hub.with(Kind::Job, "work", |job| job["status"]["succeeded"] == 1).await;
    hub.patch(Kind::Job, "work", json!({"spec": {"suspend": true}})).await;
    hub.running("work", 0).await;
    // What was deleted for that is no failure.
    let job = hub.with(Kind::Job, "work", |job| is(job, "Suspended") && job["status"]["active"].is_null()).await;
    assert_eq!((&job["status"]["failed"], &job["status"]["succeeded"]), (&Value::Null, &json!(1)));
    hub.patch(Kind::Job, "work", json!({"spec": {"suspend": false}})).await;
    let pods = hub.running("work", 1).await;
    hub.ends(&pods[0], 0, 0).await;
    hub.with(Kind::Job, "work", |job| is(job, "Complete")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_and_doubles_nothing() {
    restart(Source::Store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_loses_and_doubles_nothing_over_watches() {
    restart(Source::Watches).await;
}

async fn restart(source: Source) {
    const PODS: usize = 60;
    let mut hub = Hub::start_over(source).await;
    let spec = json!({"completions": PODS, "parallelism": PODS, "backoffLimit": 100});
    hub.job("work", spec).await;
    let pods = hub.running("work", PODS).await;
    // Ends while the controllers run, while they stop, and while there is none.
    for (number, pod) in pods.iter().enumerate() {
        if number == PODS / 3 {
            hub.stop_controllers().await;
        }
        if number == 2 * PODS / 3 {
            hub.start_controllers().await;
        }
        hub.ends(pod, i64::from(number.is_multiple_of(10)), 0).await;
        if number.is_multiple_of(7) {
            // Whoever deletes a pod that has ended takes no count along.
            hub.admin.delete(Kind::Pod, pod, Some(0)).await.expect("the API deletes it");
        }
    }
    let failed = PODS.div_ceil(10);
    let job = hub
        .with(Kind::Job, "work", |job| job["status"]["succeeded"] == PODS - failed && job["status"]["failed"] == failed)
        .await;
    assert!(!is(&job, "Complete"), "the failed ones are replaced after a pause: {job:#?}");
    // A restart at rest writes nothing.
    let before = hub.settled().await;
    hub.stop_controllers().await;
    hub.start_controllers().await;
    assert_eq!(hub.settled().await, before);
    let pods = hub.pods("work").await;
    let ended = pods.iter().filter(|pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    assert!(ended.clone().count() > 0 && ended.clone().all(|pod| finalizers(pod).is_empty()), "{pods:#?}");
    hub.stop_controllers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_adopted_released_and_never_held_by_a_job_that_is_deleted() {
    let mut hub = Hub::start().await;
    let labels = json!({"app": "mine"});
    let mut template = crate::hub::template();
    template["metadata"]["labels"] = labels.clone();
    let spec = json!({
        "manualSelector": true, "selector": {"matchLabels": labels}, "template": template, "completions": 1,
    });
    let metadata = json!({"name": "orphan", "labels": labels});
    hub.make(Kind::Pod, json!({"metadata": metadata, "spec": crate::hub::template()["spec"]})).await;
    hub.job("work", spec).await;
    let adopted = hub.with(Kind::Pod, "orphan", |pod| pod["metadata"]["ownerReferences"][0]["name"] == "work").await;
    assert_eq!(finalizers(&adopted), [FINALIZER]);
    hub.with(Kind::Job, "work", |job| job["status"]["active"] == 1).await;
    hub.patch(Kind::Pod, "orphan", json!({"metadata": {"labels": {"app": "other"}}})).await;
    let released = hub.with(Kind::Pod, "orphan", |pod| pod["metadata"]["ownerReferences"].is_null()).await;
    assert_eq!(finalizers(&released), [""; 0]);
    // Nobody counts its replacement once the job is deleted, and nobody is there to notice.
    hub.settled().await;
    hub.stop_controllers().await;
    let job = hub.find(Kind::Job, "work").await.expect("it is there");
    let pods = hub.list(Kind::Pod).await;
    let pod = pods.iter().find(|pod| pod["metadata"]["labels"] == labels).expect("it was replaced");
    assert_eq!(finalizers(pod), [FINALIZER]);
    hub.delete_job(&job).await;
    assert_eq!(hub.find(Kind::Job, "work").await, None);
    hub.start_controllers().await;
    hub.with(Kind::Pod, name_of(pod), |pod| finalizers(pod).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_another_controller_is_left_alone() {
    let hub = Hub::start().await;
    hub.job("theirs", json!({"managedBy": "example.com/queue"})).await;
    hub.job("ours", json!({})).await;
    hub.running("ours", 1).await;
    hub.settled().await;
    let theirs = hub.find(Kind::Job, "theirs").await.expect("it is there");
    assert_eq!((hub.pods("theirs").await.len(), &theirs["status"]["startTime"]), (0, &Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_and_a_time_to_live_end_jobs() {
    let hub = Hub::start().await;
    hub.job("work", json!({"activeDeadlineSeconds": 1, "ttlSecondsAfterFinished": 2})).await;
    hub.running("work", 1).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Failed")).await;
    assert_eq!(condition(&job, "Failed")["reason"], "DeadlineExceeded");
    assert!(job["metadata"]["deletionTimestamp"].is_null());
    let job = hub.with(Kind::Job, "work", |job| !job["metadata"]["deletionTimestamp"].is_null()).await;
    assert_eq!(job["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_job_grows_and_shrinks() {
    let hub = Hub::start().await;
    hub.job("work", json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"})).await;
    let pods = hub.running("work", 2).await;
    hub.ends(&pods[1], 0, 0).await;
    hub.with(Kind::Job, "work", |job| job["status"]["completedIndexes"] == "1").await;
    hub.patch(Kind::Job, "work", json!({"spec": {"completions": 4, "parallelism": 4}})).await;
    assert_eq!(indexes(&hub.running("work", 3).await), ["0", "2", "3"]);
    hub.patch(Kind::Job, "work", json!({"spec": {"completions": 1, "parallelism": 1}})).await;
    let pods = hub.running("work", 1).await;
    assert_eq!(indexes(&pods), ["0"]);
    hub.ends(&pods[0], 0, 0).await;
    let job = hub.with(Kind::Job, "work", |job| is(job, "Complete")).await;
    assert_eq!((&job["status"]["completedIndexes"], &job["status"]["succeeded"]), (&json!("0"), &json!(1)));
}
