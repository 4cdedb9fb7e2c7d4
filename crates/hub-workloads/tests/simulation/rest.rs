//! What must hold once everything is quiet: what is there is what is asked for, and every status says what is.

use std::collections::BTreeSet;

use hub_runtime::kinds::Kind;
use serde_json::Value;

use crate::truth::{Truth, controller, has_ended, is_active, is_terminating, is_true, number, text};

const OWNERS: &[Kind] = &[
    Kind::ReplicaSet,
    Kind::ReplicationController,
    Kind::StatefulSet,
    Kind::DaemonSet,
    Kind::Job,
    Kind::Deployment,
    Kind::CronJob,
];

fn is_stuck(pod_or_template: &Value) -> bool {
    text(pod_or_template, "/metadata/labels/behaviour") == "never"
}

/// What is not as it should be.
pub(crate) fn problems(truth: &Truth, nodes: usize) -> Vec<String> {
    let mut problems = Vec::new();
    let mut uids: BTreeSet<&str> = BTreeSet::new();
    for kind in OWNERS {
        for object in truth.all(*kind) {
            uids.insert(text(object, "/metadata/uid"));
            if is_terminating(object) {
                problems.push(format!("{} {} is terminating", kind.name(), text(object, "/metadata/name")));
            }
        }
    }
    for kind in [Kind::Pod, Kind::ReplicaSet, Kind::Job] {
        for object in truth.all(kind) {
            let name = text(object, "/metadata/name");
            if let Some((owner, owner_name, uid)) = controller(object)
                && !uids.contains(uid)
            {
                problems.push(format!("{} {name} is orphaned: {owner} {owner_name} {uid} is not there", kind.name()));
            }
        }
    }
    for pod in truth.all(Kind::Pod) {
        let name = text(pod, "/metadata/name");
        if is_terminating(pod) {
            problems.push(format!("pod {name} is terminating"));
        } else if is_active(pod) && text(pod, "/spec/nodeName").is_empty() {
            problems.push(format!("pod {name} is not placed: {}", pod["status"]));
        } else if !has_ended(pod)
            && text(pod, "/spec/restartPolicy") == "Always"
            && !is_stuck(pod)
            && !is_true(pod, "Ready")
        {
            problems.push(format!("pod {name} is not ready: {}", pod["status"]));
        }
    }
    for (kind, check) in CHECKS {
        for object in truth.all(*kind) {
            if let Err(why) = check(truth, object, nodes) {
                let name = text(object, "/metadata/name");
                let pods: Vec<String> = truth.pods_of(text(object, "/metadata/uid")).map(brief).collect();
                problems.push(format!(
                    "{} {name}: {why}; spec {} status {} pods {pods:?}",
                    kind.name(),
                    object["spec"],
                    object["status"]
                ));
            }
        }
    }
    problems
}

/// A pod in a report.
fn brief(pod: &Value) -> String {
    let way = if is_terminating(pod) { " on its way out" } else { "" };
    let labels = &pod["metadata"]["labels"];
    let at = (text(pod, "/metadata/name"), text(pod, "/spec/nodeName"), text(pod, "/status/phase"));
    format!("{} on {:?}: {}{way}, ready: {}, {labels}", at.0, at.1, at.2, is_true(pod, "Ready"))
}

type Check = fn(&Truth, &Value, usize) -> Result<(), String>;

const CHECKS: &[(Kind, Check)] = &[
    (Kind::Deployment, deployment),
    (Kind::ReplicaSet, replica_set),
    (Kind::ReplicationController, replica_set),
    (Kind::StatefulSet, stateful_set),
    (Kind::DaemonSet, daemon_set),
    (Kind::Job, job),
    (Kind::CronJob, cron_job),
    (Kind::PodDisruptionBudget, budget),
    (Kind::HorizontalPodAutoscaler, autoscaler),
    (Kind::Node, node),
];

fn is(what: &str, found: impl TryInto<i64>, expected: impl TryInto<i64>) -> Result<(), String> {
    let (found, expected) = (found.try_into().unwrap_or(-1), expected.try_into().unwrap_or(-1));
    if found == expected { Ok(()) } else { Err(format!("{what} is {found} and not {expected}")) }
}

