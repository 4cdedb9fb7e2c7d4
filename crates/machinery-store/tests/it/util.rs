//! Short words for the tests.

use std::path::Path;
use std::sync::Arc;

use machinery_store::{
    Change, Durability, Encoded, Expect, IndexFields, Key, Op, Revision, Store, StoreOptions, Watch,
};

pub const MAPS: &str = "/configmaps";
pub const LEASES: &str = "coordination.k8s.io/leases";
pub const PODS: &str = "/pods";

pub fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

pub fn put(key: &Key, expect: Expect, value: &str) -> Op {
    put_indexed(key, expect, value, &[])
}

pub fn put_indexed(key: &Key, expect: Expect, value: &str, fields: &[(&str, &str)]) -> Op {
    let index: IndexFields = fields.iter().copied().collect();
    let value = value.to_owned();
    let encode = Box::new(move |_| Encoded { bytes: value.into(), managed: None, index });
    Op::Put { key: key.clone(), expect, encode }
}

pub fn delete(key: &Key, expect: Expect) -> Op {
    Op::Delete { key: key.clone(), expect, final_bytes: Box::new(|_| "last".into()) }
}

/// One commit that must succeed.
pub async fn commit(store: &Store, op: Op) -> Revision {
    store.commit(vec![op], Durability::Group).await.unwrap()[0]
}

/// Writes one value, durably, whatever is there.
pub async fn set(store: &Store, key: &Key, value: &str) -> Revision {
    store.commit(vec![put(key, Expect::Any, value)], Durability::Group).await.unwrap()[0]
}

pub fn names(items: &[Arc<machinery_store::Object>]) -> Vec<&str> {
    items.iter().map(|object| &*object.key.name).collect()
}

/// What a watch has ready, up to the revision the store is at.
pub async fn drain(watch: &mut Watch, until: Revision) -> Vec<Arc<Change>> {
    let mut changes = Vec::new();
    while watch.progress() < until {
        changes.extend(watch.next().await.unwrap().changes);
    }
    changes
}

/// Repeats small unless `SELVEDGE_TEST_SIZE=full` asks for all.
pub fn size(small: u64, full: u64) -> u64 {
    if std::env::var("SELVEDGE_TEST_SIZE").is_ok_and(|size| size == "full") { full } else { small }
}

/// The seed of this run; `SEED=42` repeats one.
pub fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into()
    });
    println!("SEED={seed}");
    seed
}

/// A copy of a store's files as they are now: what a kill would leave.
pub fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}
