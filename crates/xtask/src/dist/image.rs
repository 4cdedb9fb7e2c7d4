//! The container image of the hub: the static program and nothing beside it, for each architecture.
//!
//! The archive is an OCI layout. With one architecture its `index.json` names that manifest; with several it names an index of them, so
//! that a tag in a registry serves all.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::archive::{Entry, gzip, sha256, tar};
use super::{Arch, Release};

/// Nobody in particular, and not 0: what distroless images and many policies call `nonroot`.
const USER: u32 = 65532;
/// The default data directory of root would be this one, and this user is not root.
const DATA_DIR: &str = "/var/lib/selvedge";
/// Where the hub listens unless its settings say otherwise.
const PORT: u16 = 6443;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image has for an architecture.
pub struct Program {
    pub arch: Arch,
    pub bytes: Vec<u8>,
    /// What is passed on with it.
    pub notices: String,
}

/// Blobs by digest, and descriptors of them.
#[derive(Default)]
struct Blobs(Vec<Entry>);

impl Blobs {
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Result<Value> {
        let digest = sha256(&bytes)?;
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        self.0.push(Entry::file(format!("blobs/sha256/{digest}"), 0o644, bytes));
        Ok(descriptor)
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Result<Value> {
        self.add(media_type, value.to_string().into_bytes())
    }
}

/// The layout as a tar, of a program for each architecture.
pub fn pack(release: &Release, programs: &[Program]) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let mut manifests = Vec::new();
    for program in programs {
        let mut manifest = manifest(&mut blobs, release, program)?;
        manifest["platform"] = json!({"architecture": program.arch.name(), "os": "linux"});
        manifests.push(manifest);
    }
    let mut top = match manifests.len() {
        1 => manifests.remove(0),
        _ => {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
            blobs.add_json(INDEX, &index)?
        }
    };
    let version = &release.version;
    top["annotations"] = json!({
        "org.opencontainers.image.ref.name": version,
        // What nodes, containerd and `docker load` name the image by.
        "io.containerd.image.name": format!("localhost/selvedge-hub:{version}"),
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]});
    let mut entries = vec![
        Entry::file("oci-layout", 0o644, *br#"{"imageLayoutVersion":"1.0.0"}"#),
        Entry::file("index.json", 0o644, index.to_string()),
    ];
    blobs.0.sort_by(|one, other| one.path().cmp(other.path()));
    entries.extend(blobs.0);
    tar(&entries, "", release.seconds)
}

fn manifest(blobs: &mut Blobs, release: &Release, program: &Program) -> Result<Value> {
    let layer = tar(
        &[
            Entry::file("selvedge", 0o755, program.bytes.clone()),
            Entry::file("notices", 0o644, program.notices.clone()),
            // Names for what tools show; the hub itself needs none.
            Entry::file(
                "etc/passwd",
                0o644,
                format!("root:x:0:0::/:/selvedge\nselvedge:x:{USER}:{USER}::{DATA_DIR}:/selvedge\n"),
            ),
            Entry::file("etc/group", 0o644, format!("root:x:0:\nselvedge:x:{USER}:\n")),
            Entry::directory("tmp", 0o1777),
            Entry::directory(DATA_DIR.trim_start_matches('/'), 0o700).owner(USER),
        ],
        "",
        release.seconds,
    )?;
    let diff_id = format!("sha256:{}", sha256(&layer)?);
    let layer = blobs.add(LAYER, gzip(&layer)?)?;
    let labels = json!({
        "org.opencontainers.image.title": "selvedge-hub",
        "org.opencontainers.image.description": "Hub of a fleet of edge nodes, with an embedded Kubernetes API",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.source": release.repository,
    });
    let config = json!({
        "created": release.rfc3339,
        "architecture": program.arch.name(),
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "ExposedPorts": {format!("{PORT}/tcp"): {}},
            "Env": [format!("SELVEDGE_DATA_DIR={DATA_DIR}")],
            "Entrypoint": ["/selvedge"],
            "Cmd": ["hub"],
            "Volumes": {DATA_DIR: {}},
            "WorkingDir": "/",
            "Labels": labels,
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": release.rfc3339, "created_by": "cargo xtask dist"}],
    });
    let config = blobs.add_json(CONFIG, &config)?;
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": labels});
    blobs.add_json(MANIFEST, &manifest).context("failed to pack the image")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::tests::release;
    use super::*;
    use crate::run::{has, output};

    fn programs(archs: &[Arch]) -> Vec<Program> {
        let program = |arch: &Arch| {
            let bytes = format!("for {}", arch.name()).into_bytes();
            Program { arch: *arch, bytes, notices: "of many".to_owned() }
        };
        archs.iter().map(program).collect()
    }

    #[test]
    fn the_same_programs_are_the_same_image() {
        let make = || pack(&release(), &programs(&Arch::ALL)).expect("an image");
        assert_eq!(make(), make());
    }

    /// Another program's opinion of what is in the archive.
    #[test]
    fn each_architecture_finds_its_own_program() {
        if !has("skopeo") {
            testkit::skip("skopeo is not there");
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        for archs in [&Arch::ALL[..], &Arch::ALL[..1]] {
            let path = dir.path().join("hub.tar");
            std::fs::write(&path, pack(&release(), &programs(archs)).expect("an image")).expect("space");
            for arch in archs {
                let inspected = output(
                    Command::new("skopeo")
                        .args(["inspect", "--override-arch", arch.name(), "--override-os", "linux", "--config"])
                        .arg(format!("oci-archive:{}", path.display())),
                );
                let config: Value = serde_json::from_str(&inspected.expect("a good image")).expect("JSON");
                assert_eq!(config["architecture"], arch.name());
                assert_eq!(config["config"]["Entrypoint"], json!(["/selvedge"]));
                assert_eq!(config["config"]["User"], "65532:65532");
                assert_eq!(config["created"], "1970-01-02T00:00:00Z");
            }
            let copied = dir.path().join(format!("copy-{}", archs.len()));
            output(
                Command::new("skopeo")
                    .args(["copy", "--quiet", "--all", &format!("oci-archive:{}", path.display())])
                    .arg(format!("dir:{}", copied.display())),
            )
            .expect("every digest is right");
        }
    }
}