fn observed(object: &Value) -> Result<(), String> {
    is("observedGeneration", number(object, "/status/observedGeneration"), number(object, "/metadata/generation"))
}

fn active<'t>(truth: &'t Truth, owner: &'t Value) -> Vec<&'t Value> {
    truth.pods_of(text(owner, "/metadata/uid")).filter(|pod| is_active(pod)).collect()
}

fn ready(pods: &[&Value]) -> usize {
    pods.iter().filter(|pod| is_true(pod, "Ready")).count()
}

fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

fn replica_set(truth: &Truth, set: &Value, _: usize) -> Result<(), String> {
    let pods = active(truth, set);
    observed(set)?;
    is("pods", pods.len(), replicas(set))?;
    is("status.replicas", number(set, "/status/replicas"), pods.len())?;
    is("status.readyReplicas", number(set, "/status/readyReplicas"), ready(&pods))?;
    is("status.availableReplicas", number(set, "/status/availableReplicas"), ready(&pods))
}

fn deployment(truth: &Truth, deployment: &Value, _: usize) -> Result<(), String> {
    observed(deployment)?;
    let uid = text(deployment, "/metadata/uid");
    let sets: Vec<&Value> =
        truth.all(Kind::ReplicaSet).filter(|set| controller(set).is_some_and(|owner| owner.2 == uid)).collect();
    let pods: Vec<&Value> = sets.iter().flat_map(|set| active(truth, set)).collect();
    let total: i64 = sets.iter().map(|set| replicas(set)).sum();
    is("pods", pods.len(), total)?;
    is("status.replicas", number(deployment, "/status/replicas"), pods.len())?;
    is("status.readyReplicas", number(deployment, "/status/readyReplicas"), ready(&pods))?;
    let is_any_stuck = is_stuck(&deployment["spec"]["template"]) || pods.iter().any(|pod| is_stuck(pod));
    if is_any_stuck {
        return Ok(());
    }
    let old = sets.iter().filter(|set| replicas(set) == 0).count();
    let kept = deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10);
    if i64::try_from(old).unwrap_or(0) > kept + 1 {
        return Err(format!("{old} empty sets are kept, and {kept} should be"));
    }
    is("all pods", pods.len(), replicas(deployment))?;
    is("status.updatedReplicas", number(deployment, "/status/updatedReplicas"), pods.len())?;
    is("status.availableReplicas", number(deployment, "/status/availableReplicas"), pods.len())?;
    is("status.unavailableReplicas", number(deployment, "/status/unavailableReplicas"), 0)
}

fn stateful_set(truth: &Truth, set: &Value, _: usize) -> Result<(), String> {
    observed(set)?;
    let pods = active(truth, set);
    // One that has ended is counted until it is replaced, which has to wait for those before it.
    let all = truth.pods_of(text(set, "/metadata/uid")).count();
    is("status.replicas", number(set, "/status/replicas"), all)?;
    is("status.readyReplicas", number(set, "/status/readyReplicas"), ready(&pods))?;
    if is_stuck(&set["spec"]["template"]) || pods.iter().any(|pod| is_stuck(pod)) {
        return Ok(());
    }
    is("pods", pods.len(), replicas(set))?;
    let name = text(set, "/metadata/name");
    for ordinal in 0..replicas(set) {
        let expected = format!("{name}-{ordinal}");
        if !pods.iter().any(|pod| text(pod, "/metadata/name") == expected) {
            return Err(format!("{expected} is absent"));
        }
    }
    is("status.availableReplicas", number(set, "/status/availableReplicas"), pods.len())?;
    let strategy = &set["spec"]["updateStrategy"];
    if strategy["type"] == "RollingUpdate" && number(strategy, "/rollingUpdate/partition") == 0 {
        let revision = text(set, "/status/updateRevision");
        if let Some(old) = pods.iter().find(|pod| text(pod, "/metadata/labels/controller-revision-hash") != revision) {
            return Err(format!("{} is not of revision {revision}", text(old, "/metadata/name")));
        }
        if text(set, "/status/currentRevision") != revision && !pods.is_empty() {
            return Err(format!("the update to {revision} is not completed"));
        }
    }
    Ok(())
}

