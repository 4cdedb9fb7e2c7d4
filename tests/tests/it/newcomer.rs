//! What newcomers and other people's bug reports showed: small inputs, each with its right value.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::hollow;
use testkit::kubectl::Kubectl;
use testkit::program::{Outcome, Selvedge};
use testkit::wait::eventually;
use testkit::wire;

use crate::common::{PATIENCE, root, start_on_its_port};

/// A hub with three hollow nodes, and kubectl.
struct Small {
    kubectl: Kubectl,
    _nodes: hollow::Fleet,
    _hub: Selvedge,
    dir: tempfile::TempDir,
}

const NODES: u64 = 3;

impl Small {
    fn start() -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let hub_dir = dir.path().join("hub");
        let Some(kubectl) = Kubectl::newest(&hub_dir.join("kubeconfig")) else { return Ok(None) };
        let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
        let address = hub.address("hub-api")?;
        let tokens = dir.path().join("tokens");
        std::fs::write(&tokens, hollow::tokens(&hub_dir, NODES as usize)?)?;
        let program = Path::new(env!("CARGO_BIN_EXE_hollow"));
        let mut nodes = hollow::Fleet::start(program, &address, &tokens, NODES as usize, &[])?;
        nodes.wait_following(PATIENCE)?;
        Ok(Some(Self { kubectl, _nodes: nodes, _hub: hub, dir }))
    }

    /// Waits until the status of the set `ad` satisfies `is_it`.
    fn wait_status(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, PATIENCE, || {
            let set = self.kubectl.json(&["ds", "ad"]).map_err(|error| error.to_string())?;
            let is_seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
            if is_seen && is_it(&set["status"]) { Ok(set.clone()) } else { Err(set["status"].to_string()) }
        })
    }

    fn pods(&self) -> Result<Vec<Value>> {
        let list = self.kubectl.json(&["pods", "-l", "app=ad"])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

fn daemon_set(spec: &str, version: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{ name: ad }}\nspec:\n  selector: {{ matchLabels: {{ app: ad }} }}\n{spec}  \
         template:\n    metadata: {{ labels: {{ app: ad, version: {version} }} }}\n    spec:\n      runtimeClassName: selvedge-process\n      \
         containers: [{{ name: c, image: 'file:///bin/sleep', args: ['3600'] }}]\n"
    )
}

#[test]
fn a_daemon_set_adopts_what_was_orphaned() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    small.kubectl.apply(&daemon_set("", "one"))?.ok()?;
    small.wait_status("three ready pods", |status| status["numberReady"] == NODES)?;
    let before: Vec<String> = small.pods()?.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    small.kubectl.ok(&["delete", "ds", "ad", "--cascade=orphan"])?;
    ensure!(small.pods()?.len() == 3, "the orphans were deleted");
    small.kubectl.apply(&daemon_set("", "one"))?.ok()?;
    let set = small.wait_status("three adopted pods", |status| {
        status["currentNumberScheduled"] == NODES && status["numberReady"] == NODES
    })?;
    let pods = small.pods()?;
    for pod in &pods {
        let owner = &pod["metadata"]["ownerReferences"][0];
        ensure!(owner["uid"] == set["metadata"]["uid"] && owner["controller"] == true, "{owner}");
        ensure!(
            before.contains(&pod["metadata"]["uid"].to_string()),
            "a pod was replaced though its template is the same"
        );
    }
    // What leaves the selector is released, and replaced.
    let name = pods[0]["metadata"]["name"].as_str().context("a name")?;
    small.kubectl.ok(&["label", "pod", name, "app=other", "--overwrite"])?;
    eventually("the released pod without an owner", PATIENCE, || {
        let pod = small.kubectl.json(&["pod", name]).map_err(|error| error.to_string())?;
        let owners = pod["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        if owners == 0 { Ok(()) } else { Err(pod["metadata"].to_string()) }
    })?;
    small.wait_status("a pod in its place", |status| status["numberReady"] == NODES)?;
    small.kubectl.ok(&["delete", "ds", "ad"])?;
    eventually("no pod of the set", PATIENCE, || {
        let left = small.pods().map_err(|error| error.to_string())?.len();
        if left == 0 { Ok(()) } else { Err(format!("{left} pods")) }
    })
}

