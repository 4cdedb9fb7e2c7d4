//! What the hub's controllers did last, and which life of its state it serves, on the API's port: for `selvedge status` and for
//! people with `kubectl get --raw`.

use api_edge::status::{CONTROLLERS_PATH, LIFE_PATH, LifeReport, RestoredReport};
use base_http::{Body, respond};
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use hub_runtime::StatusRegistry;
use machinery_server::{Extension, Identity, RequestBody};
use machinery_store::Store;

/// Serves [`CONTROLLERS_PATH`] and [`LIFE_PATH`]. No role but `system:masters` allows paths below its prefix.
pub struct Statusz {
    /// What controllers report.
    pub registry: StatusRegistry,
    /// Whose life it is.
    pub store: Store,
}

/// Which life of its state a hub serves.
pub fn life_report(store: &Store) -> LifeReport {
    let life = store.life();
    let time = |at_ms| jiff::Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok();
    let restored = life.restored.as_ref().map(|restored| RestoredReport {
        time: time(restored.at_ms),
        epoch: restored.epoch.clone(),
        revision: restored.revision,
        begins: restored.begins,
    });
    LifeReport { version: 1, epoch: life.epoch.clone(), revision: store.current().0, restored }
}

impl Extension for Statusz {
    fn prefix(&self) -> &'static str {
        "/statusz/"
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let response = match (request.uri().path(), request.method()) {
            (CONTROLLERS_PATH, &Method::GET) => respond::json(StatusCode::OK, &self.registry.report()),
            (LIFE_PATH, &Method::GET) => respond::json(StatusCode::OK, &life_report(&self.store)),
            (CONTROLLERS_PATH | LIFE_PATH, _) => {
                respond::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n")
            }
            _ => respond::text(StatusCode::NOT_FOUND, format!("there are {CONTROLLERS_PATH} and {LIFE_PATH}\n")),
        };
        Box::pin(async { response })
    }
}
