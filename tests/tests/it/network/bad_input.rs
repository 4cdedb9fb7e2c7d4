//! What pods, Services and uplinks ask for that cannot be had: each is refused with a reason, and its neighbours do not notice.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::wait::eventually;

use super::site::{DNS, HUB_IP, NODE_IP, PodOptions, Site, in_own_network, sh};
use crate::common::PATIENCE;

#[test]
fn what_cannot_be_had_is_refused_with_a_reason_and_neighbours_do_not_notice() -> Result<()> {
    in_own_network(|| {
        let Some(site) = Site::start("podSubnet: 10.39.0.0/29\n")? else { return Ok(()) };
        let port = PodOptions {
            container: "      ports: [{ containerPort: 8080, hostPort: 18080 }]",
            ..PodOptions::default()
        };
        let first = site.apply(&site.pod("first", port)?, &["first"])?.remove(0);
        a_host_port_has_one_pod(&site, port, &first)?;
        addresses_run_out(&site)?;
        a_service_has_a_thousand_ports(&site, &first)?;
        garbage_is_dropped(&site)?;
        ensure!(site.get("two", &format!("{first}:8080"))? == "first");
        Ok(())
    })
}

/// The second pod is rejected as other kubelets reject it; once the first has ended another one has the port.
fn a_host_port_has_one_pod(site: &Site, port: PodOptions<'_>, first: &str) -> Result<()> {
    site.kubectl.apply(&[site.pod("second", port)?, site.process_pod("third", port)?].concat())?.ok()?;
    for name in ["second", "third"] {
        let pod = site.shows(name, |pod| pod["status"]["phase"] == "Failed")?;
        let words = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        ensure!(pod["status"]["reason"] == "NodePorts", "{}", pod["status"]);
        ensure!(pod["status"]["message"] == format!("Pod was rejected: {words}"), "{}", pod["status"]);
        site.event(name, words)?;
    }
    ensure!(site.address("first")? == first);
    ensure!(sh("busybox wget -q -O - http://127.0.0.1:18080/")?.trim() == "first");
    site.kubectl.ok(&["delete", "pod", "second", "third"]).map(drop)
}

/// A /29 has five addresses for pods: the sixth pod waits, says why, and gets the first that is free.
fn addresses_run_out(site: &Site) -> Result<()> {
    let names = ["two", "three", "four", "five"];
    let pods = names.iter().map(|name| site.pod(name, PodOptions::default())).collect::<Result<Vec<_>>>()?;
    site.apply(&pods.concat(), &names)?;
    // A program of the node waits as well: without an address it would be on the node's own network.
    let waiting = [site.pod("six", PodOptions::default())?, site.process_pod("seven", PodOptions::default())?];
    site.kubectl.apply(&waiting.concat())?.ok()?;
    for name in ["six", "seven"] {
        let said = site.event(name, "FailedCreatePodSandBox")?;
        ensure!(said.contains("no address of 10.39.0.0/29 is free"), "{said}");
        let pod = site.kubectl.json(&["pod", name])?;
        ensure!(pod["status"]["phase"] == "Pending", "{}", pod["status"]);
    }
    site.kubectl.ok(&["delete", "pod", "seven"])?;
    ensure!(site.get("two", &format!("{}:8080", site.address("three")?))? == "three");
    let five = site.address("five")?;
    site.kubectl.ok(&["delete", "pod", "five"])?;
    let six = site.address("six")?;
    ensure!(six == five, "{six} is the one that {five} was");
    Ok(())
}

fn a_service_has_a_thousand_ports(site: &Site, first: &str) -> Result<()> {
    let ports =
        (0..1000).map(|number| json!({"name": format!("p{number}"), "port": 20000 + number, "targetPort": 8080}));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "wide"},
        "spec": {"selector": {"app": "first"}, "ports": ports.collect::<Vec<_>>()},
    });
    site.kubectl.apply(&service.to_string())?.ok()?;
    for port in [20000, 20500, 20999] {
        ensure!(site.get("two", &format!("wide:{port}"))? == "first", "{port} of {first}");
    }
    let (code, said) = site.exec("two", "/bin/busybox timeout 9 /bin/busybox wget -q -O - http://wide:21000/")?;
    ensure!(code != 0 && said.contains("refused"), "{said}");
    let servers = sh(&format!("dig +short +tcp +time=3 @{DNS} _p7._tcp.wide.default.svc.cluster.local SRV"))?;
    ensure!(servers.trim() == "0 100 20007 wide.default.svc.cluster.local.", "{servers}");
    Ok(())
}

