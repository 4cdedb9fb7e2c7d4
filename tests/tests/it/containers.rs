//! Containers of images: imported and pulled, run, kept and cleaned up, as a person with kubectl and `selvedge image` sees them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::image::{Compression, Entry, Image};
use testkit::process;
use testkit::program::{Outcome, run};
use testkit::registry::{Access, Registry};
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE, kill_with_pods, wait_pods};

/// Debian's busybox with a variable of its own; `None` after a printed reason where containers of images cannot be tested.
fn busybox() -> Option<Image> {
    // SAFETY: it has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        testkit::skip("containers of images need root");
        return None;
    }
    let image = Image::busybox();
    if image.is_none() {
        testkit::skip("there is no static /bin/busybox; install busybox-static");
    }
    image.map(|image| image.config(serde_json::json!({"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["/bin/sh"]})))
}

/// A small image that is not busybox.
fn scratch(text: &str) -> Image {
    Image::new().layer(&[Entry::file("text", text)], Compression::Gzip)
}

/// An archive in a directory.
fn archive(dir: &Path, file: &str, image: &Image, name: &str) -> Result<PathBuf> {
    let path = dir.join(file);
    std::fs::write(&path, image.layout_tar(name))?;
    Ok(path)
}

/// `selvedge image …` on a data directory.
fn image(data_dir: &Path, words: &[&str]) -> Result<Outcome> {
    let data_dir = data_dir.to_string_lossy();
    run(["image"].iter().chain(words).chain(&["--data-dir", data_dir.as_ref()]))
}

/// A pod with one container `main` of busybox that runs a script.
fn pod(name: &str, image: &str, more: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  nodeName: edge-1
  terminationGracePeriodSeconds: 1
  {more}
  containers:
    - name: main
      image: {image}
      imagePullPolicy: IfNotPresent
      command: [sh, -c, {script:?}]
      env: [{{ name: FROM_POD, value: "1" }}]
      readinessProbe: {{ exec: {{ command: [grep, -q, up, /tmp/ready] }}, periodSeconds: 1 }}
---
"#
    )
}

/// What is left of a pod on this machine: processes, mounts, control groups, files.
fn left_of(uid: &str, data_dir: &Path) -> Vec<String> {
    let mut left: Vec<String> = process::find(|words| words.iter().any(|word| word.contains(uid)))
        .into_iter()
        .map(|(pid, words)| format!("process {pid} {words:?}"))
        .collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    left.extend(mounts.lines().filter(|line| line.contains(uid)).map(|line| format!("mount {line}")));
    let places = [Path::new("/sys/fs/cgroup"), Path::new("/run"), Path::new("/dev/shm"), data_dir];
    let found = Command::new("find").args(places).args(["-name", &format!("*{uid}*")]).output();
    let found = found.map(|found| String::from_utf8_lossy(&found.stdout).into_owned()).unwrap_or_default();
    left.extend(found.lines().map(|path| format!("file {path}")));
    left
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Waits until `kubectl get pod` shows a status.
fn shows(fleet: &Fleet, pod: &str, status: &str) -> Result<()> {
    eventually(&format!("{status} of pod {pod}"), PATIENCE, || {
        let shown = fleet.kubectl.ok(&["get", "pod", pod]).map_err(|error| error.to_string())?;
        if shown.contains(status) { Ok(()) } else { Err(shown) }
    })
}

#[test]
fn an_imported_image_runs_outlives_its_node_and_leaves_nothing() -> Result<()> {
    let Some(busybox) = busybox() else { return Ok(()) };
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let node = fleet.node.data_dir().to_owned();
    let tar = archive(fleet.dir.path(), "box.tar", &busybox, "example.com/box:1")?;
    let said = image(&node, &["import", &tar.to_string_lossy()])?.ok()?;
    ensure!(said.starts_with("imported example.com/box:1 ("), "{said}");
    let listed = image(&node, &["ls"])?.ok()?;
    ensure!(listed.lines().any(|line| line.starts_with("example.com/box ") && line.ends_with("MB")), "{listed}");

    let script = "echo hello $FROM_IMAGE $FROM_POD $PPID; echo up > /tmp/ready; exec sleep 3600";
    fleet.kubectl.apply(&pod("box", "example.com/box:1", "", script))?.ok()?;
    let first = wait_pods(&fleet.kubectl, "app=box", 1)?.remove(0);
    let uid = first["metadata"]["uid"].as_str().context("a uid")?.to_owned();
    ensure!(container(&first)["imageID"] == busybox.id(), "{first}");
    let log = || fleet.kubectl.ok(&["logs", "box"]).map_err(|error| error.to_string());
    let log = eventually("the log", PATIENCE, log)?;
    ensure!(log == "hello yes 1 0\n", "the program is pid 1 and has both environments: {log:?}");

    let said = image(&node, &["rm", "example.com/box:1"])?.refused()?;
    ensure!(said.contains("is in use by default/box/main; delete its pod first"), "{said}");
    eventually("the image in the Node's status", PATIENCE, || {
        let node = fleet.kubectl.json(&["node", "edge-1"]).map_err(|error| error.to_string())?;
        let images = node["status"]["images"].as_array().cloned().unwrap_or_default();
        let named = |image: &&Value| image["names"].to_string().contains("\"example.com/box:1\"");
        let size = images.iter().find(named).and_then(|image| image["sizeBytes"].as_u64());
        if size > Some(500_000) { Ok(()) } else { Err(format!("{images:?}")) }
    })?;

    // The node alone: the container runs on and is adopted.
    fleet.node.kill();
    let said = image(&node, &["rm", "example.com/box:1"])?.refused()?;
    ensure!(said.contains("is in use by default/box/main"), "without a node it is known as well: {said}");
    fleet.node.start_again("ephemeral")?;
    fleet.node.address("node-kubelet")?;
    let adopted = wait_pods(&fleet.kubectl, "app=box", 1)?.remove(0);
    ensure!(container(&adopted)["state"] == container(&first)["state"], "{adopted}");
    ensure!(container(&adopted)["restartCount"] == 0, "{adopted}");

    // The node, its shims and the container.
    kill_with_pods(&mut fleet.node)?;
    fleet.node.start_again("ephemeral")?;
    let again = eventually("the container again", PATIENCE, || {
        let pod = wait_pods(&fleet.kubectl, "app=box", 1).map_err(|error| error.to_string())?.remove(0);
        if container(&pod)["restartCount"].as_i64() == Some(1) { Ok(pod) } else { Err(pod["status"].to_string()) }
    })?;
    ensure!(again["metadata"]["uid"] == uid.as_str(), "{again}");

    fleet.kubectl.ok(&["delete", "pod", "box", "--timeout=60s"])?;
    eventually("nothing of the pod", PATIENCE, || {
        let left = left_of(&uid, &node);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    })?;
    eventually("the image's removal", PATIENCE, || {
        image(&node, &["rm", "example.com/box:1"]).and_then(Outcome::ok).map_err(|error| format!("{error:#}"))
    })?;
    let listed = image(&node, &["ls", "-o", "json"])?.ok()?;
    let listed: Value = serde_json::from_str(&listed)?;
    ensure!(listed["version"] == 1 && listed["images"].as_array().is_some_and(Vec::is_empty), "{listed}");
    let layers = std::fs::read_dir(node.join("node/images/layers"))?.count();
    ensure!(layers == 0, "{layers} layers of no image");
    Ok(())
}

#[test]
fn root_of_a_pod_with_users_of_its_own_is_nobody_on_the_node() -> Result<()> {
    let Some(busybox) = busybox() else { return Ok(()) };
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let node = fleet.node.data_dir().to_owned();
    let tar = archive(fleet.dir.path(), "box.tar", &busybox, "example.com/box:1")?;
    image(&node, &["import", &tar.to_string_lossy()])?.ok()?;
    eventually("the runtime's features", PATIENCE, || {
        let node = fleet.kubectl.json(&["node", "edge-1"]).map_err(|error| error.to_string())?;
        let handlers = node["status"]["runtimeHandlers"].as_array().cloned().unwrap_or_default();
        let has_users = |one: &&Value| one["name"] == "" && one["features"]["userNamespaces"] == true;
        if handlers.iter().any(|one| has_users(&one)) { Ok(()) } else { Err(format!("{handlers:?}")) }
    })?;

    let script = "id -u; wc -c < /var/run/secrets/kubernetes.io/serviceaccount/token > /data/token; cat /etc/hosts > /data/hosts; \
                  stat -c %u /data/token /etc/hosts; cat /proc/self/uid_map; touch /tmp/mine; echo up > /tmp/ready; \
                  echo ended > /dev/termination-log; exec sleep 3600";
    let manifest =
        pod("own", "example.com/box:1", "hostUsers: false\n  volumes: [{ name: data, emptyDir: {} }]", script);
    let manifest = manifest.replace("      env:", "      volumeMounts: [{ name: data, mountPath: /data }]\n      env:");
    fleet.kubectl.apply(&manifest)?.ok()?;
    let first = wait_pods(&fleet.kubectl, "app=own", 1)?.remove(0);
    let log = fleet.kubectl.ok(&["logs", "own"])?;
    let lines: Vec<&str> = log.lines().collect();
    let [user, token, hosts, map] = lines[..] else { anyhow::bail!("{log}") };
    ensure!([user, token, hosts] == ["0", "0", "0"], "{log}");
    let map: Vec<u32> = map.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [0, on_the_node, 65_536] = map[..] else { anyhow::bail!("{log}") };
    let seen = process::find(|words| words.iter().take(2).map(String::as_str).eq(["sleep", "3600"]));
    let owners: Vec<u32> = seen
        .iter()
        .filter_map(|(pid, _)| std::fs::metadata(format!("/proc/{pid}")).ok())
        .map(|process| std::os::unix::fs::MetadataExt::uid(&process))
        .collect();
    ensure!(owners.contains(&on_the_node), "{owners:?} without {on_the_node}");

    // What it had is taken over by the next agent; after the end of everything it begins anew, and its volume is its own still.
    fleet.node.kill();
    fleet.node.start_again("ephemeral")?;
    fleet.node.address("node-kubelet")?;
    let adopted = wait_pods(&fleet.kubectl, "app=own", 1)?.remove(0);
    ensure!(container(&adopted)["state"] == container(&first)["state"], "{adopted}");
    kill_with_pods(&mut fleet.node)?;
    fleet.node.start_again("ephemeral")?;
    let again = eventually("the container again", PATIENCE, || {
        let pod = wait_pods(&fleet.kubectl, "app=own", 1).map_err(|error| error.to_string())?.remove(0);
        if container(&pod)["restartCount"].as_i64() == Some(1) { Ok(pod) } else { Err(pod["status"].to_string()) }
    })?;
    let log = fleet.kubectl.ok(&["logs", "own"])?;
    ensure!(log.starts_with("0\n0\n0\n"), "{log}");
    let uid = again["metadata"]["uid"].as_str().context("a uid")?;
    fleet.kubectl.ok(&["delete", "pod", "own", "--timeout=60s"])?;
    eventually("nothing of the pod", PATIENCE, || {
        let left = left_of(uid, &node);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:#?}")) }
    })
}

/// Other runtimes that work on this machine. crun before 1.9 does nothing where a version 2 hierarchy of control groups is beside
/// version 1.
pub fn other_runtimes() -> Vec<&'static str> {
    let is_here = |name: &&str| ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let is_hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    let found: Vec<&str> = ["runc", "crun"].into_iter().filter(is_here).collect();
    if found.is_empty() {
        testkit::skip("neither runc nor crun is installed");
    }
    found.into_iter().filter(|name| *name != "crun" || !is_hybrid).collect()
}

#[test]
fn a_pod_names_another_runtime_and_gets_the_same() -> Result<()> {
    let runtimes = other_runtimes();
    let Some(busybox) = busybox().filter(|_| !runtimes.is_empty()) else { return Ok(()) };
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let node = fleet.node.data_dir().to_owned();
    let tar = archive(fleet.dir.path(), "box.tar", &busybox, "example.com/box:1")?;
    image(&node, &["import", &tar.to_string_lossy()])?.ok()?;
    let script = "echo hello $FROM_IMAGE $FROM_POD $PPID; echo up > /tmp/ready; exec sleep 3600";
    for name in &runtimes {
        let class = format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{ name: {name} }}\nhandler: {name}\n---"
        );
        let class_name = format!("runtimeClassName: {name}");
        fleet.kubectl.apply(&(class + &pod(name, "example.com/box:1", &class_name, script)))?.ok()?;
        let first = wait_pods(&fleet.kubectl, &format!("app={name}"), 1)?.remove(0);
        let id = container(&first)["containerID"].as_str().unwrap_or_default();
        ensure!(id.starts_with(&format!("{name}://")), "{first}");
        let log = || fleet.kubectl.ok(&["logs", name]).map_err(|error| error.to_string());
        let log = eventually("the log", PATIENCE, log)?;
        ensure!(log == "hello yes 1 0\n", "{name}: {log:?}");
    }
    let handlers = fleet.kubectl.json(&["node", "edge-1"])?["status"]["runtimeHandlers"].clone();
    for name in runtimes.iter().chain(&[""]) {
        let is_named = handlers.as_array().is_some_and(|handlers| handlers.iter().any(|one| one["name"] == *name));
        ensure!(is_named, "{name:?} in {handlers}");
    }

    fleet.node.kill();
    fleet.node.start_again("ephemeral")?;
    fleet.node.address("node-kubelet")?;
    for name in &runtimes {
        let adopted = wait_pods(&fleet.kubectl, &format!("app={name}"), 1)?.remove(0);
        ensure!(container(&adopted)["restartCount"] == 0, "{adopted}");
        let said = image(&node, &["rm", "example.com/box:1"])?.refused()?;
        ensure!(said.contains("is in use by default/"), "{said}");
        let uid = adopted["metadata"]["uid"].as_str().context("a uid")?.to_owned();
        fleet.kubectl.ok(&["delete", "pod", name, "--timeout=60s"])?;
        eventually("nothing of the pod", PATIENCE, || {
            let left = left_of(&uid, &node);
            if left.is_empty() { Ok(()) } else { Err(format!("{name}: {left:#?}")) }
        })?;
    }
    Ok(())
}

