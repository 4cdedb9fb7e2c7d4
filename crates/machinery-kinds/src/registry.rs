//! Which resources are served right now: the built-in ones, and those of installed CustomResourceDefinitions.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    FieldError, InstalledCrd, ResourceInfo,
    catalogue::builtin_resources,
    custom::{self, CustomResource},
};

/// The served resources. A clone is a cheap snapshot that later installations do not touch, so a request keeps one
/// view from its first to its last line.
///
/// ```
/// use machinery_kinds::Registry;
/// let registry = Registry::builtin();
/// let pods = registry.resource("", "v1", "pods").expect("pods are built in");
/// assert_eq!(&*pods.kind, "Pod");
/// ```
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    groups: BTreeMap<Arc<str>, Group>,
    custom: BTreeMap<Arc<str>, Arc<CustomResource>>,
}

/// Resources by version, then by plural.
#[derive(Clone, Debug, Default)]
struct Group {
    versions: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<ResourceInfo>>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::builtin()
    }
}

impl Registry {
    /// The built-in resources alone.
    pub fn builtin() -> Self {
        let mut inner = Inner::default();
        builtin_resources().for_each(|resource| inner.insert(resource));
        Self { inner: Arc::new(inner) }
    }

    /// Looks a resource up by its place in a URL.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceInfo>> {
        self.inner.groups.get(group)?.versions.get(version)?.get(plural)
    }

    /// Looks a resource up by the kind that an object names.
    pub fn resource_by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<ResourceInfo>> {
        self.inner.groups.get(group)?.versions.get(version)?.values().find(|resource| &*resource.kind == kind)
    }

    /// Every resource, by group, version and name.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        self.inner.groups.values().flat_map(|group| group.versions.values()).flat_map(BTreeMap::values)
    }

    /// The resources of one group version, by name; empty when there is none.
    pub fn resources_of(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        let found = self.inner.groups.get(group).and_then(|found| found.versions.get(version));
        found.into_iter().flat_map(BTreeMap::values)
    }

    /// The groups that have resources, core (`""`) first.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.inner.groups.keys()
    }

    /// Whether a group is one of Kubernetes' own, whoever has added resources to it.
    pub fn is_builtin_group(&self, group: &str) -> bool {
        let resources = self.inner.groups.get(group).into_iter().flat_map(|group| group.versions.values());
        resources.flat_map(BTreeMap::values).any(|resource| !resource.is_custom())
    }

    /// The versions of a group, the preferred one first: stable before beta before alpha, newer before older.
    pub fn versions(&self, group: &str) -> Vec<&Arc<str>> {
        let mut versions: Vec<&Arc<str>> =
            self.inner.groups.get(group).into_iter().flat_map(|group| group.versions.keys()).collect();
        versions.sort_by(|a, b| compare_versions(a, b));
        versions
    }

    /// Serves the resources of a CustomResourceDefinition that was checked, in place of those that an earlier form of it
    /// brought.
    ///
    /// # Errors
    /// When the definition cannot be served: it lacks names or its schema is too large; the registry is unchanged.
    pub fn install_crd(&mut self, crd: &Value) -> Result<InstalledCrd, Vec<FieldError>> {
        let held = crd.pointer("/metadata/name").and_then(Value::as_str).and_then(|name| self.inner.custom.get(name));
        if let Some(held) = held.filter(|held| held.digest == custom::digest(crd)) {
            return Ok(InstalledCrd { resources: held.resources.clone() });
        }
        let custom = Arc::new(custom::read(crd)?);
        let inner = Arc::make_mut(&mut self.inner);
        inner.remove(&custom.name);
        custom.resources.iter().for_each(|resource| inner.insert(Arc::clone(resource)));
        inner.custom.insert(Arc::clone(&custom.name), Arc::clone(&custom));
        Ok(InstalledCrd { resources: custom.resources.clone() })
    }

    /// Stops serving the resources of the CustomResourceDefinition with this `metadata.name`; `false` when there are none.
    pub fn remove_crd(&mut self, name: &str) -> bool {
        self.inner.custom.contains_key(name) && Arc::make_mut(&mut self.inner).remove(name)
    }

    pub(crate) fn custom_resources(&self) -> impl Iterator<Item = &Arc<CustomResource>> {
        self.inner.custom.values()
    }
}

impl Inner {
    fn insert(&mut self, resource: Arc<ResourceInfo>) {
        let group = self.groups.entry(Arc::clone(&resource.group)).or_default();
        let version = group.versions.entry(Arc::clone(&resource.version)).or_default();
        version.insert(Arc::clone(&resource.plural), resource);
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(custom) = self.custom.remove(name) else { return false };
        for resource in &custom.resources {
            let Some(group) = self.groups.get_mut(&resource.group) else { continue };
            if let Some(version) = group.versions.get_mut(&resource.version) {
                version.remove(&resource.plural);
            }
            group.versions.retain(|_, resources| !resources.is_empty());
            if group.versions.is_empty() {
                self.groups.remove(&resource.group);
            }
        }
        true
    }
}

/// Kubernetes' order of versions: `v2`, `v1`, `v2beta1`, `v1beta2`, `v1alpha1`, then all others by name.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    match (version_rank(a), version_rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Stability, major and minor number; greater is preferred.
fn version_rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    for (word, stability) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stability, major.parse().ok()?, minor.parse().ok()?));
        }
    }
    Some((2, rest.parse().ok()?, 0))
}

#[cfg(test)]
pub(crate) mod tests;
