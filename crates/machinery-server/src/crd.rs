//! CustomResourceDefinitions: what is written to the store also changes what is served.
//!
//! ```text
//! create, update ── write ─▶ settle: status of it and of its group ── write ─▶ publish: served
//! delete ── write ─▶ terminate: objects deleted, or waiting for their finalizers ─▶ withdraw ── removed
//! ```
//!
//! In kube-apiserver controllers do the second step. Here it is done before the request is answered, under the lock of
//! definitions, so that a client that has created a definition can use it at once. Its answer is what was written first,
//! as there. When the second write fails, or the program ends between the two, [`Server::settle_definitions`] does it at the
//! next start.

use std::sync::Arc;

use machinery_kinds::crd::definition::{self, OtherNames};
use machinery_kinds::{Registry, ResourceInfo};
use machinery_store::{CommitError, Durability, Encoded as StoredForm, Expect, Expired, Key, Object, Op, Store};
use serde_json::Value;
use tracing::{info, warn};

use crate::object::{Encoded, index_fields, is_terminating, metadata, name_of, text_at, timestamp, with_revision};
use crate::owners::{after_status, compact, owners_of};
use crate::server::{Inner, Server};
use crate::status::{ApiError, Result};

/// Where definitions are kept.
pub(crate) const RESOURCE: &str = "apiextensions.k8s.io/customresourcedefinitions";

/// How often a status is computed anew when somebody else writes the definition in between.
const TRIES: usize = 10;

/// Objects that are deleted in one step.
const BATCH: usize = 256;

/// Whether this is the resource of definitions.
pub(crate) fn is_crd(info: &ResourceInfo) -> bool {
    &*info.kind == "CustomResourceDefinition" && &*info.group == "apiextensions.k8s.io"
}

/// The registry with everything that the store defines. A definition that an older version took and this one does not
/// is left out with a warning; its objects stay.
pub(crate) fn load(store: &Store) -> std::result::Result<Registry, Expired> {
    let mut registry = Registry::builtin();
    for object in store.range(RESOURCE, None, None, None, None)?.items {
        match serde_json::from_slice::<Value>(&object.bytes) {
            Ok(crd) if definition::is_established(&crd) => install(&mut registry, &crd),
            Ok(_) => {}
            Err(error) => warn!(crd = %object.key.name, %error, "A stored definition cannot be read."),
        }
    }
    Ok(registry)
}

fn install(registry: &mut Registry, crd: &Value) {
    if let Err(errors) = registry.install_crd(crd) {
        let error = machinery_kinds::join_field_errors(&errors);
        warn!(crd = name_of(crd), error, "A stored definition cannot be served; its resources are missing.");
    }
}

impl Server {
    /// Brings the status of definitions up to date whose second write did not happen, and ends deletions that were
    /// interrupted. To be called at the start.
    ///
    /// # Errors
    /// When the disk does not take it. What is missing is not served until the next start.
    pub async fn settle_definitions(&self) -> std::result::Result<(), CommitError> {
        let server = &self.0;
        let _guard = server.crd_writes.lock().await;
        for object in server.store.snapshot(RESOURCE).iter(None, None) {
            let Ok(crd) = serde_json::from_slice::<Value>(&object.bytes) else { continue };
            if is_terminating(&crd) {
                terminate(server, &object.key.name).await?;
            } else if !definition::is_established(&crd) {
                settle(server, &object.key.name).await?;
            }
        }
        Ok(())
    }
}

/// The registry as it will be when a definition is written; none when it is not served.
pub(crate) fn stage(server: &Inner, crd: &Value) -> Option<Registry> {
    if !definition::is_established(crd) {
        return None;
    }
    let mut registry = server.registry();
    registry.install_crd(crd).ok()?;
    Some(registry)
}

/// Serves another set of resources from now on.
fn publish(server: &Inner, registry: Registry) {
    *server.registry.write().unwrap_or_else(std::sync::PoisonError::into_inner) = registry;
}

/// Brings the status of a definition that was written up to date, and that of others which wait for names that it may
/// have given up; then serves them. The caller holds the lock of definitions.
pub(crate) async fn settle(server: &Inner, name: &str) -> std::result::Result<(), CommitError> {
    let group = name.split_once('.').map_or("", |(_, group)| group);
    // Its own names come first: those that wait get what is left.
    let mut waiting = vec![name.to_owned()];
    waiting.extend(names_of_group(server, group).into_iter().filter(|other| other != name));
    for (number, other) in waiting.iter().enumerate() {
        let Some(crd) = settle_one(server, other, group).await? else { continue };
        if number == 0 || crd.is_changed {
            let mut registry = server.registry();
            if definition::is_established(&crd.value) {
                install(&mut registry, &crd.value);
            } else {
                registry.remove_crd(other);
            }
            publish(server, registry);
        }
    }
    Ok(())
}

