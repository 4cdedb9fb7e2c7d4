//! What controllers write through: the API, with the answers that mean "someone was faster" told apart.

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::{Client, Error};
use serde_json::{Value, json};

use crate::kinds::Kind;

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {act}")]
pub struct WriteError {
    act: String,
    #[source]
    source: Box<Error>,
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

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        if kind.is_namespaced() {
            Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
        } else {
            Api::all_with(self.client.clone(), &kind.resource())
        }
    }

    /// Creates an object; `Ok(None)` when one of that name is there already.
    pub async fn create(&self, kind: Kind, object: Value) -> Result<Option<Value>, WriteError> {
        let name = object["metadata"]["name"].as_str().or(object["metadata"]["generateName"].as_str());
        let act = format!("create {} {}", kind.name(), name.unwrap_or_default());
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let object: DynamicObject = match serde_json::from_value(object) {
            Ok(object) => object,
            Err(error) => return Err(WriteError { act, source: Box::new(Error::SerdeError(error)) }),
        };
        match self.api(kind, &namespace).create(&PostParams::default(), &object).await {
            Ok(made) => Ok(serde_json::to_value(made).ok()),
            Err(Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(WriteError { act, source: Box::new(error) }),
        }
    }

    /// Merges into an object; `Ok(false)` when it is gone.
    pub async fn merge(&self, kind: Kind, key: (&str, &str), patch: &Value) -> Result<bool, WriteError> {
        let api = self.api(kind, key.0);
        let done = api.patch(key.1, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_false(done.map(|_| ()), || format!("change {} {}", kind.name(), key.1))
    }

    /// Merges into an object's status; `Ok(false)` when it is gone.
    pub async fn merge_status(&self, kind: Kind, key: (&str, &str), status: &Value) -> Result<bool, WriteError> {
        let api = self.api(kind, key.0);
        let patch = json!({ "status": status });
        let done = api.patch_status(key.1, &PatchParams::default(), &Patch::Merge(&patch)).await;
        gone_is_false(done.map(|_| ()), || format!("change the status of {} {}", kind.name(), key.1))
    }

    /// Writes a sub-resource of an object as a whole; `Ok(false)` when it is gone or was changed meanwhile.
    pub async fn replace_subresource(
        &self,
        kind: Kind,
        name: &str,
        subresource: &str,
        object: &Value,
    ) -> Result<bool, WriteError> {
        let act = || format!("write {subresource} of {} {name}", kind.name());
        let dynamic: DynamicObject = serde_json::from_value(object.clone())
            .map_err(|error| WriteError { act: act(), source: Box::new(Error::SerdeError(error)) })?;
        let api = self.api(kind, "");
        let done = api.replace_subresource::<DynamicObject>(subresource, name, &PostParams::default(), &dynamic).await;
        gone_is_false(done.map(|_| ()), act)
    }

    /// Deletes an object, if it is still the one with this uid; with its own grace unless `grace_s` says otherwise.
    pub async fn delete(&self, kind: Kind, object: &Value, grace_s: Option<u32>) -> Result<bool, WriteError> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let params = DeleteParams {
            grace_period_seconds: grace_s,
            preconditions: Some(Preconditions { uid: Some(text("uid").to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        let done = self.api(kind, text("namespace")).delete(text("name"), &params).await;
        gone_is_false(done.map(|_| ()), || format!("delete {} {}", kind.name(), text("name")))
    }

    /// The objects of a kind as they stand now, past every cache.
    pub async fn list_now(&self, kind: Kind, namespace: &str) -> Result<Vec<Value>, WriteError> {
        let act = || format!("list {} in {namespace}", kind.name());
        let list = self.api(kind, namespace).list(&kube::api::ListParams::default()).await;
        let list = list.map_err(|error| WriteError { act: act(), source: Box::new(error) })?;
        Ok(list.items.into_iter().filter_map(|object| serde_json::to_value(object).ok()).collect())
    }

    /// The object as it stands now, past every cache; `None` when it is gone.
    pub async fn get_now(&self, kind: Kind, key: (&str, &str)) -> Result<Option<Value>, WriteError> {
        let found = self
            .api(kind, key.0)
            .get_opt(key.1)
            .await
            .map_err(|source| WriteError { act: format!("get {} {}", kind.name(), key.1), source: Box::new(source) })?;
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// Replaces an object as it was read; `Ok(false)` when it was changed meanwhile or is gone.
    pub async fn replace(&self, kind: Kind, object: &Value) -> Result<bool, WriteError> {
        let key = crate::daemonsets::key(object);
        let act = || format!("replace {} {}", kind.name(), key.1);
        let dynamic: DynamicObject = serde_json::from_value(object.clone())
            .map_err(|error| WriteError { act: act(), source: Box::new(Error::SerdeError(error)) })?;
        let done = self.api(kind, key.0).replace(key.1, &PostParams::default(), &dynamic).await;
        gone_is_false(done.map(|_| ()), act)
    }

    /// Every namespaced resource that can be listed and deleted, those of custom kinds among them.
    pub async fn namespaced_resources(&self) -> Result<Vec<ApiResource>, WriteError> {
        let discovery = kube::Discovery::new(self.client.clone()).run().await;
        let discovery = discovery.map_err(|source| WriteError {
            act: "find out what a namespace may hold".to_owned(),
            source: Box::new(source),
        })?;
        let resources = discovery.groups().flat_map(|group| group.recommended_resources());
        let wanted = resources.filter(|(_, capabilities)| {
            capabilities.scope == kube::discovery::Scope::Namespaced
                && capabilities.supports_operation(kube::discovery::verbs::DELETE)
                && capabilities.supports_operation(kube::discovery::verbs::LIST)
        });
        Ok(wanted.map(|(resource, _)| resource).collect())
    }

    /// Deletes all objects of a resource in a namespace; answers how many there were.
    pub async fn delete_all(&self, resource: &ApiResource, namespace: &str) -> Result<usize, WriteError> {
        let failed = |source| WriteError {
            act: format!("delete {} of namespace {namespace}", resource.plural),
            source: Box::new(source),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        let list = api.list_metadata(&kube::api::ListParams::default()).await.map_err(failed)?;
        for object in &list.items {
            let Some(name) = &object.metadata.name else { continue };
            if object.metadata.deletion_timestamp.is_none() {
                gone_is_false(api.delete(name, &DeleteParams::default()).await.map(|_| ()), || {
                    format!("delete {} {name}", resource.kind)
                })?;
            }
        }
        Ok(list.items.len())
    }

    /// Reads an object, changes it and writes its status; `Ok(false)` when it was changed meanwhile or is gone.
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
}

/// An object that is gone, or another one by now, needs nothing more: the caches will tell.
fn gone_is_false(done: Result<(), Error>, act: impl FnOnce() -> String) -> Result<bool, WriteError> {
    match done {
        Ok(()) => Ok(true),
        Err(Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
        Err(error) => Err(WriteError { act: act(), source: Box::new(error) }),
    }
}
