//! The store on a disk that is cut off its power, that fills, that is shared, and that somebody has tampered with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use testkit::forgetful::ForgetfulDisk;
use testkit::image::{Compression, Entry, Image as Built};

use super::{Image, ImageStore, OpenStoreError, RemoveError, StoreOptions};
use crate::import::tests::is_root;
use crate::{ImportError, Limits, Reference};

const ONE: &str = "docker.io/test/one:1";
const TWO: &str = "docker.io/test/two:1";

/// Files alone: the forgetful disk knows neither links nor attributes.
fn base() -> Vec<Entry> {
    vec![
        Entry::directory("etc/"),
        Entry::file("etc/config", "of the base ".repeat(1000)),
        Entry::file("bin/program", "program"),
    ]
}

fn upper(text: &str) -> Vec<Entry> {
    vec![Entry::file("etc/upper", text.repeat(500)), Entry::file("data/file", text)]
}

fn image(text: &str) -> Built {
    Built::new().layer(&base(), Compression::Gzip).layer(&upper(text), Compression::Zstd)
}

fn save(dir: &Path, name: &str, built: &Built) -> PathBuf {
    let path = dir.join(format!("{}.tar", crate::Digest::of(name.as_bytes()).hex()));
    fs::write(&path, built.layout_tar(name)).unwrap();
    path
}

/// Every file of every layer is there with its content, and nothing else.
fn check_whole(image: &Image, text: &str, when: &str) {
    for (layer, entries) in image.layers.iter().zip([base(), upper(text)]) {
        let mut left = entries.iter().filter(|entry| entry.kind == b'0').count();
        for entry in entries.iter().filter(|entry| entry.kind == b'0') {
            let path = layer.join(std::str::from_utf8(&entry.path).unwrap());
            let found = fs::read(&path).unwrap_or_else(|error| panic!("{when}: {}: {error}", path.display()));
            assert!(found == entry.content, "{when}: {} has other content", path.display());
            left -= 1;
        }
        assert_eq!(left, 0);
    }
    assert_eq!(image.layers.len(), 2, "{when}");
}

#[test]
fn after_a_power_cut_an_image_is_whole_or_not_there() {
    let test = "after_a_power_cut_an_image_is_whole_or_not_there";
    let Some(disk) = ForgetfulDisk::mount_or_skip(test) else { return };
    let archives = tempfile::tempdir().unwrap();
    let archive = save(archives.path(), ONE, &image("one"));
    let mut cuts = 0;
    'seeds: for seed in 0..4 {
        for operations in 0.. {
            let when = format!("seed {seed}, before operation {operations}");
            let dir = disk.path().join(format!("store-{seed}-{operations}"));
            let before = disk.operations();
            disk.cut_in(operations, seed * 1000 + operations);
            let acknowledged = ImageStore::open(&dir).map(|store| store.import(&archive).is_ok()).unwrap_or(false);
            let is_cut = disk.operations() < before + operations || !acknowledged;
            disk.cut(seed);
            disk.power_on();
            let store = ImageStore::open(&dir).unwrap_or_else(|error| panic!("{when}: {error:?}"));
            let found = store.resolve(ONE).unwrap();
            assert!(found.is_some() || !acknowledged, "{when}: it was acknowledged");
            for image in store.list() {
                check_whole(&image, "one", &when);
            }
            let again = store.import(&archive).unwrap_or_else(|error| panic!("{when}: {error:?}"));
            check_whole(&again[0], "one", &when);
            drop(store);
            check_whole(&ImageStore::open(&dir).unwrap().resolve(ONE).unwrap().unwrap(), "one", &when);
            fs::remove_dir_all(&dir).unwrap();
            if !is_cut {
                continue 'seeds;
            }
            cuts += 1;
        }
    }
    assert!(cuts > 100, "{cuts}");
}

#[test]
fn after_a_power_cut_during_a_removal_the_other_image_is_whole() {
    let test = "after_a_power_cut_during_a_removal_the_other_image_is_whole";
    let Some(disk) = ForgetfulDisk::mount_or_skip(test) else { return };
    let archives = tempfile::tempdir().unwrap();
    let one = save(archives.path(), ONE, &image("one"));
    let two = save(archives.path(), TWO, &image("two"));
    for operations in 0.. {
        let when = format!("before operation {operations}");
        let dir = disk.path().join(format!("store-{operations}"));
        let store = ImageStore::open(&dir).unwrap();
        store.import(&one).unwrap();
        store.import(&two).unwrap();
        disk.cut_in(operations, operations);
        let removed = store.remove(ONE, &BTreeSet::new()).is_ok();
        disk.cut(operations);
        disk.power_on();
        drop(store);
        let store = ImageStore::open(&dir).unwrap();
        check_whole(&store.resolve(TWO).unwrap().unwrap(), "two", &when);
        match store.resolve(ONE).unwrap() {
            Some(image) => check_whole(&image, "one", &when),
            None => {
                store.import(&one).unwrap();
                check_whole(&store.resolve(ONE).unwrap().unwrap(), "one", &when);
            }
        }
        assert_eq!(fs::read_dir(dir.join("trash")).unwrap().count(), 0, "{when}");
        drop(store);
        fs::remove_dir_all(&dir).unwrap();
        if removed {
            assert!(operations > 5, "{operations}");
            return;
        }
    }
}

