//! `exec`, `attach`, `portforward` and `proxy`: ways into pods, services and nodes.
//!
//! This server has none of these ways yet. What a client asks for is checked as upstream does, so that whoever asks for what
//! cannot be there learns that; what could be there is said to be not served.

use base_http::Body;
use http::Response;
use machinery_store::Key;
use serde_json::Value;

use super::log::container;
use super::write::decode_stored;
use crate::object::text_at;
use crate::server::Context;
use crate::status::{ApiError, Result};

/// A stream into a container.
pub(crate) fn container_stream(context: &Context<'_>) -> Result<Response<Body>> {
    let pod = pod(context, context.name())?;
    container(&pod, context.name(), context.query.get("container"))?;
    not_served(context, &pod)
}

/// A stream to ports of a pod.
pub(crate) fn port_forward(context: &Context<'_>) -> Result<Response<Body>> {
    for (_, text) in context.query.iter().filter(|(key, _)| *key == "ports") {
        for port in text.split(',') {
            if let Err(error) = check_port(port) {
                return Err(ApiError::bad_request(format!("cannot convert to []int32: {error}")));
            }
        }
    }
    let pod = pod(context, context.name())?;
    not_served(context, &pod)
}

fn check_port(text: &str) -> Result<(), String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let why = match (is_number, text.parse::<u16>()) {
        (true, Ok(_)) => return Ok(()),
        (true, Err(_)) => "value out of range",
        (false, _) => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {}: {why}", api_kube::names::quoted(text)))
}

fn pod(context: &Context<'_>, name: &str) -> Result<Value> {
    let stored = context.server.store.get(&context.key(name));
    let stored = stored.ok_or_else(|| ApiError::not_found(&context.info, name))?;
    context.authorize_object(&stored)?;
    decode_stored(context, &stored)
}

fn not_served(context: &Context<'_>, pod: &Value) -> Result<Response<Body>> {
    if text_at(pod, "/spec/nodeName").is_empty() {
        let why = format!("pod {} does not have a host assigned", context.name());
        return Err(ApiError::bad_request(why));
    }
    let part = context.path.subresource.as_deref().unwrap_or_default();
    Err(ApiError::not_implemented(&format!(
        "pods/{part} is not served by this version; `kubectl logs` and exec probes are"
    )))
}

/// What a proxied object is named as: `NAME`, `NAME:PORT`, or `SCHEME:NAME:PORT`.
fn name_and_port(id: &str) -> Option<(&str, &str)> {
    match id.split(':').collect::<Vec<_>>().as_slice() {
        [name] if !name.is_empty() => Some((name, "")),
        [name, port] if !name.is_empty() => Some((name, port)),
        ["" | "http" | "https", name, port] if !name.is_empty() => Some((name, port)),
        _ => None,
    }
}

/// A way to what a pod, a service or a node serves.
pub(crate) fn proxy(context: &Context<'_>) -> Result<Response<Body>> {
    let id = context.name();
    let what = &*context.info.singular;
    let invalid = || ApiError::bad_request(format!("invalid {what} request {}", api_kube::names::quoted(id)));
    let (name, port) = name_and_port(id).ok_or_else(invalid)?;
    let object = pod(context, name)?;
    match what {
        "pod" => {
            let ip = text_at(&object, "/status/podIPs/0/ip");
            if !ip.parse().is_ok_and(is_global_unicast) {
                return Err(ApiError::bad_request("address not allowed"));
            }
        }
        "service" => {
            let ports = object.pointer("/spec/ports").and_then(Value::as_array);
            let mut ports = ports.into_iter().flatten();
            let is_known = port.is_empty()
                || ports.any(|one| {
                    text_at(one, "/name") == port || (one["port"].is_u64() && one["port"].as_u64() == port.parse().ok())
                });
            if !is_known {
                let why = format!("no service port {port:?} found for service {name:?}");
                return Err(ApiError::unavailable(why));
            }
            if !has_endpoints(context, name) {
                return Err(ApiError::unavailable(format!("no endpoints available for service {name:?}")));
            }
        }
        _ => {
            let addresses = object.pointer("/status/addresses").and_then(Value::as_array);
            if addresses.is_none_or(Vec::is_empty) {
                return Err(ApiError::unknown("no preferred addresses found; known addresses: []"));
            }
        }
    }
    Err(ApiError::not_implemented(&format!("{}/proxy is not served by this version", context.info.plural)))
}

fn is_global_unicast(ip: std::net::IpAddr) -> bool {
    let is_link_local = match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local)
}

fn has_endpoints(context: &Context<'_>, name: &str) -> bool {
    let endpoints = context.server.store.get(&Key::new("/endpoints", context.namespace(), name));
    let endpoints = endpoints.and_then(|object| serde_json::from_slice::<Value>(&object.bytes).ok());
    let subsets = endpoints.as_ref().and_then(|endpoints| endpoints.get("subsets")).and_then(Value::as_array);
    subsets.into_iter().flatten().any(|subset| subset["addresses"].as_array().is_some_and(|all| !all.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_proxied_has_a_name_and_perhaps_a_port() {
        assert_eq!(name_and_port("web"), Some(("web", "")));
        assert_eq!(name_and_port("web:80"), Some(("web", "80")));
        assert_eq!(name_and_port("https:web:80"), Some(("web", "80")));
        assert_eq!(name_and_port("ftp:web:80"), None);
        assert_eq!(name_and_port(":80"), None);
        assert_eq!(name_and_port("a:b:c:d"), None);
    }

    #[test]
    fn a_port_that_is_none_is_named_in_gos_words() {
        assert_eq!(check_port("80"), Ok(()));
        assert_eq!(check_port("x").unwrap_err(), "strconv.ParseUint: parsing \"x\": invalid syntax");
        assert_eq!(check_port("99999999").unwrap_err(), "strconv.ParseUint: parsing \"99999999\": value out of range");
    }
}
