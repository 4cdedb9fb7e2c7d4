//! The life of each chart, as a person leads it through.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{ABSENT, Release, SHORT, SHORT_WITH_START, TIMEOUT};

const SECOND: &str = "image.tag=2";

/// A time of an object: RFC 3339 of whole seconds in UTC, which compares as text.
fn time<'a>(object: &'a Value, pointer: &str) -> Result<&'a str> {
    object.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer}: {object}"))
}

/// A Deployment that its autoscaler scales and its configuration rolls.
pub(super) fn web(release: &Release<'_>) -> Result<()> {
    let said = release.deploy("install", &[])?;
    ensure!(said.contains("web says hello."), "{said}");
    // One pod is what the Deployment has by default; the autoscaler's least is two.
    release.runs("1", 2)?;
    release.comes_to_be("pdb/web", "{.status.disruptionsAllowed}", "1")?;
    release.comes_to_be("hpa/web", "{.status.conditions[?(@.type=='AbleToScale')].status}", "True")?;
    let said = release.ok(&["test", release.name, TIMEOUT])?;
    ensure!(said.contains("TEST SUITE:     web-greeting") && said.contains("Phase:          Succeeded"), "{said}");

    let pods_before = release.pods()?;
    release.deploy("upgrade", &["--set", "greeting=bye"])?;
    release.runs("1", 2)?;
    let is_from_before = |pod: &Value| {
        let is_of_web = !pod["metadata"]["labels"]["app.kubernetes.io/component"].is_null();
        is_of_web && pods_before.iter().any(|before| before["metadata"]["uid"] == pod["metadata"]["uid"])
    };
    ensure!(!release.pods()?.iter().any(is_from_before), "another configuration has other pods");
    ensure!(release.kubectl(&["logs", "deployment/web"])?.contains("bye"));
    release.deploy("upgrade", &["--reuse-values", "--set", SECOND])?;
    release.runs("2", 2)?;

    release.upgrade_comes_back(SHORT)?;
    release.runs("2", 2)?;
    release.has_history(&["superseded", "superseded", "superseded", "failed", "deployed"])?;
    ensure!(release.path("configmap/web", "{.data.greeting}")? == "bye");
    // Objects are replaced, and keep what the API has given them.
    let address = release.path("service/web", "{.spec.clusterIP}")?;
    // A number of its own: an autoscaler would bring back the one that a replacement lacks at its next look, 15 s later.
    let mut replaced = vec![release.tool.replaced(), "--set", "greeting=third,autoscaling.enabled=false"];
    if !release.tool.is_3 {
        // Helm 4 applies on the server, which replaces nothing.
        replaced.push("--server-side=false");
    }
    release.deploy("upgrade", &replaced)?;
    release.runs("1", 2)?;
    ensure!(release.path("service/web", "{.spec.clusterIP}")? == address);
    let said = release.ok(&["rollback", release.name, "1", "--wait", TIMEOUT])?;
    ensure!(said.contains("Rollback was a success!"), "{said}");
    release.runs("1", 2)?;
    ensure!(release.path("configmap/web", "{.data.greeting}")? == "hello");
    let history = release.history()?;
    ensure!(history.len() == 7 && history[6] == "deployed", "{history:?}");
    release.uninstall(&["pod/web-greeting"])
}

