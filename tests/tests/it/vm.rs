//! A whole box: its power is cut, its clock is lost, its disk and its memory are full.
//!
//! The machine is `testkit::vm`: the built program and busybox on a disk of their own, with Debian's kernel, whose control groups are of
//! version 2. `cargo xtask test --vm` runs what is here.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::vm::{Machine, Setup};
use testkit::wait::eventually;

use crate::common::{condition, is_full};
use crate::hostile_hub::Api;

const NODE: &str = "box";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// An emulated box is slow, and beside another test slower.
const PATIENCE: Duration = Duration::from_secs(180);
/// What containers are made from, imported from an archive on the disk.
const IMAGE: &str = "example.com/box:1";
/// Hub, node and edge plane in one.
const UP: &str = "selvedge up --node-name box --data-dir /data &\n";

/// A box that is all there is: hub, node and edge plane.
struct Up {
    machine: Machine,
    api: Api,
    // Last, so that the directory outlives what writes into it.
    _dir: tempfile::TempDir,
}

impl Up {
    /// Boots it and waits until its node is Ready; `None` where there is no virtual machine.
    fn start(change: impl FnOnce(&mut Setup)) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let mut setup = Setup::new(UP);
        let image =
            testkit::image::Image::busybox().context("there is no static /bin/busybox; install busybox-static")?;
        setup.files.push(("data/images/box.tar".into(), image.docker_archive(IMAGE)));
        change(&mut setup);
        let Some(mut machine) = Machine::create(&dir.path().join("vm"), setup)? else { return Ok(None) };
        machine.boot()?;
        let api = Api::with(&machine.kubeconfig("/data")?)?;
        let up = Self { machine, api, _dir: dir };
        up.wait_ready()?;
        eventually("the image of the archive", PATIENCE, || {
            let listed = up.machine.run("selvedge image ls --data-dir /data").map_err(|error| format!("{error:#}"))?;
            if listed.contains("example.com/box ") { Ok(()) } else { Err(listed) }
        })?;
        Ok(Some(up))
    }

    /// Switches it on again after a cut; how long it took until its API answered.
    fn boot_again(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.machine.boot()?;
        self.reconnect()?;
        eventually("an answer of the hub", PATIENCE, || self.api.get(PODS).map_err(|error| format!("{error:#}")))?;
        Ok(start.elapsed())
    }

    /// The address that the host reaches is another one after each boot.
    fn reconnect(&mut self) -> Result<()> {
        self.api = Api::with(&self.machine.kubeconfig("/data")?)?;
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        eventually("a Ready node", PATIENCE, || {
            let node = self.api.get(&format!("/api/v1/nodes/{NODE}")).map_err(|error| format!("{error:#}"))?;
            match condition(&node, "Ready") {
                Some(ready) if ready["status"] == "True" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    }

    fn create_pod(&self, pod: &Value) -> Result<String> {
        let created = self.api.create(PODS, pod)?;
        Ok(created["metadata"]["uid"].as_str().context("a pod has a uid")?.to_owned())
    }

    /// Waits until the hub shows these pods as running and ready; their uids.
    fn wait_pods(&self, names: &[String]) -> Result<Vec<String>> {
        eventually("ready pods", PATIENCE, || {
            let list = self.api.get(PODS).map_err(|error| format!("{error:#}"))?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let of = |name: &String| {
                let pod = pods.iter().find(|pod| pod["metadata"]["name"] == **name)?;
                let is_ready = condition(pod, "Ready").is_some_and(|one| one["status"] == "True");
                is_ready.then(|| pod["metadata"]["uid"].as_str().map(str::to_owned)).flatten()
            };
            let uids: Option<Vec<String>> = names.iter().map(of).collect();
            uids.ok_or_else(|| Value::from_iter(pods.iter().map(|pod| pod["status"].clone())).to_string())
        })
    }

    /// Waits until each of these pods has one program.
    fn wait_programs(&self, names: &[String]) -> Result<()> {
        eventually("one program of each pod", PATIENCE, || {
            let lines = self.command_lines().map_err(|error| format!("{error:#}"))?;
            let count = |name: &String| lines.iter().filter(|line| line.ends_with(&format!("{SLEEP} {name} "))).count();
            let counts: Vec<usize> = names.iter().map(count).collect();
            if counts.iter().all(|count| *count == 1) { Ok(()) } else { Err(format!("{counts:?}: {lines:?}")) }
        })
    }

    /// Where these pods are reached: each has an address of its own.
    fn addresses(&self, names: &[String]) -> Result<Vec<String>> {
        let of = |name: &String| {
            let pod = self.api.get(&format!("{PODS}/{name}"))?;
            Ok(pod["status"]["podIP"].as_str().context("a pod has an address")?.to_owned())
        };
        let addresses: Vec<String> = names.iter().map(of).collect::<Result<_>>()?;
        let different: std::collections::BTreeSet<&String> = addresses.iter().collect();
        ensure!(different.len() == names.len(), "{addresses:?}");
        Ok(addresses)
    }

    /// How many programs a pod has.
    fn programs(&self, name: &str) -> Result<usize> {
        let lines = self.command_lines()?;
        Ok(lines.iter().filter(|line| line.ends_with(&format!("{SLEEP} {name} "))).count())
    }

    /// Of all that runs in the guest.
    fn command_lines(&self) -> Result<Vec<String>> {
        // A process may end while it is looked at.
        let all = "for dir in /proc/[0-9]*; do tr '\\0' ' ' < $dir/cmdline 2>/dev/null && echo; done; true";
        Ok(self.machine.run(all)?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    fn boot_id(&self) -> Result<String> {
        self.machine.run("cat /proc/sys/kernel/random/boot_id")
    }
}

/// What a program of a pod does for ever. Its name follows in the arguments.
const SLEEP: &str = "while sleep 1000; do :; done";

/// A pod whose one program sleeps, and bears its name.
fn sleeper(name: &str) -> Value {
    pod(name, json!([{"name": "main", "image": "file:///bin/busybox", "args": ["sh", "-c", SLEEP, name]}]))
}

/// The same in a container of an image.
fn container(name: &str) -> Value {
    let mut pod = sleeper(name);
    pod["spec"]["runtimeClassName"] = Value::Null;
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = IMAGE.into();
    container["imagePullPolicy"] = "Never".into();
    container["command"] = container["args"].take();
    pod
}

fn pod(name: &str, containers: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "runtimeClassName": "selvedge-process", "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false, "containers": containers,
        },
    })
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"name": name}})
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn the_same_pods_run_again_after_a_power_cut() -> Result<()> {
    let Some(mut up) = Up::start(|_| {})? else { return Ok(()) };
    let names = names("p", 3);
    up.create_pod(&sleeper(&names[0]))?;
    for name in &names[1..] {
        up.create_pod(&container(name))?;
    }
    let before = up.wait_pods(&names)?;
    up.wait_programs(&names)?;
    let addresses = up.addresses(&names)?;
    let boot = up.boot_id()?;
    up.api.create(CONFIG_MAPS, &config_map("acknowledged"))?;
    up.machine.cut();
    up.boot_again()?;
    ensure!(up.boot_id()? != boot, "the kernel is another one");
    up.wait_programs(&names)?;
    ensure!(up.wait_pods(&names)? == before, "the pods are the same ones");
    ensure!(up.addresses(&names)? == addresses, "they have the addresses that they had: {addresses:?}");
    let reached = up.machine.run(&format!("ping -c 1 {} > /dev/null && nslookup p2 169.254.20.10", addresses[1]))?;
    ensure!(reached.contains(&addresses[2]), "{reached}");
    up.api.get(&format!("{CONFIG_MAPS}/acknowledged")).context("a write that was acknowledged")?;
    Ok(())
}

