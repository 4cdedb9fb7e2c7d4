//! From method and path to what answers: the verb, and the table of subresources that are more than a part of an object.
//!
//! `status`, `finalize`, `approval` and the like are parts of the stored object and take the way of every write. What is
//! in [`CONNECTED`] is answered by somebody else, mostly a kubelet: its body is not read here, it may upgrade its
//! connection (HTTP/1.1 `Upgrade`, HTTP/2 extended CONNECT), and it lasts as long as its client wants.

use base_http::Body;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use machinery_kinds::ResourceInfo;

use crate::request::{Query, ResourcePath, switch};
use crate::server::{Context, RequestBody};
use crate::status::{ApiError, Result};
use crate::verbs;

/// Answers a request to a connected subresource. The request carries its unread body and, where the client wants to
/// upgrade, what `hyper::upgrade::on` takes.
pub(crate) type Connect = for<'a> fn(&'a Context<'a>, Request<RequestBody>) -> BoxFuture<'a, Result<Response<Body>>>;

/// A subresource that is answered by somebody else.
pub(crate) struct Connected {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    pub(crate) connect: Connect,
}

/// One line for each.
const CONNECTED: &[Connected] = &[
    pods("log", |context, _| Box::pin(verbs::log::log(context))),
    pods("exec", |context, _| Box::pin(async { verbs::streams::container_stream(context) })),
    pods("attach", |context, _| Box::pin(async { verbs::streams::container_stream(context) })),
    pods("portforward", |context, _| Box::pin(async { verbs::streams::port_forward(context) })),
    pods("proxy", PROXY),
    Connected { group: "", resource: "services", subresource: "proxy", connect: PROXY },
    Connected { group: "", resource: "nodes", subresource: "proxy", connect: PROXY },
];

const PROXY: Connect = |context, _| Box::pin(async { verbs::streams::proxy(context) });

const fn pods(subresource: &'static str, connect: Connect) -> Connected {
    Connected { group: "", resource: "pods", subresource, connect }
}

/// The subresource of a request, if it is a connected one.
pub(crate) fn connected(path: &ResourcePath) -> Option<&'static Connected> {
    let subresource = path.subresource.as_deref()?;
    CONNECTED.iter().find(|one| {
        (one.group, one.resource, one.subresource) == (path.group.as_str(), path.plural.as_str(), subresource)
    })
}

/// The verb of a request, as authorisers and audit know it; an empty one for a method that has none.
///
/// Whether the path knows the method is found out by [`check_path`], after the caller may see that.
pub(crate) fn verb_of(method: &Method, path: &ResourcePath, query: &Query) -> &'static str {
    let has_name = path.name.is_some();
    match (method.as_str(), has_name) {
        ("GET" | "HEAD", _) if path.is_watch => "watch",
        ("GET" | "HEAD", true) => "get",
        // Extended CONNECT is how HTTP/2 upgrades (RFC 8441); it is judged as the GET that HTTP/1.1 would send. Of anything else
        // its success would make a tunnel that nobody serves.
        ("CONNECT", true) if connected(path).is_some() => "get",
        ("GET" | "HEAD", false) if switch(query, "watch").unwrap_or_default() => "watch",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    }
}

/// Verbs that an object's own path may know, and those of a collection's.
const ITEM_VERBS: &[&str] = &["get", "update", "patch", "delete"];
const COLLECTION_VERBS: &[&str] = &["list", "watch", "create", "deletecollection"];

/// Whether the path fits the resource, and the resource takes the method there.
///
/// Upstream answers for its own kinds by a table of paths: a path that is not in it is not found, one that is there
/// with other methods says so. What definitions bring is served by a handler that looks at the parts of the path.
pub(crate) fn check_path(info: &ResourceInfo, path: &ResourcePath, method: &Method, verb: &str) -> Result<()> {
    if info.is_custom() {
        return check_custom_path(info, path, method, verb);
    }
    let is_scope_wrong = path.namespace.is_some() != info.namespaced;
    // Lists and watches may span all namespaces; one object always is in one.
    let is_of_all = info.namespaced && path.namespace.is_none() && path.name.is_none() && info.verbs.contains(&"list");
    if is_scope_wrong && !is_of_all {
        return Err(ApiError::no_such_path());
    }
    let (known, is_known): (&[&str], bool) = match (&path.subresource, path.is_watch) {
        (Some(name), _) => {
            let part = info.subresource(name).ok_or_else(ApiError::no_such_path)?;
            (part.verbs, path.rest.is_none() || part.verbs.contains(&"get") || part.verbs.contains(&"create"))
        }
        (None, true) => (&["watch"], info.verbs.contains(&"watch")),
        (None, false) if is_of_all => (&["list", "watch"], true),
        (None, false) if path.name.is_some() => (info.verbs, knows_any(info, ITEM_VERBS)),
        (None, false) => (info.verbs, knows_any(info, COLLECTION_VERBS)),
    };
    if !is_known {
        return Err(ApiError::no_such_path());
    }
    // A name is given to a new object by its body; a subresource may be created on a named object.
    let is_create_on_name = verb == "create" && path.name.is_some() && path.subresource.is_none();
    // Whether a list can be watched is found out by those who watch it.
    let is_of_place = match (&path.subresource, &path.name) {
        (None, Some(_)) => ITEM_VERBS.contains(&verb) || path.is_watch,
        (None, None) => COLLECTION_VERBS.contains(&verb),
        (Some(_), _) => true,
    };
    let is_served = is_of_place && (known.contains(&verb) || (verb == "watch" && known.contains(&"list")));
    if is_served && !is_create_on_name && *method != Method::HEAD {
        return Ok(());
    }
    if is_connected_method(path, method) { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

fn knows_any(info: &ResourceInfo, verbs: &[&str]) -> bool {
    verbs.iter().any(|verb| info.verbs.contains(verb))
}

/// What is passed on to somebody else takes what that one takes: discovery names `get` and `create` alone.
fn is_connected_method(path: &ResourcePath, method: &Method) -> bool {
    path.subresource.as_deref() == Some("proxy")
        && matches!(method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS")
}

fn check_custom_path(info: &ResourceInfo, path: &ResourcePath, method: &Method, verb: &str) -> Result<()> {
    let is_of_all = matches!(verb, "list" | "watch");
    if path.is_watch
        || (path.namespace.is_some() && !info.namespaced)
        || (info.namespaced && path.namespace.is_none() && !is_of_all)
    {
        return Err(ApiError::no_such_page());
    }
    let verbs = match &path.subresource {
        None => info.verbs,
        Some(name) => {
            let name_of_object = path.name.as_deref().unwrap_or_default();
            info.subresource(name).ok_or_else(|| ApiError::not_found(info, name_of_object))?.verbs
        }
    };
    let is_create_on_name = verb == "create" && path.name.is_some();
    let is_update_of_all = path.name.is_none() && matches!(verb, "update" | "patch");
    if verbs.contains(&verb) && !is_create_on_name && !is_update_of_all && *method != Method::HEAD {
        return Ok(());
    }
    let shown = if verb.is_empty() { method.as_str().to_lowercase() } else { verb.to_owned() };
    Err(ApiError::not_supported(info, &shown))
}
