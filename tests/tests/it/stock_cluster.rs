//! Nodes on a cluster with a stock control plane that has our manifests: how they join, and what they may.

use anyhow::{Context as _, Result, ensure};
use testkit::apiserver::KubeApiserver;
use testkit::kubectl::Kubectl;
use testkit::process;
use testkit::program::Selvedge;
use testkit::proxy::Proxy;
use testkit::wait::eventually;

use crate::common::{PATIENCE, kill_with_pods, node_is_ready, root, token};

/// What the node `gw-1` may, as whoever plays it: by its own name alone, and the names of the parts of its assignment.
fn check(kubectl: &Kubectl) -> Result<()> {
    for (name, node) in [("gw-1", "gw-1"), ("gw-1.part-1", "gw-1"), ("gw-10", "gw-10")] {
        let labels = format!("{}: {node}", "selvedge.dev/node");
        kubectl
            .apply(&format!(
                "apiVersion: edge.selvedge.dev/v1alpha1\nkind: NodeAssignment\nmetadata: {{ name: {name}, labels: {{ {labels} }} }}\n\
                 spec: {{ nodeName: {node}, part: 0, parts: 1, entries: [] }}\n"
            ))?
            .ok()?;
    }
    let as_node = |args: &[&str]| {
        let who = ["--as", "system:node:gw-1", "--as-group", "system:nodes", "--as-group", "system:authenticated"];
        kubectl.run(&[&who, args].concat())
    };
    let base = "/apis/edge.selvedge.dev/v1alpha1/nodeassignments";
    for (path, may) in [
        ("?fieldSelector=metadata.name%3Dgw-1", true),
        ("?fieldSelector=metadata.name%3Dgw-1.part-1", true),
        ("?fieldSelector=metadata.name%3Dgw-1&watch=true&timeoutSeconds=1", true),
        ("/gw-1", true),
        ("/gw-1.part-1", true),
        ("", false),
        ("?watch=true&timeoutSeconds=1", false),
        ("?fieldSelector=metadata.name%3Dgw-10", false),
        ("?fieldSelector=metadata.name%3Dgw-10&watch=true&timeoutSeconds=1", false),
        ("/gw-10", false),
    ] {
        let found = as_node(&["get", "--raw", &format!("{base}{path}")])?;
        match may {
            true => {
                let text = found.ok().with_context(|| path.to_owned())?;
                ensure!(text.contains("gw-1") && !text.contains("gw-10"), "{path}: {text}");
            }
            false => {
                let text = found.refused().with_context(|| path.to_owned())?;
                ensure!(text.contains("Forbidden"), "{path}: {text}");
            }
        }
    }
    let patch = r#"{"status":{"observedGeneration":1,"entries":[]}}"#;
    for (name, may) in [("gw-1", true), ("gw-1.part-1", true), ("gw-10", false)] {
        let args = ["patch", "nodeassignment", name, "--subresource", "status", "--type", "merge", "-p", patch];
        let written = as_node(&args)?;
        match may {
            true => drop(written.ok()?),
            false => ensure!(written.refused()?.contains("Forbidden"), "{name}"),
        }
    }
    let meddling =
        as_node(&["patch", "nodeassignment", "gw-1", "--type", "merge", "-p", r#"{"spec":{"entries":[]}}"#])?;
    ensure!(meddling.refused()?.contains("Forbidden"));
    Ok(())
}

#[test]
fn a_node_follows_its_assignment_by_name_on_a_stock_cluster() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(cluster) = KubeApiserver::start(dir.path())? else { return Ok(()) };
    let Some(kubectl) = Kubectl::newest(&cluster.kubeconfig()) else { return Ok(()) };
    let manifests = root().join("examples/stock-cluster");
    for name in ["10-kinds.yaml", "20-classes.yaml", "30-join.yaml"] {
        kubectl.ok(&["apply", "-f", &manifests.join(name).display().to_string()])?;
    }
    let of_node = std::fs::read_to_string(manifests.join("40-node.yaml"))?;
    kubectl.apply(&of_node.replace("${NODE_NAME}", "gw-1"))?.ok()?;
    kubectl.ok(&[
        "wait",
        "--for",
        "condition=Established",
        "crd/nodeassignments.edge.selvedge.dev",
        "--timeout",
        "30s",
    ])?;
    check(&kubectl)
}

/// A control plane with its controllers, on which nodes may join by bootstrap tokens, and what was made for that.
pub struct Cluster {
    pub kubectl: Kubectl,
    pub server: KubeApiserver,
    dir: tempfile::TempDir,
}

/// As `kubeadm token create` prints one.
pub const TOKEN: &str = "abcdef.0123456789abcdef";

impl Cluster {
    /// `None` where its programs are not built.
    pub fn start() -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let Some(mut server) = KubeApiserver::start(&dir.path().join("cluster"))? else { return Ok(None) };
        let Some(kubectl) = Kubectl::newest(&server.kubeconfig()) else { return Ok(None) };
        if !server.start_controllers()? {
            return Ok(None);
        }
        for name in ["20-classes.yaml", "30-join.yaml"] {
            kubectl.ok(&["apply", "-f", &root().join("examples/stock-cluster").join(name).display().to_string()])?;
        }
        let (id, secret) = TOKEN.split_once('.').context("a token has two parts")?;
        let usages = "usage-bootstrap-authentication: 'true', usage-bootstrap-signing: 'true'";
        kubectl
            .apply(&format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{ name: bootstrap-token-{id}, namespace: kube-system }}\n\
                 type: bootstrap.kubernetes.io/token\nstringData: {{ token-id: {id}, token-secret: {secret}, {usages} }}\n"
            ))?
            .ok()?;
        // Without it no pod is admitted.
        eventually("default service account", PATIENCE, || {
            kubectl.ok(&["get", "serviceaccount", "default"]).map_err(|error| error.to_string())
        })?;
        Ok(Some(Self { kubectl, server, dir }))
    }

    /// What kubeadm leaves for those who join: the cluster's address and CA, for everybody to read.
    fn publish_cluster_info(&self) -> Result<()> {
        let base64 = |pem: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(pem)
        };
        let ca = base64(self.server.ca()?.cert_pem());
        let server = self.server.address();
        let role = "{ apiGroups: [''], resources: [configmaps], resourceNames: [cluster-info], verbs: [get] }";
        self.kubectl
            .apply(&format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: cluster-info, namespace: kube-public }}\ndata:\n  kubeconfig: |\n    \
                 apiVersion: v1\n    kind: Config\n    clusters:\n    - name: ''\n      cluster:\n        server: https://{server}\n        \
                 certificate-authority-data: {ca}\n---\n\
                 apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{ name: cluster-info, namespace: kube-public }}\nrules: [{role}]\n---\n\
                 apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{ name: cluster-info, namespace: kube-public }}\n\
                 roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: cluster-info }}\n\
                 subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:anonymous' }}]\n"
            ))?
            .ok()?;
        eventually("signed cluster-info", PATIENCE, || {
            let info = self.kubectl.json(&["configmap", "cluster-info", "-n", "kube-public"]);
            let info = info.map_err(|error| error.to_string())?;
            match info["data"]["jws-kubeconfig-abcdef"].as_str() {
                Some(_) => Ok(()),
                None => Err(info["data"].to_string()),
            }
        })
    }

    /// Starts a node of this name here.
    fn node(&self, name: &str, more: &[&str]) -> Result<Selvedge> {
        self.node_at(self.server.address(), name, more)
    }

    fn node_at(&self, address: &str, name: &str, more: &[&str]) -> Result<Selvedge> {
        let url = format!("https://{address}");
        let mut args = vec!["node", "--hub", &url, "--token", TOKEN, "--node-name", name];
        args.extend(more);
        Selvedge::start(&self.dir.path().join(name), &args)
    }

    pub fn ca_file(&self) -> String {
        self.dir.path().join("cluster/ca.pem").display().to_string()
    }
}

