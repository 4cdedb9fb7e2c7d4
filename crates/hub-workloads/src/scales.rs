//! `…/scale` of workloads of any kind, those that somebody has defined among them.

use std::collections::HashMap;
use std::time::Duration;

use http::{Method, Request};
use kube::Client;
use kube::api::DynamicObject;
use kube::core::{ApiResource, Resource as _};
use kube::discovery::ApiCapabilities;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use hub_runtime::kinds::Kind;

use hub_runtime::views::nullable;

/// What was found out about a kind is this old at most: it may be defined, or defined anew, meanwhile.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Kinds that are remembered; any of them is found out again.
const KINDS_MAX: usize = 256;
/// How often a number is written once more because something else of the workload has changed. A workload that is rolled out
/// has its status written several times a second, and who waits for the next look waits a quarter of a minute.
const CONFLICTS_MAX: usize = 5;

/// Why there is no scale.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScaleError {
    /// The API serves no such kind.
    #[error("no matches for kind {kind:?} in group {group:?}")]
    NoKind { group: String, kind: String },
    /// The kind has no scale.
    #[error("{0} does not implement the scale subresource")]
    NoScale(String),
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// The object was changed meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// The API could not say.
    #[error("{0}")]
    Failed(String),
}

impl ScaleError {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::NotFound(status.message.clone()),
            kube::Error::Api(status) if status.code == 409 => Self::Conflict(status.message.clone()),
            error => Self::Failed(text_of(error)),
        }
    }
}

/// What the API said, or why it could not be asked.
pub(crate) fn text_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => base_observe::Chain(error).to_string(),
    }
}

