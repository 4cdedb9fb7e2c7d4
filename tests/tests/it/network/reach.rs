//! Who reaches whom: pods of all runtimes, Services of all types, ports of the node, names.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::site::{DNS, NODE_IP, PodOptions, Site, in_own_network, sh};

/// Services of the pods `web` and `process`.
pub const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: web }, ports: [{ name: http, port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: both }
spec: { type: NodePort, selector: { tier: front }, ports: [{ name: http, port: 80, targetPort: 8080, nodePort: 30080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: sticky }
spec: { selector: { tier: front }, sessionAffinity: ClientIP, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: headless }
spec: { clusterIP: None, selector: { tier: front }, ports: [{ name: http, port: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: nobody }
spec: { selector: { app: nobody }, ports: [{ port: 80 }] }
---
"#;

/// What all of it is set up as.
fn pods(site: &Site) -> Result<String> {
    let front = ", tier: front";
    let web = PodOptions {
        labels: front,
        container: "      ports: [{ name: http, containerPort: 8080, hostPort: 18080 }]",
        ..PodOptions::default()
    };
    let host = PodOptions {
        spec: "  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet",
        container: "      env: [{ name: HOST, value: \"1\" }]",
        ..PodOptions::default()
    };
    let module = site.dir.path().join("spin.wasm");
    let text = "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $l (br $l))))";
    std::fs::write(&module, wat::parse_str(text)?)?;
    let wasm = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: module }}\nspec:\n  nodeName: edge-1\n  runtimeClassName: selvedge-wasm\n  \
         terminationGracePeriodSeconds: 0\n  automountServiceAccountToken: false\n  containers: [{{ name: main, image: \"file://{}\", \
         resources: {{ limits: {{ cpu: 50m }} }} }}]\n---\n",
        module.display()
    );
    let process = PodOptions { labels: front, ..PodOptions::default() };
    Ok([
        site.pod("web", web)?,
        site.pod("client", PodOptions::default())?,
        site.process_pod("process", process)?,
        site.pod("host", host)?,
        wasm,
    ]
    .concat())
}

fn cluster_ip(site: &Site, service: &str) -> Result<String> {
    let service = site.kubectl.json(&["service", service])?;
    Ok(service["spec"]["clusterIP"].as_str().context("a cluster address")?.to_owned())
}

#[test]
fn pods_of_all_runtimes_reach_each_other_services_and_names() -> Result<()> {
    in_own_network(|| {
        let Some(site) = Site::start("")? else { return Ok(()) };
        let manifests = [SERVICES.to_owned(), pods(&site)?].concat();
        let addresses = site.apply(&manifests, &["web", "client", "process", "module"])?;
        let mut distinct = addresses.clone();
        distinct.sort();
        distinct.dedup();
        ensure!(distinct.len() == 4 && addresses.iter().all(|address| address.starts_with("10.39.")), "{addresses:?}");
        let host = site.address("host")?;
        ensure!(host == NODE_IP, "a pod in the node's network has the node's address: {host}");
        pods_reach_pods(&site, &addresses)?;
        services_lead_to_pods(&site)?;
        names_are_answered(&site, &addresses)?;
        the_api_is_reached(&site)?;
        let shown = sh("nft list ruleset")?;
        ensure!(shown.contains("table ip selvedge") && shown.contains("default/web/tcp/80"), "{shown}");
        Ok(())
    })
}

fn pods_reach_pods(site: &Site, addresses: &[String]) -> Result<()> {
    let [web, client, process, module] = addresses else { anyhow::bail!("four addresses") };
    for (from, to, name) in
        [("client", web, "web"), ("process", web, "web"), ("web", process, "process"), ("host", client, "client")]
    {
        let got = site.get(from, &format!("{to}:8080"))?;
        ensure!(got == name, "{from} to {to}: {got}");
    }
    site.does("client", &format!("ping -c 1 -W 2 {module}")).map(drop)
}

fn services_lead_to_pods(site: &Site) -> Result<()> {
    let address = cluster_ip(site, "web")?;
    let names = [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "web.default.svc.cluster.local.",
        &address,
    ];
    for name in names {
        ensure!(site.get("client", name)? == "web", "{name}");
    }
    // Programs of the machine use the address, pods in its network the name as well.
    ensure!(site.get("host", "web")? == "web");
    ensure!(site.get("process", &address)? == "web");
    ensure!(sh(&format!("busybox timeout 5 busybox wget -q -O - http://{address}/"))?.trim() == "web");
    // A pod reaches itself by its Service.
    ensure!(site.get("web", "web.default.svc")? == "web", "hairpin");
    for (from, url) in [("client", format!("{NODE_IP}:18080")), ("web", format!("{NODE_IP}:18080"))] {
        ensure!(site.get(from, &url)? == "web", "hostPort from {from}");
    }
    ensure!(
        sh("busybox timeout 5 busybox wget -q -O - http://127.0.0.1:18080/")?.trim() == "web",
        "hostPort at 127.0.0.1"
    );
    let outside = |url: &str| site.outside(|| sh(&format!("busybox timeout 5 busybox wget -q -O - http://{url}/")));
    ensure!(outside(&format!("{NODE_IP}:18080"))?.trim() == "web", "hostPort from outside");
    let front = ["web", "process"];
    ensure!(front.contains(&outside(&format!("{NODE_IP}:30080"))?.trim()), "NodePort from outside");
    ensure!(front.contains(&site.get("client", &format!("{NODE_IP}:30080"))?.as_str()), "NodePort from a pod");
    ensure!(
        front.contains(&sh("busybox timeout 5 busybox wget -q -O - http://127.0.0.1:30080/")?.trim()),
        "NodePort at 127.0.0.1"
    );
    ensure!(front.contains(&site.get("client", "headless:8080")?.as_str()), "headless");
    let many = |service: &str| {
        site.does("client", &format!("for i in $(seq 40); do /bin/busybox timeout 5 /bin/busybox wget -q -O - http://{service}/ || exit 1; done | sort | uniq -c"))
    };
    ensure!(many("both")?.lines().count() == 2, "each of two answers some of 40 connections");
    ensure!(many("sticky")?.lines().count() == 1, "a client stays with one endpoint");
    let nobody = cluster_ip(site, "nobody")?;
    let (code, said) =
        site.exec("client", &format!("/bin/busybox timeout 9 /bin/busybox wget -q -O - http://{nobody}/"))?;
    ensure!(code != 0 && said.contains("refused"), "a Service without pods refuses: {said}");
    let (code, said) =
        site.exec("client", &format!("/bin/busybox timeout 9 /bin/busybox wget -q -O - http://{address}:81/"))?;
    ensure!(code != 0 && said.contains("refused"), "another port of a Service refuses: {said}");
    Ok(())
}

fn names_are_answered(site: &Site, addresses: &[String]) -> Result<()> {
    let dig = |question: &str| sh(&format!("dig +short +time=3 @{DNS} {question}"));
    let (web, service) = (&addresses[0], cluster_ip(site, "web")?);
    ensure!(dig("web.default.svc.cluster.local A")?.trim() == service);
    let server = dig("_http._tcp.web.default.svc.cluster.local SRV")?;
    ensure!(server.trim() == "0 100 80 web.default.svc.cluster.local.", "{server}");
    ensure!(dig(&format!("-x {service}"))?.trim() == "web.default.svc.cluster.local.");
    let back = dig(&format!("-x {web}"))?;
    ensure!(back.trim().ends_with(".cluster.local."), "{back}");
    let mut headless: Vec<String> = dig("headless.default.svc.cluster.local")?.lines().map(str::to_owned).collect();
    headless.sort();
    let mut expected = vec![web.clone(), addresses[2].clone()];
    expected.sort();
    ensure!(headless == expected, "{headless:?}");
    ensure!(dig("+tcp web.default.svc.cluster.local A")?.trim() == service, "by TCP");
    ensure!(dig("client.default")?.trim() == addresses[1], "as SMARTER names pods");
    let none = sh(&format!("dig +time=3 @{DNS} none.default.svc.cluster.local"))?;
    ensure!(none.contains("NXDOMAIN"), "{none}");
    Ok(())
}

fn the_api_is_reached(site: &Site) -> Result<()> {
    let (code, said) =
        site.exec("client", "echo | /bin/busybox timeout 5 /bin/busybox nc kubernetes.default.svc 443; echo $?")?;
    ensure!(code == 0 && said.trim().ends_with('0'), "{said}");
    let pod: Value = site.kubectl.json(&["pod", "client"])?;
    ensure!(pod["status"]["hostIP"] == NODE_IP, "{}", pod["status"]);
    Ok(())
}
