//! Which objects a node is related to, by way of its pods.
//!
//! ```text
//! node ◀─ pod ◀─ secret, config map, claim, service account, resource claim
//!            ◀─ claim ◀─ volume ◀─ secret of the volume
//! node ◀─ volume attachment, resource slice, pod certificate request
//! ```
//!
//! Nothing is kept here. Each edge is an index field of the store ([`INDEX_REFS`], extracted when an object is written) or a
//! field of the one object that is asked about, so a question costs the pods of the node and no others.

use std::borrow::Cow;

use machinery_kinds::INDEX_REFS;
use machinery_store::{Key, Object, Store};
use serde_json::Value;

use crate::json::{decoded, text};

/// What the store says of one node.
pub(super) struct Graph<'a> {
    pub store: &'a Store,
    pub node: &'a str,
    /// The object that the request is about, once it is in hand.
    pub object: Option<&'a Object>,
}

impl Graph<'_> {
    /// The object in hand when it is this one, else the stored one.
    fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Cow<'_, Object>> {
        let in_hand = self.object.filter(|object| {
            (&*object.key.resource, &*object.key.namespace, &*object.key.name) == (resource, namespace, name)
        });
        in_hand.map(Cow::Borrowed).or_else(|| {
            let stored = self.store.get(&Key::new(resource, namespace, name))?;
            Some(Cow::Owned((*stored).clone()))
        })
    }

    /// Whether a pod is bound to the node.
    pub fn has_pod(&self, namespace: &str, name: &str) -> bool {
        self.object("/pods", namespace, name).is_some_and(|pod| pod.field("spec.nodeName") == Some(self.node))
    }

    /// Whether a pod of the node refers to an object of its namespace, as `secrets/NAME`.
    fn is_referenced(&self, namespace: &str, reference: &str) -> bool {
        let pods = self.store.snapshot("/pods");
        let mut own = pods.iter_where(("spec.nodeName", self.node), Some(namespace), None);
        own.any(|pod| pod.has_field(INDEX_REFS, reference))
    }

    pub fn has_config_map(&self, namespace: &str, name: &str) -> bool {
        self.is_referenced(namespace, &format!("configmaps/{name}"))
    }

    pub fn has_claim(&self, namespace: &str, name: &str) -> bool {
        self.is_referenced(namespace, &format!("persistentvolumeclaims/{name}"))
    }

    pub fn has_service_account(&self, namespace: &str, name: &str) -> bool {
        self.is_referenced(namespace, &format!("serviceaccounts/{name}"))
    }

    pub fn has_resource_claim(&self, namespace: &str, name: &str) -> bool {
        self.is_referenced(namespace, &format!("resourceclaims/{name}"))
    }

    pub fn has_secret(&self, namespace: &str, name: &str) -> bool {
        if self.is_referenced(namespace, &format!("secrets/{name}")) {
            return true;
        }
        // The driver of a volume that a pod has claimed logs in with it.
        let volumes = self.store.snapshot("/persistentvolumes");
        let reference = format!("secrets/{namespace}/{name}");
        volumes.iter_where((INDEX_REFS, &reference), None, None).any(|volume| self.has_claim_of(&decoded(volume)))
    }

    pub fn has_volume(&self, name: &str) -> bool {
        let volume = self.object("/persistentvolumes", "", name);
        volume.is_some_and(|volume| self.has_claim_of(&decoded(&volume)))
    }

    fn has_claim_of(&self, volume: &Value) -> bool {
        let claim = (text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name"));
        !claim.1.is_empty() && self.has_claim(claim.0, claim.1)
    }

    /// Whether `spec.nodeName` of an object is the node.
    pub fn names_node(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let object = self.object(resource, namespace, name);
        object.is_some_and(|object| text(&decoded(&object), "/spec/nodeName") == self.node)
    }
}
