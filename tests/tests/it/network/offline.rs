//! The hub away, the agent killed, its pods too, the machine switched on anew: addresses, Services and names are what they were.

use anyhow::{Result, ensure};

use super::reach::SERVICES;
use super::site::{DNS, NODE_IP, PodOptions, Site, in_own_network, sh};
use crate::common::{kill_with_pods, node_is_ready};

const PODS: [&str; 3] = ["web", "client", "process"];

/// Everything that needs no hub.
fn works(site: &Site, addresses: &[String]) -> Result<()> {
    for (pod, address) in PODS.iter().zip(addresses) {
        let seen = site.address_inside(pod)?;
        ensure!(seen == *address, "{pod} had {address} and has {seen}");
    }
    let [web, _, process] = addresses else { anyhow::bail!("three addresses") };
    for url in ["web", "web.default.svc.cluster.local", &format!("{web}:8080")] {
        ensure!(site.get("client", url)? == "web", "{url}");
    }
    ensure!(site.get("web", "web.default.svc")? == "web", "hairpin");
    ensure!(site.get("client", &format!("{process}:8080"))? == "process");
    ensure!(["web", "process"].contains(&site.get("client", "headless:8080")?.as_str()), "headless");
    for port in [18080, 30080] {
        site.node_shows(&format!("busybox timeout 5 busybox wget -q -O - http://127.0.0.1:{port}/"), |name| {
            ["web", "process"].contains(&name.trim())
        })?;
    }
    let found = sh(&format!("dig +short +time=3 @{DNS} client.default"))?;
    ensure!(found.trim() == addresses[1], "{found}");
    Ok(())
}

#[test]
fn without_a_hub_addresses_services_and_names_outlive_kills_and_a_reboot() -> Result<()> {
    in_own_network(|| {
        let Some(mut site) = Site::start("")? else { return Ok(()) };
        let front = PodOptions { labels: ", tier: front", ..PodOptions::default() };
        let web =
            PodOptions { container: "      ports: [{ name: http, containerPort: 8080, hostPort: 18080 }]", ..front };
        let pods =
            [site.pod("web", web)?, site.pod("client", PodOptions::default())?, site.process_pod("process", front)?];
        let addresses = site.apply(&[SERVICES.to_owned(), pods.concat()].concat(), &PODS)?;
        works(&site, &addresses)?;

        site.uplink(false)?;
        works(&site, &addresses)?;
        site.node.kill();
        ensure!(site.get("client", &format!("{}:8080", addresses[0]))? == "web", "pods need no agent for each other");
        site.node.start_again("ephemeral")?;
        works(&site, &addresses)?;
        kill_with_pods(&mut site.node)?;
        site.node.start_again("ephemeral")?;
        works(&site, &addresses)?;

        site.uplink(true)?;
        site.hub.kill();
        works(&site, &addresses)?;
        site.reboot_without_hub()?;
        works(&site, &addresses)?;
        site.connect_again()?;
        site.hub_again()?;
        node_is_ready(&site.kubectl, "edge-1")?;
        for (pod, address) in PODS.iter().zip(&addresses) {
            ensure!(site.address(pod)? == *address, "{pod}");
        }
        let pod = site.ready("web")?;
        ensure!(pod["status"]["hostIP"] == NODE_IP, "{}", pod["status"]);
        Ok(())
    })
}
