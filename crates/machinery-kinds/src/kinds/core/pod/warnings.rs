//! What is stored as written and will not do what its author thinks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::kit::{Path, Read};

/// Warnings about the spec of a pod or of a template, which is at `path`.
pub(crate) fn of_spec(spec: &Value, path: &Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for list in CONTAINER_LISTS {
        for (number, container) in spec.items(list).iter().enumerate() {
            let mut names = BTreeSet::new();
            for (position, variable) in container.items("env").iter().enumerate() {
                let name = variable.text("name");
                if !name.is_empty() && !names.insert(name) {
                    warnings.push(format!(
                        "{path}.{list}[{number}].env[{position}]: hides previous definition of \"{name}\", which may be \
                         dropped when using apply"
                    ));
                }
            }
        }
    }
    warnings
}
