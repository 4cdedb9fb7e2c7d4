//! Which objects of its namespace a pod refers to, for the node authorizer.

use std::collections::BTreeSet;

use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::strategy::{INDEX_REFS, IndexField, items, text};

/// The annotation of a mirror pod, which shows a static pod of its node.
const MIRROR_ANNOTATION: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

pub(super) const REFS: IndexField = IndexField {
    name: INDEX_REFS,
    values: |pod, add| {
        // A mirror pod was written by its node. It must not give the node what it names.
        if pod.pointer(MIRROR_ANNOTATION).is_none() {
            references(pod).iter().for_each(|reference| add(reference));
        }
    },
};

/// Every object of its namespace that a pod refers to, each once.
fn references(pod: &Value) -> BTreeSet<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut found = BTreeSet::new();
    collect(spec, text(pod, "/metadata/name"), &mut |resource, name| {
        if !name.is_empty() {
            found.insert(format!("{resource}/{name}"));
        }
    });
    for claim in resource_claims(pod) {
        found.insert(format!("resourceclaims/{claim}"));
    }
    found
}

/// The resource claims of a pod: those that it names, and those that were created for it and are in its status.
fn resource_claims(pod: &Value) -> impl Iterator<Item = &str> {
    let of_status = |name: &str| {
        let statuses = pod.pointer("/status/resourceClaimStatuses").and_then(Value::as_array);
        let status = statuses.into_iter().flatten().find(|status| text(status, "/name") == name);
        status.map_or("", |status| text(status, "/resourceClaimName"))
    };
    let claims = pod.get("spec").map_or(&[][..], |spec| items(spec, "resourceClaims"));
    let named = claims.iter().map(move |claim| match text(claim, "/resourceClaimName") {
        "" => of_status(text(claim, "/name")),
        name => name,
    });
    let extended = text(pod, "/status/extendedResourceClaimStatus/resourceClaimName");
    named.chain([extended]).filter(|name| !name.is_empty())
}

/// How many objects the spec of a pod refers to.
pub(crate) fn count_references(spec: &Value) -> usize {
    let mut found = BTreeSet::new();
    collect(spec, "", &mut |resource, name| {
        if !name.is_empty() {
            found.insert((resource, name.to_owned()));
        }
    });
    found.len()
}

fn collect(spec: &Value, pod_name: &str, add: &mut dyn FnMut(&'static str, &str)) {
    add("serviceaccounts", text(spec, "/serviceAccountName"));
    for secret in items(spec, "imagePullSecrets") {
        add("secrets", text(secret, "/name"));
    }
    for container in CONTAINER_LISTS.iter().flat_map(|list| items(spec, list)) {
        for variable in items(container, "env") {
            add("secrets", text(variable, "/valueFrom/secretKeyRef/name"));
            add("configmaps", text(variable, "/valueFrom/configMapKeyRef/name"));
        }
        for source in items(container, "envFrom") {
            add("secrets", text(source, "/secretRef/name"));
            add("configmaps", text(source, "/configMapRef/name"));
        }
    }
    for volume in items(spec, "volumes") {
        add("secrets", text(volume, "/secret/secretName"));
        add("configmaps", text(volume, "/configMap/name"));
        add("persistentvolumeclaims", text(volume, "/persistentVolumeClaim/claimName"));
        // The claim of an ephemeral volume is created for this pod and has a name that follows from both.
        if volume.get("ephemeral").is_some() && !pod_name.is_empty() {
            add("persistentvolumeclaims", &format!("{pod_name}-{}", text(volume, "/name")));
        }
        // The secrets by which drivers log in at their servers.
        for pointer in [
            "/azureFile/secretName",
            "/cephfs/secretRef/name",
            "/cinder/secretRef/name",
            "/csi/nodePublishSecretRef/name",
            "/flexVolume/secretRef/name",
            "/iscsi/secretRef/name",
            "/rbd/secretRef/name",
            "/scaleIO/secretRef/name",
            "/storageos/secretRef/name",
        ] {
            add("secrets", text(volume, pointer));
        }
        for source in volume.get("projected").map_or(&[][..], |projected| items(projected, "sources")) {
            add("secrets", text(source, "/secret/name"));
            add("configmaps", text(source, "/configMap/name"));
        }
    }
}
