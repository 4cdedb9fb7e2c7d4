//! The file as others may find it: whole, damaged, truncated, newer, or something else.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hub_backup::{FORMAT, Head, KeyFile, ReadBackupError, SEALED_RESOURCES, Writer, check, restore, staging_of};
use machinery_store::{Durability, Encoded, EnvelopeCipher, Expect, Key, Op, Store, StoreOptions};
use serde_json::json;

const MAPS: &str = "/configmaps";
const SECRETS: &str = "/secrets";
const LEASES: &str = "coordination.k8s.io/leases";

/// The objects of a hub: what is kept, and what is not.
const OBJECTS: [(&str, &str, &str, bool); 6] = [
    (MAPS, "default", "settings", true),
    (SECRETS, "default", "bootstrap-token-mine", true),
    (SECRETS, "kube-system", "other", true),
    (SECRETS, "kube-system", "bootstrap-token-abcdef", false),
    (LEASES, "default", "leader", true),
    (LEASES, "kube-node-lease", "gw-1", false),
];

/// What is asked of the directory of a test, which nothing else uses.
const FINE: &str = "the directory of the test is usable, and what it holds was written by the test";

/// Entries of an archive, by their names.
type Parts = Vec<(String, Vec<u8>)>;

fn options(key: &[u8; 32]) -> StoreOptions {
    let cipher = EnvelopeCipher::new(key, SEALED_RESOURCES);
    StoreOptions { cipher: Some(Arc::new(cipher)), reserve_bytes: 0, ..StoreOptions::default() }
}

/// A hub's directory, and a backup of it.
async fn hub(dir: &Path) -> Vec<u8> {
    let hub = dir.join("hub");
    fs::create_dir(&hub).expect(FINE);
    hub_pki::Pki::open(&hub.join("pki"), SystemTime::now()).expect(FINE);
    hub_pki::token_key(&hub.join("tokens.key")).expect(FINE);
    let key = hub_pki::secrets_key(&hub.join("secrets.key")).expect(FINE);
    let store = Store::open(&hub.join("store"), options(&key)).expect(FINE);
    for (resource, namespace, name, _) in OBJECTS {
        let encode = Box::new(|_| Encoded { bytes: "readable by nobody".into(), ..Encoded::default() });
        let put = Op::Put { key: Key::new(resource, namespace, name), expect: Expect::Absent, encode };
        store.commit(vec![put], Durability::Group).await.expect(FINE);
    }
    written(&hub, &store, |_| {})
}

fn written(hub: &Path, store: &Store, change: impl FnOnce(&mut Head)) -> Vec<u8> {
    let keys = KeyFile::ALL.map(|file| fs::read(hub.join(file.path())).expect(FINE));
    let ca = String::from_utf8(keys[0].clone()).expect(FINE);
    let mut backup = store.backup();
    let mut head = Head {
        format: FORMAT,
        program: "0.1.0".to_owned(),
        time: "2026-03-01T08:00:00Z".parse().expect(FINE),
        ca_sha256: base_pki::ca_fingerprint(&ca).expect(FINE),
        store: backup.head().clone(),
    };
    change(&mut head);
    let mut writer = Writer::new(Vec::new(), &head, &keys).expect(FINE);
    while let Some(rows) = backup.next_rows(200).expect(FINE) {
        writer.rows(&rows).expect(FINE);
    }
    writer.finish().expect(FINE)
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).expect(FINE).map(|entry| entry.expect(FINE).file_name().into_string().expect(FINE)).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_hub_is_restored_with_its_keys_and_without_leases_of_nodes_and_join_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let backup = hub(dir.path()).await;
    let contents = check(Cursor::new(&backup)).unwrap();
    assert_eq!((contents.bytes, contents.head.store.objects), (backup.len() as u64, OBJECTS.len() as u64));
    let text = String::from_utf8_lossy(&backup);
    let sealed = OBJECTS.iter().filter(|(resource, ..)| SEALED_RESOURCES.contains(resource)).count();
    assert_eq!(text.matches("readable by nobody").count(), OBJECTS.len() - sealed);

    let target = dir.path().join("new");
    fs::create_dir(&target).unwrap();
    // What a restore left that was cut off.
    fs::create_dir_all(target.join("hub.restoring/store")).unwrap();
    fs::write(target.join("hub.restoring/store/objects.sqlite"), "half").unwrap();
    let restored = restore(Cursor::new(&backup), &target.join("hub")).unwrap();
    assert_eq!((restored.objects, restored.tokens), (4, 1));
    assert_eq!(names(&target), ["hub"]);
    for file in KeyFile::ALL {
        let path = target.join("hub").join(file.path());
        assert_eq!(fs::read(&path).unwrap(), fs::read(dir.path().join("hub").join(file.path())).unwrap());
    }
    let key = hub_pki::secrets_key(&target.join("hub/secrets.key")).unwrap();
    let store = Store::open(&target.join("hub/store"), options(&key)).unwrap();
    assert_eq!(store.life(), &restored.life);
    for (resource, namespace, name, is_kept) in OBJECTS {
        let found = store.get(&Key::new(resource, namespace, name));
        assert_eq!(found.is_some(), is_kept, "{resource} {namespace}/{name}");
        assert!(found.is_none_or(|object| object.bytes == "readable by nobody"));
    }
    // A hub that is there is never replaced.
    assert!(restore(Cursor::new(&backup), &target.join("hub")).is_err());
    assert_eq!(names(&target), ["hub"]);
}