/// A StatefulSet whose password outlives its revisions.
pub(super) fn database(release: &Release<'_>) -> Result<()> {
    release.deploy("install", &[])?;
    release.runs("1", 2)?;
    let pod = |name: &str| release.fleet.kubectl.json(&["pod", name, "-n", release.name]);
    let (first, second) = (pod("database-0")?, pod("database-1")?);
    let conditions = first["status"]["conditions"].as_array().context("conditions")?;
    let ready = conditions.iter().find(|one| one["type"] == "Ready").context("a ready pod")?;
    ensure!(time(&second, "/metadata/creationTimestamp")? >= time(ready, "/lastTransitionTime")?, "{first} {second}");
    ensure!(release.kubectl(&["logs", "database-1"])? == "member 1 of database\n");
    let password = release.path("secret/database", "{.data.password}")?;
    ensure!(release.ok(&["test", release.name, TIMEOUT])?.contains("Phase:          Succeeded"));

    release.deploy("upgrade", &["--set", SECOND])?;
    release.runs("2", 2)?;
    ensure!(release.path("secret/database", "{.data.password}")? == password, "an upgrade drew another password");
    let revisions = release.path("statefulset/database", "{.status.currentRevision} {.status.updateRevision}")?;
    ensure!(revisions.split_once(' ').is_some_and(|(current, updated)| current == updated), "{revisions}");
    release.deploy("upgrade", &["--reuse-values", "--set", "members=3"])?;
    release.runs("2", 3)?;

    // A member that cannot start is waited for, even when the template is the old one again: whoever rolls back deletes it,
    // as Kubernetes' documentation has it.
    let chart = release.chart();
    release.refused(&["upgrade", release.name, &chart, "--set", ABSENT, "--set", "members=3", "--wait", SHORT])?;
    let said = release.refused(&["rollback", release.name, "3", "--wait", SHORT])?;
    ensure!(said.contains("context deadline exceeded"), "{said}");
    release.kubectl(&["delete", "pod", "database-2"])?;
    release.ok(&["rollback", release.name, "3", "--wait", TIMEOUT])?;
    release.runs("2", 3)?;
    release.uninstall(&["pod/database-password"])?;

    // Members that wait for nobody come back by themselves.
    release.deploy("install", &["--set", "management=Parallel"])?;
    let again = release.path("secret/database", "{.data.password}")?;
    ensure!(again != password, "the password of a new release is the old one");
    release.upgrade_comes_back(SHORT_WITH_START)?;
    release.runs("1", 2)?;
    release.uninstall(&["pod/database-password"])
}

/// Jobs around a release, some of which fail.
pub(super) fn hooks(release: &Release<'_>) -> Result<()> {
    let jobs = || -> Result<Vec<String>> {
        Ok(release.kubectl(&["get", "jobs", "-o", "name"])?.lines().map(str::to_owned).collect())
    };
    let job = |name: &str| release.fleet.kubectl.json(&["job", name, "-n", release.name]);
    let failed = |what: &str, job: &str, said: &str| -> Result<()> {
        let why = if release.tool.is_3 {
            format!("job {job} failed: BackoffLimitExceeded")
        } else {
            format!("resource Job/hooks/{job} not ready. status: Failed, message: Job Failed. failed: 1/1")
        };
        ensure!(said.contains(what) && said.contains(&why), "{said}");
        Ok(())
    };
    let chart = release.chart();

    release.deploy("install", &[])?;
    ensure!(jobs()? == ["job.batch/hooks-first", "job.batch/hooks-second"], "{:?}", jobs()?);
    let (first, second) = (job("hooks-first")?, job("hooks-second")?);
    let (ended, begun) = (time(&first, "/status/completionTime")?, time(&second, "/metadata/creationTimestamp")?);
    ensure!(ended <= begun, "the second hook was created at {begun}, the first ended at {ended}");
    ensure!(release.kubectl(&["logs", "job/hooks-first"])? == "pre-install of revision 1\n");

    release.deploy("upgrade", &["--set", SECOND])?;
    let said = release.refused(&["upgrade", release.name, &chart, "--set", "failing=pre-upgrade", TIMEOUT])?;
    failed("UPGRADE FAILED: pre-upgrade hooks failed", "hooks-migrate", &said)?;
    ensure!(release.path("configmap/hooks", "{.data.tag}")? == "2", "an upgrade whose hook fails changes nothing");
    release.has_history(&["superseded", "deployed", "failed"])?;
    ensure!(jobs()?.len() == 2, "{:?}", jobs()?);

    release.ok(&["rollback", release.name, "1", "--wait", TIMEOUT])?;
    ensure!(release.kubectl(&["logs", "job/hooks-restore"])?.contains("post-rollback"));
    ensure!(release.path("configmap/hooks", "{.data.tag}")? == "1");
    let hooks = ["job.batch/hooks-", "pod/hooks-", "serviceaccount/hooks-hooks"];
    release.uninstall(&hooks)?;
    ensure!(jobs()?.len() == 3, "what hooks leave is nobody's: {:?}", jobs()?);
    release.kubectl(&["delete", "jobs", "--all"])?;

    let said = release.refused(&["install", release.name, &chart, "--set", "failing=pre-install", TIMEOUT])?;
    failed("INSTALLATION FAILED: failed pre-install", "hooks-first", &said)?;
    release.has_history(&["failed"])?;
    ensure!(jobs()? == ["job.batch/hooks-first"], "{:?}", jobs()?);
    let maps = release.kubectl(&["get", "configmaps", "-o", "name"])?;
    ensure!(!maps.contains("configmap/hooks"), "{maps}");
    release.uninstall(&hooks)
}

