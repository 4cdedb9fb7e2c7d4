//! A store that is made of a backup has what the backup had, and believes nothing of the former life.

use std::path::Path;
use std::sync::Arc;

use machinery_store::{
    Backup, BackupHead, Durability, EnvelopeCipher, Expect, Key, Life, OpenStoreError, RestoreError, Revision, Store,
    StoreOptions, StoreRestore, check_rows,
};

use crate::util::*;

const SECRETS: &str = "/secrets";

fn sealed() -> StoreOptions {
    let cipher = EnvelopeCipher::new(&[42; 32], [SECRETS]);
    StoreOptions { cipher: Some(Arc::new(cipher)), ..StoreOptions::default() }
}

fn pieces(mut backup: Backup, bytes: usize) -> (BackupHead, Vec<Vec<u8>>) {
    let head = backup.head().clone();
    let pieces = std::iter::from_fn(|| backup.next_rows(bytes).unwrap()).collect();
    (head, pieces)
}

fn restore(dir: &Path, head: &BackupHead, pieces: &[Vec<u8>]) -> Result<Life, RestoreError> {
    let mut restore = StoreRestore::create(dir, head.clone(), sealed().cipher)?;
    for piece in pieces {
        restore.add(piece, &mut |object| &*object.key.name != "dropped")?;
    }
    restore.finish()
}

#[tokio::test]
async fn a_restored_store_has_the_objects_of_one_revision_and_another_life() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("first"), sealed()).unwrap();
    for number in 0..50 {
        set(&store, &Key::new(MAPS, "default", &format!("map-{number:02}")), "first").await;
    }
    set(&store, &Key::new(SECRETS, "default", "token"), "readable by nobody").await;
    set(&store, &Key::new(MAPS, "default", "dropped"), "first").await;
    let deleted = Key::new(PODS, "default", "deleted");
    set(&store, &deleted, "first").await;
    store.commit(vec![delete(&deleted, Expect::Any)], Durability::Group).await.unwrap();
    let backup = store.backup();
    let at = store.current();
    // What comes later is not in it, though it is read only now.
    set(&store, &Key::new(MAPS, "default", "map-00"), "second").await;
    set(&store, &Key::new(MAPS, "default", "later"), "second").await;
    let former = store.current();
    let (head, pieces) = pieces(backup, 300);
    assert_eq!((head.revision, head.objects), (at.0, 52));
    assert!(pieces.len() > 10 && pieces.iter().all(|piece| piece.len() < 600), "{}", pieces.len());
    assert!(pieces.iter().all(|piece| !String::from_utf8_lossy(piece).contains("readable by nobody")));
    let cipher = sealed().cipher.unwrap();
    cipher.unlock(head.cipher.as_deref()).unwrap();
    let checked: u64 = pieces.iter().map(|piece| check_rows(&head, piece, Some(&*cipher)).unwrap()).sum();
    assert_eq!(checked, head.objects);

    let second = dir.path().join("second");
    let life = restore(&second, &head, &pieces).unwrap();
    let restored = Store::open(&second, sealed()).unwrap();
    assert_eq!(restored.life(), &life);
    let from = life.restored.clone().unwrap();
    assert_eq!((&from.epoch, from.revision), (&store.life().epoch, at.0));
    assert_ne!(life.epoch, store.life().epoch);
    let maps = restored.range(MAPS, None, None, None, None).unwrap();
    assert_eq!(maps.items.len(), 50);
    assert!(maps.items.iter().all(|object| object.bytes == "first" && object.revision <= at));
    assert_eq!(restored.get(&Key::new(SECRETS, "default", "token")).unwrap().bytes, "readable by nobody");

    // Nothing of the former life is believed, of resources with objects and without.
    assert!(restored.current() > former && restored.current().0 == from.begins);
    for resource in [MAPS, PODS, "/never-heard-of"] {
        for revision in [1, at.0, former.0, from.begins - 1, from.begins + 1] {
            assert!(restored.watch(resource, Revision(revision)).is_err(), "{resource} at {revision}");
            assert!(restored.snapshot_at(resource, Revision(revision)).is_err(), "{resource} at {revision}");
        }
        assert!(restored.watch(resource, restored.current()).is_ok());
    }
    let mut watch = restored.watch(MAPS, restored.current()).unwrap();
    let new = set(&restored, &Key::new(MAPS, "default", "new"), "third").await;
    assert_eq!(new.0, from.begins + 1);
    assert_eq!(drain(&mut watch, new).await.len(), 1);
    drop((watch, restored));
    // It stays so after a restart, and a second restore of the same backup is yet another life.
    let restored = Store::open(&second, sealed()).unwrap();
    assert_eq!(restored.life(), &life);
    assert!(restored.watch(PODS, former).is_err() && restored.watch(MAPS, Revision(from.begins)).is_ok());
    let again = restore(&dir.path().join("third"), &head, &pieces).unwrap();
    assert_ne!(again.epoch, life.epoch);
}

#[tokio::test]
async fn a_backup_that_is_not_whole_or_not_ours_makes_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("first"), sealed()).unwrap();
    for number in 0..3 {
        set(&store, &Key::new(SECRETS, "default", &format!("secret-{number}")), "value").await;
    }
    let (head, pieces) = pieces(store.backup(), 1);
    assert_eq!(pieces.len(), 3);
    let mut count = 0;
    let mut check = |head: &BackupHead, pieces: &[Vec<u8>], expected: &str| {
        count += 1;
        let error = restore(&dir.path().join(format!("try-{count}")), head, pieces).unwrap_err();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |cause| cause.source());
        let said: Vec<String> = causes.map(ToString::to_string).collect();
        assert!(said.join(": ").contains(expected), "{said:?} is not about {expected}");
    };
    check(&head, &pieces[..2], "it holds 2 objects, and says that there are 3");
    check(&BackupHead { format: 3, ..head.clone() }, &pieces, "format 3, this program knows up to 2");
    check(&BackupHead { revision: u64::MAX, ..head.clone() }, &pieces, "leaves none");
    check(&BackupHead { revision: 2, ..head.clone() }, &pieces, "not of the time before the backup");
    check(&BackupHead { cipher: None, ..head.clone() }, &pieces, "it is sealed with another key");
    let twice = [pieces[0].clone(), pieces[0].clone(), pieces[1].clone()];
    check(&head, &twice, "failed to write the store");
    let cipher = sealed().cipher.unwrap();
    cipher.unlock(head.cipher.as_deref()).unwrap();
    let whole = &pieces[0];
    assert_eq!(check_rows(&head, whole, Some(&*cipher)).unwrap(), 1);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let error = check_rows(&head, &damaged, Some(&*cipher)).unwrap_err();
        assert!(matches!(error, RestoreError::Damaged { .. }), "byte {at}: {error}");
        assert!(at == 0 || check_rows(&head, &whole[..at], Some(&*cipher)).is_err(), "{at} bytes");
    }
}

#[tokio::test]
async fn a_store_keeps_its_epoch_and_one_of_an_older_program_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let life = store.life().clone();
    assert_eq!((life.epoch.len(), &life.restored), (32, &None));
    drop(store);
    assert_eq!(open(dir.path()).life(), &life);
    let old = copy_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1"));
    let first: Result<Store, OpenStoreError> = Store::open(old.path(), StoreOptions::default());
    let life = first.unwrap().life().clone();
    assert_eq!(open(old.path()).life(), &life);
}
