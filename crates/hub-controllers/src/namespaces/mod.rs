//! Namespaces: a default service account in each, and an end that takes the content along.
//!
//! What a namespace on its way out still holds may be of any kind, and most kinds are not watched here. So such a
//! namespace is looked at again in growing steps, and at once when a pod of it is deleted; no other change of a pod
//! concerns it. Meanwhile its conditions show a person what holds it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::ApiResource;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::served::Served;
use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::batch::slow_start;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::AnyView;
use hub_runtime::writer::{WriteError, Writer, absent_is_false};
use hub_runtime::{Event, Next, Queue, Reconciler};

/// How soon a namespace on its way out is looked at again; doubled up to the second.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// The finalizer in the spec of a namespace that is ours; whatever else is there, others wait for.
const FINALIZER: &str = "kubernetes";

/// The controller.
pub(crate) struct Namespaces {
    context: Context,
    /// Namespaces on their way out, and when to look at them again.
    terminating: Mutex<HashMap<Box<str>, Duration>>,
    /// What a namespace may hold.
    resources: Served<Vec<ApiResource>>,
}

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// `plural.group` → how many objects.
    pub resources: BTreeMap<String, usize>,
    /// Finalizer → how many objects it holds.
    pub finalizers: BTreeMap<String, usize>,
    /// Why something could not be deleted.
    pub error: Option<String>,
}

impl Namespaces {
    pub fn new(context: Context) -> Self {
        Self { context, terminating: Mutex::default(), resources: Served::default() }
    }

    /// What a namespace may hold, as the API serves it now.
    async fn discover(&self) -> Result<Vec<ApiResource>, WriteError> {
        let discovery = self.context.writer.discover().await?;
        let found = discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
        let deletable = found.filter(|(_, capabilities)| {
            capabilities.scope == kube::discovery::Scope::Namespaced
                && capabilities.supports_operation(kube::discovery::verbs::DELETE)
                && capabilities.supports_operation(kube::discovery::verbs::LIST)
        });
        Ok(deletable.map(|(resource, _)| resource).collect())
    }

    /// Deletes all objects of a resource in a namespace, and notes what is left.
    async fn clear(&self, resource: &ApiResource, name: &str, remaining: &mut Remaining) {
        if let Err(error) = delete_all(&self.context.writer, resource, name, remaining).await {
            // A resource whose definition was deleted meanwhile is not served any more, and holds nothing.
            if error.code() == Some(404) {
                self.resources.forget();
                return;
            }
            remaining.error.get_or_insert_with(|| error.reason());
        }
    }

    /// Deletes what is left in a namespace; lets the namespace go when nothing is.
    async fn empty(&self, namespace: &Value, name: &str) -> Result<Next, ReconcileError> {
        let writer = &self.context.writer;
        let mut remaining = Remaining::default();
        let known = self.resources.known(self.discover()).await?;
        for resource in known.iter() {
            self.clear(resource, name, &mut remaining).await;
        }
        if remaining == Remaining::default() {
            // What was known may be older than the newest definition, whose objects nobody would find again.
            let now = self.resources.afresh(self.discover()).await?;
            for resource in now.iter().filter(|resource| !known.contains(resource)) {
                self.clear(resource, name, &mut remaining).await;
            }
        }
        if remaining == Remaining::default() {
            let finalizers = namespace["spec"]["finalizers"].as_array();
            let (own, others): (Vec<&Value>, Vec<&Value>) =
                finalizers.into_iter().flatten().partition(|finalizer| **finalizer == FINALIZER);
            if !own.is_empty() {
                let mut done = namespace.clone();
                done["spec"]["finalizers"] = json!(others);
                writer.replace_subresource(Kind::Namespace, name, "finalize", &done).await?;
            }
            return Ok(Next::OnChange);
        }
        let conditions = conditions(namespace, &remaining, self.context.clock.now());
        if conditions != namespace["status"]["conditions"] {
            writer.merge_status(Kind::Namespace, ("", name), &json!({"conditions": conditions})).await?;
        }
        let mut terminating = self.terminating.lock();
        let wait = terminating.entry(name.into()).or_insert(RETRY_MIN);
        let next = Next::After(*wait);
        *wait = (*wait * 2).min(RETRY_MAX);
        Ok(next)
    }
}

