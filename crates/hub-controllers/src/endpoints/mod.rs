//! EndpointSlices and Endpoints: which pods answer for a Service; and slices of Endpoints that somebody else writes ([`mirror`]).
//!
//! ```text
//! pod changed ──services of its namespace that select it, before or after──┐
//! Service, slice or Endpoints changed ─────────────────────────────────────┴──▶ key: namespace/name of a Service
//!
//! reconcile: members → endpoints by ports → what is in which slice → create, replace, delete → Endpoints
//! ```
//!
//! Our own nodes serve Services by their `NodeAssignment`; slices are for everybody else: `kubectl describe`, ingress controllers,
//! discovery in programs. Which pods a Service selects is kept by name and brought up to date by each change, so that a pod that
//! becomes ready costs the members of its Services and not the pods of its namespace. An endpoint stays in the slice that it
//! is in, so that a pod of a thousand changes one slice of ten.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, Labels, ObjectMeta, Text, nullable};
use hub_runtime::writer::{Target, WriteError, Writer};
use hub_runtime::{Change, Context, Event, Field, Next, ObjectRef, Queue, ReconcileError, Reconciler};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

mod mirror;
mod plan;

pub(crate) use mirror::Mirror;
use plan::{Endpoint, Family, Plan, Slice};

/// Who writes a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ENDPOINTS_MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Labels of a Service that its slices have for themselves.
const OWN_LABELS: &[&str] = &[MANAGED_BY, SERVICE_NAME, HEADLESS, ENDPOINTS_MANAGED_BY];
/// As upstream: an Endpoints object is one object, however many pods there are.
const ENDPOINTS_MAX: usize = 1000;
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(200);

/// Namespace and name.
type Key = (Box<str>, Box<str>);

/// The controller.
pub(crate) struct Endpoints {
    context: Context,
    members: Mutex<Members>,
}

/// Which pods each Service selects.
#[derive(Default)]
struct Members(HashMap<Key, BTreeSet<Box<str>>>);

/// A Service, as far as its endpoints go.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: ServiceSpecView<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    r#type: Text<'a>,
    #[serde(borrow, rename = "clusterIP", deserialize_with = "nullable")]
    cluster_ip: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    ip_families: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    selector: Labels<'a>,
    #[serde(deserialize_with = "nullable")]
    publish_not_ready_addresses: bool,
    #[serde(borrow, deserialize_with = "nullable")]
    ports: Vec<plan::PortView<'a>>,
}

impl ServiceView<'_> {
    /// Whether its endpoints are for this controller to find: one without a selector is somebody else's.
    fn is_ours(&self) -> bool {
        !self.spec.selector.is_empty() && self.spec.r#type != *"ExternalName" && !self.metadata.is_terminating()
    }

    fn selects(&self, labels: &Labels<'_>) -> bool {
        self.is_ours() && self.spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    fn is_headless(&self) -> bool {
        self.spec.cluster_ip == *"None"
    }
}

impl Endpoints {
    pub fn new(context: Context) -> Self {
        Self { context, members: Mutex::default() }
    }

