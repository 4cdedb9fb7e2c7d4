//! Index fields of objects that are stored: those of an earlier program's rows, and those of a definition that declares
//! other selectable fields than before.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery_kinds::{Registry, ResourceInfo};
use machinery_store::{CommitError, Object};
use serde_json::Value;
use tracing::{info, warn};

use crate::object;
use crate::server::{Inner, Server};

/// Objects that are looked at between two turns for others, and whose fields are written in one step.
const BATCH: usize = 256;

impl Server {
    /// Gives objects that an earlier program stored the index fields that this one extracts, so that everything is found by
    /// them; costs nothing when the rows have them already. To be called at the start, before anybody is served. Returns how
    /// many objects got other fields.
    ///
    /// # Errors
    /// When the disk does not take them. Everything is found by its fields nevertheless, until the next start.
    pub async fn reindex(&self) -> Result<usize, CommitError> {
        let server = &self.0;
        if !server.store.is_index_stale() {
            return Ok(0);
        }
        let registry = server.registry();
        let mut changed = 0;
        let mut failed = None;
        for info in stored_resources(&registry).values() {
            // The rest is tried too: what is not on the disk is at least in memory.
            match reindex_resource(server, info).await {
                Ok(count) => changed += count,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        server.store.finish_reindex().await?;
        if changed > 0 {
            info!(objects = changed, "Objects of an older version are now found by the index fields of this one.");
        }
        Ok(changed)
    }
}

/// Custom resources whose objects are selected by other fields than before.
pub(crate) fn reselected(before: &Registry, after: &Registry) -> Vec<Arc<ResourceInfo>> {
    let before = stored_resources(before);
    let is_changed = |info: &&Arc<ResourceInfo>| {
        let held = before.get(&info.storage_key);
        info.is_custom() && held.is_some_and(|held| held.indexed_fields() != info.indexed_fields())
    };
    stored_resources(after).into_values().filter(is_changed).cloned().collect()
}

/// What is stored: versions of one resource share their objects. Of a custom resource it is the version in which they are
/// stored, if that one is served.
fn stored_resources(registry: &Registry) -> BTreeMap<&Arc<str>, &Arc<ResourceInfo>> {
    let mut stored = BTreeMap::new();
    for info in registry.resources() {
        let held = stored.entry(&info.storage_key).or_insert(info);
        if info.is_custom() && info.version == info.storage_version {
            *held = info;
        }
    }
    stored
}

/// Extracts the index fields of these resources anew, after their definition has changed and
/// [`Store::begin_reindex`](machinery_store::Store::begin_reindex) was called.
pub(crate) async fn reindex_all(server: &Inner, resources: &[Arc<ResourceInfo>]) {
    if resources.is_empty() {
        return;
    }
    for info in resources {
        if let Err(error) = reindex_resource(server, info).await {
            // In memory it is done, and the next start does it for the disk.
            warn!(resource = info.qualified_name(), %error, "Failed to store other index fields of a resource's objects.");
            return;
        }
    }
    if let Err(error) = server.store.finish_reindex().await {
        warn!(%error, "Failed to record that index fields were extracted; the next start extracts them again.");
    }
}

/// Extracts the index fields of a resource's objects anew; returns how many got others.
async fn reindex_resource(server: &Inner, info: &ResourceInfo) -> Result<usize, CommitError> {
    let snapshot = server.store.snapshot(&info.storage_key);
    let mut fields = Vec::new();
    let mut changed = 0;
    let mut failed = None;
    for (number, stored) in snapshot.iter(None, None).enumerate() {
        // What cannot be read has no fields, and is not made worse.
        if let Some(value) = decode(info, stored) {
            let extracted = object::index_fields(info, &value);
            if extracted != stored.index {
                fields.push((stored.key.clone(), stored.revision, extracted));
            }
        }
        if fields.len() >= BATCH {
            changed += fields.len();
            failed = server.store.reindex(std::mem::take(&mut fields)).await.err().or(failed);
        }
        if number % BATCH == BATCH - 1 {
            tokio::task::yield_now().await;
        }
    }
    if !fields.is_empty() {
        changed += fields.len();
        failed = server.store.reindex(fields).await.err().or(failed);
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(changed),
    }
}

/// The object as its fields are extracted from it: as this version shows it, unless others have further fields. Those may not
/// be in the schema of this one.
fn decode(info: &ResourceInfo, stored: &Object) -> Option<Value> {
    if info.is_custom() && info.indexed_fields() != info.selectable_fields {
        return serde_json::from_slice(&stored.bytes).ok();
    }
    object::decode(info, stored).ok()
}
