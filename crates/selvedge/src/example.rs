//! `selvedge up --example DIR`: renders a folder of manifests for this machine and applies them.
//!
//! `${NODE_NAME}` and `${EXAMPLE_DIR}` are filled in; the outcome stands in `DATA_DIR/example`, so that a person can
//! `kubectl apply` the very same files again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};

/// Fills the placeholders of every `*.yaml` in `example` and writes the outcome; answers the files in order.
pub fn render(example: &Path, out: &Path, node_name: &str) -> Result<Vec<PathBuf>> {
    let example = fs::canonicalize(example).with_context(|| format!("failed to find {}", example.display()))?;
    let mut sources: Vec<PathBuf> = fs::read_dir(&example)
        .with_context(|| format!("failed to list {}", example.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    sources.sort();
    if sources.is_empty() {
        bail!("{} holds no *.yaml; name a folder with manifests", example.display());
    }
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
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&text).with_context(|| format!("failed to parse {}", file.display()))?;
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            let object: DynamicObject = serde_json::from_value(document)
                .with_context(|| format!("{}: not a Kubernetes object", file.display()))?;
            apply_one(client, object).await.with_context(|| format!("failed to apply {}", file.display()))?;
        }
    }
    Ok(())
}

async fn apply_one(client: &Client, object: DynamicObject) -> Result<()> {
    let name = object.metadata.name.clone().context("an object needs a metadata.name")?;
    let types = object.types.clone().context("an object needs apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(&types).context("apiVersion is group/version")?;
    let (resource, capabilities) =
        pinned_kind(client, &kind).await.with_context(|| format!("the hub serves no {}", types.kind))?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    let what = format!("{} {name}", types.kind);
    match api.get_opt(&name).await.with_context(|| format!("failed to look for {what}"))? {
        None => {
            api.create(&PostParams::default(), &object).await.with_context(|| format!("failed to create {what}"))?
        }
        Some(_) => api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&object))
            .await
            .with_context(|| format!("failed to change {what}"))?,
    };
    Ok(())
}
