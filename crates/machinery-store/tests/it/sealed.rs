//! Encryption at rest, and who may read the files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use machinery_store::{Durability, EnvelopeCipher, Expect, Key, OpenStoreError, RowCipher, Store, StoreOptions};
use testkit::forgetful::ForgetfulDisk;

use crate::util::*;

const SECRETS: &str = "/secrets";
const TEXT: &str = "correct horse battery staple";

fn secret(name: &str) -> Key {
    Key::new(SECRETS, "default", name)
}

fn cipher(key: u8) -> Option<Arc<dyn RowCipher>> {
    Some(Arc::new(EnvelopeCipher::new(&[key; 32], [SECRETS])))
}

fn sealed(dir: &Path, key: u8) -> Result<Store, OpenStoreError> {
    Store::open(dir, StoreOptions { cipher: cipher(key), ..StoreOptions::default() })
}

/// Whether any file of the store has the text.
fn is_in_files(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|file| {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

async fn write_secrets(store: &Store) {
    for number in 0..300 {
        let op =
            put_indexed(&secret(&number.to_string()), Expect::Any, &format!("{number} {TEXT}"), &[("label:a", TEXT)]);
        store.commit(vec![op], Durability::Group).await.unwrap();
    }
    store.commit(vec![delete(&secret("7"), Expect::Any)], Durability::Group).await.unwrap();
    set(store, &Key::new(MAPS, "default", "open"), "public text").await;
}

fn check_secrets(store: &Store) {
    let items = store.range(SECRETS, None, None, None, None).unwrap().items;
    assert_eq!(items.len(), 299);
    assert!(items.iter().all(|item| item.bytes.ends_with(TEXT.as_bytes()) && item.has_field("label:a", TEXT)));
}

#[tokio::test]
async fn sealed_rows_are_read_with_their_key_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path(), 1).unwrap();
    write_secrets(&store).await;
    assert!(!is_in_files(dir.path(), TEXT), "while the log is in use");
    assert!(is_in_files(dir.path(), "public text"), "only what is asked for is sealed");
    drop(store);
    assert!(!is_in_files(dir.path(), TEXT));
    for wrong in [sealed(dir.path(), 2), Store::open(dir.path(), StoreOptions::default())] {
        let error = wrong.err().unwrap();
        assert!(matches!(error, OpenStoreError::Unlock { .. }), "{error}");
    }
    check_secrets(&sealed(dir.path(), 1).unwrap());
    let rotated = EnvelopeCipher::new(&[2; 32], [SECRETS]).and_previous(&[1; 32]);
    let options = StoreOptions { cipher: Some(Arc::new(rotated)), ..StoreOptions::default() };
    check_secrets(&Store::open(dir.path(), options).unwrap());
    check_secrets(&sealed(dir.path(), 2).unwrap());
}

#[tokio::test]
async fn a_store_that_was_not_sealed_is_and_its_old_text_is_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write_secrets(&store).await;
    drop(store);
    assert!(is_in_files(dir.path(), TEXT), "or the test would prove nothing");
    let store = sealed(dir.path(), 1).unwrap();
    check_secrets(&store);
    assert!(!is_in_files(dir.path(), TEXT));
    set(&store, &secret("new"), TEXT).await;
    drop(store);
    assert!(!is_in_files(dir.path(), TEXT));
}

#[tokio::test]
async fn rows_cannot_be_swapped_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = sealed(dir.path(), 1).unwrap();
    let low = set(&store, &secret("low"), "low").await;
    let high = set(&store, &secret("high"), "high").await;
    drop(store);
    let file = rusqlite::Connection::open(dir.path().join("objects.sqlite")).unwrap();
    let row: Vec<u8> =
        file.query_row("SELECT row FROM rows WHERE revision = ?", [high.0 as i64], |row| row.get(0)).unwrap();
    file.execute("UPDATE rows SET row = ? WHERE revision = ?", (row, low.0 as i64)).unwrap();
    drop(file);
    let error = sealed(dir.path(), 1).err().unwrap();
    assert!(matches!(&error, OpenStoreError::Damaged { revision, .. } if *revision == low), "{error}");
}

#[tokio::test]
async fn a_power_cut_while_rows_are_sealed_harms_nothing() {
    let Some(disk) = ForgetfulDisk::mount_or_skip("a_power_cut_while_rows_are_sealed_harms_nothing") else { return };
    let seed = seed();
    let plain = tempfile::tempdir().unwrap();
    let store = open(plain.path());
    write_secrets(&store).await;
    let current = store.current();
    drop(store);
    let cuts = size(12, 200);
    let mut interrupted = 0;
    for cut in 0..cuts {
        let dir = disk.path().join(format!("store-{cut}"));
        copy(plain.path(), &dir);
        let before = disk.operations();
        // A run without a cut shows how long it takes; the others are cut somewhere in it.
        disk.cut_in(cut * 300 / cuts, seed.wrapping_add(cut));
        interrupted += u64::from(sealed(&dir, 1).is_err());
        disk.cut(seed ^ cut);
        disk.power_on();
        assert!(disk.operations() >= before);
        let store = sealed(&dir, 1).unwrap_or_else(|error| panic!("cut {cut}: {error:?}"));
        check_secrets(&store);
        assert!(store.current() >= current);
        drop(store);
        assert!(!is_in_files(&dir, TEXT), "cut {cut}");
        fs::remove_dir_all(&dir).unwrap();
    }
    assert!(interrupted > 0, "no cut came while the store opened");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
        fs::File::open(to.join(file.file_name())).unwrap().sync_all().unwrap();
    }
    fs::File::open(to).unwrap().sync_all().unwrap();
    fs::File::open(to.parent().unwrap()).unwrap().sync_all().unwrap();
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("hub/store");
    let check = || {
        for path in fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).chain([dir.clone()]) {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
    };
    let store = open(&dir);
    set(&store, &secret("a"), "1").await;
    check();
    drop(store);
    for file in fs::read_dir(&dir).unwrap() {
        fs::set_permissions(file.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(&dir);
    set(&store, &secret("a"), "2").await;
    check();
}
