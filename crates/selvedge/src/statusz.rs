//! What the hub's controllers did last, on the API's port: for `selvedge status` and for people with `kubectl get --raw`.

use api_edge::status::CONTROLLERS_PATH;
use base_http::{Body, respond};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use hub_runtime::StatusRegistry;
use machinery_server::{Extension, Identity, RequestBody};

/// Serves [`CONTROLLERS_PATH`]. No role but `system:masters` allows paths below its prefix.
pub struct Statusz(pub StatusRegistry);

impl Extension for Statusz {
    fn prefix(&self) -> &'static str {
        "/statusz/"
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let response = if request.uri().path() != CONTROLLERS_PATH {
            respond::text(StatusCode::NOT_FOUND, format!("there is {CONTROLLERS_PATH}\n"))
        } else if request.method() != Method::GET {
            respond::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n")
        } else {
            respond::json(StatusCode::OK, &self.0.report())
        };
        Box::pin(async { response })
    }
}
