//! The Helm chart of the hub: what it renders, which values it rejects, and that it runs, on a node of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use expect_test::expect_file;
use testkit::image::{Compression, Entry, Image};
use testkit::kubectl::Kubectl;
use testkit::program::{Outcome, binary, run};
use testkit::wait::eventually;

use crate::common::{Fleet, PATIENCE, condition, root};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn chart() -> PathBuf {
    root().join("packaging/chart/selvedge-hub")
}

/// Helm 3 and Helm 4, those that are installed; none after a printed reason.
fn helms() -> Vec<(&'static str, PathBuf)> {
    let found: Vec<_> = [("Helm 3", "SELVEDGE_HELM_3"), ("Helm 4", "SELVEDGE_HELM_4")]
        .into_iter()
        .filter_map(|(name, variable)| std::env::var_os(variable).map(|path| (name, path.into())))
        .collect();
    if found.is_empty() {
        testkit::skip("no Helm; `cargo xtask test` installs it unless --no-install is given");
    }
    found
}

/// Helm with a home of its own.
fn helm(program: &Path, home: &Path, args: &[&str]) -> Result<Outcome> {
    Outcome::of(Command::new(program).env("HOME", home).env("TZ", "UTC").args(args).stdin(Stdio::null()))
}

/// What an administrator of a large fleet may set.
const MUCH: &str = r#"
fullnameOverride: hub
image: {repository: registry.example/selvedge-hub, digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
imagePullSecrets: [{name: registry}]
hub: {publicNames: [hub.example, 192.0.2.1], log: debug, auditBytesMax: 1073741824, telemetryBytesMax: 68719476736}
service: {type: LoadBalancer, port: 443, nodePort: 30443, loadBalancerClass: example.com/lb, annotations: {example.com/name: hub}}
persistence: {storageClass: fast, size: 100Gi, accessModes: [ReadWriteOncePod]}
podAnnotations: {example.com/scrape: "true"}
podLabels: {tier: hub}
nodeSelector: {disk: fast}
tolerations: [{key: hub, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: system-cluster-critical
extraEnv: [{name: RUST_BACKTRACE, value: "1"}]
"#;

#[test]
fn both_helms_render_what_is_recorded_and_find_nothing_to_say() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let much = dir.path().join("much.yaml");
    fs::write(&much, MUCH)?;
    let (much, chart) = (much.to_string_lossy().into_owned(), chart().to_string_lossy().into_owned());
    for (name, program) in helms() {
        let run = |args: &[&str]| helm(&program, dir.path(), args)?.ok().with_context(|| name);
        run(&["lint", "--strict", &chart])?;
        run(&["lint", "--strict", &chart, "--values", &much])?;
        let without = run(&["template", "try", &chart, "--set", "persistence.enabled=false,hostNetwork=true"])?;
        ensure!(
            without.contains("name: data\n          emptyDir: {}") && !without.contains("volumeClaimTemplates"),
            "{without}"
        );
        let claimed = run(&["template", "try", &chart, "--set", "persistence.existingClaim=mine"])?;
        ensure!(claimed.contains("claimName: mine") && !claimed.contains("volumeClaimTemplates"), "{claimed}");
        // A new version of the chart is no new recording.
        let render = |args: &[&str]| Ok::<_, anyhow::Error>(run(args)?.replace(VERSION, "VERSION"));
        let recorded = root().join("tests/data/chart");
        let plain = render(&["template", "fleet", &chart, "--namespace", "fleet"])?;
        expect_file![recorded.join("default.yaml")].assert_eq(&plain);
        let much = render(&["template", "fleet", &chart, "--namespace", "fleet", "--values", &much])?;
        expect_file![recorded.join("much.yaml")].assert_eq(&much);
    }
    Ok(())
}

#[test]
fn values_that_mean_nothing_are_rejected_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let chart = chart().to_string_lossy().into_owned();
    for (name, program) in helms() {
        for (set, named) in [
            ("replicas=2", "replicas"),
            ("hub.port=80", "port"),
            ("hub.publicNames={https://hub.example}", "publicNames"),
            ("service.type=ExternalName", "type"),
            ("persistence.size=much", "size"),
            ("persistence.accessModes={ReadWriteMany}", "accessModes"),
            ("image.digest=latest", "digest"),
            ("hub.listen=0.0.0.0", "listen"),
        ] {
            let said = helm(&program, dir.path(), &["template", "fleet", &chart, "--set", set])?.refused()?;
            ensure!(said.contains(named), "{name}: {set}: {said}");
        }
    }
    Ok(())
}

/// The program under test as an image of it alone, and of the libraries of this machine that it names: what is shipped names none.
fn image() -> Result<Image> {
    let listed = Outcome::of(Command::new("ldd").arg(binary()))?;
    let libraries = listed.stdout.split_whitespace().filter(|word| word.starts_with('/'));
    let mut entries = vec![
        Entry::file("selvedge", fs::read(binary())?).mode(0o755),
        Entry::directory("tmp/").mode(0o1777),
        Entry::directory("var/lib/selvedge/").mode(0o700).owner(65532, 65532),
    ];
    for library in libraries {
        entries.push(Entry::file(library.trim_start_matches('/'), fs::read(library)?).mode(0o755));
    }
    let config = serde_json::json!({"User": "65532:65532", "Entrypoint": ["/selvedge"], "Cmd": ["hub"]});
    Ok(Image::new().layer(&entries, Compression::None).config(config))
}

#[test]
fn a_hub_runs_as_a_pod_of_another_hubs_node() -> Result<()> {
    // SAFETY: it has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        testkit::skip("containers of images need root");
        return Ok(());
    }
    let Some((_, program)) = helms().pop() else { return Ok(()) };
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let node = fleet.node.data_dir().to_owned();
    let archive = fleet.dir.path().join("hub.tar");
    fs::write(&archive, image()?.layout_tar(&format!("localhost/selvedge-hub:{VERSION}")))?;
    run(["image", "import", &archive.to_string_lossy(), "--data-dir", &node.to_string_lossy()])?.ok()?;

    // Pods have this machine's network here, so the port is one of its own.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let set = format!(
        "persistence.enabled=false,hostNetwork=true,hub.port={port},service.port={port},hub.publicNames={{hub.example}}"
    );
    let kubeconfig = fleet.hub.data_dir().join("kubeconfig").to_string_lossy().into_owned();
    let (chart, home) = (chart().to_string_lossy().into_owned(), fleet.dir.path().join("home"));
    let helm = |args: &[&str]| {
        let common = ["--kubeconfig", &kubeconfig, "--namespace", "inner"];
        helm(&program, &home, &[&common[..], args].concat())?.ok()
    };
    let notes = helm(&["install", "inner", &chart, "--create-namespace", "--set", &set])?;
    for expected in
        ["kubectl exec -n inner inner-selvedge-hub-0 -- /selvedge token create", "WARNING: persistence.enabled"]
    {
        ensure!(notes.contains(expected), "{notes}");
    }
    let pod = eventually("the hub in its pod", PATIENCE, || {
        let pod =
            fleet.kubectl.json(&["pod", "inner-selvedge-hub-0", "-n", "inner"]).map_err(|error| error.to_string())?;
        let is_ready = condition(&pod, "Ready").is_some_and(|ready| ready["status"] == "True");
        if is_ready { Ok(pod) } else { Err(pod["status"].to_string()) }
    })?;
    ensure!(pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] == true, "{pod}");

    // It is a hub: with an API of its own, and the names that the chart gave it.
    let data = Command::new("find").arg(&node).args(["-name", "kubeconfig"]).output()?;
    let inside = String::from_utf8_lossy(&data.stdout).trim().to_owned();
    ensure!(inside.ends_with("/data/kubeconfig"), "the hub's data is in its volume: {inside:?}");
    let copy = fleet.dir.path().join("inner.kubeconfig");
    fs::copy(&inside, &copy).with_context(|| inside.clone())?;
    let Some(inner) = Kubectl::newest(&copy) else { return Ok(()) };
    inner.ok(&["create", "configmap", "mine"])?;
    inner.ok(&["get", "namespaces", "--tls-server-name", "hub.example"])?;
    inner.ok(&["get", "namespaces", "--tls-server-name", "inner-selvedge-hub.inner.svc"])?;
    fleet.kubectl.refused(&["get", "configmap", "mine"])?;

    helm(&["uninstall", "inner"])?;
    eventually("no pod of the chart", PATIENCE, || {
        let left =
            fleet.kubectl.ok(&["get", "pods", "-n", "inner", "-o", "name"]).map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
}