/// Whether a test of the full size runs; else says so.
fn is_large() -> bool {
    if !is_full() {
        println!("runs at full size (`cargo xtask test --all --vm`)");
    }
    is_full()
}

#[test]
fn cuts_under_writes_lose_nothing_that_was_acknowledged() -> Result<()> {
    const CUTS: usize = 8;
    if !is_large() {
        return Ok(());
    }
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let Some(mut up) = Up::start(|_| {})? else { return Ok(()) };
    let (mut pods, mut objects) = (Vec::new(), Vec::new());
    for cut in 0..CUTS {
        let start = Instant::now();
        let until = Duration::from_millis(random.u64(200..4_000));
        // Whatever is acknowledged before the cut is to be there after it; a write that the cut meets may be.
        for number in 0.. {
            let (object, pod) = (format!("o{cut}-{number}"), format!("p{cut}-{number}"));
            up.api.create(CONFIG_MAPS, &config_map(&object))?;
            objects.push(object);
            if number == 0 {
                up.create_pod(&if cut % 2 == 0 { container(&pod) } else { sleeper(&pod) })?;
                pods.push(pod);
            }
            if start.elapsed() >= until {
                break;
            }
        }
        up.machine.cut();
        let took = up.boot_again()?;
        up.wait_programs(&pods).with_context(|| format!("after cut {cut}"))?;
        let list = up.api.get(CONFIG_MAPS)?;
        let found: Vec<&str> =
            list["items"].as_array().into_iter().flatten().filter_map(|one| one["metadata"]["name"].as_str()).collect();
        let lost: Vec<_> = objects.iter().filter(|name| !found.contains(&name.as_str())).collect();
        ensure!(lost.is_empty(), "cut {cut} lost {lost:?} of {}", objects.len());
        println!(
            "cut {cut}: {} objects, {} pods, an answer after {:.1} s",
            objects.len(),
            pods.len(),
            took.as_secs_f64()
        );
    }
    Ok(())
}

