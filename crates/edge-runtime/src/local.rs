//! Configuration from files, for an edge plane that works alone.
//!
//! Every `*.yaml` and `*.yml` of the folder holds documents of our kinds, written as for `kubectl apply`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api_edge::resources::AssignmentEntry;
use serde_json::Value;

use crate::desired::resolve;

/// Largest file that is read: some ten thousand devices.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Kinds that files may hold.
const KINDS: &[&str] = &["DeviceProfile", "Device", "Stream", "Rule", "Export"];

/// Why the files cannot be used; all mistakes at once.
#[derive(Debug, thiserror::Error)]
pub enum LoadFilesError {
    /// The folder or a file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Documents are wrong.
    #[error("{} in the edge plane's configuration:\n{}", count(.0.len()), .0.join("\n"))]
    Mistakes(Vec<String>),
}

fn count(mistakes: usize) -> String {
    if mistakes == 1 { "1 mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

/// Reads the folder.
///
/// # Errors
/// All mistakes, each with its file and document, counted from 1.
pub fn load(folder: &Path) -> Result<Vec<AssignmentEntry>, LoadFilesError> {
    let read = |path: &Path, source| LoadFilesError::Read { path: path.to_owned(), source };
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|source| read(folder, source))?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    paths.sort();
    let mut entries: Vec<(String, AssignmentEntry)> = Vec::new();
    let mut mistakes = Vec::new();
    for path in &paths {
        let size = fs::metadata(path).map_err(|source| read(path, source))?.len();
        if size > FILE_BYTES_MAX {
            mistakes.push(format!("{}: has {size} bytes; at most {FILE_BYTES_MAX} are read", path.display()));
            continue;
        }
        let text = fs::read_to_string(path).map_err(|source| read(path, source))?;
        match serde_saphyr::from_multiple::<Value>(&text) {
            Err(error) => mistakes.push(format!("{}: is not YAML: {error}", path.display())),
            Ok(documents) => {
                for (index, document) in documents.iter().enumerate().filter(|(_, document)| !document.is_null()) {
                    let place = format!("{}, document {}", path.display(), index + 1);
                    match entry(document) {
                        Ok(entry) => entries.push((place, entry)),
                        Err(problem) => mistakes.push(format!("{place}: {problem}")),
                    }
                }
            }
        }
    }
    let plain: Vec<AssignmentEntry> = entries.iter().map(|(_, entry)| entry.clone()).collect();
    for (index, (place, entry)) in entries.iter().enumerate() {
        let is_same = |(_, other): &&(String, AssignmentEntry)| {
            (&other.kind, &other.namespace, &other.name) == (&entry.kind, &entry.namespace, &entry.name)
        };
        if let Some((first, _)) = entries[..index].iter().find(is_same) {
            mistakes.push(format!("{place}: {} `{}` stands in {first} already", entry.kind, entry.name));
        }
    }
    for (key, resolved) in resolve(&plain) {
        if let Err(fault) = resolved.item {
            let is_it = |(_, entry): &&(String, AssignmentEntry)| {
                (&entry.kind, &entry.namespace, &entry.name) == (&key.kind, &key.namespace, &key.name)
            };
            let place = entries.iter().find(is_it).map_or("", |(place, _)| place);
            mistakes.push(format!("{place}: {} `{}`: {}", key.kind, key.name, fault.message));
        }
    }
    if mistakes.is_empty() { Ok(plain) } else { Err(LoadFilesError::Mistakes(mistakes)) }
}

fn entry(document: &Value) -> Result<AssignmentEntry, String> {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let version = text("/apiVersion").ok_or("`apiVersion` is missing")?;
    if version != api_edge::API_VERSION {
        return Err(format!("apiVersion `{version}` is not {}", api_edge::API_VERSION));
    }
    let kind = text("/kind").ok_or("`kind` is missing")?;
    if !KINDS.contains(&kind.as_str()) {
        return Err(format!("kind `{kind}` is unknown; write one of {}", KINDS.join(", ")));
    }
    let name = text("/metadata/name").filter(|name| !name.is_empty()).ok_or("`metadata.name` is missing")?;
    let default_namespace = if kind == "DeviceProfile" { "" } else { "default" };
    let namespace = text("/metadata/namespace").unwrap_or_else(|| default_namespace.to_owned());
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    if let Some(unknown) = document.as_object().and_then(|map| map.keys().find(|key| !known.contains(&key.as_str()))) {
        return Err(format!("unknown field `{unknown}`"));
    }
    let mut spec = document.get("spec").cloned().ok_or("`spec` is missing")?;
    if kind == "Device"
        && let Some(spec) = spec.as_object_mut()
    {
        // Which node it is for is no question here.
        spec.entry("nodeName").or_insert_with(|| Value::from(""));
    }
    Ok(AssignmentEntry { kind, namespace, name, uid: String::new(), generation: 0, spec })
}
