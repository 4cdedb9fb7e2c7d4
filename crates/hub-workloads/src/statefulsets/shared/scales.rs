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
    /// The API could not say.
    #[error("{0}")]
    Failed(String),
}

impl ScaleError {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::NotFound(status.message.clone()),
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

    /// Makes a workload have so many, unless it was changed since its scale was read.
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
        object["spec"]["replicas"] = desired.into();
        let request = Request::builder().method(Method::PUT).uri(path(&resource, workload));
        let request = request.header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(object.to_string().into_bytes());
        let request = request.map_err(|error| ScaleError::Failed(error.to_string()))?;
        client.request::<Value>(request).await.map(drop).map_err(|error| ScaleError::of(&error))
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

fn path(resource: &ApiResource, workload: Workload<'_>) -> String {
    format!("{}/{}/scale", DynamicObject::url_path(resource, Some(workload.namespace)), workload.name)
}
