//! What a persistent volume refers to, for the node authorizer: its claim, and the secrets by which its driver logs in on
//! the node that mounts it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{INDEX_REFS, IndexField, text};

pub(super) static REFS: IndexField = IndexField {
    name: INDEX_REFS,
    values: |volume, add| references(volume).iter().for_each(|reference| add(reference)),
};

/// As `RESOURCE/NAMESPACE/NAME`; nothing of a volume that nobody has claimed.
fn references(volume: &Value) -> BTreeSet<String> {
    let (namespace, claim) = (text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name"));
    let mut found = BTreeSet::new();
    if claim.is_empty() {
        return found;
    }
    found.insert(format!("persistentvolumeclaims/{namespace}/{claim}"));
    let mut add = |own: &str, name: &str| {
        if !name.is_empty() {
            // Older volumes do not say where their secrets are: where their claim is.
            let namespace = if own.is_empty() { namespace } else { own };
            found.insert(format!("secrets/{namespace}/{name}"));
        }
    };
    add(text(volume, "/spec/azureFile/secretNamespace"), text(volume, "/spec/azureFile/secretName"));
    for source in [
        "cephfs/secretRef",
        "cinder/secretRef",
        "flexVolume/secretRef",
        "rbd/secretRef",
        "scaleIO/secretRef",
        "iscsi/secretRef",
        "storageos/secretRef",
        "csi/nodePublishSecretRef",
        "csi/nodeStageSecretRef",
        "csi/nodeExpandSecretRef",
    ] {
        let at = |field: &str| text(volume, &format!("/spec/{source}/{field}"));
        add(at("namespace"), at("name"));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, expected: &[&str]) {
        let found = references(&json!({"spec": spec}));
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_volume_is_found_by_its_claim_and_by_the_secrets_of_its_driver() {
        let secret = json!({"name": "s", "namespace": "other"});
        check(json!({"csi": {"nodePublishSecretRef": secret}}), &[]);
        let claim = json!({"namespace": "a", "name": "data"});
        check(
            json!({"claimRef": claim, "csi": {"nodePublishSecretRef": secret, "controllerExpandSecretRef": {"name": "no"}}}),
            &["persistentvolumeclaims/a/data", "secrets/other/s"],
        );
        check(
            json!({"claimRef": claim, "rbd": {"secretRef": {"name": "s"}}}),
            &["persistentvolumeclaims/a/data", "secrets/a/s"],
        );
    }
}
