//! Whether two pod templates mean the same, though they are written otherwise.
//!
//! A version of the API that adds a default to every pod template would otherwise roll the whole fleet: what is stored of an
//! older template lacks it. So the older one is put through the API's defaults in a dry run, and then compared.

use hub_runtime::writer::{WriteError, Writer};
use serde_json::{Value, json};

use crate::owner::Owner;

/// Whether `older`, with the API's defaults of today, is `template`.
pub(crate) async fn is_same(
    owner: Owner<'_>,
    older: &Value,
    template: &Value,
    writer: &Writer,
) -> Result<bool, WriteError> {
    if older == template {
        return Ok(true);
    }
    // Defaults only add. Whatever takes away or changes is meant by somebody.
    if !contains(template, older) {
        return Ok(false);
    }
    let trial = json!({
        "apiVersion": owner.kind.api_version(), "kind": owner.kind.name(),
        "metadata": {"name": format!("{}-trial", owner.meta.name), "namespace": owner.meta.namespace},
        "spec": {"selector": {"matchLabels": older["metadata"]["labels"]}, "template": older},
    });
    match writer.dry_create(owner.kind, trial).await {
        Ok(defaulted) => Ok(defaulted["spec"]["template"] == *template),
        // A template that is valid no more is not the one that the owner has now.
        Err(error) if error.code().is_some_and(|code| (400..500).contains(&code)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `have` says all that `less` says.
fn contains(have: &Value, less: &Value) -> bool {
    match (have, less) {
        (Value::Object(have), Value::Object(less)) => {
            less.iter().all(|(field, less)| have.get(field).is_some_and(|have| contains(have, less)))
        }
        (Value::Array(have), Value::Array(less)) => {
            have.len() == less.len() && have.iter().zip(less).all(|(have, less)| contains(have, less))
        }
        (have, less) => have == less,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_was_added_is_not_a_change() {
        let have =
            json!({"spec": {"containers": [{"name": "a", "image": "b", "terminationMessagePath": "/x"}], "new": 1}});
        assert!(contains(&have, &json!({"spec": {"containers": [{"name": "a", "image": "b"}]}})));
        assert!(!contains(&have, &json!({"spec": {"containers": [{"name": "a", "image": "c"}]}})));
        assert!(!contains(&have, &json!({"spec": {"containers": [], "new": 1}})));
    }
}