#[test]
fn images_are_pulled_with_a_secret_and_what_cannot_be_had_says_why() -> Result<()> {
    let Some(busybox) = busybox() else { return Ok(()) };
    let registry = Registry::start()?;
    registry.add("team/box", "1", &busybox);
    registry.set_access(Access::Basic("robot".to_owned(), "secret".to_owned()));
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("registries.yaml");
    std::fs::write(&file, format!("plainHttp: [\"{}\"]\n", registry.host()))?;
    let Some(fleet) = Fleet::start_with(&format!("registriesFile: {}\n", file.display()))? else { return Ok(()) };
    let name = format!("{}/team/box:1", registry.host());
    let login = ["--docker-username=robot", "--docker-password=secret"];
    let server = format!("--docker-server={}", registry.host());
    fleet.kubectl.ok(&["create", "secret", "docker-registry", "login", &server, login[0], login[1]])?;
    let missing = format!("{}/team/none:1", registry.host());
    let never = pod("never", &name, "", "true").replace("IfNotPresent", "Never");
    let script = "echo up > /tmp/ready; exec sleep 3600";
    let manifests = [
        pod("nobody", &name, "", "true"),
        pod("none", &missing, "imagePullSecrets: [{ name: login }]", "true"),
        pod("badname", "example.com/Upper:1", "", "true"),
        never,
    ];
    fleet.kubectl.apply(&manifests.concat())?.ok()?;
    shows(&fleet, "never", "ErrImageNeverPull")?;
    shows(&fleet, "nobody", "ImagePullBackOff")?;
    shows(&fleet, "none", "ImagePullBackOff")?;
    shows(&fleet, "badname", "InvalidImageName")?;

    fleet.kubectl.apply(&pod("member", &name, "imagePullSecrets: [{ name: login }]", script))?.ok()?;
    wait_pods(&fleet.kubectl, "app=member", 1)?;
    // One that writes more into its image than it may, while the rest is looked at.
    let greedy = pod("greedy", &name, "", "dd if=/dev/zero of=/big bs=1M count=3; exec sleep 3600");
    let limited = "resources: { limits: { ephemeral-storage: 1Mi } }\n      command: [sh";
    fleet.kubectl.apply(&greedy.replace("command: [sh", limited))?.ok()?;
    let events = || {
        let events = fleet.kubectl.ok(&["get", "events"]).map_err(|error| error.to_string())?;
        let is_said = ["Successfully pulled image", "Back-off pulling image"].iter().all(|said| events.contains(said));
        if is_said { Ok(()) } else { Err(events) }
    };
    eventually("events of the pulls", PATIENCE, events)?;

    let ended = pod("ended", &name, "restartPolicy: Never", "exit 3");
    fleet.kubectl.apply(&ended)?.ok()?;
    let state = eventually("the end of the pod", PATIENCE, || {
        let pod = fleet.kubectl.json(&["pod", "ended"]).map_err(|error| error.to_string())?;
        let state = container(&pod)["state"]["terminated"].clone();
        if pod["status"]["phase"] == "Failed" { Ok(state) } else { Err(pod["status"].to_string()) }
    })?;
    ensure!(state["exitCode"] == 3 && state["reason"] == "Error", "{state}");

    // By hand it is pulled without the Secret of a pod, and says what the registry says.
    let node = fleet.node.data_dir();
    let said = image(node, &["pull", &missing])?.refused()?;
    ensure!(said.contains("failed to pull image") && said.contains("denies access"), "{said}");
    registry.set_access(Access::Open);
    registry.add("team/text", "1", &scratch("pulled"));
    let said = image(node, &["pull", &format!("{}/team/text:1", registry.host())])?.ok()?;
    ensure!(said.starts_with("pulled ") && said.contains("/team/text:1 ("), "{said}");

    // Ahead of its use, by a pod that runs on.
    registry.add("team/next", "2", &scratch("next"));
    let next = format!("{}/team/next:2", registry.host());
    fleet.kubectl.ok(&["annotate", "pod", "member", &format!("selvedge.dev/pre-pull={missing}, {next}")])?;
    eventually("events of what is pulled ahead", PATIENCE, || {
        let events = fleet.kubectl.ok(&["get", "events"]).map_err(|error| error.to_string())?;
        let said = [format!("pulled image \"{next}\" ahead"), format!("pull image \"{missing}\" ahead")];
        if said.iter().all(|said| events.contains(said)) { Ok(()) } else { Err(events) }
    })?;
    let listed = image(node, &["ls"])?.ok()?;
    ensure!(listed.contains("/team/next "), "{listed}");
    ensure!(container(&fleet.kubectl.json(&["pod", "member"])?)["restartCount"] == 0, "the pod runs on");
    let evicted = eventually("the end of the greedy pod", PATIENCE, || {
        let pod = fleet.kubectl.json(&["pod", "greedy"]).map_err(|error| error.to_string())?;
        let status = &pod["status"];
        if status["reason"] == "Evicted" { Ok(status["message"].clone()) } else { Err(status.to_string()) }
    })?;
    ensure!(evicted == "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ", "{evicted}");
    Ok(())
}

