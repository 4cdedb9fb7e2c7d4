//! Says of every FlowSchema whether the level that it refers to exists.
//!
//! In a kube-apiserver the part that keeps requests waiting reports this, moments after a schema or a level was written, and
//! clients see it in the schema's status. Here whoever writes one of these has it reported before the answer: they are rare,
//! and a status that is there is better than one that comes. What the status says is up to `machinery-kinds`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use machinery_kinds::flow_control;
use tracing::warn;

use crate::GROUP_MASTERS;
use crate::object::{name_of, timestamp};
use crate::request::{Query, ResourcePath};
use crate::server::{Context, Inner};
use crate::status::Result;
use crate::verbs::{patch, write::decode_stored};
use crate::{Identity, negotiate};

/// Whether a request may have changed what is to be reported.
pub(crate) fn may_change(verb: &str, path: &ResourcePath) -> bool {
    path.group == flow_control::GROUP
        && path.subresource.is_none()
        && matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection")
}

/// Writes the status of all schemas where it is not what it should be. The request has been answered otherwise, so a failure
/// is not the caller's: the next write reports again.
pub(crate) async fn report(server: &Arc<Inner>) {
    if let Err(error) = report_all(server).await {
        warn!(?error, "Failed to report whether the levels of flow schemas exist.");
    }
}

async fn report_all(server: &Arc<Inner>) -> Result<()> {
    let registry = server.registry();
    let resource = |plural: &str| registry.resource(flow_control::GROUP, "v1", plural).cloned();
    let (Some(schemas), Some(levels)) = (resource("flowschemas"), resource("prioritylevelconfigurations")) else {
        return Ok(());
    };
    let levels = server.store.snapshot(&levels.storage_key);
    let levels: Vec<String> = levels.iter(None, None).map(|level| level.key.name.to_string()).collect();
    let stored: Vec<_> = server.store.snapshot(&schemas.storage_key).iter(None, None).cloned().collect();
    let identity = Identity::new("system:apiserver", [GROUP_MASTERS]);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/apply-patch+yaml"));
    let query = Query::parse(Some(&format!("fieldManager={}&force=true", flow_control::STATUS_MANAGER)))
        .expect("the name of a manager needs no encoding");
    for object in stored {
        let context = Context {
            server,
            identity: &identity,
            verb: "patch",
            info: schemas.clone(),
            path: ResourcePath {
                group: flow_control::GROUP.to_owned(),
                version: "v1".to_owned(),
                plural: "flowschemas".to_owned(),
                name: Some(object.key.name.to_string()),
                subresource: Some("status".to_owned()),
                ..ResourcePath::default()
            },
            query: query.clone(),
            headers: headers.clone(),
            output: negotiate::output(&schemas, "patch", &headers, &query)?,
            turn: None,
        };
        let schema = decode_stored(&context, &object)?;
        let exists = |level: &str| levels.iter().any(|known| known == level);
        if let Some(applied) = flow_control::status_to_apply(&schema, exists, &timestamp(jiff::Timestamp::now())) {
            debug_assert_eq!(name_of(&schema), &*object.key.name);
            patch::patch(&context, &Bytes::from(applied.to_string())).await?;
        }
    }
    Ok(())
}