#[tokio::test]
async fn every_byte_counts_and_a_failed_restore_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let backup = hub(dir.path()).await;
    let target = dir.path().join("new");
    fs::create_dir(&target).unwrap();
    let mut damaged = backup.clone();
    for at in 0..backup.len() {
        damaged[at] ^= 1;
        let error = check(Cursor::new(&damaged)).expect_err(&format!("byte {at}"));
        if at.is_multiple_of(4099) {
            restore(Cursor::new(&damaged), &target.join("hub")).expect_err(&format!("byte {at}: {error}"));
            assert!(names(&target).is_empty(), "byte {at}");
        }
        damaged[at] ^= 1;
    }
    for len in (0..backup.len()).step_by(97) {
        let error = check(Cursor::new(&backup[..len])).unwrap_err();
        assert!(matches!(error, ReadBackupError::EndsEarly { at } if at == len as u64), "{len}: {error}");
    }
    restore(Cursor::new(&backup[..backup.len() - 1]), &target.join("hub")).unwrap_err();
    assert!(names(&target).is_empty());
    let longer = [backup, vec![0]].concat();
    assert!(chain(&check(Cursor::new(longer)).unwrap_err()).contains("more after its end"));
}

const HEAD: &str = "selvedge-backup.json";

/// A tar with these parts, each with a header that is right; as any other program would write it.
fn archive_of(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in parts {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000600\x000000000\x000000000");
        put(124, format!("{:011o}", bytes.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// The parts of a tar, in their order.
fn parts_of(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while archive[at] != 0 {
        let text = |from: usize, to: usize| {
            String::from_utf8(archive[at + from..at + to].to_vec()).expect(FINE).trim_end_matches('\0').to_owned()
        };
        let len = usize::from_str_radix(&text(124, 136), 8).expect(FINE);
        parts.push((text(0, 100), archive[at + 512..at + 512 + len].to_vec()));
        at += 512 + len.next_multiple_of(512);
    }
    parts
}

/// The same parts with a manifest that is right for them.
fn with_manifest(mut parts: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let sha256 = |bytes: &[u8]| base_pki::fingerprint_of_der(bytes);
    let of = |(name, bytes): &(String, Vec<u8>)| json!({"name": name, "bytes": bytes.len(), "sha256": sha256(bytes)});
    let manifest = json!({"parts": parts.iter().map(of).collect::<Vec<_>>()}).to_string().into_bytes();
    let sum = format!("{}  manifest.json\n", sha256(&manifest)).into_bytes();
    parts.push(("manifest.json".to_owned(), manifest));
    parts.push(("manifest.sha256".to_owned(), sum));
    let parts: Vec<(&str, &[u8])> = parts.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    archive_of(&parts)
}

#[tokio::test]
async fn what_is_no_backup_of_this_program_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let backup = hub(dir.path()).await;
    let refused = |file: &[u8], expected: &str| {
        let said = chain(&check(Cursor::new(file)).unwrap_err());
        assert!(said.contains(expected), "{said} is not about `{expected}`");
    };
    refused(&[b'x'; 1024], "it is no backup of a hub");
    refused(&archive_of(&[("../etc/passwd", &b"x"[..])]), "it is no backup of a hub");
    refused(&archive_of(&[]), "it is no backup of a hub");
    let newer = br#"{"format":2,"program":"9.0","keys":"other".."#;
    refused(&archive_of(&[(HEAD, &newer[..])]), "is damaged");
    let newer = br#"{"format":2,"program":"9.0\u001b[2J","rows":[]}"#;
    refused(
        &archive_of(&[(HEAD, &newer[..])]),
        "it has format 2 of selvedge 9.0[2J, this program knows up to 1; use the newer program",
    );
    // With every sum right: a part under another name, one twice, one missing, one too many.
    let parts = parts_of(&backup);
    let remade = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts[..parts.len() - 2].to_vec();
        change(&mut parts);
        with_manifest(parts)
    };
    check(Cursor::new(remade(&|_| {}))).unwrap();
    for name in ["../../etc/passwd", "/etc/passwd", "pki/../x", "pki/ca.key", "rows-000001/x", ""] {
        let changed = remade(&|parts| parts[1].0 = name.to_owned());
        refused(&changed, "is not expected here");
    }
    refused(&remade(&|parts| drop(parts.remove(6))), "is not expected here");
    refused(&remade(&|parts| parts.push(parts[7].clone())), "is not expected here");
    refused(&remade(&|parts| drop(parts.pop())), "objects, and says that there are 6");
    refused(&remade(&|parts| parts[2].1 = b"nonsense".to_vec()), "pki/ca.crt in it is of no use");
    refused(&remade(&|parts| parts[5].1 = b"nonsense".to_vec()), "tokens.key in it is of no use");
    refused(&remade(&|parts| parts[6].1 = vec![7; 32]), "secrets.key in it is of no use");
    refused(&remade(&|parts| parts[6].1 = vec![7; 31]), "a key has 32 bytes");
    refused(&remade(&|parts| parts[1].1 = vec![b'x'; (64 << 10) + 1]), "larger than it can be");
}

#[tokio::test]
async fn a_head_that_lies_makes_no_hub() {
    let dir = tempfile::tempdir().unwrap();
    hub(dir.path()).await;
    let hub = dir.path().join("hub");
    let key = hub_pki::secrets_key(&hub.join("secrets.key")).unwrap();
    let store = Store::open(&hub.join("store"), options(&key)).unwrap();
    let refused = |change: fn(&mut Head), expected: &str| {
        let file = written(&hub, &store, change);
        let said = chain(&check(Cursor::new(&file)).unwrap_err());
        assert!(said.contains(expected), "{said} is not about `{expected}`");
        let target = dir.path().join("new/hub");
        restore(Cursor::new(&file), &target).unwrap_err();
        assert!(!target.exists() && !staging_of(&target).exists());
    };
    refused(|head| head.ca_sha256 = "0".repeat(64), "of another hub than the backup says");
    refused(|head| head.store.objects += 1, "says that there are 7");
    refused(|head| head.store.format += 1, "use the newer program");
    refused(|head| head.store.revision = u64::MAX, "leaves none");
    refused(|head| head.store.revision = 1, "not of the time before the backup");
}

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}.backup"))
}

#[tokio::test]
#[ignore = "makes a fixture: BACKUP_FIXTURE=FILE cargo test -p hub-backup -- --ignored makes_a_fixture"]
async fn makes_a_fixture() {
    let Ok(path) = std::env::var("BACKUP_FIXTURE") else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::write(path, hub(dir.path()).await).unwrap();
}

#[test]
fn a_backup_of_format_1_is_restored() {
    let backup = fs::read(fixture(1)).unwrap();
    let contents = check(Cursor::new(&backup)).unwrap();
    assert_eq!((contents.head.format, contents.head.store.revision, contents.head.store.objects), (1, 6, 6));
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("hub");
    let restored = restore(Cursor::new(&backup), &target).unwrap();
    let key = hub_pki::secrets_key(&target.join("secrets.key")).unwrap();
    let store = Store::open(&target.join("store"), options(&key)).unwrap();
    assert_eq!((restored.objects, store.usage().objects, store.life()), (4, 4, &restored.life));
    let object = store.get(&Key::new(SECRETS, "kube-system", "other")).unwrap();
    assert_eq!(object.bytes, "readable by nobody");
}
