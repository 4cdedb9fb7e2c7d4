//! What the server does to objects of each kind: looked up in the strategies of `machinery-schema`, here only handed what
//! belongs to a request (who, when) and turned into the store's types.

use machinery_kinds::{Creation, ResourceInfo};
use machinery_store::Durability;
use serde_json::Value;

use crate::Identity;

/// When a write of this kind is acknowledged.
pub(crate) fn durability(info: &ResourceInfo) -> Durability {
    match info.durability() {
        machinery_kinds::Durability::Group => Durability::Group,
        machinery_kinds::Durability::Lazy => Durability::Lazy,
    }
}

/// Sets what a new object has whatever its author wrote.
pub(crate) fn prepare_create(info: &ResourceInfo, object: &mut Value, identity: &Identity, now: &str) {
    let uid = uuid::Uuid::new_v4().to_string();
    info.prepare_create(object, &Creation { uid: &uid, now, user: &identity.user, groups: &identity.groups });
    // The rest of what the server knows of a certificate's applicant: its signer decides by the key that it has shown.
    if (&*info.group, &*info.kind) == ("certificates.k8s.io", "CertificateSigningRequest")
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        if !identity.uid.is_empty() {
            spec.insert("uid".to_owned(), identity.uid.as_str().into());
        }
        if !identity.extra.is_empty() {
            spec.insert("extra".to_owned(), serde_json::json!(identity.extra));
        }
    }
}
