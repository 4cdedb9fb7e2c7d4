//! What is served, as documents: health, version, discovery, OpenAPI.

use std::collections::HashMap;

use base_http::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::negotiate::aggregated_discovery;
use crate::outgoing::BytesKept;
use crate::request::{Query, Route};
use crate::server::Inner;
use crate::status::{self, ApiError, Result};

const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2_BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Of a shared document each response keeps the frame that is being sent, and the one in the socket.
const SHARED_BYTES_KEPT: usize = 32 * 1024;

const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What is answered without asking who calls: version and health show nothing that a port scan would not.
pub(crate) fn open_to_all(
    server: &Inner,
    path: &str,
    method: &Method,
    query: Option<&str>,
) -> Option<Result<Response<Body>>> {
    let path = path.trim_end_matches('/');
    let answer = match path {
        "/version" => status::ok_json(&version(server.version)),
        "/healthz" | "/livez" | "/readyz" => {
            let is_verbose = Query::parse(query).is_ok_and(|query| query.has("verbose"));
            health(server, &path[1..], is_verbose)
        }
        _ => return None,
    };
    Some(if matches!(*method, Method::GET | Method::HEAD) { Ok(answer) } else { Err(ApiError::method_not_allowed()) })
}

/// Answers paths that are no resource, for callers who may see them.
pub(crate) fn answer(server: &Inner, route: &Route, request: &Request<()>) -> Result<Response<Body>> {
    let path = request.uri().path();
    let registry = server.registry();
    let headers = request.headers();
    let document = match route {
        Route::CoreVersions | Route::Groups if aggregated_discovery(headers).is_some() => {
            let form = aggregated_discovery(headers).expect("checked in the guard");
            let document = registry.aggregated_discovery(*route == Route::CoreVersions, form);
            let media = match form {
                machinery_kinds::DiscoveryVersion::V2 => AGGREGATED_V2,
                machinery_kinds::DiscoveryVersion::V2Beta1 => AGGREGATED_V2_BETA1,
            };
            Some(with_etag(headers, &document.to_string(), media))
        }
        Route::CoreVersions => Some(status::ok_json(&registry.api_versions(&server.address))),
        Route::Groups => Some(status::ok_json(&registry.api_group_list())),
        Route::Group(group) => registry.api_group(group).map(|document| status::ok_json(&document)),
        Route::Resources { group, version } => {
            registry.api_resource_list(group, version).map(|document| status::ok_json(&document))
        }
        Route::Other | Route::Resource(_) => match path.trim_end_matches('/') {
            "/openapi/v3" => Some(status::ok_json(&registry.openapi_index())),
            "/openapi/v2" => Some(openapi_v2(headers, server.version)),
            "/metrics" => Some(status::metrics(server.metrics.encode())),
            "" => Some(status::ok_json(&json!({"paths": root_paths(server)}))),
            other => server.documents.openapi(&registry, other, headers),
        },
    };
    let Some(response) = document else {
        // Below a group of upstream's own its router answers, and everywhere else a plain web server.
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let is_own = match segments.as_slice() {
            ["api", ..] => true,
            ["apis", group, ..] => registry.is_builtin_group(group),
            _ => false,
        };
        return Err(if is_own { ApiError::no_such_path() } else { ApiError::no_such_page() });
    };
    if request.method() == Method::GET { Ok(response) } else { Err(ApiError::method_not_allowed()) }
}

/// OpenAPI documents by group and version, as they were made last. One copy serves everybody who reads it, however slowly; a
/// hub that serves none keeps none.
#[derive(Default)]
pub(crate) struct Documents(Mutex<HashMap<(String, String), Document>>);

struct Document {
    etag: String,
    bytes: Bytes,
}

impl Documents {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn openapi(&self, registry: &machinery_kinds::Registry, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let segments: Vec<&str> = path.strip_prefix("/openapi/v3/")?.split('/').collect();
        let (group, version) = match segments.as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            _ => return None,
        };
        let etag = format!("\"{}\"", registry.openapi_hash(group, version)?);
        if is_held(headers, &etag) {
            return Some(status::not_modified());
        }
        let mut documents = self.0.lock();
        let bytes = match documents.get(&(group.to_owned(), version.to_owned())) {
            Some(document) if document.etag == etag => document.bytes.clone(),
            _ => {
                // Made under the lock, so that many who come at once have it made once. Those of groups that are no longer served are dropped.
                let bytes = Bytes::from(registry.openapi_document(group, version)?);
                documents.retain(|(group, version), _| registry.openapi_hash(group, version).is_some());
                let document = Document { etag: etag.clone(), bytes: bytes.clone() };
                documents.insert((group.to_owned(), version.to_owned()), document);
                bytes
            }
        };
        drop(documents);
        let mut response = status::ok(bytes);
        response.extensions_mut().insert(BytesKept(SHARED_BYTES_KEPT));
        if let Ok(value) = HeaderValue::from_str(&etag) {
            response.headers_mut().insert(header::ETAG, value);
        }
        Some(response)
    }
}

/// kubectl turns to OpenAPI v2 for a kind that v3 does not have, and needs a document in which it is missing too, to say
/// its user that there is no such kind. So there is one without kinds; everything else is in v3.
fn openapi_v2(headers: &HeaderMap, version: &str) -> Response<Body> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.contains("proto-openapi") {
        let info = json!({"title": "Kubernetes", "version": version});
        return status::ok_json(&json!({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}));
    }
    // Field 1 is `swagger`, field 2 `info` (title, version), field 8 `paths`.
    const EMPTY_DOCUMENT: &[u8] = b"\x0a\x032.0\x12\x13\x0a\x0aKubernetes\x12\x05v1.36\x42\x00";
    let mut response = status::ok(Bytes::from_static(EMPTY_DOCUMENT));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPENAPI_V2_PROTOBUF));
    response
}

fn with_etag(headers: &HeaderMap, text: &str, media: &'static str) -> Response<Body> {
    let etag = format!("\"{}\"", base_pki::fingerprint_of_der(text.as_bytes()));
    let mut response = if is_held(headers, &etag) { status::not_modified() } else { status::ok(text.to_owned()) };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

fn is_held(headers: &HeaderMap, etag: &str) -> bool {
    headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|held| held.contains(etag))
}

fn version(version: &str) -> Value {
    let mut numbers = version.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next(),
        "minor": numbers.next(),
        "gitVersion": version,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_architecture()),
    })
}

/// Clients expect Go's names of architectures.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn health(server: &Inner, check: &str, is_verbose: bool) -> Response<Body> {
    // A full disk does not make the hub useless: it still answers reads, and dropping it would lose those too.
    let is_open = !server.shutdown.is_cancelled();
    let is_healthy = is_open || check == "livez";
    if !is_verbose && is_healthy {
        return status::text(true, "ok".to_owned());
    }
    let usage = server.store.usage();
    let mark = |is_good: bool| if is_good { "[+]" } else { "[-]" };
    let disk = if usage.full { "full: writes are rejected until there is space, deletions are taken" } else { "ok" };
    let text = format!(
        "[+]ping ok\n{}shutdown {}\n{}store {disk}\n{check} check {}\n",
        mark(is_open),
        if is_open { "ok" } else { "in progress" },
        mark(!usage.full),
        if is_healthy { "passed" } else { "failed" },
    );
    status::text(is_healthy, text)
}

fn root_paths(server: &Inner) -> Vec<String> {
    let registry = server.registry();
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in registry.groups().filter(|group| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(registry.versions(group).into_iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(["/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    paths.extend(server.extensions.iter().map(|extension| extension.prefix().to_owned()));
    paths.sort();
    paths
}