    /// Brings the members of the Services up to date that select the pod, before or after.
    fn observe_pod(&self, change: &Change, queue: &Queue<Key>) {
        let pod = change.newest();
        let before = change.previous.as_ref().and_then(ObjectRef::view_or_log::<AnyView<'_>>);
        let after = change.current.as_ref().and_then(ObjectRef::view_or_log::<AnyView<'_>>);
        for service in self.context.reader.list(Kind::Service, Some(pod.namespace())) {
            let Some(view) = service.view_or_log::<ServiceView<'_>>() else { continue };
            let was = before.as_ref().is_some_and(|pod| view.selects(&pod.metadata.labels));
            let is = after.as_ref().is_some_and(|pod| view.selects(&pod.metadata.labels));
            if !was && !is {
                continue;
            }
            let key: Key = (service.namespace().into(), service.name().into());
            let mut members = self.members.lock();
            let of_service = members.0.entry(key.clone()).or_default();
            match is {
                true => of_service.insert(pod.name().into()),
                false => of_service.remove(pod.name()),
            };
            drop(members);
            queue.add(key);
        }
    }

    /// Finds the members of a Service anew, as after a change of its selector.
    fn remember(&self, service: &ObjectRef) {
        let Some(view) = service.view_or_log::<ServiceView<'_>>() else { return };
        let key: Key = (service.namespace().into(), service.name().into());
        // Listed under the lock: a change of a pod waits for it.
        let mut members = self.members.lock();
        let mut of_service = BTreeSet::new();
        if view.is_ours() {
            for pod in self.context.reader.list(Kind::Pod, Some(service.namespace())) {
                let is_selected =
                    pod.view_or_log::<AnyView<'_>>().is_some_and(|pod| view.selects(&pod.metadata.labels));
                if is_selected {
                    of_service.insert(pod.name().into());
                }
            }
        }
        members.0.insert(key, of_service);
    }

    fn endpoints(&self, key: &Key, service: &ServiceView<'_>) -> Vec<Endpoint> {
        let names = self.members.lock().0.get(key).cloned().unwrap_or_default();
        let pods = names.iter().filter_map(|name| self.context.reader.get(Kind::Pod, &key.0, name));
        pods.filter_map(|pod| Endpoint::of(&pod, &service.metadata.name, &*self.context.reader)).collect()
    }

    async fn write_slices(&self, service: &ServiceView<'_>, endpoints: &[Endpoint]) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let namespace = &*service.metadata.namespace;
        let found = reader.by_field(Kind::EndpointSlice, Field::OwnerUid, &service.metadata.uid);
        let found: Vec<Slice> = found.iter().filter_map(|slice| Slice::read(slice, MANAGED_BY, MANAGER)).collect();
        let families: Vec<Family> = service.spec.ip_families.iter().filter_map(|family| Family::read(family)).collect();
        let families = if families.is_empty() { vec![Family::V4] } else { families };
        let is_published = service.spec.publish_not_ready_addresses;
        let groups = plan::group(endpoints, &service.spec.ports, &families, service.is_headless(), is_published);
        let plan = plan::plan(&service.metadata.name, &found, groups);
        let owner = json!({
            "apiVersion": "v1", "kind": "Service", "name": service.metadata.name, "uid": service.metadata.uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        let of = Origin { namespace, owner, labels: slice_labels(service), annotations: None };
        Ok(write_slices(writer, &of, plan).await?)
    }

    /// The Service is deleted. Its slices are collected with it; an Endpoints object has no owner, as upstream's has none.
    async fn delete_endpoints(&self, key: &Key) -> Result<(), ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let Some(object) = reader.get(Kind::Endpoints, &key.0, &key.1) else { return Ok(()) };
        let found: AnyView<'_> = object.view()?;
        if found.metadata.labels.get(ENDPOINTS_MANAGED_BY) == Some(ENDPOINTS_MANAGER) {
            let target = Target { namespace: &key.0, name: &key.1, uid: &found.metadata.uid };
            writer.delete_target(Kind::Endpoints, target, None, None).await?;
        }
        Ok(())
    }

    /// The older form of the same, for who reads nothing newer.
    async fn write_endpoints(&self, service: &ServiceView<'_>, endpoints: &[Endpoint]) -> Result<Next, WriteError> {
        let Context { reader, writer, .. } = &self.context;
        let (namespace, name) = (&*service.metadata.namespace, &*service.metadata.name);
        let is_over = endpoints.len() > ENDPOINTS_MAX;
        let kept = &endpoints[..endpoints.len().min(ENDPOINTS_MAX)];
        let published = service.spec.publish_not_ready_addresses;
        let subsets = plan::subsets(kept, &service.spec.ports, service.is_headless(), published);
        let mut labels = copied_labels(service);
        if service.is_headless() {
            labels.insert(HEADLESS.to_owned(), "".into());
        }
        labels.insert(ENDPOINTS_MANAGED_BY.to_owned(), ENDPOINTS_MANAGER.into());
        let found = reader.get(Kind::Endpoints, namespace, name).and_then(|found| found.value().ok());
        let Some(mut object) = found else {
            let mut metadata = json!({"name": name, "namespace": namespace, "labels": labels});
            if is_over {
                metadata["annotations"] = json!({OVER_CAPACITY: "truncated"});
            }
            let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets});
            let is_created = writer.create(Kind::Endpoints, object).await?.is_some();
            return Ok(if is_created { Next::OnChange } else { Next::After(CONFLICT_RETRY) });
        };
        let was_over = object["metadata"]["annotations"][OVER_CAPACITY].is_string();
        let is_same = object["subsets"].as_array().map_or(subsets.is_empty(), |held| *held == subsets);
        if is_same && was_over == is_over && object["metadata"]["labels"] == Value::Object(labels.clone()) {
            return Ok(Next::OnChange);
        }
        object["metadata"]["labels"] = labels.into();
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove(OVER_CAPACITY);
        }
        if is_over {
            object["metadata"]["annotations"][OVER_CAPACITY] = "truncated".into();
        }
        object["subsets"] = subsets.into();
        let is_written = writer.replace(Kind::Endpoints, &object).await?;
        Ok(if is_written { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }
}

/// The Service's own labels, without those that slices have for themselves.
fn copied_labels(service: &ServiceView<'_>) -> Map<String, Value> {
    let own = service.metadata.labels.iter().filter(|(key, _)| !OWN_LABELS.contains(key));
    own.map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn slice_labels(service: &ServiceView<'_>) -> Map<String, Value> {
    let mut labels = copied_labels(service);
    if service.is_headless() {
        labels.insert(HEADLESS.to_owned(), "".into());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.into());
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.as_str().into());
    labels
}

/// What all slices of an object have in common.
struct Origin<'a> {
    namespace: &'a str,
    owner: Value,
    labels: Map<String, Value>,
    /// `None`: those that are there stay.
    annotations: Option<Map<String, Value>>,
}

/// Writes what differs from what is stored.
async fn write_slices(writer: &Writer, of: &Origin<'_>, plan: Plan) -> Result<Next, WriteError> {
    let mut next = Next::OnChange;
    for slice in plan.write {
        let is_new = slice.revision.is_empty();
        let has_annotations = of.annotations.as_ref().is_none_or(|annotations| slice.annotations == *annotations);
        if !is_new && !slice.is_changed && slice.labels == of.labels && has_annotations {
            continue;
        }
        let object = slice_object(of, &slice);
        let is_written = match is_new {
            true => writer.create(Kind::EndpointSlice, object).await?.is_some(),
            false => writer.replace(Kind::EndpointSlice, &object).await?,
        };
        if !is_written {
            next = Next::After(CONFLICT_RETRY);
        }
    }
    for slice in plan.delete {
        let target = Target { namespace: of.namespace, name: &slice.name, uid: &slice.uid };
        writer.delete_target(Kind::EndpointSlice, target, None, None).await?;
    }
    Ok(next)
}

fn slice_object(of: &Origin<'_>, slice: &Slice) -> Value {
    let mut metadata = json!({
        "name": slice.name, "namespace": of.namespace, "labels": of.labels, "ownerReferences": [of.owner],
    });
    let annotations = of.annotations.as_ref().unwrap_or(&slice.annotations);
    if !annotations.is_empty() {
        metadata["annotations"] = annotations.clone().into();
    }
    if !slice.revision.is_empty() {
        (metadata["uid"], metadata["resourceVersion"]) = (slice.uid.as_str().into(), slice.revision.as_str().into());
    }
    json!({
        "apiVersion": Kind::EndpointSlice.api_version(), "kind": Kind::EndpointSlice.name(), "metadata": metadata,
        "addressType": slice.family.name(), "ports": slice.ports.to_json(), "endpoints": slice.endpoints,
    })
}

impl Reconciler for Endpoints {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::Endpoints]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let key = |object: &ObjectRef| -> Key { (object.namespace().into(), object.name().into()) };
        match event {
            Event::Listed(kind, objects) => {
                if *kind == Kind::Service {
                    let listed: BTreeSet<Key> = objects.iter().map(key).collect();
                    self.members.lock().0.retain(|key, _| listed.contains(key));
                }
                if matches!(kind, Kind::Service | Kind::Pod) {
                    for service in self.context.reader.list(Kind::Service, None) {
                        self.remember(&service);
                        queue.add(key(&service));
                    }
                }
            }
            Event::Changed(change) => match change.kind {
                Kind::Pod => self.observe_pod(change, queue),
                Kind::Service => {
                    match &change.current {
                        Some(service) => self.remember(service),
                        None => drop(self.members.lock().0.remove(&key(change.newest()))),
                    }
                    queue.add(key(change.newest()));
                }
                Kind::EndpointSlice => {
                    let slice = change.newest();
                    let view = slice.view_or_log::<AnyView<'_>>();
                    let service = view.as_ref().and_then(|view| view.metadata.labels.get(SERVICE_NAME));
                    queue_if(queue, slice.namespace(), service);
                }
                _ => queue.add(key(change.newest())),
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.context.reader.get(Kind::Service, &key.0, &key.1) else {
            self.delete_endpoints(key).await?;
            return Ok(Next::OnChange);
        };
        let service: ServiceView<'_> = object.view()?;
        if !service.is_ours() {
            return Ok(Next::OnChange);
        }
        let endpoints = self.endpoints(key, &service);
        let next = self.write_slices(&service, &endpoints).await?;
        Ok(next.or(self.write_endpoints(&service, &endpoints).await?))
    }
}

fn queue_if(queue: &Queue<Key>, namespace: &str, service: Option<&str>) {
    if let Some(service) = service {
        queue.add((namespace.into(), service.into()));
    }
}
