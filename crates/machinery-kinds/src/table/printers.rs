//! Columns and cells of the built-in kinds.

use serde_json::{Map, Value};

use super::{Printer, age_of, columns, items, or_none, text};

pub(crate) static LEASES: Printer = Printer {
    columns: columns::LEASE,
    cells: |object, now| vec![name(object), text(object, "/spec/holderIdentity").into(), age_of(object, now)],
};

pub(crate) static RUNTIME_CLASSES: Printer = Printer {
    columns: columns::RUNTIME_CLASS,
    cells: |object, now| vec![name(object), text(object, "/handler").into(), age_of(object, now)],
};

pub(crate) static SIGNING_REQUESTS: Printer = Printer {
    columns: columns::CERTIFICATE_SIGNING_REQUEST,
    cells: |object, now| {
        let asked = object.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        let asked = asked.map_or_else(|| "<none>".to_owned(), super::human_duration);
        vec![
            name(object),
            age_of(object, now),
            text(object, "/spec/signerName").into(),
            text(object, "/spec/username").into(),
            asked.into(),
            signing_condition(object).into(),
        ]
    },
};

/// Name and time of creation: upstream's choice for kinds that have no columns of their own.
pub(crate) static CREATED: Printer = Printer {
    columns: columns::CREATED,
    cells: |object, _| vec![name(object), text(object, "/metadata/creationTimestamp").into()],
};

pub(crate) static CUSTOM_RESOURCE_DEFINITIONS: Printer = Printer {
    columns: columns::CREATED,
    cells: |object, _| vec![name(object), text(object, "/metadata/creationTimestamp").into()],
};

/// Name and age, when nothing better is known.
pub(crate) static OTHERS: Printer =
    Printer { columns: columns::PLAIN, cells: |object, now| vec![name(object), age_of(object, now)] };

pub(crate) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

pub(crate) fn keys(object: &Value, pointer: &str) -> usize {
    object.pointer(pointer).and_then(Value::as_object).map_or(0, Map::len)
}

/// `a=b,c=d`.
pub(crate) fn labels(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or_none(&pairs.join(",")).to_owned()
}

/// A label selector as `a=b,c in (d,e),f,!g`, or `<none>`.
pub(crate) fn selector(selector: Option<&Value>) -> String {
    or_none(&selector_text(selector)).to_owned()
}

/// The same, empty when there is none or when it selects everything. It is sorted by key, as upstream's is.
pub(crate) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let labels = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<(&str, String)> =
        labels.map(|(key, value)| (key.as_str(), format!("{key}={}", value.as_str().unwrap_or_default()))).collect();
    for expression in items(selector, "/matchExpressions") {
        let key = text(expression, "/key");
        let mut values: Vec<&str> = items(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        parts.push((key, part));
    }
    parts.sort_by(|one, other| one.0.cmp(other.0));
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

fn signing_condition(request: &Value) -> String {
    let conditions = items(request, "/status/conditions");
    let has = |kind: &str| conditions.iter().any(|condition| text(condition, "/type") == kind);
    let mut words = Vec::new();
    match (has("Denied"), has("Approved")) {
        (true, _) => words.push("Denied"),
        (false, true) => words.push("Approved"),
        (false, false) => words.push("Pending"),
    }
    if has("Failed") {
        words.push("Failed");
    }
    if !text(request, "/status/certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}
