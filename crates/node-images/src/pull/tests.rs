//! Pulls from a registry that is well, and from one that is not.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base_retry::BackoffLaw;
use serde_json::json;
use testkit::image::{Compression, Entry, Image as Built};
use testkit::registry::{Access, Fault, Registry};

use super::{PullCause, PullError, Puller, Throttle};
use crate::import::tests::{is_root, sample};
use crate::{Credential, Image, ImageStore, Login, Patience, Reference, RegistriesConfig, RegistryError};

struct Node {
    dir: tempfile::TempDir,
    store: Option<Arc<ImageStore>>,
    config: RegistriesConfig,
    puller: Puller,
}

impl Node {
    fn new(config: RegistriesConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Some(Arc::new(ImageStore::open(&dir.path().join("store")).unwrap()));
        let puller = Puller::with_patience(config.clone(), patience()).unwrap();
        Self { dir, store, config, puller }
    }

    /// A node that speaks plainly to this registry.
    fn of(registry: &Registry) -> Self {
        Self::new(RegistriesConfig { plain_http: vec![registry.host()], ..RegistriesConfig::default() })
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(Arc::new(ImageStore::open(&self.dir.path().join("store")).unwrap()));
        self.puller = Puller::with_patience(self.config.clone(), patience()).unwrap();
    }

    fn store(&self) -> &Arc<ImageStore> {
        self.store.as_ref().unwrap()
    }

    fn pull_as(&self, name: &str, credentials: &[Credential]) -> Result<Image, PullError> {
        let reference = Reference::parse(name).unwrap();
        run(self.puller.pull(self.store(), &reference, credentials, &|_| {}))
    }

    fn pull(&self, name: &str) -> Result<Image, PullError> {
        self.pull_as(name, &[])
    }

