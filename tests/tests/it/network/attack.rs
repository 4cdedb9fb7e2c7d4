//! What a pod with rights over its own network, or a neighbour of the node, tries that is not its own.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use testkit::wait::eventually;

use super::site::{DNS, HUB_IP, NODE_IP, PodOptions, Site, in_own_network, sh};
use crate::common::PATIENCE;

/// The Service `kubernetes`.
const API: &str = "10.96.0.1";

#[test]
fn pods_and_neighbours_reach_nothing_that_is_not_theirs() -> Result<()> {
    in_own_network(|| {
        // As systemd has it: the kernel's own filter for senders lets everything through.
        let loose = "echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter";
        let Some(site) = Site::start_with("", loose)? else { return Ok(()) };
        let rights = "      securityContext: { runAsUser: 0, capabilities: { add: [NET_ADMIN, NET_RAW] } }";
        let attacker = PodOptions { container: rights, ..PodOptions::default() };
        let names = ["victim", "friend", "attacker"];
        let pods = [
            site.pod("victim", PodOptions::default())?,
            site.pod("friend", PodOptions::default())?,
            site.pod("attacker", attacker)?,
        ];
        let service = "apiVersion: v1\nkind: Service\nmetadata: { name: victim }\nspec: { selector: { app: victim }, ports: [{ port: 80, targetPort: 8080 }] }\n---\n";
        let addresses = site.apply(&[service, &pods.concat()].concat(), &names)?;
        outsiders_get_no_names(&site)?;
        the_nodes_loopback_is_closed(&site)?;
        nobody_sends_as_another(&site, &addresses)?;
        floods_change_nothing(&site, &addresses)?;
        ensure!(site.get("friend", "victim.default.svc")? == "victim");
        Ok(())
    })
}

/// The responder is for the node: who routes its address there from an uplink gets no answer.
fn outsiders_get_no_names(site: &Site) -> Result<()> {
    let question = format!("dig +short +tries=1 +time=1 @{DNS} victim.default.svc.cluster.local");
    ensure!(!sh(&question)?.trim().is_empty(), "the node itself is answered");
    site.outside(|| {
        sh(&format!("ip route add {DNS} via {NODE_IP}"))?;
        for protocol in ["", "+tcp"] {
            let said = sh(&format!("{question} {protocol} || true"))?;
            ensure!(!said.contains("10.96."), "an outsider is answered: {said}");
        }
        Ok(())
    })?;
    // What a server says that expects TLS; the way of pods to the API is no outsider's.
    let call = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox timeout 5 /bin/busybox nc {API} 443 | /bin/busybox wc -c"
    );
    let bytes = site.does("friend", &call)?;
    ensure!(bytes.trim() != "0", "a pod reaches the API");
    let bytes = site.outside(|| sh(&format!("ip route add {API} via {NODE_IP}; {call}")))?;
    ensure!(bytes.trim() == "0", "an outsider reaches the API through the node: {bytes} bytes");
    Ok(())
}

/// What listens on 127.0.0.1 of the node stays the node's, whatever routes a pod makes; so do its abstract sockets.
fn the_nodes_loopback_is_closed(site: &Site) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:9999")?;
    let seen = AtomicUsize::new(0);
    listener.set_nonblocking(true)?;
    let look = || {
        while listener.accept().is_ok() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        seen.load(Ordering::Relaxed)
    };
    drop(TcpStream::connect("127.0.0.1:9999")?);
    ensure!(look() == 1, "the node itself reaches it");
    let reroute = "/bin/busybox ip addr del 127.0.0.1/8 dev lo; \
                   /bin/busybox ip route add 127.0.0.1/32 via 169.254.1.1 dev eth0; /bin/busybox ip route get 127.0.0.1";
    let (_, routes) = site.exec("attacker", reroute)?;
    ensure!(routes.contains("eth0"), "the attack is one: {routes}");
    for address in ["127.0.0.1", NODE_IP, "10.39.0.1"] {
        let (code, said) =
            site.exec("attacker", &format!("echo | /bin/busybox timeout 2 /bin/busybox nc {address} 9999"))?;
        ensure!(code != 0, "{address}: {said}");
    }
    ensure!(look() == 1, "the pod reached what listens on 127.0.0.1");
    let dropped = sh("nft list chain ip selvedge guard | grep 127.0.0.0/8")?;
    ensure!(!dropped.contains("packets 0 "), "its packets came and were dropped: {dropped}");
    let (_, sockets) = site.exec("attacker", "/bin/busybox cat /proc/net/unix")?;
    ensure!(!sockets.contains("selvedge"), "{sockets}");
    let call = || Ok(TcpStream::connect((NODE_IP, 9999)).is_err());
    ensure!(site.outside(call)?, "an outsider reaches what listens on 127.0.0.1");
    Ok(())
}

