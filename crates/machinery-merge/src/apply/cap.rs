//! At most ten managers that update: the oldest become one, so that the owners of an object that thousands of clients wrote
//! stay small.

use std::collections::BTreeMap;

use super::managed::seconds;
use super::{Managed, ManagerId, Operation, VersionedSet};

/// As upstream has it.
const UPDATE_MANAGERS_MAX: usize = 10;

/// The name of the manager that the oldest become.
const OLD_UPDATES_MANAGER: &str = "ancient-changes";

pub(super) fn cap_update_managers(managed: &mut Managed) {
    let mut updaters: Vec<ManagerId> =
        managed.fields.keys().filter(|id| id.operation == Operation::Update).cloned().collect();
    if updaters.len() <= UPDATE_MANAGERS_MAX {
        return;
    }
    updaters.sort_by_cached_key(|id| (managed.time(id).map_or(0, seconds), id.clone()));
    let mut count = updaters.len();
    let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
    for id in updaters {
        if count <= UPDATE_MANAGERS_MAX {
            return;
        }
        let Some(entry) = managed.fields.get(&id) else { continue };
        let version = entry.api_version.clone();
        let Some(first) = first_of_version.get(&version) else {
            first_of_version.insert(version, id);
            continue;
        };
        let bucket = ManagerId {
            manager: OLD_UPDATES_MANAGER.to_owned(),
            operation: Operation::Update,
            api_version: version.clone(),
            subresource: String::new(),
        };
        if !managed.fields.contains_key(&bucket)
            && let Some(oldest) = managed.fields.remove(first)
        {
            managed.fields.insert(bucket.clone(), oldest);
        }
        let Some(merged) = managed.fields.remove(&id) else { continue };
        let set = match managed.fields.get(&bucket) {
            Some(others) => merged.set.union(&others.set),
            None => merged.set,
        };
        managed.fields.insert(bucket.clone(), VersionedSet { set, api_version: version });
        count -= 1;
        // The one that joined last is the most recent.
        match managed.time(&id).map(str::to_owned) {
            Some(time) => drop(managed.times.insert(bucket, time)),
            None => drop(managed.times.remove(&bucket)),
        }
    }
}