#[test]
fn a_disk_that_fills_up_leaves_the_store_as_it_was() {
    let test = "a_disk_that_fills_up_leaves_the_store_as_it_was";
    let Some(disk) = ForgetfulDisk::mount_or_skip(test) else { return };
    let archives = tempfile::tempdir().unwrap();
    let one = save(archives.path(), ONE, &image("one"));
    let two = save(archives.path(), TWO, &image("two"));
    let store = ImageStore::open(&disk.path().join("store")).unwrap();
    store.import(&one).unwrap();
    let layers = || fs::read_dir(store.layers_dir()).unwrap().count();
    let before = layers();
    let mut failures = 0;
    for pages in 0..20 {
        disk.set_space_left(Some(pages * 4096));
        let Err(error) = store.import(&two) else { break };
        failures += 1;
        assert!(error.is_disk_full(), "{error:?}");
        assert!(store.resolve(TWO).unwrap().is_none());
        check_whole(&store.resolve(ONE).unwrap().unwrap(), "one", "with a full disk");
        // A layer that got on disk is kept for the next attempt; drafts are not.
        assert!(layers() <= before + 1);
    }
    assert!(failures > 2, "{failures}");
    disk.set_space_left(None);
    check_whole(&store.import(&two).unwrap()[0], "two", "with space again");
}

struct Fixture {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn import(&self, name: &str, built: &Built) -> Image {
        self.store.import(&save(self.dir.path(), name, built)).unwrap().remove(0)
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.store.layers_dir()).unwrap().count()
    }

    fn reopen(self) -> Self {
        drop(self.store);
        let store = ImageStore::open(&self.dir.path().join("store")).unwrap();
        Self { dir: self.dir, store }
    }
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

#[test]
fn layers_are_shared_and_deleted_with_the_last_image_that_has_them() {
    if !is_root("layers_are_shared_and_deleted_with_the_last_image_that_has_them") {
        return;
    }
    let fixture = Fixture::new();
    let one = fixture.import(ONE, &image("one"));
    let two = fixture.import(TWO, &image("two"));
    assert_eq!(one.layers[0], two.layers[0]);
    assert_eq!(fixture.layers(), 3);
    let removed = fixture.store.remove(ONE, &none()).unwrap();
    assert_eq!(removed.images, [one.id.as_str()]);
    assert_eq!(removed.bytes_freed, upper("one").iter().map(|entry| entry.content.len() as u64).sum::<u64>());
    assert_eq!(fixture.layers(), 2);
    assert!(fixture.store.resolve(ONE).unwrap().is_none() && fixture.store.resolve(&one.id).unwrap().is_none());
    assert!(matches!(fixture.store.remove(ONE, &none()), Err(RemoveError::NotFound { .. })));
    assert!(matches!(fixture.store.remove("No", &none()), Err(RemoveError::Name(_))));
    assert!(matches!(fixture.store.remove(&two.id[..18], &none()), Err(RemoveError::NotFound { .. })), "too short");
    fixture.store.remove(&two.id["sha256:".len()..][..13], &none()).unwrap();
    assert_eq!(fixture.layers(), 0);
    assert!(fixture.reopen().store.list().is_empty());
}

#[test]
fn names_move_and_an_image_in_use_keeps_its_last_one() {
    if !is_root("names_move_and_an_image_in_use_keeps_its_last_one") {
        return;
    }
    let fixture = Fixture::new();
    let old = fixture.import(ONE, &image("old"));
    let new = fixture.import(ONE, &image("new"));
    let store = &fixture.store;
    assert_eq!(store.resolve("test/one:1").unwrap().unwrap().id, new.id);
    assert_eq!(store.resolve(&old.id).unwrap().unwrap().names, [""; 0], "it is still there by its id");
    let other = Reference::parse("other").unwrap();
    assert!(store.tag(&old.id, &other).unwrap());
    assert!(!store.tag("nothing", &other).unwrap());
    assert_eq!(store.resolve("other").unwrap().unwrap().id, old.id);
    let in_use = BTreeSet::from([new.id.clone()]);
    assert!(matches!(store.remove(ONE, &in_use), Err(RemoveError::InUse { .. })));
    assert!(matches!(store.remove(&new.id, &in_use), Err(RemoveError::InUse { .. })));
    assert_eq!(store.resolve(ONE).unwrap().unwrap().id, new.id);
    store.tag(ONE, &Reference::parse("second").unwrap()).unwrap();
    assert!(store.remove(ONE, &in_use).unwrap().images.is_empty(), "the name alone");
    assert_eq!(store.resolve("second").unwrap().unwrap().id, new.id);
    let digest = new.repo_digests[0].clone();
    assert_eq!(store.resolve(&digest).unwrap().unwrap().id, new.id);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.resolve(&digest).unwrap().unwrap().names, ["docker.io/library/second:latest"]);
}

