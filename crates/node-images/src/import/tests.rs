//! Archives of every format give the image that was put in, and broken ones are rejected by name.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use serde_json::json;
use testkit::image::{Compression, Entry, Image as Built};

use crate::{Image, ImageStore};

pub(crate) const NAME: &str = "docker.io/test/app:1";

/// Owners and whiteouts need root, as the node has it.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        testkit::skip(&format!("{test}: layers are unpacked by root"));
    }
    is_root
}

/// What the layers of the spike had: all that is special about layers.
pub(crate) fn sample(compression: Compression) -> Built {
    let base = [
        Entry::directory("./").mode(0o755),
        Entry::directory("etc/"),
        Entry::directory("old/"),
        Entry::directory("opq/"),
        Entry::directory("run/"),
        Entry::directory("var/").mtime(1_600_000_000, 0),
        Entry::symlink("var/run", "/run"),
        Entry::file("var/run/through-link", "in root"),
        Entry::file("old/hidden", "x"),
        Entry::file("old/stays", "y"),
        Entry::file("opq/a", "a"),
        Entry::file("etc/replaced", "one"),
    ];
    let second = [
        Entry::whiteout("old/", "hidden"),
        Entry::directory("opq/"),
        Entry::opaque("opq/"),
        Entry::file("opq/new", "n"),
        Entry::file("etc/replaced", "two"),
        Entry::file("usr/bin/hello", "#!/bin/sh\n").mode(0o755).owner(1000, 2000),
        Entry::hard_link("usr/bin/hello2", "usr/bin/hello"),
        Entry::hard_link("usr/bin/hello3", "/usr/bin/hello"),
        Entry::file("usr/bin/suid", "#!/bin/sh\n").mode(0o4755),
        Entry::file("usr/bin/pinger", "p").xattr("user.note", "a\nb").xattr("trusted.overlay.redirect", "/etc"),
        Entry::fifo("etc/fifo"),
    ];
    let config = json!({
        "Env": ["PATH=/bin", "FOO=bar"], "Entrypoint": ["/bin/sh", "-c"], "Cmd": null, "User": "app", "WorkingDir": "/w",
        "StopSignal": "SIGINT", "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Labels": {"a": "b"},
    });
    Built::new().config(config).layer(&base, compression).layer(&second, compression)
}

