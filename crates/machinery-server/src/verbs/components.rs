//! ComponentStatuses: what the parts of a control plane say of themselves when they are asked. Nothing is stored.
//!
//! Upstream asks its scheduler and its controllers on this machine, and its etcd. Here nobody listens at the first two
//! addresses, and the store answers for itself.

use std::sync::Arc;

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::ResourceInfo;
use machinery_store::{Key, Object, Revision};
use serde_json::{Value, json};

use super::read::{Page, listed};
use crate::server::Context;
use crate::status::{ApiError, Result};

/// Whether the resource is answered here.
pub(crate) fn are_components(info: &ResourceInfo) -> bool {
    info.group.is_empty() && &*info.plural == "componentstatuses"
}

/// GET: one of them.
pub(crate) fn get(context: &Context<'_>) -> Result<Response<Body>> {
    let found = components().into_iter().find(|component| component["metadata"]["name"] == context.name());
    // Upstream has no plural for it here.
    let component = found.ok_or_else(|| ApiError::not_found_kind("", "componentstatus", context.name()))?;
    context.show(encoded(&component), false, &[])
}

/// GET: all of them, of no revision.
pub(crate) fn list(context: &Context<'_>) -> Result<Response<Body>> {
    let items = components().into_iter().map(|component| {
        let name = component["metadata"]["name"].as_str().unwrap_or_default();
        Arc::new(Object {
            key: Key::new("/componentstatuses", "", name),
            revision: Revision::default(),
            created: Revision::default(),
            bytes: encoded(&component),
            managed: None,
            index: Vec::<(String, String)>::new().into_iter().collect(),
        })
    });
    listed(context, Page { items: items.collect(), revision: Revision::default(), next: None })
}

/// In the order in which stored objects are encoded.
fn encoded(component: &Value) -> Bytes {
    let (metadata, conditions) = (&component["metadata"], &component["conditions"]);
    format!(r#"{{"apiVersion":"v1","kind":"ComponentStatus","metadata":{metadata},"conditions":{conditions}}}"#).into()
}

fn components() -> [Value; 3] {
    let component = |name: &str, is_healthy: bool, message: &str| {
        let status = if is_healthy { "True" } else { "False" };
        json!({
            "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": status, "message": message}],
        })
    };
    let silent = |name: &str, port: u16| {
        let message =
            format!("Get \"https://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused");
        component(name, false, &message)
    };
    [silent("scheduler", 10_259), silent("controller-manager", 10_257), component("etcd-0", true, "ok")]
}
