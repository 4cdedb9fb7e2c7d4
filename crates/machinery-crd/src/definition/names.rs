//! Names that a definition claims.

use serde_json::Value;

use super::{items, text};
use crate::{FieldError, names::dns_1035_label};

pub(super) fn check_names(names: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in ["plural", "singular"] {
        let name = text(names, key);
        if let Some(why) = Some(name).filter(|name| !name.is_empty()).and_then(dns_1035_label) {
            errors.push(FieldError::invalid(format!("{path}.{key}"), &name.into(), why));
        }
    }
    for key in ["kind", "listKind"] {
        let name = text(names, key);
        if let Some(why) = Some(name.to_lowercase()).filter(|name| !name.is_empty()).as_deref().and_then(dns_1035_label)
        {
            let detail = format!("may have mixed case, but should otherwise match: {why}");
            errors.push(FieldError::invalid(format!("{path}.{key}"), &name.into(), detail));
        }
    }
    check_labels(names, "shortNames", path, &mut errors);
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), &list_kind.into(), detail));
    }
    check_labels(names, "categories", path, &mut errors);
    errors
}

fn check_labels(names: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    for (position, name) in items(names, key).iter().enumerate() {
        if let Some(why) = dns_1035_label(name.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(format!("{path}.{key}[{position}]"), name, why));
        }
    }
}
