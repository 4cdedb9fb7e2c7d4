//! The owners of a workload as those of its scale, and back.
//!
//! A scale is no object of its own: its `.spec.replicas` is a field of the workload, and whoever writes the one owns the other.
//! An owner that updates is another one through the version of scales, so that what it owned of the workload is split: this
//! is how upstream has it, and clients see it.

use super::{Managed, ManagerId, Operation, VersionedSet};
use crate::fields::{FieldSet, PathElement};

/// The version of scales, whatever that of their workloads.
const SCALE_VERSION: &str = "autoscaling/v1";

/// Where a version of the workload has the number: `None` for a version that is not served, an empty path for one that is
/// served and cannot be scaled.
pub type ReplicasPath<'p> = &'p dyn Fn(&str) -> Option<Vec<PathElement>>;

fn in_scale() -> Vec<PathElement> {
    vec![PathElement::field("spec"), PathElement::field("replicas")]
}

fn only(path: &[PathElement]) -> FieldSet {
    let mut set = FieldSet::default();
    set.insert(path);
    set
}

impl Managed {
    /// The owners of the workload's scale.
    #[must_use]
    pub fn to_scale(&self, replicas: ReplicasPath<'_>) -> Self {
        let mut scale = Self::default();
        for (id, entry) in &self.fields {
            let path = replicas(&entry.api_version).filter(|path| !path.is_empty());
            if path.is_some_and(|path| entry.set.has(&path)) {
                let set = VersionedSet { set: only(&in_scale()), api_version: SCALE_VERSION.to_owned() };
                // An update is through the scale's version now.
                let is_update = id.operation == Operation::Update;
                let api_version = if is_update { SCALE_VERSION.to_owned() } else { String::new() };
                scale.insert(ManagerId { api_version, ..id.clone() }, set, self.time(id).map(str::to_owned));
            }
        }
        scale
    }

    /// The owners of the workload after its scale got these. `api_version` is that of the request's workload.
    #[must_use]
    pub fn with_scale(&self, scale: &Self, api_version: &str, replicas: ReplicasPath<'_>) -> Self {
        let mut rest = scale.fields.clone();
        let mut managed = Self::default();
        for (id, entry) in &self.fields {
            let Some(path) = replicas(&entry.api_version) else { continue };
            let mut set = entry.set.clone();
            if !path.is_empty() && set.has(&path) && rest.remove(id).is_none() {
                // Another has taken it.
                set = set.difference(&only(&path));
                if set.is_empty() {
                    continue;
                }
            }
            let entry = VersionedSet { set, api_version: entry.api_version.clone() };
            managed.insert(id.clone(), entry, self.time(id).map(str::to_owned));
        }
        let Some(path) = replicas(api_version).filter(|path| !path.is_empty()) else { return managed };
        for (id, entry) in rest {
            if entry.set.has(&in_scale()) {
                // Upstream looks the time up among those of the workload, where a new owner has none.
                let time = self.time(&id).map(str::to_owned);
                managed.insert(id, VersionedSet { set: only(&path), api_version: api_version.to_owned() }, time);
            }
        }
        managed
    }
}