/// Bytes that are no questions, by both protocols, from a program of the node.
fn garbage_is_dropped(site: &Site) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(53);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut bytes = [0_u8; 1400];
    for _ in 0..2000 {
        random.fill(&mut bytes);
        let length = random.usize(0..bytes.len());
        // The flags of a question, so that the rest is looked at.
        if random.bool() && length > 12 {
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        socket.send_to(&bytes[..length], (DNS, 53))?;
    }
    for _ in 0..20 {
        let mut stream = TcpStream::connect((DNS, 53))?;
        random.fill(&mut bytes);
        // Closed by the other side as soon as it has seen enough.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut bytes);
    }
    let found =
        site.does("two", "/bin/busybox nslookup first.default.svc.cluster.local | /bin/busybox grep -c Address")?;
    ensure!(found.trim().parse::<u32>().context("a number")? >= 2, "{found}");
    Ok(())
}

#[test]
fn a_subnet_that_an_uplink_uses_moves_and_says_so_and_uplinks_come_and_go() -> Result<()> {
    in_own_network(|| {
        let taken =
            "ip link add other type veth peer name far && ip addr add 10.39.5.1/24 dev other && ip link set other up";
        let Some(site) = Site::start_with("", taken)? else { return Ok(()) };
        let said = "pods get addresses of 10.40.0.0/16 instead of 10.39.0.0/16, because other uses 10.39.5.1/24";
        ensure!(site.node.log().contains(said), "{}", site.node.log());
        let names = ["one", "two"];
        let pods = names.iter().map(|name| site.pod(name, PodOptions::default())).collect::<Result<Vec<_>>>()?;
        let addresses = site.apply(&pods.concat(), &names)?;
        ensure!(addresses.iter().all(|address| address.starts_with("10.40.")), "{addresses:?}");

        // An uplink that goes and comes, and one that comes with the pods' addresses, while one pod calls another.
        let calls = format!("/bin/busybox ping -i 0.05 -c 40 -W 2 {}", addresses[1]);
        std::thread::scope(|scope| -> Result<()> {
            let calling = scope.spawn(|| site.exec("one", &calls));
            for _ in 0..3 {
                sh("ip link set uplink down; sleep 0.2; ip link set uplink up")?;
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
            sh(&format!(
                "ip route replace default via {HUB_IP}; ip addr add 10.40.9.1/24 dev far; ip link set far up"
            ))?;
            let (code, said) = calling.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            ensure!(code == 0 && said.contains(" 0% packet loss"), "{said}");
            Ok(())
        })?;
        let said = "pods get addresses of 10.41.0.0/16 instead of 10.40.0.0/16, because far uses 10.40.9.1/24";
        eventually("the second move", PATIENCE, || {
            let log = site.node.log();
            if log.contains(said) { Ok(()) } else { Err(log) }
        })?;
        let third = site.apply(&site.pod("three", PodOptions::default())?, &["three"])?.remove(0);
        ensure!(third.starts_with("10.41."), "{third}");
        ensure!(
            site.get("three", &format!("{}:8080", addresses[0]))? == "one",
            "old and new addresses reach each other"
        );
        ensure!(site.get("one", "three.default:8080")? == "three");
        let (code, said) =
            site.exec("three", "echo | /bin/busybox timeout 5 /bin/busybox nc kubernetes.default.svc 443")?;
        ensure!(code == 0, "the API from a pod of the new range: {said}");
        ensure!(site.address("one")? == addresses[0], "those that run keep theirs");
        ensure!(site.kubectl.json(&["pod", "one"])?["status"]["hostIP"] == NODE_IP);
        Ok(())
    })
}
