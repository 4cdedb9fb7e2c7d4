//! Namespaces: a default service account in each, and an end that takes the content along.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cache::Lister;
use crate::daemonsets::key;
use crate::driver::FirstFailure;
use crate::kinds::Kind;
use crate::writer::{WriteError, Writer};

/// How often a namespace that is on its way out is looked at again; what it still holds may be of any kind.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// One run over all namespaces.
pub(crate) async fn reconcile(lister: &dyn Lister, writer: &Writer) -> Result<(), WriteError> {
    let mut failures = FirstFailure::default();
    let accounts = lister.list(Kind::ServiceAccount);
    for namespace in lister.list(Kind::Namespace).values() {
        let name = key(namespace).1;
        if !namespace["metadata"]["deletionTimestamp"].is_null() {
            failures.note(empty(namespace, name, writer).await);
        } else if !accounts.contains_key(&(name.to_owned(), "default".to_owned())) {
            let account = json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
            });
            failures.note(writer.create(Kind::ServiceAccount, account).await);
        }
    }
    failures.into_result()
}

/// Deletes what is left in a namespace; lets go of the namespace when nothing is.
async fn empty(namespace: &Value, name: &str, writer: &Writer) -> Result<(), WriteError> {
    let mut left = 0;
    for resource in writer.namespaced_resources().await? {
        left += writer.delete_all(&resource, name).await?;
    }
    if left > 0 {
        // Pods leave in their own time, and objects with finalizers in that of others; a later run goes on here.
        return Ok(());
    }
    let mut done = namespace.clone();
    done["spec"]["finalizers"] = json!([]);
    writer.replace_subresource(Kind::Namespace, name, "finalize", &done).await.map(|_| ())
}
