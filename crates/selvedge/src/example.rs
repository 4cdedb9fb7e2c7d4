//! `selvedge up --example DIR`: renders a directory of manifests for this machine and applies them.
//!
//! `${NODE_NAME}` and `${EXAMPLE_DIR}` are filled in; the outcome is in `DATA_DIR/example`, so that a person can
//! `kubectl apply` the very same files again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::{Scope, pinned_kind};
use serde_json::{Value, json};

/// Where `kubectl apply` finds what was applied before.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifests of an example, in order; an error where there is none.
fn sources(example: &Path) -> Result<Vec<PathBuf>> {
    let mut sources: Vec<PathBuf> = fs::read_dir(example)
        .with_context(|| format!("failed to list {}", example.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    sources.sort();
    if sources.is_empty() {
        bail!("{} holds no *.yaml; name a directory with manifests", example.display());
    }
    Ok(sources)
}

/// What is wrong with an example, as far as it can be seen without a hub.
pub fn mistake(example: &Path) -> Option<String> {
    sources(example).err().map(|error| format!("--example: {error:#}"))
}

/// Fills the placeholders of every `*.yaml` in `example` and writes the outcome; answers the files in order.
pub fn render(example: &Path, out: &Path, node_name: &str) -> Result<Vec<PathBuf>> {
    let example = fs::canonicalize(example).with_context(|| format!("failed to find {}", example.display()))?;
    let sources = sources(&example)?;
    fs::create_dir_all(out).with_context(|| format!("failed to make {}", out.display()))?;
    let mut rendered = Vec::new();
    for source in sources {
        let text = fs::read_to_string(&source).with_context(|| format!("failed to read {}", source.display()))?;
        let text = text.replace("${NODE_NAME}", node_name).replace("${EXAMPLE_DIR}", &example.to_string_lossy());
        let target = out.join(source.file_name().expect("a listed file has a name"));
        fs::write(&target, text).with_context(|| format!("failed to write {}", target.display()))?;
        rendered.push(target);
    }
    Ok(rendered)
}

/// Creates every object of the files, or brings an existing one to what the file says.
pub async fn apply(client: &Client, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).with_context(|| format!("failed to parse {}", file.display()))?;
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            apply_one(client, document).await.with_context(|| format!("failed to apply {}", file.display()))?;
        }
    }
    Ok(())
}

/// As `kubectl apply` leaves an object, so that applying the rendered file by hand changes nothing: the annotation holds
/// the object as it was asked for, in the very bytes that kubectl makes of it.
fn with_last_applied(mut document: Value) -> Value {
    if document["metadata"]["annotations"].is_null() {
        document["metadata"]["annotations"] = json!({});
    }
    // Go's encoder writes these three so that JSON may stand in a page of HTML.
    let text = document.to_string().replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    if let Some(annotations) = document["metadata"]["annotations"].as_object_mut() {
        annotations.insert(LAST_APPLIED.to_owned(), format!("{text}\n").into());
    }
    document
}

async fn apply_one(client: &Client, mut document: Value) -> Result<()> {
    let types: TypeMeta = serde_json::from_value(document.clone()).context("an object needs apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(&types).context("apiVersion is group/version")?;
    let (resource, capabilities) =
        pinned_kind(client, &kind).await.with_context(|| format!("the hub serves no {}", types.kind))?;
    let metadata =
        document.get_mut("metadata").and_then(Value::as_object_mut).context("an object needs a metadata.name")?;
    if capabilities.scope == Scope::Namespaced {
        metadata.entry("namespace").or_insert_with(|| "default".into());
    }
    let object: DynamicObject =
        serde_json::from_value(with_last_applied(document)).context("not a Kubernetes object")?;
    let name = object.metadata.name.as_deref().context("an object needs a metadata.name")?;
    let api: Api<DynamicObject> = match object.metadata.namespace.as_deref() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let what = format!("{} {name}", types.kind);
    match api.get_opt(name).await.with_context(|| format!("failed to look for {what}"))? {
        None => {
            api.create(&PostParams::default(), &object).await.with_context(|| format!("failed to create {what}"))?
        }
        Some(_) => api
            .patch(name, &PatchParams::default(), &Patch::Merge(&object))
            .await
            .with_context(|| format!("failed to change {what}"))?,
    };
    Ok(())
}
