//! Other people's programs as the judge: skopeo writes what is imported and reads what is exported, Debian's docker-registry
//! serves what is pulled.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use node_images::{Image, ImageStore, Puller, Reference, RegistriesConfig};
use testkit::image::{Compression, Entry, Image as Built};
use testkit::registry::Registry;
use testkit::wait::eventually;

fn has(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_root = fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0);
    if found.is_err() || !is_root {
        testkit::skip(&format!("{test}: it takes root and {program} (`cargo xtask install`)"));
    }
    found.is_ok() && is_root
}

fn skopeo(from: &str, to: &str) {
    let options = ["copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--quiet"];
    let run = Command::new("skopeo").args(options).args([from, to]).output().unwrap();
    assert!(run.status.success(), "skopeo copy {from} {to}: {}", String::from_utf8_lossy(&run.stderr));
}

fn built() -> Built {
    let lower = [Entry::directory("etc/"), Entry::file("etc/a", "below"), Entry::file("etc/b", "below")];
    let upper = [
        Entry::whiteout("etc/", "b"),
        Entry::file("etc/a", "above").owner(1000, 1000).mode(0o4755),
        Entry::hard_link("etc/c", "etc/a"),
        Entry::symlink("link", "/etc/a"),
    ];
    let config = serde_json::json!({"Env": ["A=b"], "Cmd": ["/program"]});
    Built::new().config(config).layer(&lower, Compression::Gzip).layer(&upper, Compression::Gzip)
}

fn check(image: &Image, built: &Built) {
    assert_eq!(image.id, built.id());
    assert_eq!(image.config.env, ["A=b"]);
    assert_eq!(fs::read(image.layers[1].join("etc/c")).unwrap(), b"above");
}

fn pull(store: &Arc<ImageStore>, host: &str, name: &str) -> Image {
    let config = RegistriesConfig { plain_http: vec![host.to_owned()], ..RegistriesConfig::default() };
    let puller = Puller::new(config).unwrap();
    let reference = Reference::parse(name).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(puller.pull(store, &reference, &[], &|_| {})).unwrap()
}

fn open(dir: &Path) -> Arc<ImageStore> {
    Arc::new(ImageStore::open(&dir.join("store")).unwrap())
}

#[test]
fn archives_of_skopeo_are_imported_with_their_names() {
    if !has("skopeo", "archives_of_skopeo_are_imported_with_their_names") {
        return;
    }
    let registry = Registry::start().unwrap();
    let built = built();
    registry.add("org/app", "1", &built);
    let from = format!("docker://{}/org/app:1", registry.host());
    for (transport, name, has_name) in [
        ("docker-archive", ":docker.io/org/app:1", true),
        ("oci-archive", ":docker.io/org/app:1", true),
        ("oci", ":docker.io/org/app:1", true),
        ("oci-archive", "", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("archive").display().to_string();
        skopeo(&from, &format!("{transport}:{path}{name}"));
        let store = open(dir.path());
        let imported = store.import(Path::new(&path)).unwrap();
        check(&imported[0], &built);
        assert_eq!(store.resolve("org/app:1").unwrap().is_some(), has_name, "{transport}");
        let manifest = imported[0].repo_digests.len();
        assert_eq!(manifest > 0, has_name && transport != "docker-archive", "{transport} {:?}", imported[0]);
    }
}

#[test]
fn an_export_is_read_by_skopeo_and_comes_back_through_docker_registry() {
    const TEST: &str = "an_export_is_read_by_skopeo_and_comes_back_through_docker_registry";
    if !has("skopeo", TEST) || !has("docker-registry", TEST) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("built.tar");
    let built = built();
    fs::write(&archive, built.layout_tar("docker.io/org/app:1")).unwrap();
    let store = open(dir.path());
    let original = store.import(&archive).unwrap().remove(0);
    let exported = dir.path().join("exported.tar");
    store.export("org/app:1", &exported).unwrap();
    let registry = DockerRegistry::start(dir.path());
    let host = registry.host.clone();
    // skopeo compresses what it sends: other blobs, the same image.
    skopeo(&format!("oci-archive:{}", exported.display()), &format!("docker://{host}/exported:1"));
    skopeo(&format!("oci-archive:{}", archive.display()), &format!("docker://{host}/built:1"));
    let other = tempfile::tempdir().unwrap();
    let other = open(other.path());
    check(&pull(&other, &host, &format!("{host}/built:1")), &built);
    let copy = pull(&other, &host, &format!("{host}/exported:1"));
    assert_eq!(copy.config, original.config);
    assert_eq!(fs::read(copy.layers[1].join("etc/c")).unwrap(), b"above");
    assert_eq!(pull(&other, &host, &format!("{host}/{}", copy.repo_digests[0].split_once('/').unwrap().1)).id, copy.id);
}

struct DockerRegistry {
    process: Child,
    host: String,
}

impl DockerRegistry {
    fn start(dir: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            dir.join("registry").display()
        );
        let path = dir.join("registry.yml");
        fs::write(&path, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { process, host };
        eventually("docker-registry", Duration::from_secs(20), || TcpStream::connect(&registry.host)).unwrap();
        registry
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has seen then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