#[test]
fn a_deletion_in_the_foreground_ends_after_the_pods_have() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    small.kubectl.apply(&daemon_set("", "one"))?.ok()?;
    small.wait_status("three ready pods", |status| status["numberReady"] == NODES)?;
    // kubectl waits until the set is deleted.
    small.kubectl.ok(&["delete", "ds", "ad", "--cascade=foreground", "--timeout=60s"])?;
    let left = small.pods()?;
    ensure!(left.is_empty(), "the set was deleted before {} of its pods", left.len());
    Ok(())
}

#[test]
fn min_ready_seconds_holds_a_roll_back() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    small.kubectl.apply(&daemon_set("  minReadySeconds: 4\n", "one"))?.ok()?;
    let set = small.wait_status("ready pods that are not available yet", |status| status["numberReady"] == NODES)?;
    ensure!(set["status"]["numberAvailable"].as_u64().unwrap_or(0) == 0, "{}", set["status"]);
    small.wait_status("available pods", |status| status["numberAvailable"] == NODES)?;
    let begin = std::time::Instant::now();
    small.kubectl.apply(&daemon_set("  minReadySeconds: 4\n", "two"))?.ok()?;
    small.wait_status("the set rolled", |status| {
        status["updatedNumberScheduled"] == NODES && status["numberAvailable"] == NODES
    })?;
    // One at a time, and each new pod is watched for four seconds before the next goes.
    ensure!(begin.elapsed() >= Duration::from_secs(11), "rolled in {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_surge_puts_the_new_pod_up_before_the_old_one_goes() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    let surge = "  updateStrategy: { rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } }\n";
    let applied = small.kubectl.apply(&daemon_set(surge, "one"))?;
    if applied.code != 0 {
        // Not served is an answer, when it says so.
        ensure!(applied.stderr.contains("maxSurge"), "{}", applied.stderr);
        return Ok(());
    }
    small.wait_status("available pods", |status| status["numberAvailable"] == NODES)?;
    // Every state on the way is looked at, by a watch: a roll takes less time than kubectl does for one question.
    let access = wire::Access::kubeconfig(&small.dir.path().join("hub/kubeconfig"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (least, most) = runtime.block_on(async {
        let connection = access.connect().await?;
        let path = "/api/v1/namespaces/default/pods?watch=1&labelSelector=app%3Dad";
        let mut events = connection.watch(path).await?;
        let mut pods: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        let (mut least, mut most, mut is_applied) = (NODES as usize, 0, false);
        loop {
            let line = tokio::time::timeout(PATIENCE, events.next()).await.with_context(|| format!("{pods:?}"))??;
            let event: Value = serde_json::from_slice(&line.context("the watch ended")?)?;
            let (pod, metadata) = (&event["object"], &event["object"]["metadata"]);
            let uid = metadata["uid"].as_str().context("a pod has a uid")?.to_owned();
            if event["type"] == "DELETED" {
                pods.remove(&uid);
            } else {
                let conditions = pod["status"]["conditions"].as_array();
                let is_ready = metadata["deletionTimestamp"].is_null()
                    && conditions
                        .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
                pods.insert(uid, (is_ready, metadata["labels"]["version"] == "two"));
            }
            let ready = pods.values().filter(|(is_ready, _)| *is_ready).count();
            if !is_applied {
                // The watch begins with what is there.
                is_applied = ready == NODES as usize;
                if is_applied {
                    small.kubectl.apply(&daemon_set(surge, "two"))?.ok()?;
                }
                continue;
            }
            (least, most) = (least.min(ready), most.max(pods.len()));
            if pods.len() == NODES as usize && pods.values().all(|pod| *pod == (true, true)) {
                return anyhow::Ok((least as u64, most as u64));
            }
        }
    })?;
    ensure!(least == NODES && most > NODES, "{least} ready pods at least, {most} pods at most");
    Ok(())
}

#[test]
fn a_rolling_update_that_cannot_roll_is_rejected() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    small.kubectl.apply(&daemon_set("", "one"))?.ok()?;
    for (value, words) in [
        ("0", "cannot be 0 when"),
        ("\"abc\"", "percent"),
        ("\"lots\"", "percent"),
        ("\"150%\"", "100%"),
        ("-1", "greater than or equal to 0"),
    ] {
        let patch = format!("{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":{{\"maxUnavailable\":{value}}}}}}}}}");
        let rejection = small.kubectl.refused(&["patch", "ds", "ad", "-p", &patch])?;
        ensure!(rejection.contains("maxUnavailable") && rejection.contains(words), "{value}: {rejection}");
    }
    Ok(())
}

#[test]
fn host_network_takes_its_ports_as_upstream() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    let set = |port: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{ name: ad }}\nspec:\n  selector: {{ matchLabels: {{ app: ad }} }}\n  \
             template:\n    metadata: {{ labels: {{ app: ad }} }}\n    spec:\n      runtimeClassName: selvedge-process\n      hostNetwork: true\n      \
             containers: [{{ name: c, image: 'file:///bin/sleep', args: ['60'], ports: [{{ {port} name: metrics }}] }}]\n"
        )
    };
    let rejection = small.kubectl.apply(&set("containerPort: 9100, hostPort: 9101,"))?.refused()?;
    ensure!(rejection.contains("hostPort"), "{rejection}");
    small.kubectl.apply(&set("containerPort: 9100,"))?.ok()?;
    small.wait_status("running pods", |status| status["numberReady"] == NODES)?;
    Ok(())
}