#[test]
fn garbage_is_collected_from_the_least_recently_used_on() {
    if !is_root("garbage_is_collected_from_the_least_recently_used_on") {
        return;
    }
    let fixture = Fixture::new();
    let images: Vec<Image> =
        ["a", "b", "c", "d"].map(|text| fixture.import(&format!("test/{text}:1"), &image(text))).into_iter().collect();
    let store = &fixture.store;
    store.mark_used(&images[0].id).unwrap();
    store.mark_used("sha256:unknown").unwrap();
    fs::write(store.partial_path(&crate::Digest::of(b"x")), "abandoned").unwrap();
    let in_use = BTreeSet::from([images[1].id.clone()]);
    let collected = store.collect(&in_use, 1).unwrap();
    assert!(collected.images.is_empty(), "the abandoned download was enough: {collected:?}");
    assert_eq!(collected.bytes_freed, 9);
    let collected = store.collect(&in_use, 1).unwrap();
    assert_eq!(collected.images, [images[2].id.clone()], "b is in use, a was used last");
    let collected = store.collect(&in_use, u64::MAX).unwrap();
    assert_eq!(collected.images, [images[3].id.clone(), images[0].id.clone()]);
    assert_eq!(store.list().into_iter().map(|image| image.id).collect::<Vec<_>>(), [images[1].id.clone()]);
    check_whole(&store.list()[0], "b", "after the collection");
}

#[test]
fn a_layer_of_an_image_that_is_being_added_is_not_collected() {
    if !is_root("a_layer_of_an_image_that_is_being_added_is_not_collected") {
        return;
    }
    let fixture = Fixture::new();
    let archive = testkit::image::archive(&base());
    let diff_id = crate::Digest::of(&archive);
    let held = fixture.store.add_layer(&diff_id, None, &*archive, u64::MAX).unwrap();
    assert_eq!(fixture.store.collect(&none(), u64::MAX).unwrap().bytes_freed, 0);
    assert_eq!(fixture.layers(), 1);
    let again = fixture.store.add_layer(&diff_id, None, std::io::empty(), u64::MAX).unwrap();
    assert_eq!(again.directory, held.directory, "it is there and nothing is read");
    drop(held);
    assert_eq!(fixture.store.collect(&none(), u64::MAX).unwrap().bytes_freed, 0);
    drop(again);
    // After a restart it is still there for the pull that was cut off.
    let fixture = fixture.reopen();
    assert_eq!(fixture.layers(), 1);
    assert!(fixture.store.collect(&none(), 0).unwrap().bytes_freed > 0);
    assert_eq!(fixture.layers(), 0);
}

#[test]
fn twice_the_same_layer_is_mounted_once_and_above() {
    if !is_root("twice_the_same_layer_is_mounted_once_and_above") {
        return;
    }
    let fixture = Fixture::new();
    let built = Built::new()
        .layer(&base(), Compression::Gzip)
        .layer(&upper("x"), Compression::Gzip)
        .layer(&base(), Compression::None);
    let image = fixture.import(ONE, &built);
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[0].join("data/file").exists() && image.layers[1].join("bin/program").exists());
}

#[test]
fn another_layer_with_the_same_twelve_digits_gets_a_name_of_its_own() {
    if !is_root("another_layer_with_the_same_twelve_digits_gets_a_name_of_its_own") {
        return;
    }
    let fixture = Fixture::new();
    let image = fixture.import(ONE, &image("one"));
    // Nobody has found two such layers yet, so the record of one is changed.
    let name = image.layers[0].file_name().unwrap().to_str().unwrap().to_owned();
    let record = fixture.dir.path().join("store/layer-records").join(format!("{name}.json"));
    let text = fs::read_to_string(&record).unwrap();
    let digest = crate::Digest::of(&testkit::image::archive(&base()));
    let changed = format!("sha256:{name}{}", "0".repeat(52));
    fs::write(&record, text.replace(digest.as_str(), &changed)).unwrap();
    let fixture = fixture.reopen();
    let again = fixture.store.add_layer(&digest, None, &*testkit::image::archive(&base()), u64::MAX).unwrap();
    assert_eq!(again.directory, format!("{name}-1"));
    drop(again);
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.hold_layer(&digest).unwrap().directory, format!("{name}-1"));
}

