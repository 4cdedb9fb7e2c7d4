//! How one write changes who owns what: the algorithm itself, for managers that are named already.

use std::borrow::Cow;
use std::collections::BTreeMap;

use machinery_schema::Budget;
use serde_json::Value;

use super::manager::ApplyKind;
use super::{Conflicts, ManagerId, VersionedSet};
use crate::fields::FieldSet;
use crate::schema::ApplySchema;
use crate::typed::{self, Comparison, Duplicates, Typed, TypedError};

/// Owners by manager, while a write is on its way.
pub(super) type Owners = BTreeMap<ManagerId, VersionedSet>;

/// Why an algorithm came to no end.
#[derive(Debug)]
pub(super) enum UpdaterError {
    Conflicts(Conflicts),
    /// The words for it.
    Failed(String),
    Budget(crate::PatchError),
}

impl UpdaterError {
    fn typed(act: &str, error: TypedError) -> Self {
        match error {
            TypedError::Invalid(errors) => Self::Failed(format!("{act}: {errors}")),
            TypedError::TooLarge(error) => Self::Budget(error),
        }
    }
}

/// A kind at the version of the request.
pub(super) struct Updater<'k, K> {
    pub kind: &'k K,
    pub api_version: &'k str,
}

/// An object at some version, with that version's schema.
struct Versioned<'v, S> {
    value: Cow<'v, Value>,
    schema: S,
}

impl<S: ApplySchema> Versioned<'_, S> {
    /// Objects that the server converted fit their schema: nothing is checked again.
    fn typed(&self) -> Typed<'_, S> {
        Typed { value: &self.value, schema: self.schema }
    }
}

