//! What is served, as documents: health, version, discovery; OpenAPI is in [`crate::documents`].

use base_http::Body;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use serde::Serialize;
use serde_json::json;

use crate::extension_group::ExtensionGroup;
use crate::negotiate::aggregated_discovery;
use crate::request::{Query, Route};
use crate::server::Inner;
use crate::status::{self, ApiError, Result};

const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2_BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// What is answered without asking who calls: version and health show nothing that a port scan would not.
pub(crate) fn open_to_all(
    server: &Inner,
    path: &str,
    method: &Method,
    query: Option<&str>,
) -> Option<Result<Response<Body>>> {
    let path = path.trim_end_matches('/');
    let answer = match path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "")) {
        ("version", "") => Ok(status::ok_json_to_read(&Version::of(server.version))),
        (endpoint @ ("healthz" | "livez" | "readyz"), check) => {
            health(server, endpoint, check, &Query::parse(query).unwrap_or_default())
        }
        _ => return None,
    };
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    Some(if is_read { answer } else { Err(ApiError::method_not_allowed()) })
}

/// Answers paths that are no resource, for callers who may see them.
pub(crate) fn answer(server: &Inner, route: &Route, request: &Request<()>) -> Result<Response<Body>> {
    let path = request.uri().path();
    let registry = server.registry();
    let headers = request.headers();
    let document = match route {
        Route::CoreVersions | Route::Groups if aggregated_discovery(headers).is_some() => {
            let form = aggregated_discovery(headers).expect("checked in the guard");
            let mut document = registry.aggregated_discovery(*route == Route::CoreVersions, form);
            if *route == Route::Groups {
                extend(&mut document["items"], extension_groups(server).map(|group| group.aggregated()));
            }
            let media = match form {
                machinery_kinds::DiscoveryVersion::V2 => AGGREGATED_V2,
                machinery_kinds::DiscoveryVersion::V2Beta1 => AGGREGATED_V2_BETA1,
            };
            Some(with_etag(headers, &document.to_string(), media))
        }
        Route::CoreVersions => Some(status::ok_json(&registry.api_versions(&server.address))),
        Route::Groups => {
            let mut document = registry.api_group_list();
            extend(&mut document["groups"], extension_groups(server).map(|group| group.entry()));
            Some(status::ok_json(&document))
        }
        Route::Group(group) => registry.api_group(group).map(|document| status::ok_json(&document)),
        Route::Resources { group, version } => {
            registry.api_resource_list(group, version).map(|document| status::ok_json(&document))
        }
        Route::Other | Route::Resource(_) => match path.trim_end_matches('/') {
            "/openapi/v3" => Some(status::ok_json(&registry.openapi_index())),
            "/openapi/v2" => Some(server.documents.v2(&registry, headers)),
            "/metrics" => Some(status::metrics(server.metrics.encode())),
            "" => Some(status::ok_json_to_read(&json!({"paths": root_paths(server)}))),
            other => {
                let document = other.strip_prefix("/openapi/v3/");
                document.and_then(|path| server.documents.v3(&registry, path, request.uri().query(), headers))
            }
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

fn extension_groups(server: &Inner) -> impl Iterator<Item = ExtensionGroup> {
    server.extensions.iter().filter_map(|extension| extension.api_group())
}

fn extend(list: &mut serde_json::Value, entries: impl Iterator<Item = serde_json::Value>) {
    if let Some(list) = list.as_array_mut() {
        list.extend(entries);
    }
}

/// What a group that an extension serves has, for clients that look for it.
pub(crate) fn of_extension(group: &ExtensionGroup, route: &Route) -> Option<Response<Body>> {
    match route {
        Route::Group(name) if name == group.group => Some(status::ok_json(&group.document())),
        Route::Resources { group: name, version } if name == group.group && version == group.version => {
            Some(status::ok_json(&group.resource_list()))
        }
        _ => None,
    }
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

/// What `/version` says, in upstream's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version<'v> {
    major: &'v str,
    minor: &'v str,
    emulation_major: &'v str,
    emulation_minor: &'v str,
    min_compatibility_major: &'v str,
    min_compatibility_minor: String,
    git_version: &'v str,
    git_commit: &'static str,
    git_tree_state: &'static str,
    build_date: &'static str,
    go_version: &'static str,
    compiler: &'static str,
    platform: String,
}

impl<'v> Version<'v> {
    fn of(version: &'v str) -> Self {
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let before = minor.parse::<u32>().unwrap_or_default().saturating_sub(1);
        Self {
            major,
            minor,
            emulation_major: major,
            emulation_minor: minor,
            min_compatibility_major: major,
            min_compatibility_minor: before.to_string(),
            git_version: version,
            git_commit: "",
            git_tree_state: "",
            build_date: "",
            go_version: "",
            compiler: "rustc",
            platform: format!("{}/{}", std::env::consts::OS, go_architecture()),
        }
    }
}

/// Clients expect Go's names of architectures.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What upstream checks by name on all three endpoints, in its order. Its hooks are steps of the start: here they are done
/// before a server answers anything, so that who looks at them by name finds them.
const CHECKS: &[&str] = &["ping", "log", "etcd"];

/// What is ready by then as well.
const READY_CHECKS: &[&str] = &["etcd-readiness", "informer-sync"];

/// Of `healthz` and `livez` alone.
const LIVE_CHECKS: &[&str] = &["loopback-serving-certificate"];

const HOOKS: &[&str] = &[
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
    "poststarthook/storage-readiness",
];

const SHUTDOWN: &str = "shutdown";

/// The checks of an endpoint, in order.
fn checks(endpoint: &str) -> Vec<&'static str> {
    let (own, last): (&[&str], &[&str]) =
        if endpoint == "readyz" { (READY_CHECKS, &[SHUTDOWN]) } else { (LIVE_CHECKS, &[]) };
    [CHECKS, own, HOOKS, last].concat()
}

/// Answers for a whole endpoint, or for one of its checks.
fn health(server: &Inner, endpoint: &str, check: &str, query: &Query) -> Result<Response<Body>> {
    let mut checks = checks(endpoint);
    if !check.is_empty() {
        checks.retain(|known| *known == check);
        if checks.is_empty() {
            return Err(ApiError::no_such_page());
        }
    }
    let mut excluded: Vec<&str> = query.iter().filter(|(key, _)| *key == "exclude").map(|(_, value)| value).collect();
    let is_open = !server.shutdown.is_cancelled();
    let (mut text, mut is_healthy) = (String::new(), true);
    for check in checks {
        if excluded.contains(&check) {
            excluded.retain(|one| *one != check);
            text.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if check != SHUTDOWN || is_open {
            text.push_str(&format!("[+]{check} ok\n"));
        } else {
            is_healthy = false;
            text.push_str(&format!("[-]{check} failed: reason withheld\n"));
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|one| format!("{one:?}")).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(", ")));
    }
    // A full disk does not make the server useless: it still answers reads, and dropping it would lose those too.
    if server.store.usage().full {
        text.push_str("[-]store full: writes are rejected until there is space, deletions are taken\n");
    }
    if is_healthy && !query.has("verbose") {
        return Ok(status::text(true, "ok".to_owned()));
    }
    let result = if is_healthy { "passed" } else { "failed" };
    text.push_str(&format!("{endpoint} check {result}\n"));
    Ok(status::text(is_healthy, text))
}

fn root_paths(server: &Inner) -> Vec<String> {
    let registry = server.registry();
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in registry.groups().filter(|group| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(registry.versions(group).into_iter().map(|version| format!("/apis/{group}/{version}")));
    }
    for endpoint in ["healthz", "livez", "readyz"] {
        paths.push(format!("/{endpoint}"));
        paths.extend(checks(endpoint).into_iter().map(|check| format!("/{endpoint}/{check}")));
    }
    let others = [
        "/.well-known/openid-configuration",
        "/apis/",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/version",
    ];
    paths.extend(others.map(str::to_owned));
    paths.extend(server.extensions.iter().map(|extension| extension.prefix().to_owned()));
    paths.sort();
    paths.dedup();
    paths
}
