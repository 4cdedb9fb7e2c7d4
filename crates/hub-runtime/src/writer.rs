//! What controllers write through: the API, with the responses that mean "someone was faster" kept apart.

use http::{Method, Request};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::ApiResource;
use kube::{Client, Error};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::kinds::{Kind, Resource};

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {act}")]
pub struct WriteError {
    act: String,
    #[source]
    source: Cause,
}

/// An error of the client, of which people read what the API said: the client's own text has it twice, and all fields of the status.
#[derive(Debug)]
struct Cause(Box<Error>);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            Error::Api(status) => f.write_str(&status.message),
            other => other.fmt(f),
        }
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Error::Api(_) => None,
            other => other.source(),
        }
    }
}

impl WriteError {
    fn new(act: impl Into<String>, source: Error) -> Self {
        Self { act: act.into(), source: Cause(Box::new(source)) }
    }

    /// What the API said, for an Event.
    pub fn reason(&self) -> String {
        self.source.to_string()
    }

    /// Whether the API creates nothing there because the namespace is being deleted.
    pub fn is_namespace_terminating(&self) -> bool {
        let Error::Api(status) = &*self.source.0 else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// The status code that the API responded with.
    pub fn code(&self) -> Option<u16> {
        match &*self.source.0 {
            Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

/// An object by its name, and by its uid where another one of that name is not meant.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
}

/// What the API made of a new object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Created {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    resource_version: String,
}

impl Created {
    /// Its revision; 0 when the API does not count.
    pub fn revision(&self) -> u64 {
        revision(Some(&self.resource_version))
    }
}

/// A `resourceVersion` as a number; 0 when the API does not count.
pub fn revision(resource_version: Option<&str>) -> u64 {
    resource_version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Writes with the controllers' identity.
#[derive(Clone)]
pub struct Writer {
    client: Client,
}

impl Writer {
    /// A writer over a client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client itself, for requests of other shapes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api(&self, resource: impl Into<Resource>, namespace: &str) -> Api<DynamicObject> {
        let resource = resource.into();
        if resource.is_namespaced() {
            Api::namespaced_with(self.client.clone(), namespace, &resource.resource())
        } else {
            Api::all_with(self.client.clone(), &resource.resource())
        }
    }

    /// Creates an object; `Ok(None)` when one of that name is there already.
    pub async fn create(&self, kind: Kind, object: Value) -> Result<Option<Value>, WriteError> {
        let name = object["metadata"]["name"].as_str().or(object["metadata"]["generateName"].as_str());
        let act = format!("create {} {}", kind.name(), name.unwrap_or_default());
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let object: DynamicObject =
            serde_json::from_value(object).map_err(|error| WriteError::new(&*act, Error::SerdeError(error)))?;
        match self.api(kind, &namespace).create(&PostParams::default(), &object).await {
            Ok(created) => Ok(serde_json::to_value(created).ok()),
            Err(Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(WriteError::new(act, error)),
        }
    }

    /// Creates an object from its JSON, without a tree of it; `Ok(None)` when one of that name is there already.
    pub async fn create_encoded(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        object: Vec<u8>,
    ) -> Result<Option<Created>, WriteError> {
        #[derive(Deserialize)]
        struct Response {
            metadata: Created,
        }
        let act = || format!("create {} {name}", kind.name());
        let request = Request::builder()
            .method(Method::POST)
            .uri(kind.path(namespace))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object)
            .map_err(|error| WriteError::new(act(), Error::HttpError(error)))?;
        match self.client.request::<Response>(request).await {
            Ok(response) => Ok(Some(response.metadata)),
            Err(Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(WriteError::new(act(), error)),
        }
    }

    /// What the API would make of a new object: defaults and all. Nothing is written.
    pub async fn dry_create(&self, kind: Kind, object: Value) -> Result<Value, WriteError> {
        let act = || format!("try out a {}", kind.name());
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let object: DynamicObject =
            serde_json::from_value(object).map_err(|error| WriteError::new(act(), Error::SerdeError(error)))?;
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let tried = self.api(kind, &namespace).create(&params, &object).await;
        let tried = tried.map_err(|error| WriteError::new(act(), error))?;
        serde_json::to_value(tried).map_err(|error| WriteError::new(act(), Error::SerdeError(error)))
    }

    /// Merges into an object; `Ok(false)` when it is deleted.
    pub async fn merge(
        &self,
        resource: impl Into<Resource>,
        key: (&str, &str),
        patch: &Value,
    ) -> Result<bool, WriteError> {
        Ok(self.merge_at(resource, key, patch).await?.is_some())
    }

    /// Merges into an object: the revision that it has then, `Ok(None)` when it is deleted or was changed meanwhile.
    pub async fn merge_at(
        &self,
        resource: impl Into<Resource>,
        key: (&str, &str),
        patch: &Value,
    ) -> Result<Option<u64>, WriteError> {
        let resource = resource.into();
        let api = self.api(&resource, key.0);
        let done = api.patch(key.1, &PatchParams::default(), &Patch::Merge(patch)).await;
        let merged = absent_is_none(done, || format!("change {} {}", resource.name(), key.1))?;
        Ok(merged.map(|object| revision(object.metadata.resource_version.as_deref())))
    }

    /// Merges into an object's status; `Ok(false)` when it is deleted.
    pub async fn merge_status(&self, kind: Kind, key: (&str, &str), status: &Value) -> Result<bool, WriteError> {
        let api = self.api(kind, key.0);
        let patch = json!({ "status": status });
        let done = api.patch_status(key.1, &PatchParams::default(), &Patch::Merge(&patch)).await;
        absent_is_false(done.map(|_| ()), || format!("change the status of {} {}", kind.name(), key.1))
    }

    /// Like [`merge_status`](Self::merge_status), for the object with this uid only; `Ok(false)` when it is another one by now.
    pub async fn merge_status_of(&self, kind: Kind, target: Target<'_>, status: &Value) -> Result<bool, WriteError> {
        let api = self.api(kind, target.namespace);
        let patch = json!({"metadata": {"uid": target.uid}, "status": status});
        let done = api.patch_status(target.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        absent_is_false(done.map(|_| ()), || format!("change the status of {} {}", kind.name(), target.name))
    }

    /// Merges into an object's status as this patch has it, with the uid and the revision that its metadata may insist on;
    /// `Ok(false)` when the object is another one by now, was changed meanwhile or is deleted.
    pub async fn patch_status(&self, kind: Kind, key: (&str, &str), patch: &Value) -> Result<bool, WriteError> {
        let done = self.api(kind, key.0).patch_status(key.1, &PatchParams::default(), &Patch::Merge(patch)).await;
        absent_is_false(done.map(|_| ()), || format!("change the status of {} {}", kind.name(), key.1))
    }

    /// Writes a sub-resource of an object as a whole; `Ok(false)` when it is deleted or was changed meanwhile.
    pub async fn replace_subresource(
        &self,
        kind: Kind,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<bool, WriteError> {
        let act = || format!("write {subresource} of {} {name}", kind.name());
        let dynamic: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|error| WriteError::new(act(), Error::SerdeError(error)))?;
        let api = self.api(kind, "");
        let done = api.replace_subresource::<DynamicObject>(subresource, name, &PostParams::default(), &dynamic).await;
        absent_is_false(done.map(|_| ()), act)
    }

    /// Deletes an object, if it is still the one with this uid; with its own grace unless `grace_s` says otherwise.
    pub async fn delete(&self, kind: Kind, object: &Value, grace_s: Option<u32>) -> Result<bool, WriteError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let target = Target { namespace: text("namespace"), name: text("name"), uid: text("uid") };
        self.delete_target(kind, target, grace_s, None).await
    }

    /// Like [`delete`](Self::delete), for an object that was only looked at.
    pub async fn delete_target(
        &self,
        kind: Kind,
        target: Target<'_>,
        grace_s: Option<u32>,
        propagation: Option<PropagationPolicy>,
    ) -> Result<bool, WriteError> {
        let params =
            DeleteParams { grace_period_seconds: grace_s, propagation_policy: propagation, ..DeleteParams::default() };
        self.delete_if(kind.into(), target, None, params).await
    }

    /// Deletes an object as it was read; `Ok(false)` when it was changed meanwhile or is deleted.
    pub async fn delete_unchanged(
        &self,
        resource: impl Into<Resource>,
        target: Target<'_>,
        resource_version: &str,
        propagation: PropagationPolicy,
    ) -> Result<bool, WriteError> {
        let params = DeleteParams { propagation_policy: Some(propagation), ..DeleteParams::default() };
        self.delete_if(resource.into(), target, Some(resource_version.to_owned()), params).await
    }

    async fn delete_if(
        &self,
        resource: Resource,
        target: Target<'_>,
        resource_version: Option<String>,
        params: DeleteParams,
    ) -> Result<bool, WriteError> {
        let preconditions = Some(Preconditions { uid: Some(target.uid.to_owned()), resource_version });
        let params = DeleteParams { preconditions, ..params };
        let done = self.api(&resource, target.namespace).delete(target.name, &params).await;
        absent_is_false(done.map(|_| ()), || format!("delete {} {}", resource.name(), target.name))
    }

    /// The objects of a kind as they are now, past every cache.
    pub async fn list_now(&self, kind: Kind, namespace: &str) -> Result<Vec<Value>, WriteError> {
        let list = self.api(kind, namespace).list(&kube::api::ListParams::default()).await;
        let list = list.map_err(|error| WriteError::new(format!("list {} in {namespace}", kind.name()), error))?;
        Ok(list.items.into_iter().filter_map(|object| serde_json::to_value(object).ok()).collect())
    }

    /// The object as it is now, past every cache; `None` when there is none.
    pub async fn get_now(&self, kind: Kind, key: (&str, &str)) -> Result<Option<Value>, WriteError> {
        let found = self.api(kind, key.0).get_opt(key.1).await;
        let found = found.map_err(|error| WriteError::new(format!("get {} {}", kind.name(), key.1), error))?;
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// Replaces an object as it was read; `Ok(false)` when it was changed meanwhile or is deleted.
    pub async fn replace(&self, kind: Kind, object: &Value) -> Result<bool, WriteError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let act = || format!("replace {} {}", kind.name(), text("name"));
        let dynamic: DynamicObject =
            serde_json::from_value(object.clone()).map_err(|error| WriteError::new(act(), Error::SerdeError(error)))?;
        let done = self.api(kind, text("namespace")).replace(text("name"), &PostParams::default(), &dynamic).await;
        absent_is_false(done.map(|_| ()), act)
    }

    /// The API's resources, those of custom kinds among them, with what they can do.
    pub async fn discover(&self) -> Result<kube::Discovery, WriteError> {
        let discovery = kube::Discovery::new(self.client.clone()).run().await;
        discovery.map_err(|source| WriteError::new("find out what the API serves", source))
    }

    /// The uid of an object of any resource; `None` when there is no such object. Only a response that names the object says
    /// so: one that does not is about the resource, which is not served any more, and is an error.
    pub async fn uid_now(
        &self,
        resource: &ApiResource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<String>, WriteError> {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        match api.get_metadata(name).await {
            Ok(object) => Ok(Some(object.metadata.uid.unwrap_or_default())),
            Err(Error::Api(status))
                if status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name) =>
            {
                Ok(None)
            }
            Err(error) => Err(WriteError::new(format!("get {} {name}", resource.kind), error)),
        }
    }

    /// Reads an object, changes it and writes its status; `Ok(false)` when it was changed meanwhile or is deleted.
    pub async fn replace_status_of(
        &self,
        kind: Kind,
        name: &str,
        change: impl FnOnce(Value) -> Value,
    ) -> Result<bool, WriteError> {
        match self.get_now(kind, ("", name)).await? {
            None => Ok(false),
            Some(object) => self.replace_subresource(kind, name, "status", &change(object)).await,
        }
    }

    /// Wraps an error of the client in what was being done.
    pub fn failed(act: impl Into<String>) -> impl FnOnce(Error) -> WriteError {
        let act = act.into();
        move |source| WriteError::new(act, source)
    }
}

/// Whether a patch that names a uid met an object with another: an API server says that the field cannot be changed.
fn is_another(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 422 && causes.into_iter().any(|cause| cause.field == "metadata.uid")
}

/// An object that is deleted, or another one by now, needs nothing more: its change brings the next run.
pub fn absent_is_false(done: Result<(), Error>, act: impl FnOnce() -> String) -> Result<bool, WriteError> {
    Ok(absent_is_none(done, act)?.is_some())
}

fn absent_is_none<T>(done: Result<T, Error>, act: impl FnOnce() -> String) -> Result<Option<T>, WriteError> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) || is_another(&status) => Ok(None),
        Err(error) => Err(WriteError::new(act(), error)),
    }
}
