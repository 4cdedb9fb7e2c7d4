//! Slices of Endpoints that somebody else writes: for a Service without a selector, as for a server outside of the cluster.
//!
//! `Endpoints changed, Service or slice of its name changed ──▶ key: namespace/name ──▶ subsets → groups → slices`
//!
//! Readers of slices alone would find nobody there. As upstream's controller does, a thousand addresses of a subset are mirrored at
//! most, and Endpoints which say that they are no servers (`skip-mirror`, those that leaders are elected by) are left out.

use hub_runtime::kinds::Kind;
use hub_runtime::views::AnyView;
use hub_runtime::writer::Target;
use hub_runtime::{Context, Event, Field, Next, ObjectRef, Queue, ReconcileError, Reconciler};
use serde_json::{Map, Value, json};

use super::plan::{self, Slice};
use super::{HEADLESS, Key, MANAGED_BY, Origin, SERVICE_NAME, ServiceView, queue_if, write_slices};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// As upstream.
const SUBSET_MAX: usize = 1000;
/// Annotations that are of the Endpoints object alone.
const OWN_ANNOTATIONS: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// The controller.
pub(crate) struct Mirror {
    context: Context,
}

impl Mirror {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Whether a Service leaves its endpoints to somebody else; its `selector` is absent then.
    fn is_mirrored(&self, key: &Key, endpoints: &Value) -> Result<bool, ReconcileError> {
        let metadata = &endpoints["metadata"];
        let is_skipped = metadata["labels"][SKIP] == "true" || !metadata["annotations"][LEADER].is_null();
        if is_skipped || !metadata["deletionTimestamp"].is_null() {
            return Ok(false);
        }
        let Some(service) = self.context.reader.get(Kind::Service, &key.0, &key.1) else { return Ok(false) };
        let service: ServiceView<'_> = service.view()?;
        Ok(service.spec.selector.is_empty() && !service.metadata.is_terminating())
    }
}

fn copied(from: &Value, is_own: impl Fn(&str) -> bool) -> Map<String, Value> {
    let all = from.as_object().into_iter().flatten();
    all.filter(|(key, _)| !is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Reconciler for Mirror {
    type Key = Key;

    fn name(&self) -> &'static str {
        "endpointslicemirroring"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::EndpointSlice, Kind::Endpoints]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let key = |object: &ObjectRef| -> Key { (object.namespace().into(), object.name().into()) };
        match event {
            Event::Listed(Kind::Endpoints, objects) => objects.iter().for_each(|object| queue.add(key(object))),
            Event::Listed(..) => {}
            Event::Changed(change) => match change.kind {
                Kind::EndpointSlice => {
                    let slice = change.newest();
                    let view = slice.view_or_log::<AnyView<'_>>();
                    let is_mirror = |view: &&AnyView<'_>| view.metadata.labels.get(MANAGED_BY) == Some(MANAGER);
                    let view = view.as_ref().filter(is_mirror);
                    queue_if(queue, slice.namespace(), view.and_then(|view| view.metadata.labels.get(SERVICE_NAME)));
                }
                _ => queue.add(key(change.newest())),
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Context { reader, writer, recorder, .. } = &self.context;
        // Slices of deleted Endpoints are collected with their owner.
        let Some(object) = reader.get(Kind::Endpoints, &key.0, &key.1) else { return Ok(Next::OnChange) };
        let endpoints = object.value()?;
        let metadata = &endpoints["metadata"];
        let uid = metadata["uid"].as_str().unwrap_or_default();
        let stored = reader.by_field(Kind::EndpointSlice, Field::OwnerUid, uid);
        let stored: Vec<Slice> = stored.iter().filter_map(|slice| Slice::read(slice, MANAGED_BY, MANAGER)).collect();
        let (groups, is_over) = match self.is_mirrored(key, &endpoints)? {
            true => plan::mirrored(&endpoints["subsets"], SUBSET_MAX),
            false => (Vec::new(), false),
        };
        if is_over {
            let message = format!("of each subset {SUBSET_MAX} addresses are mirrored into slices, and no more");
            let target = Target { namespace: &key.0, name: &key.1, uid };
            recorder.warning(Kind::Endpoints, target, "TooManyAddressesToMirror", message);
        }
        let mut labels = copied(&metadata["labels"], |key| matches!(key, MANAGED_BY | SERVICE_NAME | HEADLESS));
        labels.insert(MANAGED_BY.to_owned(), MANAGER.into());
        labels.insert(SERVICE_NAME.to_owned(), (*key.1).into());
        let owner = json!({
            "apiVersion": "v1", "kind": "Endpoints", "name": key.1, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        });
        let annotations = copied(&metadata["annotations"], |key| OWN_ANNOTATIONS.contains(&key));
        let of = Origin { namespace: &key.0, owner, labels, annotations: Some(annotations) };
        Ok(write_slices(writer, &of, plan::plan(&key.1, &stored, groups)).await?)
    }
}