#[test]
fn a_debug_container_is_added_to_its_pod() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    small
        .kubectl
        .apply("apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec: { nodeName: hollow-0, runtimeClassName: selvedge-process, containers: [{ name: c, image: 'file:///bin/sleep', args: ['60'] }] }")?
        .ok()?;
    small.kubectl.ok(&["debug", "p", "--image=busybox", "--attach=false", "-c", "look"])?;
    let containers = small.kubectl.ok(&["get", "pod", "p", "-o", "jsonpath={.spec.ephemeralContainers[*].name}"])?;
    ensure!(containers == "look", "{containers}");
    Ok(())
}

/// Another clock for the programs that get its environment; moved by [`Clock::set`].
struct Clock {
    library: String,
    offset_file: String,
}

impl Clock {
    /// A clock that is right. Its library is made by the C compiler that building the program needs, too.
    fn start(dir: &Path) -> Result<Self> {
        let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
        let clock = Self { library: path("clock.so"), offset_file: path("clock-offset") };
        let source = root().join("tests/fixtures/clock.c");
        let mut compiler = std::process::Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o", &clock.library]).arg(source);
        Outcome::of(&mut compiler)?.ok()?;
        clock.set(0)?;
        Ok(clock)
    }

    /// Moves it by so many seconds from the right time.
    fn set(&self, offset_seconds: i64) -> Result<()> {
        std::fs::write(&self.offset_file, offset_seconds.to_string()).context("failed to move the clock")
    }

    fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("CLOCK_OFFSET_FILE", &self.offset_file)]
    }
}

