//! From method and path to what answers: the verb, and the table of subresources that are more than a part of an object.
//!
//! `status`, `finalize`, `approval` and the like are parts of the stored object and take the way of every write. What is
//! in [`CONNECTED`] is answered by somebody else, mostly a kubelet: its body is not read here, it may upgrade its
//! connection (HTTP/1.1 `Upgrade`, HTTP/2 extended CONNECT), and it lasts as long as its client wants.

use base_http::Body;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use machinery_kinds::ResourceInfo;

use crate::request::{Query, ResourcePath};
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

/// One line for each; `exec`, `attach`, `portforward` and `proxy` will be lines here.
const CONNECTED: &[Connected] = &[Connected {
    group: "",
    resource: "pods",
    subresource: "log",
    connect: |context, _| Box::pin(verbs::log::log(context)),
}];

/// The subresource of a request, if it is a connected one.
pub(crate) fn connected(path: &ResourcePath) -> Option<&'static Connected> {
    let subresource = path.subresource.as_deref()?;
    CONNECTED.iter().find(|one| {
        (one.group, one.resource, one.subresource) == (path.group.as_str(), path.plural.as_str(), subresource)
    })
}

/// The verb of a request, as authorisers and audit know it.
///
/// HEAD is not routed by kube-apiserver either; `watch` on a named object is a plain get there.
pub(crate) fn verb_of(method: &Method, path: &ResourcePath, query: &Query) -> Result<&'static str> {
    let has_name = path.name.is_some();
    Ok(match (method.as_str(), has_name) {
        ("GET", true) => "get",
        // Extended CONNECT is how HTTP/2 upgrades (RFC 8441); it is judged as the GET that HTTP/1.1 would send. Of anything else
        // its success would make a tunnel that nobody serves.
        ("CONNECT", true) if connected(path).is_some() => "get",
        ("GET", false) if query.flag("watch") => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    })
}

/// Whether the path fits the resource, and the resource takes the verb.
pub(crate) fn check_path(info: &ResourceInfo, path: &ResourcePath, verb: &str) -> Result<()> {
    if path.namespace.is_some() && !info.namespaced {
        return Err(ApiError::no_such_path());
    }
    // Lists and watches may span all namespaces; one object always is in one.
    if info.namespaced && path.namespace.is_none() && !matches!(verb, "list" | "watch") {
        return Err(if path.name.is_none() { ApiError::method_not_allowed() } else { ApiError::no_such_path() });
    }
    let verbs = match &path.subresource {
        None => info.verbs,
        Some(name) => info.subresource(name).ok_or_else(|| no_subresource(info, name))?.verbs,
    };
    // A name is given to a new object by its body; a subresource may be created on a named object.
    if verbs.contains(&verb) && !(verb == "create" && path.name.is_some() && path.subresource.is_none()) {
        Ok(())
    } else if !info.verbs.contains(&"create") && path.subresource.is_none() {
        // There is no object of it: whoever wants to write one learns why.
        Err(ApiError::not_served(&info.group, &info.plural))
    } else {
        Err(ApiError::method_not_allowed())
    }
}

/// What people will try by habit is rejected with a sentence.
fn no_subresource(info: &ResourceInfo, name: &str) -> ApiError {
    match (&*info.group, &*info.kind, name) {
        ("", "Pod", "exec" | "attach" | "portforward") => ApiError::not_implemented(&format!(
            "pods/{name} is not served by this version of Selvedge; `kubectl logs` and exec probes are"
        )),
        ("", "ServiceAccount", "token") => ApiError::not_implemented(
            "serviceaccounts/token is not served by this version of Selvedge: service accounts have no tokens yet; \
             nodes join with `selvedge token create`, people use the kubeconfig of the hub",
        ),
        _ => ApiError::no_such_path(),
    }
}
