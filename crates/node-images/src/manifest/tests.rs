//! What is chosen from an index, and what is taken from documents.

use serde_json::json;

use super::{ConfigDocument, Descriptor, Document, DocumentError, Platform, arm_variant};

fn platform(text: &str) -> Platform {
    let mut parts = text.split('/').map(str::to_owned);
    let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
    Platform { os, architecture, variant: parts.next() }
}

/// What `host` takes of these.
fn check(host: &str, offered: &[&str], expected: Option<&str>) {
    let digest = |number: usize| format!("sha256:{number:064}");
    let entries = offered.iter().enumerate().map(|(number, text)| {
        let platform = platform(text);
        let mut entry = json!({"digest": digest(number), "size": 1, "platform": {"os": platform.os, "architecture": platform.architecture}});
        if let Some(variant) = platform.variant {
            entry["platform"]["variant"] = variant.into();
        }
        entry
    });
    let index = json!({"schemaVersion": 2, "manifests": entries.collect::<Vec<_>>()});
    let Document::Index(entries) = Document::parse(index.to_string().as_bytes()).unwrap() else { panic!("an index") };
    let chosen = platform(host).choose(&entries).ok().map(|chosen: &Descriptor| chosen.platform.clone().unwrap());
    assert_eq!(chosen, expected.map(platform), "{host} of {offered:?}");
}

#[test]
fn the_newest_variant_that_runs_is_taken() {
    let arms = ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6", "linux/arm64/v8", "linux/amd64", "windows/arm/v7"];
    check("linux/arm/v7", &arms, Some("linux/arm/v7"));
    check("linux/arm/v6", &arms, Some("linux/arm/v6"));
    check("linux/arm/v5", &arms, Some("linux/arm/v5"));
    check("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some("linux/arm/v6"));
    check("linux/arm/v6", &["linux/arm/v7"], None);
    check("linux/arm/v6", &["linux/arm"], None);
    check("linux/arm/v7", &["linux/arm"], Some("linux/arm"));
    check("linux/arm64/v8", &arms, Some("linux/arm64/v8"));
    check("linux/arm64/v8", &["linux/arm64"], Some("linux/arm64"));
    check("linux/arm64/v8", &["linux/arm64/v9", "linux/arm/v7"], None);
    check("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some("linux/amd64"));
    check("linux/amd64", &["linux/amd64/v2"], None);
    check("linux/amd64", &["windows/amd64", "linux/x86_64"], Some("linux/x86_64"));
    check("linux/amd64", &["unknown/unknown", "linux/386"], None);
    check("linux/amd64", &[], None);
}

#[test]
fn the_kernel_says_which_arm_it_is() {
    for (machine, variant) in
        [("armv6l", "v6"), ("armv7l", "v7"), ("armv5tejl", "v5"), ("armv8l", "v7"), ("aarch64", "v7")]
    {
        assert_eq!(arm_variant(machine), variant, "{machine}");
    }
}

#[test]
fn nothing_that_go_writes_for_nothing_is_an_error() {
    let document = json!({
        "architecture": "amd64", "os": "linux", "history": null,
        "config": {"Env": null, "Entrypoint": null, "Cmd": null, "User": null, "Labels": null, "Volumes": null,
            "ExposedPorts": null, "StopSignal": null, "WorkingDir": null, "OnBuild": null},
        "rootfs": {"type": "layers", "diff_ids": null},
    });
    let document = ConfigDocument::parse(document.to_string().as_bytes()).unwrap();
    assert_eq!(document.config, super::ImageConfig::default());
    let without = ConfigDocument::parse(br#"{"rootfs": {}, "config": null}"#).unwrap();
    assert!(platform("linux/amd64").check(&without.platform).is_ok(), "an old image does not say what it is for");
    assert!(matches!(ConfigDocument::parse(b"{}"), Err(DocumentError::Json(_))));
    let not_text = b"{\"rootfs\": {}, \"comment\": \"\xff\"}";
    assert!(matches!(ConfigDocument::parse(not_text), Err(DocumentError::Meaning(_))));
}

#[test]
fn a_layer_of_an_unknown_kind_is_rejected_before_it_is_fetched() {
    let digest = format!("sha256:{:064}", 0);
    let manifest = |kind: &str| {
        let layer = json!({"mediaType": kind, "digest": digest, "size": 1});
        json!({"schemaVersion": 2, "config": {"digest": digest, "size": 1}, "layers": [layer]}).to_string()
    };
    for (kind, is_known) in [
        ("application/vnd.oci.image.layer.v1.tar", true),
        ("application/vnd.oci.image.layer.v1.tar+gzip", true),
        ("application/vnd.oci.image.layer.v1.tar+zstd", true),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", false),
        ("application/vnd.wasm.content.layer.v1+wasm", false),
    ] {
        assert_eq!(Document::parse(manifest(kind).as_bytes()).is_ok(), is_known, "{kind}");
    }
}