#[test]
fn pods_run_after_a_reboot_and_on_a_box_that_has_lost_its_clock() -> Result<()> {
    if !is_large() {
        return Ok(());
    }
    let Some(mut up) = Up::start(|_| {})? else { return Ok(()) };
    let names = names("p", 2);
    for name in &names {
        up.create_pod(&sleeper(name))?;
    }
    let before = up.wait_pods(&names)?;
    up.machine.reboot()?;
    up.wait_programs(&names)?;
    up.reconnect()?;
    ensure!(up.wait_pods(&names)? == before, "the pods are the same ones");
    // The battery is empty: no certificate is valid yet.
    up.machine.cut();
    up.machine.set_clock(Some("1970-01-02"));
    up.machine.boot()?;
    up.wait_programs(&names)?;
    ensure!(up.machine.run("date +%Y")?.trim() == "1970", "{}", up.machine.run("date")?);
    // Then a time server answers.
    up.machine.run(&format!("date -s @{}", jiff::Timestamp::now().as_second()))?;
    // What was issued in 1970 is over, the administrator's certificate too; the hub makes others.
    eventually("a kubeconfig of this year", PATIENCE, || {
        up.reconnect().and_then(|()| up.api.get(PODS)).map_err(|error| format!("{error:#}"))
    })?;
    up.wait_ready()?;
    ensure!(up.wait_pods(&names)? == before, "the pods are the same ones");
    up.wait_programs(&names)
}