/// Packets from an address that is not the pod's own go nowhere: to a neighbour, to the node, to the outside.
fn nobody_sends_as_another(site: &Site, addresses: &[String]) -> Result<()> {
    let [victim, friend, own] = addresses else { anyhow::bail!("three addresses") };
    site.does("attacker", &format!("/bin/busybox ping -c 1 -W 2 {victim}"))?;
    for source in ["10.39.200.1", friend, HUB_IP, NODE_IP, "10.39.0.1"] {
        site.exec("attacker", &format!("/bin/busybox ip addr add {source}/32 dev eth0"))?;
        for to in [victim.as_str(), "10.39.0.1", HUB_IP] {
            if to == source {
                continue;
            }
            let before = received(site, to)?;
            let (code, said) =
                site.exec("attacker", &format!("/bin/busybox ping -c 2 -i 0.1 -W 1 -I {source} {to}"))?;
            ensure!(code != 0, "{source} to {to}: {said}");
            ensure!(said.contains("packets transmitted"), "the attack is one: {said}");
            ensure!(received(site, to)? == before, "{to} received what {own} sent as {source}");
        }
        site.exec("attacker", &format!("/bin/busybox ip addr del {source}/32 dev eth0"))?;
    }
    Ok(())
}

/// Echo requests that a place has received.
fn received(site: &Site, at: &str) -> Result<u64> {
    let look = "/bin/busybox awk '/^Icmp:/ { if (n) print $n; else for (i = 1; i <= NF; i++) if ($i == \"InEchos\") n = i }' /proc/net/snmp";
    let printed = match at {
        HUB_IP => site.outside(|| sh(look))?,
        "10.39.0.1" => sh(look)?,
        _ => site.exec("victim", look)?.1,
    };
    Ok(printed.trim().parse()?)
}

/// Neighbours are written down, not learnt: what a pod says of others' addresses changes nothing.
fn floods_change_nothing(site: &Site, addresses: &[String]) -> Result<()> {
    let neighbours = || sh("ip neigh show | grep svp | sort");
    let before = neighbours()?;
    let inside = site.exec("friend", "/bin/busybox ip neigh")?.1;
    for target in [&addresses[0], "169.254.1.1", "10.39.0.1", NODE_IP] {
        site.exec("attacker", &format!("/bin/busybox ip addr add {target}/32 dev eth0"))?;
        for kind in ["-U", "-A"] {
            let line = format!(
                "i=0; while [ $i -lt 5 ]; do /bin/busybox timeout 1 /bin/busybox arping {kind} -c 1 -w 1 -I eth0 -s {target} {target}; i=$((i+1)); done"
            );
            site.exec("attacker", &line)?;
        }
        site.exec("attacker", &format!("/bin/busybox ip addr del {target}/32 dev eth0"))?;
    }
    ensure!(neighbours()? == before, "{before} became {}", neighbours()?);
    ensure!(site.exec("friend", "/bin/busybox ip neigh")?.1 == inside);
    eventually("the victim", PATIENCE, || {
        site.get("friend", &format!("{}:8080", addresses[0]))
            .map_err(|error| error.to_string())
            .and_then(|name| if name == "victim" { Ok(()) } else { Err(name) })
    })?;
    let mut stream = TcpStream::connect((addresses[0].as_str(), 8080))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut got = String::new();
    stream.read_to_string(&mut got)?;
    ensure!(got.contains("victim"), "{got}");
    Ok(())
}