#[test]
fn a_node_joins_a_stock_cluster_by_its_ca_or_by_what_the_token_has_signed() -> Result<()> {
    let Some(cluster) = Cluster::start()? else { return Ok(()) };
    let _by_ca = cluster.node("by-ca", &["--ca", &cluster.ca_file()])?;
    node_is_ready(&cluster.kubectl, "by-ca")?;

    let mut too_early = cluster.node("too-early", &[])?;
    ensure!(!too_early.wait(PATIENCE)?.success());
    ensure!(too_early.log().contains("cluster-info"), "{}", too_early.log());
    cluster.publish_cluster_info()?;
    let _by_token = cluster.node("by-token", &[])?;
    node_is_ready(&cluster.kubectl, "by-token")?;

    // Another CA than the cluster's: who answers there is reported no token.
    let other = base_pki::Ca::create("other")?;
    let file = cluster.dir.path().join("other.pem");
    std::fs::write(&file, other.cert_pem())?;
    let mut misled = cluster.node("misled", &["--ca", &file.display().to_string()])?;
    ensure!(!misled.wait(PATIENCE)?.success());
    ensure!(misled.log().contains("its CA does not vouch for"), "{}", misled.log());
    Ok(())
}

#[test]
fn a_node_that_was_deleted_from_a_stock_cluster_is_there_again_when_it_is_started_again() -> Result<()> {
    let Some(cluster) = Cluster::start()? else { return Ok(()) };
    let proxy = Proxy::tunnel(cluster.server.address())?;
    let mut node = cluster.node_at(&proxy.address(), "gw-1", &["--ca", &cluster.ca_file()])?;
    node_is_ready(&cluster.kubectl, "gw-1")?;
    cluster.kubectl.ok(&["delete", "node", "gw-1"])?;
    proxy.reset_connections();
    eventually("the node says that it was deleted", PATIENCE, || {
        match node.log().contains("was deleted; its pods run on") {
            true => Ok(()),
            false => Err(node.log()),
        }
    })?;
    cluster.kubectl.run(&["get", "node", "gw-1"])?.refused()?;
    node.kill();
    node.start_again("ephemeral")?;
    node_is_ready(&cluster.kubectl, "gw-1")
}