/// A kind of its own, and a pod that looks after its objects with the rights of its service account.
pub(super) fn operator(release: &Release<'_>) -> Result<()> {
    // In the pod it is a client like any other: it is handed nothing but what every pod has.
    let client = std::env::var("SELVEDGE_KUBECTL_137").context("no kubectl 1.37")?;
    let client = format!("client={client}");
    let account = format!("--as=system:serviceaccount:{0}:{0}", release.name);
    let chart = release.chart();

    release.deploy("install", &["--set", &client])?;
    // Ready was who had seen them.
    ensure!(release.path("widgets", "{.items[*].status.seenBy}")? == "1 1");
    let can = |verb: &str, kind: &str| {
        release.fleet.kubectl.run(&["auth", "can-i", verb, kind, &account, "-n", release.name])
    };
    ensure!(can("list", "widgets.operator.example.com")?.ok()? == "yes\n");
    ensure!(can("delete", "widgets.operator.example.com")?.stdout == "no\n");
    ensure!(can("list", "nodes")?.stdout == "yes\n");

    release.deploy("upgrade", &["--set", &client, "--set", SECOND, "--set", "widgets={small,large,huge}"])?;
    ensure!(release.path("widgets", "{.items[*].status.seenBy}")? == "2 2 2");
    let said = release.refused(&["upgrade", release.name, &chart, "--set", &client, "--set", "widgets={giant}"])?;
    ensure!(said.contains("spec.size: Unsupported value: \"giant\""), "{said}");
    release.upgrade_comes_back(SHORT_WITH_START)?;
    release.runs("2", 1)?;
    release.ok(&["rollback", release.name, "1", "--wait", TIMEOUT])?;
    release.comes_to_be("widgets", "{.items[*].status.seenBy}", "1 1")?;
    let manifest = release.ok(&["get", "manifest", release.name])?;
    ensure!(manifest.contains("kind: ClusterRoleBinding") && !manifest.contains("CustomResourceDefinition"));

    release.uninstall(&[])?;
    let left = release.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"])?;
    ensure!(!left.contains("operator-operator"), "{left}");
    // Definitions outlive the release, as Helm has it.
    release.kubectl(&["get", "crd", "widgets.operator.example.com"])?;
    Ok(())
}

