use std::sync::{Arc, mpsc};

use serde_json::json;
use tokio_util::task::TaskTracker;

use super::*;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    dir
}

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path(), TaskTracker::new().token()).unwrap()
}

fn secret() -> ObjectKey {
    ObjectKey { kind: ObjectKind::Secret, namespace: "d".into(), name: "s".into() }
}

fn files_under(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_restart_finds_everything_again() {
    let dir = directory();
    let state = PodState { start_time: Some(Timestamp::from_second(5).unwrap()), ..PodState::default() };
    {
        let store = open(&dir);
        store.put_pod("a", "{}".into()).unwrap();
        store.put_pod("b", "{}".into()).unwrap();
        store.remove_pod("a").unwrap();
        store.put_pod_later("b", "{\"x\":1}".into()).unwrap();
        store.put_pod_state("b", &state, true).unwrap();
        assert!(store.put_object(&secret(), Some(&json!({"data": {"k": "djE="}}))).unwrap());
        assert!(!store.put_object(&secret(), Some(&json!({"data": {"k": "djE="}}))).unwrap());
        store.put_assignment_present(true).unwrap();
    }
    let store = open(&dir);
    assert_eq!(store.pods(), [("b".to_owned(), Bytes::from_static(b"{\"x\":1}"))]);
    assert_eq!(store.pod_state("b"), state);
    assert_eq!(store.object(&secret()), Known::Present(json!({"data": {"k": "djE="}})));
    assert_eq!(store.assignment_present(), Some(true));
    store.remove_pod("b").unwrap();
    assert_eq!(store.pod_state("b"), PodState::default());
}

#[test]
fn whoever_is_killed_while_forgetting_a_pod_leaves_nothing_of_it() {
    let dir = directory();
    let address: IpAddr = "10.39.0.2".parse().unwrap();
    let instance = PodInstance {
        version: node_runtime::POD_INSTANCE_VERSION,
        id: "i".to_owned(),
        boot_id: "b".to_owned(),
        cgroup: None,
        namespaces: Vec::new(),
        addresses: vec![address],
        devices: Vec::new(),
    };
    let state =
        PodState { instance: Some(Instance { instance, first_attempts: Default::default() }), ..PodState::default() };
    let static_pod = format!("{STATIC_UID_PREFIX}s");
    {
        let store = open(&dir);
        for uid in ["forgotten", "kept"] {
            store.put_pod(uid, "{}".into()).unwrap();
            store.put_pod_state(uid, &state, true).unwrap();
        }
        store.put_pod_state(&static_pod, &state, true).unwrap();
        // The first of the writes of `remove_pod`.
        store.write(|snapshots| snapshots.remove("pods/forgotten")).unwrap();
        store.write(SnapshotStore::sync).unwrap();
        let addressed: Vec<String> = store.pods_with_addresses().into_iter().map(|pod| pod.uid).collect();
        assert_eq!(addressed, ["kept", &static_pod], "its address is free");
    }
    let store = open(&dir);
    assert!(store.snapshots.get("state/forgotten").is_none());
    assert_eq!(store.pod_state("kept"), state);
    assert_eq!(store.pod_state(&static_pod), state);
}

#[test]
fn services_are_there_after_a_restart_and_one_of_another_version_is_left_out() {
    let service = |name: &str, uid: &str| ServiceRecord {
        namespace: "d".into(),
        name: name.into(),
        uid: uid.into(),
        ..ServiceRecord::default()
    };
    let dir = directory();
    {
        let store = open(&dir);
        assert_eq!(store.services(), []);
        store.put_services(&[service("a", "1"), service("a.b", "2"), service("c", "3")]).unwrap();
        store.put_services(&[service("a", "4"), service("a.b", "2")]).unwrap();
        store.put("services/d/later", Bytes::from_static(br#"{"version": 2, "service": {}}"#)).unwrap();
        store.put("services/d/torn", Bytes::from_static(b"{")).unwrap();
    }
    let store = open(&dir);
    assert_eq!(store.services(), [service("a", "4"), service("a.b", "2")]);
    let size = || -> u64 {
        let files = files_under(&dir.path().join("node/store"));
        files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum()
    };
    // This removes what could not be read.
    store.put_services(&[service("a", "4"), service("a.b", "2")]).unwrap();
    let before = size();
    store.put_services(&[service("a", "4"), service("a.b", "2")]).unwrap();
    assert_eq!(size(), before, "what is as it was is not written");
}

#[test]
fn no_secret_is_readable_on_disk() {
    let dir = directory();
    let store = open(&dir);
    store.put_object(&secret(), Some(&json!({"data": {"k": "VERY-SECRET-VALUE"}}))).unwrap();
    for file in files_under(&dir.path().join("node/store")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(17).any(|window| window == b"VERY-SECRET-VALUE"), "{}", file.display());
    }
}

#[test]
fn a_secret_of_another_key_is_as_good_as_never_fetched() {
    let dir = directory();
    open(&dir).put_object(&secret(), Some(&json!({"data": {}}))).unwrap();
    std::fs::remove_file(dir.path().join("node/pki/store.key")).unwrap();
    assert_eq!(open(&dir).object(&secret()), Known::Unknown);
}

#[test]
fn a_torn_tail_costs_the_last_change_only() {
    let dir = directory();
    {
        let store = open(&dir);
        store.put_pod("a", "first".into()).unwrap();
        store.put_pod("b", "second".into()).unwrap();
    }
    let newest =
        files_under(&dir.path().join("node/store")).into_iter().max_by_key(|p| std::fs::metadata(p).unwrap().len());
    let newest = newest.unwrap();
    let length = std::fs::metadata(&newest).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(length - 3).unwrap();
    let store = open(&dir);
    assert_eq!(store.pods(), [("a".to_owned(), Bytes::from_static(b"first"))]);
}

#[test]
fn an_absent_object_is_not_an_unknown_one_and_unused_ones_go() {
    let dir = directory();
    let store = open(&dir);
    assert_eq!(store.object(&secret()), Known::Unknown);
    store.put_object(&secret(), None).unwrap();
    assert_eq!(store.object(&secret()), Known::Absent);
    store.retain_objects(&BTreeSet::from([secret()])).unwrap();
    assert_eq!(store.object(&secret()), Known::Absent);
    store.retain_objects(&BTreeSet::new()).unwrap();
    assert_eq!(store.object(&secret()), Known::Unknown);
}

#[tokio::test]
async fn whoever_waits_for_its_end_may_open_it_again() {
    let (dir, tasks) = (directory(), TaskTracker::new());
    let store = Arc::new(Store::open(dir.path(), tasks.token()).unwrap());
    let (finish, reported) = mpsc::channel();
    let writing = store.clone();
    // A write whose task was cancelled meanwhile.
    drop(tokio::task::spawn_blocking(move || {
        reported.recv().unwrap();
        writing.put_assignment_present(true).unwrap();
    }));
    drop(store);
    tasks.close();
    assert!(futures::FutureExt::now_or_never(tasks.wait()).is_none(), "the directory is in use");
    finish.send(()).unwrap();
    tasks.wait().await;
    assert_eq!(open(&dir).assignment_present(), Some(true));
}

/// `DATA_DIR/node` as format 1 wrote it; `writes_the_fixture` shows how.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/v1");

fn fixture_state() -> PodState {
    PodState {
        start_time: Some("2026-11-22T06:00:00Z".parse().unwrap()),
        failure: Some(("Evicted".into(), "the disk was full".into())),
        ..PodState::default()
    }
}

#[test]
fn format_1_is_read() {
    let dir = testkit::fixture::copy_of(Path::new(FIXTURE));
    let store = open(&dir);
    assert_eq!(store.pods(), [("u1".to_owned(), Bytes::from_static(br#"{"metadata":{"name":"p"}}"#))]);
    assert_eq!(store.pod_state("u1"), fixture_state());
    assert_eq!(store.object(&secret()), Known::Present(json!({"data": {"k": "djE="}})));
    let config_map = |name: &str| ObjectKey { kind: ObjectKind::ConfigMap, namespace: "d".into(), name: name.into() };
    assert_eq!(store.object(&config_map("c")), Known::Present(json!({"data": {"k": "v"}})));
    assert_eq!(store.object(&config_map("none")), Known::Absent);
    assert_eq!(store.assignment_present(), Some(true));
    let identity = node_agent::Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!((identity.node_name.as_str(), identity.hub_urls.len()), ("n", 1));
    identity.tls().unwrap();
}

#[test]
fn a_newer_store_is_refused() {
    let dir = directory();
    drop(open(&dir));
    let snapshots = SnapshotStore::open(&dir.path().join("node/store"), SnapshotOptions::default()).unwrap();
    snapshots.put("format", "2").unwrap();
    snapshots.sync().unwrap();
    drop(snapshots);
    let error = Store::open(dir.path(), TaskTracker::new().token()).unwrap_err();
    let StoreError::Open(newer @ OpenSnapshotError::NewerEntries { .. }) = error else { panic!("{error}") };
    assert!(newer.to_string().contains("format 2"), "{newer}");
}

#[test]
#[ignore = "run once when a format is made: SELVEDGE_FIXTURE=directory"]
fn writes_the_fixture() {
    let dir = PathBuf::from(std::env::var("SELVEDGE_FIXTURE").unwrap());
    std::fs::create_dir_all(dir.join("node/pki")).unwrap();
    let store = Store::open(&dir, TaskTracker::new().token()).unwrap();
    store.put_pod("u1", r#"{"metadata":{"name":"p"}}"#.into()).unwrap();
    store.put_pod_state("u1", &fixture_state(), true).unwrap();
    store.put_object(&secret(), Some(&json!({"data": {"k": "djE="}}))).unwrap();
    let config_map = |name: &str| ObjectKey { kind: ObjectKind::ConfigMap, namespace: "d".into(), name: name.into() };
    store.put_object(&config_map("c"), Some(&json!({"data": {"k": "v"}}))).unwrap();
    store.put_object(&config_map("none"), None).unwrap();
    store.put_assignment_present(true).unwrap();
    let ca = base_pki::Ca::create("fixture").unwrap();
    let key = base_pki::KeyPair::generate().unwrap();
    let csr = base_pki::make_csr(&key, "system:node:n", &["system:nodes".to_owned()], &[]).unwrap();
    let cert = ca.sign_csr(&csr, base_pki::Usage::Client, std::time::Duration::from_secs(3600)).unwrap();
    let urls = vec!["https://hub:6443".to_owned()];
    node_agent::Identity::new("n", urls, ca.cert_pem().to_owned(), cert, key.to_pem()).save(&dir).unwrap();
}

#[test]
fn tokens_are_kept_sealed_beside_their_pod_and_end_with_it() {
    let dir = directory();
    let of = |pod: &str, audience: &str| TokenRef {
        pod_uid: pod.into(),
        namespace: "d".into(),
        pod: pod.into(),
        account: "default".into(),
        audience: audience.into(),
        seconds: 3600,
    };
    let token = |of: &TokenRef, text: &str| KeptToken {
        account: of.account.clone(),
        audience: of.audience.clone(),
        seconds: of.seconds,
        token: text.into(),
        obtained_at: Timestamp::UNIX_EPOCH,
        life_seconds: 3600,
    };
    {
        let store = open(&dir);
        store.put_pod("a", "{}".into()).unwrap();
        store.put_token(&of("a", ""), token(&of("a", ""), "OLD-TOKEN-OF-POD-A")).unwrap();
        store.put_token(&of("a", "vault"), token(&of("a", "vault"), "vault-token")).unwrap();
        store.put_token(&of("a", ""), token(&of("a", ""), "NEW-TOKEN-OF-POD-A")).unwrap();
        store.put_token(&of("deleted", ""), token(&of("deleted", ""), "x")).unwrap();
    }
    let store = open(&dir);
    let text = |of: TokenRef| store.token(&of).map(|kept| kept.token);
    assert_eq!(text(of("a", "")).as_deref(), Some("NEW-TOKEN-OF-POD-A"));
    assert_eq!(text(of("a", "vault")).as_deref(), Some("vault-token"));
    assert_eq!(text(of("deleted", "")), None, "a pod that is not known keeps none");
    assert_eq!(text(TokenRef { seconds: 600, ..of("a", "") }), None, "another life is another token");
    for file in files_under(&dir.path().join("node/store")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(14).any(|window| window == b"TOKEN-OF-POD-A"), "{}", file.display());
    }
    for number in 0..2 * crate::tokens::TOKENS_OF_POD_MAX {
        let one = of("a", &number.to_string());
        store.put_token(&one, token(&one, "t")).unwrap();
    }
    assert_eq!(store.tokens("a").len(), crate::tokens::TOKENS_OF_POD_MAX);
    // A power cut between the two writes that forget a pod.
    store.snapshots.remove("pods/a").unwrap();
    assert!(!store.tokens("a").is_empty());
    store.sweep_tokens().unwrap();
    assert!(store.tokens("a").is_empty());
    store.put_pod("b", "{}".into()).unwrap();
    store.put_token(&of("b", ""), token(&of("b", ""), "t")).unwrap();
    store.sweep_tokens().unwrap();
    assert_eq!(store.tokens("b").len(), 1);
    store.remove_pod("b").unwrap();
    assert!(store.tokens("b").is_empty());
}

#[test]
fn a_damaged_key_is_put_aside_and_everything_but_secrets_is_there() {
    let dir = directory();
    {
        let store = open(&dir);
        store.put_pod("a", "{}".into()).unwrap();
        store.put_object(&secret(), Some(&json!({"data": {"k": "djE="}}))).unwrap();
    }
    let key = dir.path().join("node/pki/store.key");
    std::fs::write(&key, b"half").unwrap();
    let store = open(&dir);
    assert!(store.repairs().is_some_and(|repairs| repairs.contains("store key was damaged")), "{:?}", store.repairs());
    assert_eq!(store.pods().len(), 1);
    assert_eq!(store.object(&secret()), Known::Unknown, "it is fetched again");
    drop(store);
    assert_eq!(open(&dir).repairs(), None, "the next start has a sound key");
}

#[test]
fn a_state_that_comes_after_its_pod_was_deleted_is_not_kept() {
    let dir = directory();
    let store = open(&dir);
    let state = PodState { on_hold: true, ..PodState::default() };
    store.put_pod("a", "{}".into()).unwrap();
    store.put_pod_state("a", &state, true).unwrap();
    store.remove_pod("a").unwrap();
    let entries = store.entries();
    store.put_pod_state("a", &state, true).unwrap();
    assert_eq!((store.entries(), store.pod_state("a")), (entries, PodState::default()));
    store.put_pod_state("static-a", &state, true).unwrap();
    assert_eq!(store.pod_state("static-a"), state);
}

#[test]
fn the_network_of_pods_is_known_after_a_restart() {
    let dir = directory();
    let last: Vec<std::net::IpAddr> = vec!["10.39.0.7".parse().unwrap()];
    {
        let store = open(&dir);
        let state = |address: &[&str]| {
            let instance = json!({
                "version": 1, "id": "i", "bootId": "b", "addresses": address,
                "namespaces": [{"kind": "ipc", "path": "/run/ipc"}, {"kind": "net", "path": "/run/net"}],
            });
            serde_json::from_value::<PodState>(json!({"instance": {"instance": instance}})).unwrap()
        };
        let pod = |phase: &str| {
            let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
            let spec = json!({"containers": [{"name": "a", "ports": ports}]});
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec, "status": {"phase": phase}})
        };
        for (uid, phase, addresses) in
            [("a", "Running", vec!["10.39.0.2"]), ("b", "Succeeded", vec!["10.39.0.3"]), ("host", "Running", vec![])]
        {
            store.put_pod(uid, pod(phase).to_string().into()).unwrap();
            store.put_pod_state(uid, &state(&addresses), true).unwrap();
        }
        store.put_last_addresses(&last).unwrap();
        store.sync().unwrap();
        let entries = store.entries();
        store.put_last_addresses(&last).unwrap();
        assert_eq!(store.entries(), entries);
    }
    let store = open(&dir);
    assert_eq!(store.last_addresses(), last);
    let kept = store.pods_with_addresses();
    let shown = |pod: &KeptPod| (pod.uid.clone(), pod.addresses[0].to_string(), pod.host_ports.len());
    assert_eq!(
        kept.iter().map(shown).collect::<Vec<_>>(),
        [("a".into(), "10.39.0.2".into(), 1), ("b".into(), "10.39.0.3".into(), 0)],
        "a pod that is over has no ports, one in the node's network no addresses"
    );
    assert_eq!(kept[0].netns.as_deref(), Some(Path::new("/run/net")));
}
