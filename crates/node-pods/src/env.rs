//! The environment and command line of a container: values from many places, and `$(NAME)` expanded.
//!
//! Plain functions; objects come through a [`Lookup`], so that tests need neither store nor hub.

mod service_links;

use std::collections::BTreeMap;
use std::sync::Arc;

use api_edge::services::{Protocol, ServiceRecord};
use api_kube::base64_text::{self, Base64Error};
use serde_json::Value;

use self::service_links::LinkPort;
use crate::directories::Directories;
use crate::model::{Container, EnvSource, FieldRef, KeyRef, Pod, Quantity, ResourceFieldRef};
use crate::store::{Known, ObjectKey, ObjectKind};
use crate::tokens::TokenRef;
use node_client::Endpoint;

/// Where ConfigMaps, Secrets and tokens come from.
pub(crate) trait Lookup {
    fn object(&self, key: &ObjectKey) -> Known;
    /// The newest token that the hub has issued, if it has issued one.
    fn token(&self, _of: &TokenRef) -> Option<String> {
        None
    }
    /// The Services that concern the node.
    fn services(&self) -> Vec<ServiceRecord> {
        Vec::new()
    }
}

impl Lookup for crate::store::Store {
    fn object(&self, key: &ObjectKey) -> Known {
        self.object(key)
    }

    fn token(&self, of: &TokenRef) -> Option<String> {
        self.token(of).map(|kept| kept.token)
    }

    fn services(&self) -> Vec<ServiceRecord> {
        self.services()
    }
}

/// Why a value cannot be had (yet).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("{} \"{name}\" was not fetched from the hub yet", kind.singular())]
    Pending { kind: ObjectKind, name: String },
    #[error("{} \"{name}\" not found", kind.singular())]
    NoObject { kind: ObjectKind, name: String },
    #[error("couldn't find key {key} in {} {name}", kind.singular())]
    NoKey { kind: ObjectKind, name: String, key: String },
    #[error("the value of key {key} in {} {name} is not base64: {error}", kind.singular())]
    NotBase64 { kind: ObjectKind, name: String, key: String, error: Base64Error },
    #[error("the value of key {key} in {} {name} is not text", kind.singular())]
    NotText { kind: ObjectKind, name: String, key: String },
    #[error("field path `{0}` is not supported")]
    Field(String),
    #[error("resource `{0}` is not supported; use limits. or requests. with cpu, memory or ephemeral-storage")]
    Resource(String),
    #[error("{0} has more than {EXPANDED_BYTES_MAX} bytes after `$(NAME)` was replaced, which no program can be given")]
    TooLong(String),
    #[error("the environment has more than {ENVIRONMENT_BYTES_MAX} bytes, which no program can be given")]
    TooLarge,
}

/// The longest word that Linux gives a program.
const EXPANDED_BYTES_MAX: usize = 128 * 1024;
/// Most of what it gives one in all, on most machines.
const ENVIRONMENT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Facts of the node that fields may refer to.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFacts {
    pub node_name: String,
    pub node_ip: String,
    /// The pod's own addresses; none is the node's.
    pub pod_ips: Vec<String>,
    /// In place of a limit that a container does not have.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
    /// Where the hub is, when that is known.
    pub hub: Option<Endpoint>,
    /// Whether the pod's programs can reach Services.
    pub has_services: bool,
    /// The node's directories for volumes.
    pub directories: Arc<Directories>,
}

