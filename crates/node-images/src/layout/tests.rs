//! Archives that are put together in odd ways, and such as lack something.

use std::fs;
use std::path::Path;

use serde_json::json;
use testkit::image::{Compression, Entry, Image as Built, archive, digest};

use super::{Archive, LayoutError};
use crate::Platform;

fn images(entries: &[Entry]) -> Result<Vec<super::Found>, LayoutError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, archive(entries)).unwrap();
    Archive::open(&path, &dir.path().join("draft"), 1 << 20)?.images(&Platform::host())
}

fn check_rejected(entries: &[Entry], part: &str) {
    let error = images(entries).err().expect(part);
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error}: {cause}").contains(part), "`{part}` in: {error}: {cause}");
}

fn manifest(layer: &str) -> Entry {
    Entry::file("manifest.json", json!([{"Config": "config", "RepoTags": null, "Layers": [layer]}]).to_string())
}

#[test]
fn layers_of_old_archives_are_links_to_each_other() {
    let built = Built::new().layer(&[Entry::file("f", "x")], Compression::None);
    let found = images(&[
        Entry::file("config", built.config_bytes()),
        Entry::file("./a/layer.tar", &built.layers[0].0),
        Entry::symlink("b/layer.tar", "../a/layer.tar"),
        Entry::hard_link("c/layer.tar", "b/layer.tar"),
        manifest("c/layer.tar"),
    ]);
    assert_eq!(found.unwrap()[0].layers, [("c/layer.tar".to_owned(), None)]);
}

#[test]
fn what_is_missing_or_strange_is_named() {
    let config = || Entry::file("config", Built::new().config_bytes());
    check_rejected(&[], "no archive of images");
    check_rejected(&[manifest("layer")], "`config` of the archive is missing");
    check_rejected(&[config(), manifest("../layer")], "`../layer` of the archive lies outside");
    check_rejected(&[config(), manifest("/layer")], "`/layer` of the archive lies outside");
    check_rejected(&[Entry::symlink("config", "config"), manifest("layer")], "is a link without an end");
    check_rejected(&[Entry::file("index.json", "{}")], "failed to read `index.json`");
    check_rejected(&[Entry::file("index.json", vec![b' '; (4 << 20) + 1])], "is larger than 4 MiB");
    let index = |digest: &str| {
        let entry = json!({"digest": digest, "size": 1, "mediaType": "x"});
        Entry::file("index.json", json!({"schemaVersion": 2, "manifests": [entry]}).to_string())
    };
    let missing = digest(b"missing");
    check_rejected(&[index(&missing)], "is missing");
    let path = format!("blobs/{}", missing.replace(':', "/"));
    check_rejected(
        &[index(&missing), Entry::file(path, "something else")],
        "does not have the digest that is its name",
    );
    check_rejected(&[index("sha256:../../etc/passwd")], "failed to read `index.json`");
    let many: Vec<Entry> = (0..10_001).map(|number| Entry::file(format!("f{number}"), "")).collect();
    check_rejected(&many, "more than 10,000 members");
}

#[test]
fn a_compressed_archive_is_no_bomb() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("archive");
    fs::write(&path, Compression::Gzip.compress(&vec![0; 2 << 20])).unwrap();
    let draft = dir.path().join("draft");
    assert!(matches!(Archive::open(&path, &draft, 1 << 20), Err(LayoutError::Archive { .. })));
    assert!(draft.metadata().unwrap().len() <= (1 << 20) + 1);
    assert!(Archive::open(Path::new("/does/not/exist"), &draft, 1).is_err());
}

#[test]
fn indexes_that_lead_in_circles_have_an_end() {
    // Each index leads to the one before: as deep as somebody likes, for a circle would need a digest of itself.
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = br#"{"schemaVersion": 2, "manifests": []}"#.to_vec();
    for _ in 0..10 {
        let path = dir.path().join(format!("blobs/{}", digest(&bytes).replace(':', "/")));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        let entry = json!({"digest": digest(&bytes), "size": bytes.len(), "mediaType": "x"});
        bytes = json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes();
    }
    fs::write(dir.path().join("index.json"), bytes).unwrap();
    let archive = Archive::open(dir.path(), &dir.path().join("draft"), 1).unwrap();
    let error = archive.images(&Platform::host()).err().unwrap();
    assert!(format!("{error:?}").contains("without an end"), "{error:?}");
}
