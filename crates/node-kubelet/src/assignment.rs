//! What the hub has assigned to this node, as far as the node itself needs it: whether there is anything for the edge plane, and the
//! Services of its pods' namespaces.
//!
//! The first part of an assignment says how many there are; each is followed by its name, as a role with `resourceNames` allows it. An
//! entry may move from one part to another, and is then in none of them for a moment: Services are removed once that moment has passed.
//!
//! - **Nothing is removed because it could not be read.** While a part is away, Services stay as they were; so they do when a list
//!   has no assignment at all, as that of a hub which was put back. Its deletion, seen as it happens, does remove them.
//! - **Everything is on the disk before it is published**, so it is there after a reboot without a hub.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_edge::resources::{AssignmentEntry, assignment_name};
use api_edge::services::ServiceRecord;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use node_client::list_watch::{self, Reflector};
use node_client::{ApiClient, Object, StatusRegistry, encode};
use node_pods::{Store, StoreError};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Parts that are followed, each by a watch of its own, as the edge plane does.
const PARTS_MAX: u32 = 64;
/// Services that a node takes; a hub gives it fewer.
const SERVICES_MAX: usize = 10_000;
/// What their entries may take together.
const SERVICES_BYTES_MAX: usize = 8 << 20;
/// How long an entry may be on its way from one part to another.
const SETTLE_PERIOD: Duration = Duration::from_millis(250);
/// Longest name of an object, and of a namespace.
const NAME_BYTES_MAX: usize = 253;

/// What the assignment says is published here.
#[derive(Clone)]
pub(crate) struct Published {
    /// Whether there is anything for the edge plane.
    pub present: watch::Sender<Option<bool>>,
    /// The Services that concern this node, by namespace and name.
    pub services: watch::Sender<Arc<Vec<ServiceRecord>>>,
}

/// Follows the NodeAssignment of `node` until `shutdown`.
pub(crate) async fn run(
    client: ApiClient,
    node: String,
    store: Arc<Store>,
    published: Published,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let assignment = Arc::new(Assignment::new(node, store, published, registry.clone()));
    let mut counts = assignment.count.subscribe();
    let mut parts: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut ends: Vec<CancellationToken> = Vec::new();
    loop {
        let count = *counts.borrow_and_update();
        while ends.len() < count as usize {
            let end = shutdown.child_token();
            let source = Part { assignment: assignment.clone(), number: ends.len() as u32 };
            parts.push(Box::pin(list_watch::run(client.clone(), source, registry.clone(), end.clone())));
            ends.push(end);
        }
        ends.drain(count as usize..).for_each(|end| end.cancel());
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = counts.changed() => {}
            // One that was ended; the first one is followed until the shutdown.
            Some(()) = parts.next() => {}
        }
    }
    while parts.next().await.is_some() {}
}

/// What is known of all parts.
struct Assignment {
    node: String,
    store: Arc<Store>,
    published: Published,
    registry: StatusRegistry,
    parts: Mutex<Parts>,
    /// How many parts are followed.
    count: watch::Sender<u32>,
    /// Held while something is kept and published: parts come one by one, and so must what is made of them.
    publishing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Parts {
    known: BTreeMap<u32, Contents>,
    /// The assignment was deleted while it was watched.
    is_deleted: bool,
}

/// One part of the assignment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// How many parts it says there are.
    parts: u32,
    is_for_edge_plane: bool,
    services: Vec<ServiceRecord>,
}

impl Contents {
    fn of(object: Object, registry: &StatusRegistry) -> Self {
        let name = object.name().to_owned();
        let mut spec = object.into_value().get_mut("spec").map(Value::take).unwrap_or_default();
        let parts = spec["parts"].as_u64().map_or(1, |parts| u32::try_from(parts).unwrap_or(u32::MAX));
        if parts > PARTS_MAX {
            registry.error(format!("assignment {name} says that it has {parts} parts; a node follows {PARTS_MAX}"));
        }
        let entries = match spec.get_mut("entries").map(Value::take) {
            Some(Value::Array(entries)) => entries,
            _ => Vec::new(),
        };
        let mut contents = Self { parts: parts.clamp(1, PARTS_MAX), ..Self::default() };
        for entry in entries {
            if entry["kind"].as_str() != Some(api_edge::services::KIND) {
                contents.is_for_edge_plane = true;
                continue;
            }
            match service(entry) {
                Ok(service) => contents.services.push(service),
                Err(error) => {
                    warn!(assignment = %name, %error, "A Service cannot be read; it is left out.");
                    registry.error(format!("a Service of assignment {name} cannot be read: {error}"));
                }
            }
        }
        contents
    }
}

/// A Service of an entry.
fn service(entry: Value) -> Result<ServiceRecord, String> {
    let AssignmentEntry { namespace, name, uid, spec, .. } =
        serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let is_name = |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains('/');
    if !is_name(&namespace) || !is_name(&name) {
        return Err("it has no name".to_owned());
    }
    let spec = serde_json::from_value(spec).map_err(|error| format!("{namespace}/{name}: {error}"))?;
    Ok(ServiceRecord { namespace, name, uid, spec })
}

