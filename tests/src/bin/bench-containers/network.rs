//! The network of pods, Services and names.

use anyhow::Result;
use selvedge_tests::figures::{Peer, median};

use crate::plugins::{self, PLUGINS};
use crate::{Bench, has};

pub fn network(bench: &mut Bench) -> Result<()> {
    let ours = bench.example("network-figures", &[])?;
    let dir = tempfile::tempdir()?;
    let has_plugins = std::path::Path::new(PLUGINS).join("portmap").exists() && has("iptables");
    let (added, deleted) = match has_plugins {
        true => plugins::measure(dir.path(), bench.size.pods)?,
        false => {
            bench
                .report
                .note("CNI plugins are no peer here: Debian's containernetworking-plugins or iptables is missing");
            (Vec::new(), Vec::new())
        }
    };
    let report = &mut bench.report;
    let chain = |values| Peer::new("bridge, host-local and portmap", values);
    let up = ours.of("network of a pod with a host port set up")?;
    report.add_beside("network of a pod with a host port, set up", "ms", up, Some("≤ 2"), chain(added));
    let down = ours.of("network of a pod torn down")?;
    report.add_beside("network of a pod with a host port, torn down", "ms", down, Some("≤ 0.5"), chain(deleted));
    let nft = Peer::new("nft -f", ours.of("one service of a thousand changed, nft -f")?);
    let changed = ours.of("one service of a thousand changed")?;
    report.add_beside("one service of a thousand changed", "ms", changed, Some("≤ 1"), nft);
    for (kind, unit) in [("throughput", "Gbit/s"), ("connections", "/s")] {
        let plain = ours.of(&format!("pod to pod, without any rule: {kind}"))?;
        for way in ["pod to pod", "pod to service, of a thousand"] {
            let values = ours.of(&format!("{way}: {kind}"))?;
            let peer = Peer::new("two routed veth pairs, no rule", plain.clone());
            report.add_beside(format!("{way}: {kind}"), unit, values, Some("≥ 0.9 of the peer"), peer);
        }
    }
    Ok(())
}

pub fn dns(bench: &mut Bench) -> Result<()> {
    let missing: Vec<&str> = ["dnsmasq", "dnsperf"].into_iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        bench.report.note(format!("names are not measured without {}", missing.join(" and ")));
        return Ok(());
    }
    let (runs, seconds) = (bench.size.runs.min(3).to_string(), bench.size.dns_seconds.to_string());
    let ours = bench.example("dns-load", &[&runs, &seconds])?;
    for kind in ["hits", "misses", "60 % hits"] {
        for (what, unit) in [("answers per second of CPU", "/s"), ("answers", "/s")] {
            let peer = Peer::new("dnsmasq", ours.of(&format!("{kind}: {what}, dnsmasq"))?);
            let values = ours.of(&format!("{kind}: {what}, node-dns"))?;
            let limit = (what != "answers").then_some("≥ 1.2 of the peer");
            bench.report.add_beside(format!("DNS, {kind}: {what}"), unit, values, limit, peer);
        }
        let peer = Peer::new("dnsmasq at half its load", ours.of(&format!("{kind}: p99, dnsmasq at half its rate"))?);
        let values = ours.of(&format!("{kind}: p99, node-dns at half its rate"))?;
        bench.report.add_beside(
            format!("DNS, {kind}: p99 at half the saturating load"),
            "ms",
            values,
            Some("≤ 1"),
            peer,
        );
        let lost = median(ours.of(&format!("{kind}: lost, node-dns at half its rate"))?);
        bench.report.add(format!("DNS, {kind}: lost at half the saturating load"), "", vec![lost], Some("0"), None);
    }
    Ok(())
}