#[test]
fn a_first_start_with_a_wrong_clock_makes_no_ca_that_is_of_no_use() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let Some(kubectl) = Kubectl::newest(&hub_dir.join("kubeconfig")) else { return Ok(()) };
    let clock = Clock::start(dir.path())?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    // The second of January 1970.
    clock.set(86_400 - i64::try_from(now)?)?;
    let mut hub = Selvedge::start_with(&hub_dir, &["hub"], "ephemeral", &clock.environment())?;
    // Either it does not begin, and says why, or what it makes is good under the right clock.
    let ended = hub.wait(Duration::from_secs(5));
    if let Ok(status) = ended {
        let log = hub.log();
        ensure!(!status.success() && log.contains("clock"), "{log}");
    }
    hub.kill();
    hub.set_environment(&[]);
    hub.start_again("ephemeral")?;
    hub.address("hub-api")?;
    kubectl.ok(&["get", "nodes"])?;
    Ok(())
}

#[test]
fn a_clock_that_steps_forward_renews_what_has_expired() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let clock = Clock::start(dir.path())?;
    // Right at first. The serving certificate of that day lives a year.
    let mut hub = Selvedge::start_with(&hub_dir, &["hub"], "ephemeral", &clock.environment())?;
    let address = hub.address("hub-api")?;
    let (_, ca, _) = wire::read_kubeconfig(&hub_dir.join("kubeconfig"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = runtime.block_on(wire::served_validity(&address, &ca))?;
    clock.set(400 * 86_400)?;
    eventually("a certificate that outlives the new day", Duration::from_secs(120), || {
        let now = runtime.block_on(wire::served_validity(&address, &ca)).map_err(|error| format!("{error:#}"))?;
        if now.1 > first.1 + 300 * 86_400 { Ok(()) } else { Err(format!("{now:?} after {first:?}")) }
    })
}

#[test]
fn cluster_info_says_where_the_hub_is() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    let info = small.kubectl.ok(&["cluster-info"])?;
    ensure!(info.contains("is running at"), "{info}");
    Ok(())
}

#[test]
fn a_service_account_gets_a_token_by_which_it_is_known() -> Result<()> {
    let Some(small) = Small::start()? else { return Ok(()) };
    let token = small.kubectl.ok(&["create", "token", "default"])?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    let known =
        small.kubectl.ok(&["--token", token.trim(), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    // The administrator's certificate comes first; by the token alone it is the service account.
    ensure!(!known.is_empty(), "{known}");
    Ok(())
}

#[test]
fn a_hub_on_a_full_disk_opens_and_lets_people_make_space() -> Result<()> {
    let Some(disk) = crate::bad_input::SmallDisk::mount(24 * 1024 * 1024)? else { return Ok(()) };
    let data_dir = disk.path().join("data");
    let Some(kubectl) = Kubectl::newest(&data_dir.join("kubeconfig")) else { return Ok(()) };
    let mut hub = Selvedge::start(&data_dir, &["hub"])?;
    let address = hub.address("hub-api")?;
    for number in 0..10 {
        let value = format!("--from-literal=a={}", "x".repeat(100_000));
        kubectl.ok(&["create", "configmap", &format!("c{number}"), &value])?;
    }
    let ballast = disk.path().join("ballast");
    crate::bad_input::fill(&ballast)?;
    hub.kill();
    let dir = tempfile::tempdir()?;
    start_on_its_port(&mut hub, dir.path(), &address)?;
    kubectl.ok(&["get", "configmaps"])?;
    // Whoever wants to make space by the API can.
    for number in 0..10 {
        kubectl.ok(&["delete", "configmap", &format!("c{number}")])?;
    }
    Ok(())
}

#[test]
fn an_unknown_path_is_answered_as_by_a_kube_apiserver() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    hub.address("hub-api")?;
    let admin = wire::Access::kubeconfig(&hub_dir.join("kubeconfig"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = admin.connect().await?;
        for path in ["/apis/nobody.example/v1/things", "/nowhere"] {
            let answer = connection.get(path).await?;
            ensure!(
                answer.status == 404 && answer.text().starts_with("404 page not found"),
                "{path}: {}",
                answer.text()
            );
        }
        let answer = connection.get("/api/v1/namespaces/default/pods/p/nothing").await?;
        ensure!(answer.status == 404 && answer.json()["details"].is_object(), "{}", answer.text());
        Ok(())
    })
}