impl Assignment {
    fn new(node: String, store: Arc<Store>, published: Published, registry: StatusRegistry) -> Self {
        Self {
            node,
            store,
            published,
            registry,
            parts: Mutex::default(),
            count: watch::channel(1).0,
            publishing: tokio::sync::Mutex::default(),
        }
    }

    /// Takes note of a part as it is now.
    fn note(&self, number: u32, contents: Option<Contents>, is_deleted: bool) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if number == 0 {
            parts.is_deleted = is_deleted;
            // While the first part is away, as many as before are followed.
            if let Some(count) = contents.as_ref().map(|first| first.parts) {
                parts.known.retain(|number, _| *number < count);
                self.count.send_if_modified(|current| std::mem::replace(current, count) != count);
            }
        }
        match contents {
            Some(contents) if number < *self.count.borrow() => drop(parts.known.insert(number, contents)),
            _ => drop(parts.known.remove(&number)),
        }
    }

    /// Whether there is anything for the edge plane, and the Services; `None` while a part is missing. The latter are in order, and no
    /// more than a node takes.
    fn desired(&self) -> (bool, Option<Vec<ServiceRecord>>) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let present = parts.known.values().any(|part| part.is_for_edge_plane);
        let is_complete = parts.known.get(&0).is_some_and(|first| parts.known.len() == first.parts as usize);
        if !is_complete && !parts.is_deleted {
            return (present, None);
        }
        let known = parts.known.values().filter(|_| !parts.is_deleted).flat_map(|part| &part.services);
        let services: BTreeMap<(&str, &str), &ServiceRecord> =
            known.map(|service| ((&*service.namespace, &*service.name), service)).collect();
        let (all, mut bytes) = (services.len(), 0);
        let fitting = services.into_values().take(SERVICES_MAX).take_while(|service| {
            bytes += serde_json::to_vec(service).map_or(0, |encoded| encoded.len());
            bytes <= SERVICES_BYTES_MAX
        });
        let services: Vec<ServiceRecord> = fitting.cloned().collect();
        if services.len() < all {
            let left_out = all - services.len();
            self.registry.error(format!("{left_out} of {all} Services are left out: a node takes {SERVICES_MAX}"));
        }
        (present, Some(services))
    }

    /// Whether something that is published would be removed.
    fn removes(&self, services: &[ServiceRecord]) -> bool {
        let names: BTreeSet<(&str, &str)> = services.iter().map(|one| (&*one.namespace, &*one.name)).collect();
        let published = self.published.services.borrow();
        published.iter().any(|one| !names.contains(&(&*one.namespace, &*one.name)))
    }

    /// Keeps and publishes what the parts say together.
    async fn publish(&self) -> Result<(), StoreError> {
        let has_parts = *self.count.borrow() > 1;
        if has_parts && self.desired().1.is_some_and(|services| self.removes(&services)) {
            tokio::time::sleep(SETTLE_PERIOD).await;
        }
        let _turn = self.publishing.lock().await;
        let (present, services) = self.desired();
        let services = services.filter(|services| *services != **self.published.services.borrow()).map(Arc::new);
        let (store, kept) = (self.store.clone(), services.clone());
        let keeping = tokio::task::spawn_blocking(move || {
            store.put_assignment_present(present)?;
            kept.map_or(Ok(()), |services| store.put_services(&services))
        });
        match keeping.await {
            Ok(kept) => kept?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        self.published.present.send_if_modified(|current| current.replace(present) != Some(present));
        if let Some(services) = services {
            self.published.services.send_replace(services);
        }
        Ok(())
    }
}

/// Follows one part of the assignment.
struct Part {
    assignment: Arc<Assignment>,
    number: u32,
}

impl Part {
    fn name(&self) -> String {
        assignment_name(&self.assignment.node, self.number)
    }

    async fn take(&mut self, object: Option<Object>, is_deleted: bool) -> Result<(), StoreError> {
        // Only what was asked for is taken.
        let own = object.filter(|object| object.name() == self.name());
        let contents = own.map(|object| Contents::of(object, &self.assignment.registry));
        self.assignment.note(self.number, contents, is_deleted);
        self.assignment.publish().await
    }
}

impl Reflector for Part {
    type Error = StoreError;

    fn path(&self) -> String {
        // By name alone, as a role with `resourceNames` allows it.
        let selector = encode(&format!("metadata.name={}", self.name()));
        format!("/apis/{}/nodeassignments?fieldSelector={selector}", api_edge::API_VERSION)
    }

    fn kind(&self) -> &'static str {
        "NodeAssignment"
    }

    async fn replace(&mut self, items: Vec<Object>, _resource_version: &str) -> Result<(), StoreError> {
        let name = self.name();
        self.take(items.into_iter().find(|item| item.name() == name), false).await
    }

    async fn apply(&mut self, part: Object) -> Result<(), StoreError> {
        self.take(Some(part), false).await
    }

    async fn delete(&mut self, _part: Object) -> Result<(), StoreError> {
        self.take(None, true).await
    }
}

#[cfg(test)]
mod tests;
