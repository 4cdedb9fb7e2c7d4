//! The pods of a StatefulSet: what they are called, what they are made of, and what makes one right.

use serde_json::{Value, json};

use super::claims::claim_name;
use super::views::PodView;
use crate::owner::Owner;

/// Label that says which revision of the template a pod was created from: the revision's name.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of a set's pod. A pod that is called otherwise than the set would call it is none of its pods.
pub(super) fn ordinal_of(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    // The first ordinal may be as large as the number of replicas: their sum has more than 32 bits.
    let ordinal = digits.parse::<i64>().ok().filter(|ordinal| *ordinal >= 0)?;
    // `01` and `+1` are numbers, but not the name.
    (ordinal.to_string() == digits).then_some(ordinal)
}

pub(super) fn pod_name(set: &str, ordinal: i64) -> String {
    format!("{set}-{ordinal}")
}

/// A pod of a set.
pub(super) struct NewPod<'a> {
    pub set: Owner<'a>,
    /// `spec.template` of the revision.
    pub template: &'a Value,
    /// Name of the revision.
    pub revision: &'a str,
    /// `spec.serviceName`.
    pub service: &'a str,
    /// `spec.volumeClaimTemplates`.
    pub claims: &'a [Value],
    pub ordinal: i64,
}

impl NewPod<'_> {
    /// The pod as it is created.
    pub fn object(&self) -> Value {
        let meta = self.set.meta;
        let name = pod_name(&meta.name, self.ordinal);
        let mut labels = self.template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.extend(identity(&name, self.ordinal));
        labels.insert(REVISION_LABEL.to_owned(), self.revision.into());
        let mut metadata = json!({
            "name": name, "namespace": meta.namespace, "labels": labels, "ownerReferences": [self.set.reference()],
        });
        for field in ["annotations", "finalizers"] {
            if !self.template["metadata"][field].is_null() {
                metadata[field] = self.template["metadata"][field].clone();
            }
        }
        let mut spec = self.template["spec"].clone();
        spec["hostname"] = name.into();
        if !self.service.is_empty() {
            spec["subdomain"] = self.service.into();
        } else if let Some(spec) = spec.as_object_mut() {
            spec.remove("subdomain");
        }
        if !self.claims.is_empty() {
            spec["volumes"] = volumes(&meta.name, self.claims, self.ordinal, &spec["volumes"]);
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    }
}

/// The labels by which a pod is found.
pub(super) fn identity(name: &str, ordinal: i64) -> [(String, Value); 2] {
    [(NAME_LABEL.to_owned(), name.into()), (INDEX_LABEL.to_owned(), ordinal.to_string().into())]
}

/// A pod's volumes: its claims, which take the place of volumes of the same name, and the others.
pub(super) fn volumes(set: &str, claims: &[Value], ordinal: i64, given: &Value) -> Value {
    let name = |claim: &Value| claim["metadata"]["name"].clone();
    let of_claim = |claim: &Value| json!({"name": name(claim), "persistentVolumeClaim": {"claimName": claim_name(claim, set, ordinal)}});
    let given = given.as_array().into_iter().flatten();
    let others = given.filter(|volume| !claims.iter().any(|claim| name(claim) == volume["name"]));
    claims.iter().map(of_claim).chain(others.cloned()).collect()
}

/// Whether a pod says who it is. As upstream, a pod of an older version that only lacks its index is left as it is.
pub(super) fn has_identity(pod: &PodView<'_>) -> bool {
    pod.metadata.labels.get(NAME_LABEL) == Some(&*pod.metadata.name)
}

/// Whether a pod uses its own claims.
pub(super) fn has_storage(pod: &PodView<'_>, set: &str, claims: &[Value], ordinal: i64) -> bool {
    claims.iter().all(|claim| {
        let volume = pod.spec.volumes.iter().find(|volume| claim["metadata"]["name"] == *volume.name);
        let source = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
        source.is_some_and(|source| *source.claim_name == *claim_name(claim, set, ordinal))
    })
}