fn check_sample(store: &ImageStore, image: &Image, built: &Built) {
    assert_eq!(image.id, built.id());
    assert_eq!(image.names, [NAME]);
    assert_eq!(image.config.env, ["PATH=/bin", "FOO=bar"]);
    assert_eq!((image.config.user.as_str(), image.config.working_dir.as_str()), ("app", "/w"));
    assert_eq!((image.config.entrypoint.len(), image.config.cmd.len()), (2, 0));
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(
        (image.config.exposed_ports.as_slice(), image.config.volumes.as_slice()),
        (&["80/tcp".to_owned()][..], &["/data".to_owned()][..])
    );
    let [lower, upper] = image.layers.as_slice() else { panic!("{:?}", image.layers) };
    assert_eq!(lower.file_name().unwrap().len(), 12);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!(read(&lower.join("run/through-link")), "in root", "a link of the image leads to the image's /run");
    assert_eq!(fs::read_link(lower.join("var/run")).unwrap(), Path::new("/run"));
    assert_eq!(lower.join("var").metadata().unwrap().mtime(), 1_600_000_000, "though it got an entry later");
    let hidden = fs::symlink_metadata(upper.join("old/hidden")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let mut value = [0; 8];
    let attribute = |path: &Path, name: &str, value: &mut [u8]| rustix::fs::getxattr(path, name, value);
    assert_eq!(attribute(&upper.join("opq"), "trusted.overlay.opaque", &mut value), Ok(1));
    let pinger = upper.join("usr/bin/pinger");
    assert_eq!(
        attribute(&pinger, "user.note", &mut value).map(|length| value[..length].to_vec()),
        Ok(b"a\nb".to_vec())
    );
    assert!(
        attribute(&pinger, "trusted.overlay.redirect", &mut value).is_err(),
        "overlayfs is not the image's to steer"
    );
    let hello = upper.join("usr/bin/hello").metadata().unwrap();
    assert_eq!((hello.nlink(), hello.mode() & 0o7777, hello.uid(), hello.gid()), (3, 0o755, 1000, 2000));
    assert_eq!(upper.join("usr/bin/hello3").metadata().unwrap().ino(), hello.ino());
    assert_eq!(upper.join("usr/bin/suid").metadata().unwrap().mode() & 0o7777, 0o4755);
    assert!(upper.join("etc/fifo").metadata().unwrap().file_type().is_fifo());
    assert_eq!(store.resolve("test/app:1").unwrap().as_ref(), Some(image));
    assert_eq!(store.resolve(&image.id).unwrap().as_ref(), Some(image));
}

#[test]
fn every_format_gives_the_same_image() {
    if !is_root("every_format_gives_the_same_image") {
        return;
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let built = sample(compression);
        for format in ["layout", "layout.tar", "layout.tar.gz", "docker.tar"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(format);
            match format {
                "layout" => built.write_layout(&path, NAME).unwrap(),
                "layout.tar" => fs::write(&path, built.layout_tar(NAME)).unwrap(),
                "layout.tar.gz" => fs::write(&path, Compression::Gzip.compress(&built.layout_tar(NAME))).unwrap(),
                _ => fs::write(&path, built.docker_archive(NAME)).unwrap(),
            }
            let store = ImageStore::open(&dir.path().join("store")).unwrap();
            let imported = store.import(&path).unwrap();
            assert_eq!(imported.len(), 1, "{format} {compression:?}");
            check_sample(&store, &imported[0], &built);
            let again = store.import(&path).unwrap();
            assert_eq!(again, imported);
            drop(store);
            let store = ImageStore::open(&dir.path().join("store")).unwrap();
            assert_eq!(store.list(), imported, "of {format} {compression:?} after a restart");
        }
    }
}

#[test]
fn an_export_is_the_same_each_time_and_after_an_import() {
    if !is_root("an_export_is_the_same_each_time_and_after_an_import") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("first.tar"), sample(Compression::Zstd).layout_tar(NAME)).unwrap();
    let store = ImageStore::open(&path("store")).unwrap();
    let original = store.import(&path("first.tar")).unwrap().remove(0);
    store.export(NAME, &path("second.tar")).unwrap();
    let other = ImageStore::open(&path("other")).unwrap();
    let copy = other.import(&path("second.tar")).unwrap().remove(0);
    assert_eq!(copy.names, original.names);
    assert_eq!(copy.config, original.config);
    for (layer, copied) in original.layers.iter().zip(&copy.layers) {
        assert_eq!(crate::unpack::tests::tree(layer), crate::unpack::tests::tree(copied));
    }
    other.export(NAME, &path("third.tar")).unwrap();
    assert!(fs::read(path("second.tar")).unwrap() == fs::read(path("third.tar")).unwrap());

    // Into what is there already: through a link and a pipe, beside somebody's own draft.
    std::os::unix::fs::symlink("third.tar", path("link")).unwrap();
    fs::write(path("third.tar.new"), "a person's").unwrap();
    store.export(NAME, &path("link")).unwrap();
    assert!(fs::symlink_metadata(path("link")).unwrap().is_symlink());
    assert!(fs::read(path("second.tar")).unwrap() == fs::read(path("third.tar")).unwrap());
    assert_eq!(fs::read_to_string(path("third.tar.new")).unwrap(), "a person's");
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let reader = std::thread::spawn({
        let pipe = path("pipe");
        move || fs::read(pipe).unwrap()
    });
    store.export(NAME, &path("pipe")).unwrap();
    assert!(reader.join().unwrap() == fs::read(path("second.tar")).unwrap());
    assert!(!fs::symlink_metadata(path("pipe")).unwrap().is_file());
    assert!(store.export(NAME, dir.path()).is_err());
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
}