/// The whole environment of a container.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    node: &NodeFacts,
    lookup: &dyn Lookup,
) -> Result<BTreeMap<String, String>, ValueError> {
    // What the container sets itself goes before, and may refer to these.
    let mut environment = match node.has_services && pod.spec.enable_service_links != Some(false) {
        true => service_links::of_namespace(&lookup.services(), &pod.metadata.namespace),
        false => BTreeMap::new(),
    };
    if let Some(hub) = &node.hub {
        add_api_server(&mut environment, hub);
    }
    for from in &container.env_from {
        let references =
            [(ObjectKind::ConfigMap, from.config_map_ref.as_ref()), (ObjectKind::Secret, from.secret_ref.as_ref())];
        for (kind, reference) in references {
            let Some(reference) = reference else { continue };
            let Some(object) = fetch(lookup, kind, &pod.metadata.namespace, &reference.name, reference.optional)?
            else {
                continue;
            };
            for (key, value) in data(kind, &reference.name, &object) {
                // A key that is no variable's name, or no text, is left out, as kubelets do.
                if let (true, Ok(text)) = (is_variable_name(&key), String::from_utf8(value?)) {
                    environment.insert(format!("{}{key}", from.prefix), text);
                }
            }
        }
    }
    let mut bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len()).sum();
    for variable in &container.env {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(
                expand(value, &environment)
                    .ok_or_else(|| ValueError::TooLong(format!("environment variable {}", variable.name)))?,
            ),
            (_, Some(source)) => resolve(pod, container, node, lookup, source)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            bytes += variable.name.len() + value.len();
            environment.insert(variable.name.clone(), value);
        }
        if bytes > ENVIRONMENT_BYTES_MAX {
            return Err(ValueError::TooLarge);
        }
    }
    Ok(environment)
}

/// Where programs find the API, by the variables of the service `kubernetes`. Every container has them, whatever its pod's
/// `enableServiceLinks` says, as with Kubernetes' kubelet. Where there is no network of services, it is the hub itself; the CA
/// beside the pod's token vouches for it under the names that its settings list.
fn add_api_server(environment: &mut BTreeMap<String, String>, hub: &Endpoint) {
    let port = LinkPort { name: "https", protocol: Protocol::Tcp, port: hub.port };
    service_links::add(environment, "kubernetes", &hub.host, &[port]);
}

fn resolve(
    pod: &Pod,
    container: &Container,
    node: &NodeFacts,
    lookup: &dyn Lookup,
    source: &EnvSource,
) -> Result<Option<String>, ValueError> {
    let namespace = &pod.metadata.namespace;
    if let Some(reference) = &source.config_map_key_ref {
        return key_value(lookup, ObjectKind::ConfigMap, namespace, reference);
    }
    if let Some(reference) = &source.secret_key_ref {
        return key_value(lookup, ObjectKind::Secret, namespace, reference);
    }
    if let Some(field) = &source.field_ref {
        return field_value(pod, node, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, container, node, resource).map(Some);
    }
    Ok(Some(String::new()))
}

fn key_value(
    lookup: &dyn Lookup,
    kind: ObjectKind,
    namespace: &str,
    reference: &KeyRef,
) -> Result<Option<String>, ValueError> {
    let (name, key) = (reference.name.clone(), reference.key.clone());
    let Some(object) = fetch(lookup, kind, namespace, &name, reference.optional)? else { return Ok(None) };
    match data(kind, &name, &object).remove(&key) {
        Some(value) => String::from_utf8(value?).map(Some).map_err(|_| ValueError::NotText { kind, name, key }),
        None if reference.optional => Ok(None),
        None => Err(ValueError::NoKey { kind, name, key }),
    }
}

/// The object, `None` when it is missing and may be.
pub(crate) fn fetch(
    lookup: &dyn Lookup,
    kind: ObjectKind,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<Value>, ValueError> {
    let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    match lookup.object(&key) {
        Known::Present(object) => Ok(Some(object)),
        Known::Absent if optional => Ok(None),
        Known::Absent => Err(ValueError::NoObject { kind, name: key.name }),
        Known::Unknown => Err(ValueError::Pending { kind, name: key.name }),
    }
}

/// Keys and values of a ConfigMap or Secret. A value that cannot be decoded is an error of its key alone: whoever needs the
/// others gets them, and whoever needs that one is reported why it is not there.
pub(crate) fn data(kind: ObjectKind, name: &str, object: &Value) -> BTreeMap<String, Result<Vec<u8>, ValueError>> {
    let decoded = |key: &str, text: &str| {
        base64_text::decode(text).map_err(|error| ValueError::NotBase64 {
            kind,
            name: name.to_owned(),
            key: key.to_owned(),
            error,
        })
    };
    let mut data = BTreeMap::new();
    let mut add = |field: &str, is_encoded: bool| {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            // A null is a value without bytes.
            let text = value.as_str().unwrap_or_default();
            let bytes = if is_encoded { decoded(key, text) } else { Ok(text.as_bytes().to_vec()) };
            data.insert(key.clone(), bytes);
        }
    };
    add("data", kind == ObjectKind::Secret);
    if kind == ObjectKind::ConfigMap {
        add("binaryData", true);
    }
    data
}