#[test]
fn on_a_full_disk_pods_run_after_a_cut_and_are_stopped() -> Result<()> {
    if !is_large() {
        return Ok(());
    }
    let Some(mut up) = Up::start(|setup| setup.disk_mib = 256)? else { return Ok(()) };
    let names = names("p", 3);
    for name in &names {
        up.create_pod(&sleeper(name))?;
    }
    up.wait_pods(&names)?;
    up.machine
        .run("dd if=/dev/zero of=/fill bs=64k 2>/dev/null; dd if=/dev/zero of=/fill2 bs=512 2>/dev/null; sync; true")?;
    up.machine.cut();
    up.machine.boot()?;
    up.wait_programs(&names)?;
    up.machine.run("rm /fill2 /fill")?;
    up.reconnect()?;
    up.wait_ready()?;
    up.api.delete(&format!("{PODS}/p0"))?;
    eventually("no program of the deleted pod", PATIENCE, || match up.programs("p0") {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    up.wait_programs(&names[1..])
}

#[test]
fn limits_are_those_of_version_2_and_a_pod_that_takes_all_memory_dies_alone() -> Result<()> {
    if !is_large() {
        return Ok(());
    }
    let Some(up) = Up::start(|setup| setup.memory_mib = 256)? else { return Ok(()) };
    let mut limited = sleeper("limited");
    limited["spec"]["containers"][0]["resources"] = json!({
        "limits": {"memory": "32Mi", "cpu": "500m"}, "requests": {"memory": "16Mi", "cpu": "100m"},
    });
    let uid = up.create_pod(&limited)?;
    up.wait_pods(&["limited".to_owned()])?;
    for (file, expected) in [("memory.max", "33554432"), ("cpu.max", "50000 100000"), ("pids.max", "512")] {
        let found = up.machine.run(&format!("cat /sys/fs/cgroup/selvedge/{uid}/{file}"))?;
        ensure!(found.trim() == expected, "{file}: {found}");
    }
    ensure!(up.machine.run("cat /sys/fs/cgroup/selvedge/cpu.weight")?.trim() == "50");
    let agent = up.machine.run("pidof selvedge")?;
    // Its limit ends the one; the kernel, out of memory, the other.
    for (name, limits) in [("greedy", json!({"memory": "32Mi"})), ("boundless", json!({}))] {
        let script = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
        let mut greedy =
            pod(name, json!([{"name": "main", "image": "file:///bin/busybox", "args": ["sh", "-c", script]}]));
        greedy["spec"]["restartPolicy"] = "Never".into();
        greedy["spec"]["containers"][0]["resources"] = json!({"limits": limits});
        up.create_pod(&greedy)?;
        eventually(&format!("the end of {name}"), PATIENCE, || {
            let pod = up.api.get(&format!("{PODS}/{name}")).map_err(|error| format!("{error:#}"))?;
            let end = pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"].clone();
            if end == "OOMKilled" || (name == "boundless" && end == "Error") {
                Ok(())
            } else {
                Err(pod["status"].to_string())
            }
        })?;
    }
    ensure!(up.machine.run("pidof selvedge")?.trim().contains(agent.trim()), "another agent runs");
    up.wait_programs(&["limited".to_owned()])?;
    up.wait_ready()
}

/// What this machine's kernel may lack: AppArmor, and users of a pod's own on a kernel that is some years old.
#[test]
fn a_pod_is_held_by_the_profile_and_the_users_that_it_names() -> Result<()> {
    let profile = include_bytes!("../../data/apparmor/selvedge-test.bin");
    let up = Up::start(|setup| setup.files.push(("profile.bin".into(), profile.to_vec())))?;
    let Some(up) = up else { return Ok(()) };
    let load = "mount -t securityfs none /sys/kernel/security; cat /profile.bin > /sys/kernel/security/apparmor/.load; \
                cat /sys/kernel/security/apparmor/profiles";
    let loaded = up.machine.run(load)?;
    ensure!(loaded.contains("selvedge-test (enforce)"), "{loaded}");

    let script = "exec > /dev/termination-log 2>&1; cat /proc/self/attr/current /proc/self/uid_map; echo x > /allowed; echo x > /denied";
    let mut confined = container("confined");
    confined["spec"]["restartPolicy"] = "Never".into();
    confined["spec"]["hostUsers"] = false.into();
    confined["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    confined["spec"]["containers"][0]["securityContext"] =
        json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "selvedge-test"}});
    up.create_pod(&confined)?;
    let message = eventually("what the pod has seen", PATIENCE, || {
        let pod = up.api.get(&format!("{PODS}/confined")).map_err(|error| format!("{error:#}"))?;
        let end = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"].as_str().map(str::to_owned);
        end.ok_or_else(|| pod["status"].to_string())
    })?;
    let lines: Vec<&str> = message.lines().map(str::trim).collect();
    let [label, map, denied] = lines[..] else { anyhow::bail!("{message}") };
    ensure!(label == "selvedge-test (enforce)", "{message}");
    ensure!(map.split_whitespace().collect::<Vec<_>>() == ["0", "65536", "65536"], "{message}");
    ensure!(denied.contains("/denied: Permission denied"), "{message}");

    // Commands are held as well: this one is ready only then.
    let mut ready = container("ready");
    ready["spec"]["securityContext"] = confined["spec"]["containers"][0]["securityContext"].clone();
    ready["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": {"command": ["grep", "-q", "^selvedge-test (enforce)", "/proc/self/attr/current"]}, "periodSeconds": 1,
    });
    up.create_pod(&ready)?;
    up.wait_pods(&["ready".to_owned()])?;

    let mut unknown = container("unknown");
    unknown["spec"]["securityContext"] =
        json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "not-loaded"}});
    up.create_pod(&unknown)?;
    eventually("why a pod waits", PATIENCE, || {
        let pod = up.api.get(&format!("{PODS}/unknown")).map_err(|error| format!("{error:#}"))?;
        let status = pod["status"].to_string();
        if status.contains("failed to apply AppArmor profile not-loaded") { Ok(()) } else { Err(status) }
    })
}