/// How many a workload has, and should have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    pub uid: String,
    pub desired: i64,
    pub current: i64,
    pub selector: String,
    object: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScaleView {
    metadata: MetaView,
    #[serde(deserialize_with = "nullable")]
    spec: SpecView,
    #[serde(deserialize_with = "nullable")]
    status: StatusView,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaView {
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SpecView {
    replicas: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusView {
    replicas: i64,
    selector: String,
}

/// How a kind is served, if it is, and since when that is known.
type Known = (Option<Served>, Instant);

/// Where kinds are served that are none of ours.
#[derive(Default)]
pub(crate) struct Scales {
    kinds: Mutex<HashMap<(String, String), Known>>,
}

/// A kind that the API serves.
#[derive(Clone)]
pub(crate) struct Served {
    pub resource: ApiResource,
    pub has_scale: bool,
}

/// A workload by its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Scales {
    /// The scale of a workload; the version that it is named in does not matter.
    ///
    /// # Errors
    /// When there is none, or the API cannot say.
    pub async fn get(&self, client: &Client, workload: Workload<'_>) -> Result<Scale, ScaleError> {
        let resource = self.resource(client, workload).await?;
        let request = Request::get(path(&resource, workload)).body(Vec::new());
        let request = request.map_err(|error| ScaleError::Failed(error.to_string()))?;
        let object: Value = client.request(request).await.map_err(|error| ScaleError::of(&error))?;
        let view = ScaleView::deserialize(&object);
        let ScaleView { metadata, spec, status } = view.map_err(|error| ScaleError::Failed(error.to_string()))?;
        let (desired, current) = (spec.replicas, status.replicas);
        Ok(Scale { uid: metadata.uid, desired, current, selector: status.selector, object })
    }

    /// Makes a workload have so many, unless somebody else has changed how many since its scale was read.
    ///
    /// # Errors
    /// When the API rejects it.
    pub async fn set(
        &self,
        client: &Client,
        workload: Workload<'_>,
        scale: &Scale,
        desired: i64,
    ) -> Result<(), ScaleError> {
        let resource = self.resource(client, workload).await?;
        let mut object = scale.object.clone();
        for _ in 0..CONFLICTS_MAX {
            match put(client, &path(&resource, workload), &mut object, desired).await {
                Err(ScaleError::Conflict(message)) => {
                    let now = self.get(client, workload).await?;
                    if (now.uid.as_str(), now.desired) != (scale.uid.as_str(), scale.desired) {
                        return Err(ScaleError::Conflict(message));
                    }
                    object = now.object;
                }
                ended => return ended,
            }
        }
        put(client, &path(&resource, workload), &mut object, desired).await
    }

    async fn resource(&self, client: &Client, workload: Workload<'_>) -> Result<ApiResource, ScaleError> {
        let served = self.served(client, workload.api_version, workload.kind).await?;
        match served.has_scale {
            true => Ok(served.resource),
            false if served.resource.group.is_empty() => Err(ScaleError::NoScale(served.resource.plural)),
            false => Err(ScaleError::NoScale(format!("{}.{}", served.resource.plural, served.resource.group))),
        }
    }

    /// Where a kind is served, whatever version of it is named, and whether it has a scale.
    ///
    /// # Errors
    /// When it is not served, or the API cannot say.
    pub async fn served(&self, client: &Client, api_version: &str, kind: &str) -> Result<Served, ScaleError> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let is_it = |one: &&Kind| one.name() == kind && one.resource().group == group;
        if let Some(kind) = Kind::ALL.iter().find(is_it) {
            let has_scale =
                matches!(kind, Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::ReplicationController);
            return Ok(Served { resource: kind.resource(), has_scale });
        }
        let key = (group.to_owned(), kind.to_owned());
        let known = self.kinds.lock().get(&key).filter(|(_, since)| since.elapsed() <= AGE_MAX).cloned();
        let served = match known {
            Some((served, _)) => served,
            None => {
                let since = Instant::now();
                let served = discover(client, group, kind).await?;
                let mut kinds = self.kinds.lock();
                if kinds.len() >= KINDS_MAX {
                    kinds.clear();
                }
                kinds.insert(key.clone(), (served.clone(), since));
                served
            }
        };
        served.ok_or(ScaleError::NoKind { group: key.0, kind: key.1 })
    }
}

/// Where a kind is served, if it is.
async fn discover(client: &Client, group: &str, kind: &str) -> Result<Option<Served>, ScaleError> {
    let found = match kube::discovery::group(client, group).await {
        Ok(found) => found,
        Err(kube::Error::Discovery(_)) => return Ok(None),
        Err(error) => return Err(ScaleError::Failed(text_of(&error))),
    };
    let served = found.recommended_kind(kind).map(|(resource, ApiCapabilities { subresources, .. })| {
        let has_scale = subresources.iter().any(|(one, _)| one.plural == "scale");
        Served { resource, has_scale }
    });
    Ok(served)
}

async fn put(client: &Client, path: &str, object: &mut Value, desired: i64) -> Result<(), ScaleError> {
    object["spec"]["replicas"] = desired.into();
    let request = Request::builder().method(Method::PUT).uri(path);
    let request = request.header(http::header::CONTENT_TYPE, "application/json");
    let request = request.body(object.to_string().into_bytes());
    let request = request.map_err(|error| ScaleError::Failed(error.to_string()))?;
    client.request::<Value>(request).await.map(drop).map_err(|error| ScaleError::of(&error))
}

fn path(resource: &ApiResource, workload: Workload<'_>) -> String {
    format!("{}/{}/scale", DynamicObject::url_path(resource, Some(workload.namespace)), workload.name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::client::Body;
    use serde_json::json;

    use super::*;

    const WEB: Workload<'_> =
        Workload { api_version: "apps/v1", kind: "Deployment", namespace: "default", name: "web" };

    /// An API with one Deployment, whose version and number are changed after each of its scale's first reads by so much.
    fn api(changes: Vec<(u64, i64)>) -> (Client, Arc<Mutex<(u64, i64)>>) {
        let held = Arc::new(Mutex::new((1, 1)));
        let (shared, changes) = (held.clone(), Arc::new(Mutex::new(changes.into_iter())));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (held, changes) = (shared.clone(), changes.clone());
            async move {
                let is_read = request.method() == Method::GET;
                let sent = request.into_body().collect_bytes().await.expect("a body");
                let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
                let mut held = held.lock();
                let (code, answer): (u16, Value) = if is_read {
                    let (version, replicas) = *held;
                    let more = changes.lock().next().unwrap_or_default();
                    *held = (version + more.0, replicas + more.1);
                    let metadata = json!({"name": "web", "uid": "u", "resourceVersion": version.to_string()});
                    (
                        200,
                        json!({"metadata": metadata, "spec": {"replicas": replicas}, "status": {"replicas": replicas}}),
                    )
                } else if sent["metadata"]["resourceVersion"].as_str() == Some(&*held.0.to_string()) {
                    *held = (held.0 + 1, sent["spec"]["replicas"].as_i64().expect("a number"));
                    (200, sent)
                } else {
                    (
                        409,
                        json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": "modified"}),
                    )
                };
                let answer = http::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.expect("a response"))
            }
        });
        (Client::new(service, "default"), held)
    }

    async fn check_set(changes: &[(u64, i64)], expected: Result<i64, ()>) {
        let (client, held) = api(changes.to_vec());
        let scales = Scales::default();
        let scale = scales.get(&client, WEB).await.unwrap();
        let set = scales.set(&client, WEB, &scale, 7).await;
        match expected {
            Ok(replicas) => assert_eq!((set, held.lock().1), (Ok(()), replicas), "{changes:?}"),
            Err(()) => assert_eq!(set, Err(ScaleError::Conflict("modified".to_owned())), "{changes:?}"),
        }
    }

    #[tokio::test]
    async fn a_number_is_set_though_the_rest_changes_and_not_over_another_number() {
        check_set(&[], Ok(7)).await;
        check_set(&[(1, 0)], Ok(7)).await;
        check_set(&[(1, 0), (3, 0)], Ok(7)).await;
        check_set(&[(1, 1)], Err(())).await;
        check_set(&[(1, 0), (1, 2)], Err(())).await;
        check_set(&[(1, 0); 10], Err(())).await;
    }
}
