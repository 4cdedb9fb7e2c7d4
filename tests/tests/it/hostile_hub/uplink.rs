//! A node whose uplink is lost, and is found again with another address, as after a change of the DHCP lease.
//!
//! Hub and node live in network namespaces of their own, joined by a pair of virtual Ethernet devices; nothing of it is seen by
//! the rest of the machine. A namespace is that of a thread here: what the thread starts is in it.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::program::{Outcome, Selvedge};
use testkit::wait::eventually;

use super::{Api, NODE, PATIENCE, PODS, needs_a_hub};
use crate::common::{condition, token};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, and the thread in it.
struct Network {
    jobs: mpsc::Sender<Job>,
    thread_id: i32,
}

impl Network {
    /// An empty one: its loopback is up. `None` after a printed reason where that is not allowed.
    fn create() -> Result<Option<Self>> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (created, is_created) = mpsc::channel();
        thread::spawn(move || {
            // SAFETY: it changes the network namespace of this thread alone, which runs nothing but the jobs.
            let (result, id) = unsafe { (libc::unshare(libc::CLONE_NEWNET), libc::gettid()) };
            let _ = created.send((result == 0, id));
            while let Ok(job) = queue.recv() {
                job();
            }
        });
        let (is_created, thread_id) = is_created.recv()?;
        if !is_created {
            testkit::skip("a network namespace cannot be made");
            return Ok(None);
        }
        let network = Self { jobs, thread_id };
        network.ip("link set lo up")?;
        Ok(Some(network))
    }

    /// Runs something in it.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || {
            let _ = done.send(job());
        });
        self.jobs.send(job).ok().context("the thread lives as long as this")?;
        result.recv().context("the job panicked")
    }

    fn ip(&self, words: &str) -> Result<()> {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        self.run(move || Outcome::of(Command::new("ip").args(words))?.ok())?.map(|_| ())
    }
}

/// A server that notes each connection in a file and speaks enough HTTP for a probe.
const SERVER: &str = r#"use IO::Socket::INET;
my ($port, $file) = @ARGV;
my $server = IO::Socket::INET->new(LocalAddr => "0.0.0.0", LocalPort => $port, Listen => 50, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
  open(my $note, ">>", $file) or die $!; print $note "x\n"; close $note;
  my $line = <$client>;
  print $client "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" if $line;
  close $client;
}"#;

fn server_pod(name: &str, port: u16, file: &std::path::Path, probe: Value) -> Value {
    let mut probe = probe;
    probe["periodSeconds"] = 1.into();
    probe["failureThreshold"] = 3.into();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": NODE, "runtimeClassName": "selvedge-process", "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": "file:///usr/bin/perl",
                "args": ["-e", SERVER, port.to_string(), file.to_string_lossy()],
                "livenessProbe": probe,
            }],
        },
    })
}

#[test]
fn a_lost_uplink_fails_no_probe_and_another_address_neither() -> Result<()> {
    if needs_a_hub("the hub listens in a network of its own") {
        return Ok(());
    }
    in_a_network_of_its_own(|inside| lose_and_find(&inside, false))
}

#[test]
fn after_a_change_of_the_nodes_address_its_pods_show_the_new_one() -> Result<()> {
    if needs_a_hub("the hub listens in a network of its own") {
        return Ok(());
    }
    in_a_network_of_its_own(|inside| lose_and_find(&inside, true))
}

fn in_a_network_of_its_own(test: impl FnOnce(Network) -> Result<()> + Send + 'static) -> Result<()> {
    let Some(outside) = Network::create()? else { return Ok(()) };
    outside.run(move || outside_of_node()?.map_or(Ok(()), test))?
}

/// The namespace of the node and the device towards it, made from within the hub's.
fn outside_of_node() -> Result<Option<Network>> {
    let Some(inside) = Network::create()? else { return Ok(None) };
    let here = |words: &str| Outcome::of(Command::new("ip").args(words.split(' ')))?.ok();
    here(&format!("link add hub0 type veth peer name up0 netns {}", inside.thread_id))?;
    here("addr add 10.77.0.1/24 dev hub0")?;
    here("link set hub0 up")?;
    inside.ip("addr add 10.77.0.2/24 dev up0")?;
    inside.ip("link set up0 up")?;
    Ok(Some(inside))
}

fn lose_and_find(inside: &Network, must_show: bool) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("hub.yaml");
    std::fs::write(&config, "listen: 0.0.0.0:6443\n")?;
    let config = config.to_string_lossy().into_owned();
    let mut hub = Selvedge::start_on(&dir.path().join("hub"), &["hub", "--config", &config], "default")?;
    hub.address("hub-api")?;
    let api = Api::of(&hub)?;
    let token = token(hub.data_dir())?;
    let node_config = dir.path().join("node.yaml");
    std::fs::write(&node_config, "imagePrefixes: [/bin, /usr/bin]\n")?;
    let (node_dir, node_config) = (dir.path().join("node"), node_config.to_string_lossy().into_owned());
    let node = inside.run(move || {
        let hub = "https://10.77.0.1:6443";
        let args = ["node", "--hub", hub, "--token", &token, "--node-name", NODE, "--config", &node_config];
        Selvedge::start(&node_dir, &args)
    })??;
    let hits =
        [("http", 18080, json!({"httpGet": {"port": 18080}})), ("tcp", 18081, json!({"tcpSocket": {"port": 18081}}))];
    let mut files = Vec::new();
    for (name, port, probe) in hits {
        let file = dir.path().join(name);
        api.create(PODS, &server_pod(name, port, &file, probe))?;
        files.push(file);
    }
    let count = |file: &std::path::Path| std::fs::read_to_string(file).unwrap_or_default().lines().count();
    // Three failures kill; five more probes that came to their program say that none was counted.
    let probed = |when: &str| -> Result<()> {
        for file in &files {
            let before = count(file);
            eventually(&format!("five probes of {} {when}", file.display()), PATIENCE, || {
                let now = count(file);
                if now >= before + 5 { Ok(()) } else { Err(format!("{before}, then {now}")) }
            })?;
        }
        Ok(())
    };
    let ready = |what: &str| {
        eventually(what, PATIENCE, || {
            let list = api.get(PODS).map_err(|error| error.to_string())?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let is_ready = |pod: &&Value| condition(pod, "Ready").is_some_and(|one| one["status"] == "True");
            if pods.iter().filter(is_ready).count() == 2 { Ok(pods) } else { Err(list.to_string()) }
        })
    };
    ready("ready pods")?;
    probed("with the uplink")?;
    inside.ip("addr flush dev up0")?;
    inside.ip("link set up0 down")?;
    probed("without the uplink")?;
    inside.ip("link set up0 up")?;
    inside.ip("addr add 10.77.0.99/24 dev up0")?;
    probed("with another address")?;
    let pods = ready("ready pods by another address")?;
    for pod in &pods {
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 0, "{}: {status}", pod["metadata"]["name"]);
    }
    if must_show {
        eventually("the other address in the pods' statuses", PATIENCE, || {
            let list = api.get(PODS).map_err(|error| error.to_string())?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let is_so = |pod: &Value| pod["status"]["hostIP"] == "10.77.0.99" && pod["status"]["podIP"] == "10.77.0.99";
            if items.iter().all(is_so) { Ok(()) } else { Err(list.to_string()) }
        })?;
    }
    drop(node);
    Ok(())
}