#[test]
fn a_box_gets_its_images_before_it_has_a_hub() -> Result<()> {
    if busybox().is_none() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let node = dir.path().join("node");
    let said = image(&node, &["ls"])?.refused()?;
    ensure!(said.contains("holds no images") && said.contains("--data-dir"), "{said}");
    let tar = archive(dir.path(), "a.tar", &scratch("a"), "example.com/a:1")?;
    let created = image(&node, &["import", &tar.to_string_lossy()])?;
    let shown = node.display().to_string();
    ensure!(created.stderr.contains(&shown) && created.stderr.contains("a new store was created"), "{created:?}");
    created.ok()?;
    let again = image(&node, &["import", &tar.to_string_lossy()])?;
    ensure!(again.stderr.is_empty(), "{again:?}");
    again.ok()?;
    std::fs::write(dir.path().join("broken.tar"), "broken")?;
    let said = image(&node, &["import", &dir.path().join("broken.tar").to_string_lossy()])?.refused()?;
    ensure!(said.contains("failed to read the archive of images") && said.contains("broken.tar"), "{said}");
    let exported = dir.path().join("exported.tar");
    image(&node, &["export", "example.com/a:1", &exported.to_string_lossy()])?.ok()?;
    ensure!(exported.metadata()?.len() > 1024, "{exported:?}");
    let said = image(&node, &["export", "example.com/b:1", "/nowhere/b.tar"])?.refused()?;
    ensure!(said.contains("no image `example.com/b:1`"), "{said}");
    let said = image(&node, &["rm", "example.com/b:1"])?.refused()?;
    ensure!(said.contains("no image `example.com/b:1`"), "{said}");
    image(&node, &["rm", "example.com/a:1"])?.ok()?;

    // And what is in its directory, once it starts.
    std::fs::create_dir(node.join("images"))?;
    std::fs::rename(dir.path().join("broken.tar"), node.join("images/broken.tar"))?;
    std::fs::rename(&exported, node.join("images/a.tar"))?;
    scratch("layout").write_layout(&node.join("images/layout"), "example.com/layout:1")?;
    let Some(fleet) = Fleet::start_in(dir, "")? else { return Ok(()) };
    let listed = eventually("the images of the directory", PATIENCE, || {
        let listed = image(&node, &["ls"]).and_then(Outcome::ok).map_err(|error| format!("{error:#}"))?;
        let has_both = ["example.com/a ", "example.com/layout "].iter().all(|name| listed.contains(name));
        if has_both { Ok(listed) } else { Err(listed) }
    })?;
    ensure!(listed.lines().count() == 3, "{listed}");
    let log = fleet.node.log();
    ensure!(log.contains("An archive of images was not imported.") && log.contains("broken.tar"), "{log}");
    Ok(())
}