/// Jobs, which no upgrade may change, and a schedule, which one may.
pub(super) fn batch(release: &Release<'_>) -> Result<()> {
    let chart = release.chart();
    release.deploy("install", &["--wait-for-jobs"])?;
    ensure!(release.path("job/batch-indexed", "{.status.succeeded} {.status.completedIndexes}")? == "3 0-2");
    let parts = release.kubectl(&["logs", "-l", "job-name=batch-indexed", "--tail=1"])?;
    for part in ["part 0", "part 1", "part 2"] {
        ensure!(parts.contains(part), "{parts}");
    }

    let said = release.refused(&["upgrade", release.name, &chart, "--set", SECOND, TIMEOUT])?;
    ensure!(said.contains("Job.batch \"batch-indexed\" is invalid: spec.template: Invalid value: "), "{said}");
    ensure!(said.contains("field is immutable"), "{said}");
    // To replace it is no way around: Helm does not have the selector that the API has given the Job.
    let mut replaced = vec!["upgrade", release.name, &chart, "--set", SECOND, release.tool.replaced()];
    if !release.tool.is_3 {
        replaced.push("--server-side=false");
    }
    let said = release.refused(&replaced)?;
    ensure!(said.contains("failed to replace object: Job.batch \"batch-indexed\" is invalid: ["), "{said}");
    ensure!(said.contains("spec.selector: Required value"), "{said}");

    let said = release.ok(&["upgrade", release.name, &chart, "--set", "suspended=true,schedule=0 0 2 1 *"])?;
    ensure!(said.contains("STATUS: deployed"), "{said}");
    ensure!(release.path("cronjob/batch", "{.spec.schedule}")? == "0 0 2 1 *");
    release.comes_to_be("job/batch-suspended", "{.status.conditions[0].type}", "Suspended")?;
    release.kubectl(&["patch", "job", "batch-suspended", "-p", r#"{"spec": {"suspend": false}}"#])?;
    release.kubectl(&["wait", "job/batch-suspended", "--for=condition=complete", TIMEOUT])?;
    release.kubectl(&["create", "job", "by-hand", "--from=cronjob/batch"])?;
    release.kubectl(&["wait", "job/by-hand", "--for=condition=complete", TIMEOUT])?;

    release.ok(&["rollback", release.name, "1", "--wait", "--wait-for-jobs", TIMEOUT])?;
    let jobs = release.kubectl(&["get", "jobs", "-o", "name"])?;
    ensure!(jobs == "job.batch/batch-indexed\njob.batch/by-hand\n", "{jobs}");
    release.has_history(&["superseded", "failed", "failed", "superseded", "deployed"])?;
    // A Job that is done and whose time to live is over is deleted, which an upgrade that waits for it would not survive.
    release.ok(&["upgrade", release.name, &chart, "--set", "ttl=1"])?;
    release.kubectl(&["wait", "job/batch-indexed", "--for=delete", TIMEOUT])?;
    release.uninstall(&[])
}

/// A pod on every node, before others and over what the node's taints say.
pub(super) fn agent(release: &Release<'_>) -> Result<()> {
    release.deploy("install", &[])?;
    release.runs("1", 1)?;
    let pod = release.pods()?.pop().context("a pod")?;
    ensure!(pod["spec"]["priority"] == 100_000 && pod["spec"]["nodeName"] == "edge-1", "{pod}");
    let name = std::fs::read_to_string("/etc/hostname")?;
    ensure!(release.kubectl(&["logs", "daemonset/agent"])? == name);
    let extras = "{.data.text}, {.data.site}";
    ensure!(release.path("configmap/agent-extras", extras)? == "from the whole, line-2");
    ensure!(release.path("ingress/agent", "{.spec.rules[0].host}")? == "agent.example.com");

    release.deploy("upgrade", &["--set", SECOND, "--set", "extras.enabled=false"])?;
    release.runs("2", 1)?;
    let said = release.fleet.kubectl.refused(&["get", "configmap", "agent-extras", "-n", release.name])?;
    ensure!(said.contains("NotFound"), "{said}");
    let history: &[&str] = if release.tool.is_3 {
        // Helm 3 waits for as many pods as must be available during an update: of one, none.
        release.deploy("upgrade", &["--set", ABSENT])?;
        &["superseded", "superseded", "superseded", "deployed"]
    } else {
        release.upgrade_comes_back(SHORT_WITH_START)?;
        release.runs("2", 1)?;
        &["superseded", "superseded", "failed", "superseded", "deployed"]
    };
    release.ok(&["rollback", release.name, "1", "--wait", TIMEOUT])?;
    release.runs("1", 1)?;
    ensure!(release.path("configmap/agent-extras", extras)? == "from the whole, line-2");
    release.has_history(history)?;
    let all = release.ok(&["get", "all", release.name])?;
    for part in
        ["CHART: agent", "COMPUTED VALUES:", "kind: DaemonSet", "# Source: agent/charts/extras/templates/config.yaml"]
    {
        ensure!(all.contains(part), "no {part:?}: {all}");
    }

    release.uninstall(&[])?;
    let classes = release.kubectl(&["get", "priorityclasses", "-o", "name"])?;
    ensure!(!classes.contains("agent-agent"), "{classes}");
    Ok(())
}