impl<K: ApplyKind> Updater<'_, K> {
    /// An object of the request's version at another; `None` when that is not served (any more).
    fn convert<'v>(&self, value: &'v Value, api_version: &str) -> Option<Versioned<'v, K::Schema>> {
        let schema = self.kind.schema(api_version)?;
        let value = if api_version == self.api_version {
            Cow::Borrowed(value)
        } else {
            Cow::Owned(self.kind.convert(value, api_version)?)
        };
        Some(Versioned { value, schema })
    }

    /// Takes from all managers but `writer` what changed from one object to another. Gives what changed at the request's
    /// version.
    fn take_changed(
        &self,
        old: Typed<'_, K::Schema>,
        new: Typed<'_, K::Schema>,
        owners: &mut Owners,
        writer: &ManagerId,
        force: bool,
    ) -> Result<Comparison, UpdaterError> {
        let own = typed::compare(old, new).filtered(self.kind.filter(self.api_version));
        let mut others: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        let mut conflicts: BTreeMap<ManagerId, FieldSet> = BTreeMap::new();
        let mut obsolete = Vec::new();
        for (id, entry) in owners.iter().filter(|(id, _)| *id != writer) {
            let comparison = if entry.api_version == self.api_version {
                &own
            } else {
                let comparison = others.entry(entry.api_version.clone()).or_insert_with(|| {
                    let old = self.convert(old.value, &entry.api_version)?;
                    let new = self.convert(new.value, &entry.api_version)?;
                    let comparison = typed::compare(old.typed(), new.typed());
                    Some(comparison.filtered(self.kind.filter(&entry.api_version)))
                });
                match comparison {
                    Some(comparison) => &*comparison,
                    None => {
                        obsolete.push(id.clone());
                        continue;
                    }
                }
            };
            let taken = entry.set.intersection(&comparison.modified).union(&entry.set.intersection(&comparison.added));
            if !taken.is_empty() {
                conflicts.insert(id.clone(), taken);
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(UpdaterError::Conflicts(Conflicts::of(&conflicts)));
        }
        for id in obsolete {
            owners.remove(&id);
        }
        for (id, entry) in owners.iter_mut().filter(|(id, _)| *id != writer) {
            if let Some(taken) = conflicts.get(id) {
                entry.set = entry.set.difference(taken);
            }
            let comparison = if entry.api_version == self.api_version {
                Some(&own)
            } else {
                others.get(&entry.api_version).and_then(Option::as_ref)
            };
            if let Some(comparison) = comparison.filter(|comparison| !comparison.removed.is_empty()) {
                entry.set = entry.set.difference(&comparison.removed);
            }
        }
        owners.retain(|_, entry| !entry.set.is_empty());
        Ok(own)
    }

    /// The owners after an object was written as it is: the writer owns what it changed.
    pub fn update(
        &self,
        live: &Value,
        new: &Value,
        mut owners: Owners,
        writer: &ManagerId,
        budget: &mut Budget,
    ) -> Result<Owners, UpdaterError> {
        let schema = self.own_schema()?;
        let new = Typed::new(new, schema, Duplicates::Allowed, budget)
            .map_err(|error| UpdaterError::typed("failed to convert new object to smd typed", error))?;
        let live = Typed::new(live, schema, Duplicates::Allowed, budget)
            .map_err(|error| UpdaterError::typed("failed to convert live object to smd typed", error))?;
        self.reconcile(&mut owners);
        let changed = self.take_changed(live, new, &mut owners, writer, true)?;
        let held = owners.remove(writer).map(|entry| entry.set).unwrap_or_default();
        let mut set = held.difference(&changed.removed).union(&changed.modified).union(&changed.added);
        if let Some(filter) = self.kind.filter(self.api_version) {
            set = filter.apply(&set);
        }
        if !set.is_empty() {
            owners.insert(writer.clone(), VersionedSet { set, api_version: self.api_version.to_owned() });
        }
        Ok(owners)
    }

    /// The object and its owners after a configuration was applied; no object when it changed nothing.
    pub fn apply(
        &self,
        live: Typed<'_, K::Schema>,
        config: Typed<'_, K::Schema>,
        mut owners: Owners,
        writer: &ManagerId,
        force: bool,
    ) -> Result<(Option<Value>, Owners), UpdaterError> {
        self.reconcile(&mut owners);
        let merged = typed::merge(live, config);
        let mut set = typed::field_set(config);
        if let Some(filter) = self.kind.filter(self.api_version) {
            set = filter.apply(&set);
        }
        let last = owners.insert(writer.clone(), VersionedSet { set, api_version: self.api_version.to_owned() });
        let new = match last.filter(|last| !last.set.is_empty()) {
            Some(last) => self.prune(&merged, &owners, &last).unwrap_or(merged),
            None => merged,
        };
        self.take_changed(live, Typed { value: &new, schema: live.schema }, &mut owners, writer, force)?;
        let is_same = crate::fields::compare_values(live.value, &new).is_eq();
        Ok(((!is_same).then_some(new), owners))
    }

    /// Removes what the writer owned, names no longer, and nobody else owns. `None` when the version at which it last
    /// applied is not served any more: nothing is removed then.
    fn prune(&self, merged: &Value, owners: &Owners, last: &VersionedSet) -> Option<Value> {
        let at_last = self.convert(merged, &last.api_version)?;
        let schema = Some(at_last.schema);
        let last_set = last.set.with_named_fields(schema);
        let pruned = typed::remove(at_last.typed(), &last_set);

        // What others own comes back, first at the version last applied, since other versions may need it to convert.
        let mut by_version: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for entry in owners.values() {
            let set = by_version.entry(&entry.api_version).or_default();
            *set = set.union(&entry.set);
        }
        let mut pruned = pruned;
        let first = by_version.remove(last.api_version.as_str());
        let versions = first.map(|set| (last.api_version.as_str(), set)).into_iter().chain(by_version);
        for (version, owned) in versions {
            pruned = self.add_back_owned(merged, pruned, &last.api_version, version, &owned);
        }

        // So does what dangles: removed because something around it was, though it never was the writer's.
        let merged_set = typed::field_set(at_last.typed()).with_named_fields(schema);
        let pruned_set = typed::field_set(Typed { value: &pruned, schema: at_last.schema }).with_named_fields(schema);
        let removed = merged_set.difference(&pruned_set).intersection(&last_set);
        let left = typed::remove(at_last.typed(), &removed);
        if last.api_version == self.api_version { Some(left) } else { self.kind.convert(&left, self.api_version) }
    }

    /// Of what is in `merged`, keeps what is in `pruned` or owned at `version`. `pruned` is at `pruned_version`, before and
    /// after; `merged` is at the request's.
    fn add_back_owned(
        &self,
        merged: &Value,
        pruned: Value,
        pruned_version: &str,
        version: &str,
        owned: &FieldSet,
    ) -> Value {
        let Some(merged) = self.convert(merged, version) else { return pruned };
        let there = if version == pruned_version {
            Some(Cow::Borrowed(&pruned))
        } else {
            self.kind.convert(&pruned, version).map(Cow::Owned)
        };
        let Some(there) = there else { return pruned };
        let schema = Some(merged.schema);
        let merged_set = typed::field_set(merged.typed()).with_named_fields(schema);
        let pruned_set = typed::field_set(Typed { value: &there, schema: merged.schema }).with_named_fields(schema);
        let kept = pruned_set.union(&owned.with_named_fields(schema));
        let left = typed::remove(merged.typed(), &merged_set.difference(&kept));
        if version == pruned_version {
            return left;
        }
        self.kind.convert(&left, pruned_version).unwrap_or(pruned)
    }

    /// Brings the owners in line with today's schemas; those of versions that are not served any more are left out.
    fn reconcile(&self, owners: &mut Owners) {
        owners.retain(|_, entry| self.kind.schema(&entry.api_version).is_some());
        for entry in owners.values_mut() {
            if let Some(set) = self.kind.schema(&entry.api_version).and_then(|schema| entry.set.reconciled(schema)) {
                entry.set = set;
            }
        }
    }

    pub fn own_schema(&self) -> Result<K::Schema, UpdaterError> {
        self.kind
            .schema(self.api_version)
            .ok_or_else(|| UpdaterError::Failed(format!("no corresponding type for {}", self.api_version)))
    }
}