/// Bytes that one renewal of a node's Lease costs the node's side of the line, TLS included: the first one that fits, or the least of
/// five, as other things are sent now and then.
fn lease_renewal_bytes(kubectl: &Kubectl, proxy: &Proxy, node: &str, max: u64) -> Result<u64> {
    let renewed = |before: &str| {
        eventually("renewed Lease", PATIENCE, || {
            let lease = kubectl.json(&["lease", node, "-n", "kube-node-lease"]).map_err(|error| error.to_string())?;
            let at = lease["spec"]["renewTime"].as_str().unwrap_or_default().to_owned();
            if at != before && !at.is_empty() { Ok(at) } else { Err(at) }
        })
    };
    let mut at = renewed("")?;
    let mut least = u64::MAX;
    for _ in 0..5 {
        let before = proxy.bytes();
        at = renewed(&at)?;
        let after = proxy.bytes();
        let (sent, received) = (after.0 - before.0, after.1 - before.1);
        println!("a renewal: {sent} bytes sent, {received} received");
        least = least.min(sent + received);
        if least <= max {
            break;
        }
    }
    Ok(least)
}

/// What a renewal may cost: it is most of what an idle node costs its link.
const RENEWAL_BYTES_MAX: u64 = 500;
/// A kube-apiserver adds 47 bytes to each answer: the number of its audit record, and the record of TLS that its headers have alone.
const RENEWAL_BYTES_OF_KUBERNETES_MAX: u64 = 550;

#[test]
fn a_lease_renewal_fits_into_five_hundred_and_fifty_bytes_on_a_stock_cluster() -> Result<()> {
    let Some(cluster) = Cluster::start()? else { return Ok(()) };
    let proxy = Proxy::tunnel(cluster.server.address())?;
    let _node = cluster.node_at(&proxy.address(), "gw-1", &["--ca", &cluster.ca_file()])?;
    node_is_ready(&cluster.kubectl, "gw-1")?;
    let bytes = lease_renewal_bytes(&cluster.kubectl, &proxy, "gw-1", RENEWAL_BYTES_OF_KUBERNETES_MAX)?;
    println!("a renewal of the Lease on a kube-apiserver: {bytes} bytes");
    ensure!((100..=RENEWAL_BYTES_OF_KUBERNETES_MAX).contains(&bytes), "{bytes} bytes");
    Ok(())
}