#[test]
fn what_is_half_done_or_broken_is_deleted_at_the_next_start() {
    if !is_root("what_is_half_done_or_broken_is_deleted_at_the_next_start") {
        return;
    }
    let fixture = Fixture::new();
    let one = fixture.import(ONE, &image("one"));
    let two = fixture.import(TWO, &image("two"));
    let dir = fixture.dir.path().join("store");
    for leftover in ["layers/.new-9", "layers/0123456789ab", "trash/5", "drafts/archive-1"] {
        fs::create_dir(dir.join(leftover)).unwrap();
        fs::write(dir.join(leftover).join("file"), "").unwrap();
    }
    fs::write(dir.join("layer-records/ffffffffffff.json"), r#"{"version":1}"#).unwrap();
    fs::write(dir.join("images/broken.json"), "{").unwrap();
    fs::write(dir.join(format!("images/{}.json", "0".repeat(64))), r#"{"version":1,"config":"{}","layers":[]}"#)
        .unwrap();
    // One image has lost a layer: it cannot be run any more.
    fs::remove_dir_all(&two.layers[1]).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.list(), [one]);
    assert!(fixture.store.resolve(TWO).unwrap().is_none());
    assert_eq!(fixture.layers(), 2);
    for (part, count) in [("trash", 0), ("drafts", 0), ("layer-records", 2), ("images", 1)] {
        assert_eq!(fs::read_dir(dir.join(part)).unwrap().count(), count, "{part}");
    }
    fs::write(dir.join("names.json"), "no JSON").unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.store.list().len(), 1, "without names it is there by its id");
    fixture.import(ONE, &image("one"));
    assert!(fixture.store.resolve(ONE).unwrap().is_some());
}

#[test]
fn a_store_is_one_process_s_and_a_newer_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    assert!(matches!(ImageStore::open(dir.path()), Err(OpenStoreError::Locked { .. })));
    drop(store);
    fs::write(dir.path().join("VERSION"), "selvedge-images 2\n").unwrap();
    assert!(matches!(ImageStore::open(dir.path()), Err(OpenStoreError::Format(_))));
}

#[test]
fn an_image_that_exceeds_the_limits_is_rejected_and_named() {
    if !is_root("an_image_that_exceeds_the_limits_is_rejected_and_named") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { layers_max: 3, bytes_max: 20_000, ..Limits::default() };
    let options = StoreOptions { limits, ..StoreOptions::default() };
    let store = ImageStore::open_with(&dir.path().join("store"), options).unwrap();
    let mut many = Built::new();
    for number in 0..4 {
        many = many.layer(&[Entry::file(format!("f{number}"), "")], Compression::None);
    }
    let error = store.import(&save(dir.path(), ONE, &many)).unwrap_err();
    assert!(error.to_string().contains(ONE) && error.to_string().contains("4 layers"), "{error}");
    let mut large = Built::new();
    for number in 0..3 {
        large = large.layer(&[Entry::file(format!("f{number}"), vec![0; 9_000])], Compression::Gzip);
    }
    let error = store.import(&save(dir.path(), ONE, &large)).unwrap_err();
    assert!(matches!(error, ImportError::Layer { .. }), "{error:?}");
    assert!(error.to_string().contains("layer 3 (sha256:"), "all layers together: {error}");
    let mut broken = image("x");
    broken.diff_ids = Some(vec![testkit::image::digest(b"x"); 2]);
    let error = store.import(&save(dir.path(), ONE, &broken)).unwrap_err();
    assert!(format!("{error:?}").contains("DiffId"), "{error:?}");
    broken.diff_ids = Some(vec![testkit::image::digest(b"x")]);
    let error = store.import(&save(dir.path(), ONE, &broken)).unwrap_err();
    assert!(matches!(error, ImportError::Layers { layers: 2, .. }), "{error:?}");
    let mut foreign = image("x");
    foreign.platform = serde_json::json!({"architecture": "s390x", "os": "linux"});
    assert!(store.import(&save(dir.path(), ONE, &foreign)).is_err());
    fs::write(dir.path().join("foreign.tar"), foreign.docker_archive(ONE)).unwrap();
    let error = store.import(&dir.path().join("foreign.tar")).unwrap_err();
    assert!(matches!(error, ImportError::Config { .. }), "{error:?}");
    assert!(store.list().is_empty());
}