/// The value of a downward API field.
pub(crate) fn field_value(pod: &Pod, node: &NodeFacts, field: &FieldRef) -> Result<String, ValueError> {
    let metadata = &pod.metadata;
    let path = field.field_path.as_str();
    let value = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => lines(&metadata.labels),
        "metadata.annotations" => lines(&metadata.annotations),
        "spec.nodeName" => node.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
        "status.podIP" if !node.pod_ips.is_empty() => node.pod_ips[0].clone(),
        "status.podIPs" if !node.pod_ips.is_empty() => node.pod_ips.join(","),
        "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => node.node_ip.clone(),
        _ => {
            let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
            let (map, key) = match (subscript("metadata.labels['"), subscript("metadata.annotations['")) {
                (Some(key), _) => (&metadata.labels, key),
                (_, Some(key)) => (&metadata.annotations, key),
                (None, None) => return Err(ValueError::Field(path.to_owned())),
            };
            map.get(key).cloned().unwrap_or_default()
        }
    };
    Ok(value)
}

/// One `key="value"` per line, as the downward API writes maps.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a resource field, in units of its divisor, rounded up.
pub(crate) fn resource_value(
    pod: &Pod,
    container: &Container,
    node: &NodeFacts,
    field: &ResourceFieldRef,
) -> Result<String, ValueError> {
    let unknown = || ValueError::Resource(field.resource.clone());
    let container = match &field.container_name {
        Some(name) => pod.container(name).ok_or_else(unknown)?,
        None => container,
    };
    let (list, resource) = field.resource.split_once('.').ok_or_else(unknown)?;
    let of = |map: &BTreeMap<String, Quantity>| map.get(resource).and_then(Quantity::millis);
    let whole_node = match resource {
        "cpu" => node.cpu_millis,
        "memory" => node.memory_bytes.saturating_mul(1000),
        "ephemeral-storage" => node.storage_bytes.saturating_mul(1000),
        _ => return Err(unknown()),
    };
    let millis = match list {
        "limits" => of(&container.resources.limits).unwrap_or(whole_node),
        "requests" => of(&container.resources.requests).or_else(|| of(&container.resources.limits)).unwrap_or(0),
        _ => return Err(unknown()),
    };
    let divisor = field.divisor.as_ref().and_then(Quantity::millis).filter(|divisor| *divisor > 0).unwrap_or(1000);
    Ok(millis.div_ceil(divisor).to_string())
}

/// Replaces `$(NAME)` by the variable's value; one that does not exist stays as it is, `$$` is a dollar sign. `None` when that
/// becomes too long: variables that name each other twice double with each one.
pub(crate) fn expand(text: &str, environment: &BTreeMap<String, String>) -> Option<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        if expanded.len() > EXPANDED_BYTES_MAX {
            return None;
        }
        expanded.push_str(&rest[..position]);
        let after = &rest[position + 1..];
        rest = if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            tail
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match environment.get(name) {
                Some(value) => expanded.push_str(value),
                None => {
                    expanded.push_str("$(");
                    expanded.push_str(name);
                    expanded.push(')');
                }
            }
            tail
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    (expanded.len() <= EXPANDED_BYTES_MAX).then_some(expanded)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

#[cfg(test)]
mod tests;