#[test]
fn a_lease_renewal_fits_into_five_hundred_bytes_on_a_hub() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let hub_dir = dir.path().join("hub");
    let Some(kubectl) = Kubectl::newest(&hub_dir.join("kubeconfig")) else { return Ok(()) };
    let mut hub = Selvedge::start(&hub_dir, &["hub"])?;
    let proxy = Proxy::tunnel(&hub.address("hub-api")?)?;
    let token = token(&hub_dir)?;
    let args = ["node", "--hub", &proxy.url(), "--token", &token, "--node-name", "gw-1"];
    let _node = Selvedge::start(&dir.path().join("node"), &args)?;
    node_is_ready(&kubectl, "gw-1")?;
    let bytes = lease_renewal_bytes(&kubectl, &proxy, "gw-1", RENEWAL_BYTES_MAX)?;
    println!("a renewal of the Lease on a hub: {bytes} bytes");
    ensure!((100..=RENEWAL_BYTES_MAX).contains(&bytes), "{bytes} bytes");
    Ok(())
}

/// A pod whose program sleeps, with the mount that a stock control plane gives it.
fn sleeper(kubectl: &Kubectl, node: &str, mark: &str) -> Result<()> {
    kubectl
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: sleeper, namespace: default }}\nspec:\n  nodeName: {node}\n  \
             runtimeClassName: selvedge-process\n  containers:\n  - {{ name: main, image: 'file:///bin/sleep', args: ['1000000', '{mark}'] }}\n"
        ))?
        .ok()
        .map(|_| ())
}

/// The process of that pod's program.
fn sleeping(mark: &str) -> Result<u32> {
    eventually("the pod's program", PATIENCE, || {
        let found = process::find(|words| words.get(2).is_some_and(|word| word == mark));
        match found.iter().find(|(_, words)| words[0].ends_with("sleep")) {
            Some((pid, _)) => Ok(*pid),
            None => Err(format!("{found:?}")),
        }
    })
}

/// The token of its service account that a program finds.
fn token_of(pid: u32) -> Result<String> {
    eventually("the pod's token", PATIENCE, || {
        // By its mount: where `/var/run` is a link to `/run`, its target would be looked for outside of the pod.
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_err(|error| error.to_string())?;
        let mut places = mounts.lines().filter_map(|mount| mount.split(' ').nth(4));
        let place = places.find(|place| place.ends_with("/run/secrets/kubernetes.io/serviceaccount")).ok_or(&mounts)?;
        match std::fs::read_to_string(format!("/proc/{pid}/root{place}/token")) {
            Ok(token) if !token.is_empty() => Ok(token),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_pods_token_of_a_stock_cluster_is_good_there_and_kept_while_the_cluster_is_away() -> Result<()> {
    let Some(cluster) = Cluster::start()? else { return Ok(()) };
    let proxy = Proxy::tunnel(cluster.server.address())?;
    let mut node = cluster.node_at(&proxy.address(), "gw-1", &["--ca", &cluster.ca_file()])?;
    node_is_ready(&cluster.kubectl, "gw-1")?;
    let mark = format!("0.{:010}", fastrand::u32(..));
    sleeper(&cluster.kubectl, "gw-1", &mark)?;
    let first = sleeping(&mark)?;
    let token = token_of(first)?;
    let review = cluster.dir.path().join("review.json");
    let asked =
        serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    std::fs::write(&review, asked.to_string())?;
    let answer = cluster.kubectl.ok(&["create", "-o", "json", "-f", &review.display().to_string()])?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    ensure!(answer["status"]["user"]["username"] == "system:serviceaccount:default:default", "{answer}");

    // The agent alone is killed: the program is the same.
    node.kill();
    node.start_again("ephemeral")?;
    node_is_ready(&cluster.kubectl, "gw-1")?;
    ensure!(sleeping(&mark)? == first);
    // All is killed while nothing can be reached: the program runs again, with the token that it had.
    proxy.set_away(true);
    kill_with_pods(&mut node)?;
    node.start_again("ephemeral")?;
    let second = sleeping(&mark)?;
    ensure!(second != first && token_of(second)? == token);
    proxy.set_away(false);
    eventually("the restart is reported", PATIENCE, || {
        let pod = cluster.kubectl.json(&["pod", "sleeper"]).map_err(|error| error.to_string())?;
        match pod["status"]["containerStatuses"][0]["restartCount"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(pod["status"].to_string()),
        }
    })
}