    fn partials(&self) -> Vec<u64> {
        let files = fs::read_dir(self.dir.path().join("store/partial")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).collect()
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn patience() -> Patience {
    Patience {
        stall: Duration::from_millis(400),
        tries_max: 4,
        backoff: BackoffLaw::new(Duration::from_millis(1), Duration::from_millis(5)),
        retry_after_max: Duration::from_secs(2),
    }
}

fn login(username: &str) -> Credential {
    Credential::Basic { username: username.to_owned(), password: "secret".to_owned() }
}

/// An image whose layer does not compress: downloads of it can be cut.
fn large(bytes: usize) -> Built {
    let mut random = fastrand::Rng::with_seed(7);
    let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
    Built::new().layer(&[Entry::file("large", content)], Compression::Gzip)
}

fn check_out_of_reach(error: &PullError) {
    assert!(error.is_out_of_reach(), "{error:?}");
    assert_eq!(error.reason(), "RegistryUnavailable");
}

#[test]
fn an_image_is_pulled_by_tag_and_by_digest_and_only_once() {
    if !is_root("an_image_is_pulled_by_tag_and_by_digest_and_only_once") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = sample(Compression::Gzip);
    let digest = registry.add("org/app", "1", &built);
    let node = Node::of(&registry);
    let name = format!("{}/org/app:1", registry.host());
    let image = node.pull(&name).unwrap();
    assert_eq!((image.id.clone(), image.layers.len()), (built.id(), 2));
    assert_eq!(image.names, [name.as_str()]);
    assert_eq!(image.repo_digests, [format!("{}/org/app@{digest}", registry.host())]);
    assert_eq!(fs::read(image.layers[1].join("etc/replaced")).unwrap(), b"two");
    registry.forget_seen();
    assert_eq!(node.pull(&name).unwrap(), image);
    let seen: Vec<String> = registry.seen().into_iter().map(|seen| seen.path).collect();
    let layers: Vec<&String> = seen.iter().filter(|path| path.contains("/blobs/")).collect();
    assert_eq!(layers.len(), 1, "the configuration alone: {seen:?}");
    let by_digest = node.pull(&format!("{}/org/app@{digest}", registry.host())).unwrap();
    assert_eq!(by_digest, image, "a pull by digest gives no tag");
    assert!(node.partials().is_empty());
}

#[test]
fn of_an_index_the_best_platform_is_taken() {
    if !is_root("of_an_index_the_best_platform_is_taken") {
        return;
    }
    let registry = Registry::start().unwrap();
    let on = |platform: serde_json::Value, file: &str| {
        let mut built = Built::new().layer(&[Entry::file(file, "")], Compression::Zstd);
        built.platform = platform;
        built
    };
    let arm = |variant: &str| on(json!({"architecture": "arm", "os": "linux", "variant": variant}), variant);
    let own = Built::new().layer(&[Entry::file("own", "")], Compression::None);
    let unknown = on(json!({"architecture": "unknown", "os": "unknown"}), "attestation");
    let digest = registry.add_index("app", "all", &[unknown.clone(), arm("v6"), own.clone(), arm("v7")]);
    registry.add_index("app", "others", &[unknown, arm("v6"), arm("v7")]);
    registry.add("app", "arm", &arm("v6"));
    let node = Node::of(&registry);
    let name = |tag: &str| format!("{}/app:{tag}", registry.host());
    let image = node.pull(&name("all")).unwrap();
    assert_eq!(image.id, own.id());
    assert!(image.repo_digests.contains(&format!("{}/app@{digest}", registry.host())), "{:?}", image.repo_digests);
    for tag in ["others", "arm"] {
        let error = node.pull(&name(tag)).unwrap_err();
        assert!(
            matches!(error.cause, PullCause::Document { source: crate::DocumentError::Platform { .. }, .. }),
            "{error:?}"
        );
        assert_eq!((error.reason(), error.is_out_of_reach()), ("ErrImagePull", false));
    }
}

#[test]
fn a_download_that_is_cut_again_and_again_is_resumed_where_it_was() {
    if !is_root("a_download_that_is_cut_again_and_again_is_resumed_where_it_was") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(2 << 20);
    registry.add("app", "1", &built);
    let node = Node::of(&registry);
    let layer = testkit::image::digest(&built.blobs()[2].1);
    registry.fail(&layer, 1000, Fault::CutAfter(100_000));
    node.pull(&format!("{}/app:1", registry.host())).unwrap();
    let size = built.blobs()[2].1.len() as u64;
    let resumed = registry.seen().into_iter().filter(|seen| seen.range.is_some()).count();
    assert!(resumed as u64 >= size / 100_000 - 1, "{resumed}");
    assert!(registry.bytes_sent() < size + 100_000, "nothing came twice: {} of {size}", registry.bytes_sent());
    assert!(node.partials().is_empty());
}

#[test]
fn a_server_without_ranges_and_one_that_stalls_are_put_up_with() {
    if !is_root("a_server_without_ranges_and_one_that_stalls_are_put_up_with") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(1 << 20);
    registry.add("app", "1", &built);
    let layer = testkit::image::digest(&built.blobs()[2].1);
    for fault in [Fault::StallAfter(200_000), Fault::StallAfter(0), Fault::CutAfter(0), Fault::CutAfter(300_000)] {
        let node = Node::of(&registry);
        registry.heal();
        registry.fail(&layer, 1, fault.clone());
        registry.fail(&layer, 1, Fault::NoRange);
        let image = node.pull(&format!("{}/app:1", registry.host())).unwrap();
        assert_eq!(image.id, built.id(), "{fault:?}");
    }
}

#[test]
fn what_was_downloaded_before_a_restart_is_not_downloaded_again() {
    if !is_root("what_was_downloaded_before_a_restart_is_not_downloaded_again") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(2 << 20);
    registry.add("app", "1", &built);
    let layer = testkit::image::digest(&built.blobs()[2].1);
    let name = format!("{}/app:1", registry.host());
    let mut node = Node::of(&registry);
    registry.fail(&layer, 1, Fault::CutAfter(1_500_000));
    registry.fail(&layer, 1000, Fault::CutAfter(0));
    check_out_of_reach(&node.pull(&name).unwrap_err());
    assert_eq!(node.partials(), [1_500_000]);
    assert!(node.store().list().is_empty());
    node.restart();
    registry.heal();
    registry.forget_seen();
    assert_eq!(node.pull(&name).unwrap().id, built.id());
    let of_layer = registry.seen().into_iter().find(|seen| seen.path.contains(&layer)).unwrap();
    assert_eq!(of_layer.range.as_deref(), Some("bytes=1500000-"));
    assert!(node.partials().is_empty());
}

#[test]
fn a_partial_download_that_a_power_cut_has_spoiled_is_downloaded_anew() {
    if !is_root("a_partial_download_that_a_power_cut_has_spoiled_is_downloaded_anew") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(2 << 20);
    registry.add("app", "1", &built);
    let blob = &built.blobs()[2].1;
    for (spoiled, what) in
        [(vec![0; 1_200_000], "zeros"), (vec![0; blob.len()], "whole"), (vec![1; blob.len() + 1], "longer")]
    {
        let node = Node::of(&registry);
        let layer = crate::Digest::of(blob);
        fs::write(node.store().partial_path(&layer), &spoiled).unwrap();
        assert_eq!(node.pull(&format!("{}/app:1", registry.host())).unwrap().id, built.id(), "{what}");
        assert!(node.partials().is_empty());
    }
}

#[test]
fn a_registry_that_is_busy_or_ill_is_waited_for_but_not_without_end() {
    if !is_root("a_registry_that_is_busy_or_ill_is_waited_for_but_not_without_end") {
        return;
    }
    let registry = Registry::start().unwrap();
    registry.add("app", "1", &sample(Compression::Gzip));
    let name = format!("{}/app:1", registry.host());
    for (path, fault) in [
        ("/manifests/", Fault::Status(429, Some(1))),
        ("/manifests/", Fault::Status(503, None)),
        ("/manifests/", Fault::CutAfter(10)),
        ("/blobs/", Fault::Status(500, None)),
        ("/blobs/", Fault::Status(429, None)),
    ] {
        registry.heal();
        registry.fail(path, 1, fault.clone());
        Node::of(&registry).pull(&name).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        registry.heal();
        registry.fail(path, 1000, fault);
        registry.forget_seen();
        check_out_of_reach(&Node::of(&registry).pull(&name).unwrap_err());
        assert!(registry.seen().len() < 40, "{:?}", registry.seen().len());
    }
    // Longer than anybody waits: reported at once, so that the kubelet backs off.
    registry.heal();
    registry.fail("/manifests/", 1, Fault::Status(429, Some(3600)));
    registry.forget_seen();
    check_out_of_reach(&Node::of(&registry).pull(&name).unwrap_err());
    assert_eq!(registry.seen().len(), 1);
}

#[test]
fn a_registry_that_lies_is_not_believed() {
    if !is_root("a_registry_that_lies_is_not_believed") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(200_000);
    let manifest = registry.add("app", "1", &built);
    let blobs = built.blobs();
    let [config, layer] = [1, 2].map(|at| testkit::image::digest(&blobs[at].1));
    let name = format!("{}/app:1", registry.host());
    for (path, fault) in [
        (layer.as_str(), Fault::Lie),
        (&layer, Fault::Longer(10)),
        (&layer, Fault::Shorter(10)),
        (&config, Fault::Lie),
        (&config, Fault::Longer(1)),
        ("/manifests/", Fault::Lie),
    ] {
        let node = Node::of(&registry);
        registry.heal();
        registry.fail(path, 1000, fault.clone());
        let error = node.pull(&name).unwrap_err();
        assert_eq!((error.reason(), error.is_out_of_reach()), ("ErrImagePull", false), "{fault:?}: {error:?}");
        assert!(node.store().list().is_empty() && node.partials().is_empty());
        assert_eq!(fs::read_dir(node.store().layers_dir()).unwrap().count(), 0, "{fault:?} leaves nothing");
        registry.heal();
        assert_eq!(node.pull(&name).unwrap().id, built.id(), "after {fault:?}");
    }
    // By digest, a whole other manifest is no answer either.
    let other = sample(Compression::Gzip).blobs()[0].1.clone();
    registry.add_manifest("app", &manifest, "application/vnd.oci.image.manifest.v1+json", other);
    let error = Node::of(&registry).pull(&format!("{}/app@{manifest}", registry.host())).unwrap_err();
    assert!(matches!(error.cause, PullCause::Digest { what: "manifest", .. }), "{error:?}");
}

#[test]
fn tokens_are_fetched_kept_and_renewed() {
    if !is_root("tokens_are_fetched_kept_and_renewed") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = sample(Compression::Gzip);
    registry.add("app", "1", &built);
    let name = format!("{}/app:1", registry.host());
    let tokens = || registry.seen().iter().filter(|seen| seen.path.starts_with("/token")).count();
    // As Docker Hub has it: a token for everyone.
    registry.set_access(Access::Token(None, 1000));
    let node = Node::of(&registry);
    node.pull(&name).unwrap();
    assert_eq!(tokens(), 1, "one token for all requests");
    node.pull(&name).unwrap();
    assert_eq!(tokens(), 1, "and for the next pull");
    // Each token is good for two requests only.
    registry.set_access(Access::Token(Some(("user".to_owned(), "secret".to_owned())), 2));
    let node = Node::of(&registry);
    assert_eq!(node.pull_as(&name, &[login("user")]).unwrap().id, built.id());
    assert!(tokens() >= 3, "{}", tokens());
    for credentials in [vec![], vec![login("somebody")]] {
        let error = Node::of(&registry).pull_as(&name, &credentials).unwrap_err();
        assert!(matches!(&error.cause, PullCause::Registry { source: RegistryError::Denied { .. }, .. }), "{error:?}");
        assert_eq!((error.reason(), error.is_out_of_reach()), ("ErrImagePull", false));
    }
    let both = [login("somebody"), login("user")];
    assert_eq!(Node::of(&registry).pull_as(&name, &both).unwrap().id, built.id(), "each login is tried");
}

#[test]
fn names_and_passwords_are_sent_where_they_are_asked_for() {
    if !is_root("names_and_passwords_are_sent_where_they_are_asked_for") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = sample(Compression::Gzip);
    registry.add("app", "1", &built);
    registry.set_access(Access::Basic("user".to_owned(), "secret".to_owned()));
    let name = format!("{}/app:1", registry.host());
    assert_eq!(Node::of(&registry).pull_as(&name, &[login("user")]).unwrap().id, built.id());
    let error = Node::of(&registry).pull(&name).unwrap_err();
    assert!(matches!(&error.cause, PullCause::Registry { source: RegistryError::Denied { .. }, .. }), "{error:?}");
    let configured = Login { username: "user".to_owned(), password: "secret".to_owned() };
    let config = RegistriesConfig {
        plain_http: vec![registry.host()],
        credentials: [(registry.host(), configured)].into(),
        ..RegistriesConfig::default()
    };
    assert_eq!(Node::new(config).pull(&name).unwrap().id, built.id(), "by the node's configuration");
    // A registry that does not ask is not shown them.
    registry.set_access(Access::Open);
    registry.forget_seen();
    Node::of(&registry).pull_as(&name, &[login("user")]).unwrap();
    assert!(registry.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn a_redirect_is_followed_without_credentials_and_not_to_plain_http() {
    if !is_root("a_redirect_is_followed_without_credentials_and_not_to_plain_http") {
        return;
    }
    let (registry, storage) = (Registry::start().unwrap(), Registry::start().unwrap());
    let built = sample(Compression::Gzip);
    for server in [&registry, &storage] {
        server.add("app", "1", &built);
    }
    registry.set_access(Access::Basic("user".to_owned(), "secret".to_owned()));
    registry.fail("/blobs/", 1000, Fault::RedirectTo(storage.url().to_owned()));
    let name = format!("{}/app:1", registry.host());
    let error = Node::of(&registry).pull_as(&name, &[login("user")]).unwrap_err();
    assert!(matches!(error.cause, PullCause::Registry { source: RegistryError::Invalid(_), .. }), "{error:?}");
    assert!(storage.seen().is_empty());
    let config = RegistriesConfig { plain_http: vec![registry.host(), storage.host()], ..RegistriesConfig::default() };
    assert_eq!(Node::new(config).pull_as(&name, &[login("user")]).unwrap().id, built.id());
    assert!(!storage.seen().is_empty() && storage.seen().iter().all(|seen| seen.authorization.is_none()));
    registry.heal();
    registry.set_access(Access::Open);
    registry.fail("/blobs/", 1000, Fault::RedirectTo(registry.url().to_owned()));
    registry.forget_seen();
    let error = Node::of(&registry).pull(&name).unwrap_err();
    assert!(matches!(error.cause, PullCause::Registry { source: RegistryError::Invalid(_), .. }), "{error:?}");
    assert!(registry.seen().len() < 20, "a loop has an end");
}

#[test]
fn mirrors_come_first_and_the_registry_has_what_they_lack() {
    if !is_root("mirrors_come_first_and_the_registry_has_what_they_lack") {
        return;
    }
    let (registry, mirror) = (Registry::start().unwrap(), Registry::start().unwrap());
    let (here, there) = (sample(Compression::Gzip), large(10_000));
    registry.add("here", "1", &here);
    registry.add("there", "1", &there);
    registry.set_access(Access::Basic("user".to_owned(), "secret".to_owned()));
    mirror.add("here", "1", &here);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = RegistriesConfig {
        plain_http: vec![registry.host(), "127.0.0.1".to_owned()],
        mirrors: [(registry.host(), vec![format!("http://{nobody}"), mirror.url().to_owned()])].into(),
        ..RegistriesConfig::default()
    };
    let node = Node::new(config);
    let name = |repository: &str| format!("{}/{repository}:1", registry.host());
    let image = node.pull_as(&name("here"), &[login("user")]).unwrap();
    assert_eq!((image.id, image.names), (here.id(), vec![name("here")]));
    assert!(registry.seen().is_empty(), "the mirror has it");
    assert_eq!(node.pull_as(&name("there"), &[login("user")]).unwrap().id, there.id());
    assert!(mirror.seen().iter().all(|seen| seen.authorization.is_none()), "the registry's login is the registry's");
    mirror.fail("/blobs/", 1000, Fault::Lie);
    let node = Node::new(node.config.clone());
    assert_eq!(node.pull_as(&name("here"), &[login("user")]).unwrap().id, here.id(), "a mirror that lies is left");
    let message = node.pull_as(&name("nowhere"), &[login("user")]).unwrap_err().message();
    for asked in [registry.url(), &format!("the mirror http://{nobody}: "), &format!("the mirror {}: ", mirror.url())] {
        assert!(message.contains(asked), "{message}");
    }
}

#[test]
fn tls_is_the_rule_and_a_private_ca_is_trusted_where_it_is_configured() {
    if !is_root("tls_is_the_rule_and_a_private_ca_is_trusted_where_it_is_configured") {
        return;
    }
    let registry = Registry::start_tls().unwrap();
    let built = sample(Compression::Zstd);
    registry.add("app", "1", &built);
    let name = format!("{}/app:1", registry.host());
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    fs::write(&ca_file, registry.ca_pem().unwrap()).unwrap();
    let config = RegistriesConfig { ca_file: Some(ca_file.clone()), ..RegistriesConfig::default() };
    assert_eq!(Node::new(config).pull(&name).unwrap().id, built.id());
    check_out_of_reach(&Node::new(RegistriesConfig::default()).pull(&name).unwrap_err());
    let plain = Registry::start().unwrap();
    plain.add("app", "1", &built);
    let error = Node::new(RegistriesConfig::default()).pull(&format!("{}/app:1", plain.host())).unwrap_err();
    check_out_of_reach(&error);
    // As web servers answer what they cannot read.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let answering = std::thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        std::io::Read::read(&mut client, &mut [0; 512]).unwrap();
        std::io::Write::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = Node::new(RegistriesConfig::default()).pull(&format!("{address}/app:1")).unwrap_err();
    check_out_of_reach(&error);
    assert!(error.message().contains("does not speak TLS"), "{}", error.message());
    answering.join().unwrap();
    assert!(plain.seen().is_empty(), "nothing is said in the clear");
    let check_rejected = |config| assert!(Puller::new(config).is_err());
    let missing = Path::new("/does/not/exist.pem").to_owned();
    check_rejected(RegistriesConfig { ca_file: Some(missing), ..RegistriesConfig::default() });
    fs::write(&ca_file, "no certificate").unwrap();
    check_rejected(RegistriesConfig { ca_file: Some(ca_file), ..RegistriesConfig::default() });
    for mirror in ["http://mirror.example", "ftp://mirror.example", "mirror.example", "https://u:p@mirror.example"] {
        let mirrors = [("docker.io".to_owned(), vec![mirror.to_owned()])].into();
        check_rejected(RegistriesConfig { mirrors, ..RegistriesConfig::default() });
    }
}

#[test]
fn nobody_there_is_out_of_reach_and_nothing_there_is_not() {
    let registry = Registry::start().unwrap();
    let node = Node::of(&registry);
    let error = node.pull(&format!("{}/app:1", registry.host())).unwrap_err();
    assert!(matches!(&error.cause, PullCause::Registry { source: RegistryError::NotFound { .. }, .. }), "{error:?}");
    assert_eq!((error.reason(), error.is_out_of_reach()), ("ErrImagePull", false));
    let name = format!("{}/app:1", registry.host());
    drop(registry);
    check_out_of_reach(&node.pull(&name).unwrap_err());
}

#[test]
fn manifests_that_make_no_sense_are_rejected() {
    let registry = Registry::start().unwrap();
    let node = Node::of(&registry);
    let blob = json!({"digest": format!("sha256:{}", "0".repeat(64)), "size": 1});
    let cases = [
        ("schema1", json!({"schemaVersion": 1, "fsLayers": []}).to_string()),
        ("neither", json!({"schemaVersion": 2}).to_string()),
        ("both", json!({"schemaVersion": 2, "manifests": [], "config": blob, "layers": []}).to_string()),
        ("empty", json!({"schemaVersion": 2, "manifests": []}).to_string()),
        ("helm", json!({"schemaVersion": 2, "layers": [], "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json",
            "digest": blob["digest"], "size": 1}}).to_string()),
        ("digest", json!({"schemaVersion": 2, "layers": [], "config": {"digest": "sha256:../..", "size": 1}}).to_string()),
        ("text", "no JSON".to_owned()),
    ];
    for (tag, manifest) in cases {
        registry.add_manifest("app", tag, "application/json", manifest.into_bytes());
        let error = node.pull(&format!("{}/app:{tag}", registry.host())).unwrap_err();
        assert!(matches!(error.cause, PullCause::Document { what: "manifest", .. }), "{tag}: {error:?}");
    }
    registry.add_manifest("app", "huge", "application/json", vec![b' '; (4 << 20) + 1]);
    let error = node.pull(&format!("{}/app:huge", registry.host())).unwrap_err();
    assert!(matches!(error.cause, PullCause::Registry { source: RegistryError::Invalid(_), .. }), "{error:?}");
    let id = format!("sha256:{}", "0".repeat(64));
    let config = registry.add_blob(format!(r#"{{"rootfs": {{"diff_ids": ["{id}"]}}}}"#).into_bytes());
    let endless = json!({"schemaVersion": 2, "config": {"digest": config, "size": 1}, "layers": [{"digest": id, "size": u64::MAX}]});
    registry.add_manifest("app", "endless", "application/json", endless.to_string().into_bytes());
    let error = node.pull(&format!("{}/app:endless", registry.host())).unwrap_err();
    assert!(matches!(error.cause, PullCause::TooLarge { .. }), "{error:?}");
    let layers = vec![blob.clone(); 20_000];
    let config = registry.add_blob(br#"{"rootfs": {"diff_ids": []}}"#.to_vec());
    let many = json!({"schemaVersion": 2, "config": {"digest": config, "size": 28}, "layers": layers});
    registry.add_manifest("app", "many", "application/json", many.to_string().into_bytes());
    let error = node.pull(&format!("{}/app:many", registry.host())).unwrap_err();
    assert!(matches!(error.cause, PullCause::Layers { layers: 20_000, .. }), "{error:?}");
}

#[test]
fn two_pulls_at_once_download_a_layer_once() {
    if !is_root("two_pulls_at_once_download_a_layer_once") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(1 << 20);
    registry.add("one", "1", &built);
    registry.add("two", "1", &built);
    let node = Node::of(&registry);
    let name = |repository: &str| Reference::parse(&format!("{}/{repository}:1", registry.host())).unwrap();
    let (one, two) = (name("one"), name("two"));
    let pull = |reference| node.puller.pull(node.store(), reference, &[], &|_| {});
    let (one, two) = run(async { tokio::join!(pull(&one), pull(&two)) });
    assert_eq!(one.unwrap().id, two.unwrap().id);
    let layer = testkit::image::digest(&built.blobs()[2].1);
    assert_eq!(registry.seen().iter().filter(|seen| seen.path.contains(&layer)).count(), 1);
    assert_eq!(node.store().list()[0].names.len(), 2);
}

#[test]
fn progress_ends_with_everything() {
    if !is_root("progress_ends_with_everything") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = large(1 << 20).layer(&[Entry::file("small", "x")], Compression::Gzip);
    registry.add("app", "1", &built);
    let node = Node::of(&registry);
    let reference = Reference::parse(&format!("{}/app:1", registry.host())).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    run(node.puller.pull(node.store(), &reference, &[], &|progress| seen.lock().unwrap().push(progress))).unwrap();
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!((last.layers_done, last.layers), (2, 2));
    assert_eq!(last.bytes_done, last.bytes);
    assert_eq!(last.bytes, built.blobs()[2..].iter().map(|(_, blob)| blob.len() as u64).sum::<u64>());
}

#[tokio::test(start_paused = true)]
async fn the_bandwidth_is_shared_by_all_and_not_exceeded() {
    let throttle = Throttle::new(Some(1_000_000));
    let start = tokio::time::Instant::now();
    for _ in 0..100 {
        futures::future::join(throttle.take(10_000), throttle.take(20_000)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!((2.7..=3.0).contains(&seconds), "3 MB at 1 MB/s, a quarter of a second of it at once: {seconds}");
    let unlimited = Throttle::new(None);
    unlimited.take(u64::MAX).await;
    assert!(start.elapsed().as_secs_f64() <= 3.0);
}