struct Settled {
    value: Value,
    is_changed: bool,
}

async fn settle_one(server: &Inner, name: &str, group: &str) -> std::result::Result<Option<Settled>, CommitError> {
    for _ in 0..TRIES {
        let Some((stored, mut crd)) = read(server, name) else { return Ok(None) };
        let mut others = OtherNames::default();
        for other in names_of_group(server, group).iter().filter(|other| *other != name) {
            if let Some((_, other)) = read(server, other) {
                others.add(&other);
            }
        }
        let now = timestamp(jiff::Timestamp::now());
        if !definition::settle(&mut crd, &others, &now) {
            return Ok(Some(Settled { value: crd, is_changed: false }));
        }
        match write(server, &stored, &crd).await {
            Ok(()) => return Ok(Some(Settled { value: crd, is_changed: true })),
            Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::NotFound) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    warn!(crd = name, "A definition is written too often for its status to be brought up to date.");
    Ok(None)
}

fn names_of_group(server: &Inner, group: &str) -> Vec<String> {
    let snapshot = server.store.snapshot(RESOURCE);
    let names = snapshot.iter(None, None).map(|object| object.key.name.to_string());
    names.filter(|name| name.split_once('.').is_some_and(|(_, of)| of == group)).collect()
}

fn read(server: &Inner, name: &str) -> Option<(Arc<Object>, Value)> {
    let stored = server.store.get(&Key::new(RESOURCE, "", name))?;
    let crd = serde_json::from_slice(&stored.bytes).ok()?;
    Some((stored, crd))
}

/// Writes the status of a definition.
async fn write(server: &Inner, stored: &Object, crd: &Value) -> std::result::Result<(), CommitError> {
    let registry = server.registry();
    let info = registry.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("it is built in");
    let index = index_fields(info, crd);
    let before = serde_json::from_slice(&stored.bytes).unwrap_or_default();
    let managed = compact(&after_status(&registry, info, &before, &owners_of(stored), crd));
    let encoded = Encoded::new(crd);
    let put = Op::Put {
        key: stored.key.clone(),
        expect: Expect::Revision(stored.revision),
        encode: Box::new(move |revision| StoredForm { bytes: encoded.at(revision), managed, index }),
    };
    server.store.commit(vec![put], Durability::Group).await.map(drop)
}

/// Deletes the objects of a definition whose deletion has begun, and the definition when none is left. Objects with
/// finalizers are asked to go, and hold it. The caller holds the lock of definitions.
pub(crate) async fn terminate(server: &Inner, name: &str) -> std::result::Result<(), CommitError> {
    for _ in 0..TRIES {
        let Some((stored, mut crd)) = read(server, name).filter(|(_, crd)| is_terminating(crd)) else { return Ok(()) };
        let mut registry = server.registry();
        if definition::is_established(&crd) {
            install(&mut registry, &crd);
            publish(server, registry);
        }
        let resource = resource_of(&crd);
        if delete_all(server, &resource, false).await? > 0 {
            return Ok(());
        }
        let finalizers = metadata(&mut crd).get_mut("finalizers").and_then(Value::as_array_mut);
        let is_held = finalizers.is_some_and(|finalizers| {
            finalizers.retain(|finalizer| finalizer != definition::FINALIZER);
            !finalizers.is_empty()
        });
        let written = if is_held { write(server, &stored, &crd).await } else { remove(server, &stored, &crd).await };
        match written {
            Ok(()) | Err(CommitError::NotFound) => return Ok(()),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes a definition out of service and removes it. When that fails its resource is served again.
async fn remove(server: &Inner, stored: &Object, crd: &Value) -> std::result::Result<(), CommitError> {
    let served = server.registry();
    let mut without = served.clone();
    without.remove_crd(name_of(crd));
    publish(server, without);
    let last = stored.bytes.clone();
    let delete = Op::Delete {
        key: stored.key.clone(),
        expect: Expect::Revision(stored.revision),
        final_bytes: Box::new(move |revision| with_revision(&last, revision)),
    };
    match server.store.commit(vec![delete], Durability::Group).await {
        Ok(_) => {
            // A create that was under way may have come in between; from now on none can.
            delete_all(server, &resource_of(crd), true).await?;
            let group = text_at(crd, "/spec/group").to_owned();
            for other in names_of_group(server, &group) {
                // Its names are free.
                Box::pin(settle(server, &other)).await?;
            }
            Ok(())
        }
        Err(error) => {
            publish(server, served);
            Err(error)
        }
    }
}

/// After an object of a terminating definition was removed: perhaps it was the last.
pub(crate) async fn finish_termination(server: &Inner, info: &ResourceInfo) {
    if !info.is_terminating() {
        return;
    }
    let _guard = server.crd_writes.lock().await;
    if let Err(error) = terminate(server, &info.qualified_name()).await {
        warn!(%error, crd = info.qualified_name(), "Failed to remove a definition whose objects were removed.");
    }
}

/// Does `remove`, which takes a definition away as its client requests, when its resource is served no more and its objects
/// are deleted. When that fails the resource is served again. The caller holds the lock of definitions.
pub(crate) async fn undefine<T, E>(
    server: &Inner,
    crd: &Value,
    remove: impl Future<Output = std::result::Result<T, E>>,
    refuse: impl Fn(ApiError) -> E,
) -> std::result::Result<T, E> {
    let served = server.registry();
    let mut without = served.clone();
    without.remove_crd(name_of(crd));
    publish(server, without);
    let resource = resource_of(crd);
    let commit = |error: CommitError| refuse(ApiError::commit(&error));
    let removed = match delete_all(server, &resource, true).await {
        Ok(_) => remove.await,
        Err(error) => Err(commit(error)),
    };
    match &removed {
        // A create that was under way may have come in between; from now on none can.
        Ok(_) => drop(delete_all(server, &resource, true).await.map_err(commit)?),
        Err(_) => publish(server, served),
    }
    removed
}

/// The store's name of the resource that a definition brings.
fn resource_of(crd: &Value) -> String {
    format!("{}/{}", text_at(crd, "/spec/group"), text_at(crd, "/spec/names/plural"))
}

/// Deletes the objects of a resource whose definition goes; how many stay, because finalizers hold them and they are not
/// deleted `by_force`.
async fn delete_all(server: &Inner, resource: &str, by_force: bool) -> std::result::Result<usize, CommitError> {
    let mut deleted = 0;
    let mut held = 0;
    let snapshot = server.store.snapshot(resource);
    let mut batch = Vec::new();
    let objects: Vec<Arc<Object>> = snapshot.iter(None, None).cloned().collect();
    for object in &objects {
        match operation(server, resource, object, by_force) {
            Step::Delete(op) => {
                deleted += 1;
                batch.push(op);
            }
            Step::Mark(op) => {
                held += 1;
                batch.push(op);
            }
            Step::Wait => held += 1,
        }
        if batch.len() >= BATCH {
            commit(server, std::mem::take(&mut batch)).await?;
        }
    }
    commit(server, batch).await?;
    if deleted > 0 {
        info!(resource, count = deleted, "Deleted the objects of a resource with its definition.");
    }
    Ok(held)
}

/// One after the other when they do not go together: an object that others change meanwhile is left to the next look.
async fn commit(server: &Inner, ops: Vec<(Key, Op)>) -> std::result::Result<(), CommitError> {
    for (_, op) in ops {
        match server.store.commit(vec![op], Durability::Group).await {
            Ok(_) | Err(CommitError::NotFound | CommitError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

enum Step {
    Delete((Key, Op)),
    Mark((Key, Op)),
    Wait,
}

fn operation(server: &Inner, resource: &str, object: &Object, by_force: bool) -> Step {
    let value = serde_json::from_slice::<Value>(&object.bytes).unwrap_or_default();
    let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array);
    let is_held = finalizers.is_some_and(|finalizers| !finalizers.is_empty());
    if by_force || !is_held {
        let last = object.bytes.clone();
        let delete = Op::Delete {
            key: object.key.clone(),
            expect: Expect::Any,
            final_bytes: Box::new(move |revision| with_revision(&last, revision)),
        };
        return Step::Delete((object.key.clone(), delete));
    }
    if is_terminating(&value) {
        return Step::Wait;
    }
    let mut value = value;
    let fields = metadata(&mut value);
    fields.insert("deletionTimestamp".to_owned(), timestamp(jiff::Timestamp::now()).into());
    fields.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
    if let Some(generation) = fields.get("generation").and_then(Value::as_i64) {
        fields.insert("generation".to_owned(), (generation + 1).into());
    }
    let registry = server.registry();
    let info = registry.resources().find(|info| &*info.storage_key == resource);
    let index = info.map_or_else(|| object.index.clone(), |info| index_fields(info, &value));
    let (encoded, managed) = (Encoded::new(&value), object.managed.clone());
    let put = Op::Put {
        key: object.key.clone(),
        expect: Expect::Revision(object.revision),
        encode: Box::new(move |revision| StoredForm { bytes: encoded.at(revision), managed, index }),
    };
    Step::Mark((object.key.clone(), put))
}

/// Nothing is created while the definition goes.
pub(crate) fn check_creatable(info: &ResourceInfo, name: &str) -> Result<()> {
    if info.is_terminating() {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::forbidden(info, name, why));
    }
    Ok(())
}