fn daemon_set(truth: &Truth, set: &Value, nodes: usize) -> Result<(), String> {
    observed(set)?;
    let pods = active(truth, set);
    let on: BTreeSet<&str> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
    is("nodes with a pod", on.len(), nodes)?;
    is("pods", pods.len(), nodes)?;
    is("status.desiredNumberScheduled", number(set, "/status/desiredNumberScheduled"), nodes)?;
    is("status.currentNumberScheduled", number(set, "/status/currentNumberScheduled"), nodes)?;
    is("status.numberReady", number(set, "/status/numberReady"), ready(&pods))
}

fn job(truth: &Truth, job: &Value, _: usize) -> Result<(), String> {
    let pods = active(truth, job);
    is("status.active", number(job, "/status/active"), pods.len())?;
    let (is_complete, is_failed) = (is_true(job, "Complete"), is_true(job, "Failed"));
    let uid = text(job, "/metadata/uid");
    let is_tracked = |pod: &Value| {
        let finalizers = pod["metadata"]["finalizers"].as_array();
        finalizers.into_iter().flatten().any(|finalizer| finalizer == "batch.kubernetes.io/job-tracking")
    };
    if let Some(pod) = truth.pods_of(uid).find(|pod| has_ended(pod) && is_tracked(pod)) {
        return Err(format!("{} has ended and was not counted", text(pod, "/metadata/name")));
    }
    if is_complete || is_failed {
        is("pods of a finished Job", pods.len(), 0)?;
        let is_stated = is_complete != job["status"]["completionTime"].is_null();
        return if is_stated { Ok(()) } else { Err("completionTime does not fit the conditions".to_owned()) };
    }
    if job["spec"]["suspend"] == true {
        return is("pods of a suspended Job", pods.len(), 0);
    }
    let parallelism = job["spec"]["parallelism"].as_i64().unwrap_or(1);
    let stuck = i64::try_from(pods.iter().filter(|pod| is_stuck(pod)).count()).unwrap_or(0);
    let left = job["spec"]["completions"].as_i64().unwrap_or(parallelism) - number(job, "/status/succeeded");
    if parallelism == 0 || stuck >= parallelism.min(left) {
        return Ok(());
    }
    Err(format!(
        "is not finished, with pods {:?}",
        pods.iter().map(|pod| text(pod, "/metadata/name")).collect::<Vec<_>>()
    ))
}

fn cron_job(truth: &Truth, cron_job: &Value, _: usize) -> Result<(), String> {
    let active = cron_job["status"]["active"].as_array().into_iter().flatten();
    for one in active {
        let found = truth.all(Kind::Job).find(|job| job["metadata"]["uid"] == one["uid"]);
        let is_running = found.is_some_and(|job| !is_true(job, "Complete") && !is_true(job, "Failed"));
        if !is_running {
            return Err(format!("the active Job {} is not running", one["name"]));
        }
    }
    Ok(())
}

fn budget(truth: &Truth, budget: &Value, _: usize) -> Result<(), String> {
    observed(budget)?;
    let app = text(budget, "/spec/selector/matchLabels/app");
    let pods = truth.all(Kind::Pod).filter(|pod| text(pod, "/metadata/labels/app") == app && is_active(pod));
    let pods: Vec<&Value> = pods.collect();
    is("status.currentHealthy", number(budget, "/status/currentHealthy"), ready(&pods))
}

fn autoscaler(truth: &Truth, autoscaler: &Value, _: usize) -> Result<(), String> {
    let target = truth.get(Kind::Deployment, text(autoscaler, "/spec/scaleTargetRef/name"));
    let Some(target) = target.filter(|target| replicas(target) != 0) else { return Ok(()) };
    let (least, most) = (number(autoscaler, "/spec/minReplicas"), number(autoscaler, "/spec/maxReplicas"));
    let found = replicas(target);
    let is_within = (least..=most).contains(&found);
    if is_within { Ok(()) } else { Err(format!("its target has {found} and not {least} to {most}")) }
}

fn node(_: &Truth, node: &Value, _: usize) -> Result<(), String> {
    match node["spec"]["taints"].as_array() {
        Some(taints) if !taints.is_empty() => Err(format!("is tainted: {taints:?}")),
        _ if !is_true(node, "Ready") => Err("is not ready".to_owned()),
        _ => Ok(()),
    }
}