/// Deletes all objects of a resource in a namespace, and counts those that are still there.
async fn delete_all(
    writer: &Writer,
    resource: &ApiResource,
    namespace: &str,
    remaining: &mut Remaining,
) -> Result<(), WriteError> {
    let client: Client = writer.client().clone();
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, resource);
    let act = || format!("delete {} of namespace {namespace}", resource.plural);
    let list = api.list_metadata(&ListParams::default()).await.map_err(Writer::failed(act()))?;
    let alive = list.items.iter().filter(|object| object.metadata.deletion_timestamp.is_none());
    let names: Vec<String> = alive.filter_map(|object| object.metadata.name.clone()).collect();
    if list.items.is_empty() {
        return Ok(());
    }
    let deleted = slow_start(names, |name| {
        let (api, act) = (api.clone(), act());
        async move {
            let deleted = api.delete(&name, &DeleteParams::default()).await;
            // Left: what waits for its deletion. Right: it is deleted.
            let is_deleted = matches!(&deleted, Ok(response) if response.is_right());
            absent_is_false(deleted.map(|_| ()), || act).map(|was_there| (name, is_deleted || !was_there))
        }
    })
    .await;
    let removed: Vec<&String> =
        deleted.done.iter().filter(|(_, is_deleted)| *is_deleted).map(|(name, _)| name).collect();
    let left =
        list.items.iter().filter(|object| !object.metadata.name.as_ref().is_some_and(|name| removed.contains(&name)));
    for object in left {
        // As upstream writes it: with a dot where there is no group, too.
        let resource = format!("{}.{}", resource.plural, resource.group);
        *remaining.resources.entry(resource).or_default() += 1;
        for finalizer in object.metadata.finalizers.iter().flatten() {
            *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    deleted.error.map_or(Ok(()), Err)
}

/// Upstream's conditions of a namespace on its way out.
pub(crate) fn conditions(namespace: &Value, remaining: &Remaining, now: Timestamp) -> Value {
    let sentence = |what: &str, parts: Vec<String>| format!("{what}: {}", parts.join(", "));
    let resources = remaining.resources.iter();
    let resources: Vec<String> =
        resources.map(|(resource, count)| format!("{resource} has {count} resource instances")).collect();
    let finalizers = remaining.finalizers.iter();
    let finalizers: Vec<String> =
        finalizers.map(|(finalizer, count)| format!("{finalizer} in {count} resource instances")).collect();
    let content = match resources.is_empty() {
        true => ("False", "ContentRemoved", "All content successfully removed".to_owned()),
        false => ("True", "SomeResourcesRemain", sentence("Some resources are remaining", resources)),
    };
    let held = match finalizers.is_empty() {
        true => ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned()),
        false => {
            let what = "Some content in the namespace has finalizers remaining";
            ("True", "SomeFinalizersRemain", sentence(what, finalizers))
        }
    };
    let failure = match &remaining.error {
        None => {
            let message = "All content successfully deleted, may be waiting on finalization";
            ("False", "ContentDeleted", message.to_owned())
        }
        Some(error) => ("True", "ContentDeletionFailed", format!("Failed to delete all resource types: {error}")),
    };
    let done = |reason, message: &str| ("False", reason, message.to_owned());
    let old = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let desired = [
        // Conditions are written of what was discovered.
        ("NamespaceDeletionDiscoveryFailure", done("ResourcesDiscovered", "All resources successfully discovered")),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            done("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        ("NamespaceDeletionContentFailure", failure),
        ("NamespaceContentRemaining", content),
        ("NamespaceFinalizersRemaining", held),
    ];
    let desired = desired.map(|(r#type, (status, reason, message))| {
        let before = old.iter().find(|condition| condition["type"] == r#type && condition["status"] == status);
        let time = before.map_or_else(|| seconds(now).into(), |before| before["lastTransitionTime"].clone());
        json!({"type": r#type, "status": status, "reason": reason, "message": message, "lastTransitionTime": time})
    });
    let others = old.iter().filter(|condition| !desired.iter().any(|desired| desired["type"] == condition["type"]));
    others.cloned().chain(desired.iter().cloned()).collect()
}

impl Reconciler for Namespaces {
    type Key = Box<str>;

    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Namespace, Kind::ServiceAccount, Kind::Pod, Kind::CustomResourceDefinition]
    }

    fn observe(&self, event: &Event, queue: &Queue<Box<str>>) {
        match event {
            Event::Listed(Kind::Namespace, namespaces) => {
                namespaces.iter().for_each(|namespace| queue.add(namespace.name().into()));
            }
            Event::Listed(Kind::ServiceAccount, _) => {
                self.context.reader.list(Kind::Namespace, None).for_each(|one| queue.add(one.name().into()));
            }
            Event::Listed(Kind::CustomResourceDefinition, _) => self.resources.forget(),
            Event::Listed(_, _) => {
                self.terminating.lock().keys().for_each(|namespace| queue.add(namespace.clone()));
            }
            Event::Changed(change) => match change.kind {
                Kind::Namespace => queue.add(change.newest().name().into()),
                Kind::CustomResourceDefinition => self.resources.forget(),
                Kind::ServiceAccount if change.current.is_some() || change.newest().name() != "default" => {}
                _ if change.current.is_some() => {}
                Kind::ServiceAccount => queue.add(change.newest().namespace().into()),
                _ => {
                    let namespace = change.newest().namespace();
                    if let Some(wait) = self.terminating.lock().get_mut(namespace) {
                        *wait = RETRY_MIN;
                        queue.add(namespace.into());
                    }
                }
            },
        }
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let Some(object) = reader.get(Kind::Namespace, "", name) else {
            self.terminating.lock().remove(name);
            return Ok(Next::OnChange);
        };
        if object.view::<AnyView<'_>>()?.metadata.is_terminating() {
            self.terminating.lock().entry(name.clone()).or_insert(RETRY_MIN);
            return self.empty(&object.value()?, name).await;
        }
        if reader.get(Kind::ServiceAccount, name, "default").is_none() {
            let account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
            });
            writer.create(Kind::ServiceAccount, account).await?;
        }
        Ok(Next::OnChange)
    }
}

#[cfg(test)]
mod tests;
