//! What a new hub holds before anyone has said anything: namespaces, runtime classes, a class of volumes, our kinds.

use serde_json::{Value, json};

use hub_runtime::kinds::Kind;
use hub_runtime::volumes::DEFAULT_CLASS;
use hub_runtime::writer::{WriteError, Writer};

/// Makes what is missing; brings our kinds up to this version of the program.
pub(crate) async fn run(writer: &Writer) -> Result<(), WriteError> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        writer.create(Kind::Namespace, namespace).await?;
    }
    for handler in [api_edge::RUNTIME_CLASS_PROCESS, api_edge::RUNTIME_CLASS_WASM] {
        let class = json!({
            "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": handler}, "handler": handler,
        });
        writer.create(Kind::RuntimeClass, class).await?;
    }
    create_default_class(writer).await?;
    for definition in api_edge::crds::all() {
        keep_definition(writer, definition).await?;
    }
    Ok(())
}

/// Says on the namespace of the system that the hub has created its default class: one that was deleted or changed since is the
/// administrator's choice.
const HAS_DEFAULT_CLASS: &str = "selvedge.dev/default-storage-class";

/// Creates the class of volumes that claims get which name none: once in the life of a hub.
async fn create_default_class(writer: &Writer) -> Result<(), WriteError> {
    const SYSTEM: (&str, &str) = ("", "kube-system");
    let Some(system) = writer.get_now(Kind::Namespace, SYSTEM).await? else { return Ok(()) };
    if system["metadata"]["annotations"][HAS_DEFAULT_CLASS].is_string() {
        return Ok(());
    }
    let classes = writer.list_now(Kind::StorageClass, "").await?;
    let is_default = |class: &Value| DEFAULT_CLASS.iter().any(|mark| class["metadata"]["annotations"][mark] == "true");
    // A hub that was there before this version may have one already.
    let mark = if classes.iter().any(is_default) { "false" } else { "true" };
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {DEFAULT_CLASS[0]: mark}},
        "provisioner": api_edge::volumes::PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": false,
    });
    writer.create(Kind::StorageClass, class).await?;
    let done = json!({"metadata": {"annotations": {HAS_DEFAULT_CLASS: "created"}}});
    writer.merge(Kind::Namespace, SYSTEM, &done).await.map(|_| ())
}

async fn keep_definition(writer: &Writer, definition: Value) -> Result<(), WriteError> {
    let kind = Kind::CustomResourceDefinition;
    if writer.create(kind, definition.clone()).await?.is_some() {
        return Ok(());
    }
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let Some(mut current) = writer.get_now(kind, ("", name)).await? else { return Ok(()) };
    if contains(&current["spec"], &definition["spec"]) {
        return Ok(());
    }
    current["spec"] = definition["spec"].clone();
    writer.replace(kind, &current).await.map(|_| ())
}

/// Whether `have` says all that `want` says; defaults that the API has added do not count as a difference.
fn contains(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            want.iter().all(|(field, want)| have.get(field).is_some_and(|have| contains(have, want)))
        }
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| contains(have, want))
        }
        (have, want) => have == want,
    }
}
