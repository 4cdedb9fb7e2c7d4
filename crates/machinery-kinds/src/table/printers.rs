//! Columns and cells of the built-in kinds.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Printer, age_of, columns, items, number, or_none, since, text};

pub(crate) static CONFIG_MAPS: Printer = Printer {
    columns: columns::CONFIG_MAP,
    cells: |object, now| {
        let count = keys(object, "/data") + keys(object, "/binaryData");
        vec![name(object), count.into(), age_of(object, now)]
    },
};

pub(crate) static SECRETS: Printer = Printer {
    columns: columns::SECRET,
    cells: |object, now| {
        vec![name(object), text(object, "/type").into(), keys(object, "/data").into(), age_of(object, now)]
    },
};

pub(crate) static SERVICE_ACCOUNTS: Printer =
    Printer { columns: columns::SERVICE_ACCOUNT, cells: |object, now| vec![name(object), age_of(object, now)] };

pub(crate) static NAMESPACES: Printer = Printer {
    columns: columns::NAMESPACE,
    cells: |object, now| vec![name(object), text(object, "/status/phase").into(), age_of(object, now)],
};

pub(crate) static NODES: Printer = Printer {
    columns: columns::NODE,
    cells: |object, now| {
        let info = |key: &str| unknown_when_empty(text(object, &format!("/status/nodeInfo/{key}")));
        vec![
            name(object),
            node_status(object).into(),
            node_roles(object).into(),
            age_of(object, now),
            text(object, "/status/nodeInfo/kubeletVersion").into(),
            node_address(object, "InternalIP").into(),
            node_address(object, "ExternalIP").into(),
            info("osImage").into(),
            info("kernelVersion").into(),
            info("containerRuntimeVersion").into(),
        ]
    },
};

pub(crate) static EVENTS: Printer = Printer { columns: columns::EVENT, cells: event_cells };

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

fn node_status(node: &Value) -> String {
    let ready = items(node, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    let mut words = vec![match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn node_roles(node: &Value) -> String {
    let Some(labels) = node.pointer("/metadata/labels").and_then(Value::as_object) else { return "<none>".to_owned() };
    let mut roles: Vec<&str> = labels
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(&roles.join(",")).to_owned()
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = items(node, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
    or_none(found.map_or("", |address| text(address, "/address"))).to_owned()
}

fn unknown_when_empty(text: &str) -> &str {
    if text.is_empty() { "<unknown>" } else { text }
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

fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |pointers: &[&str]| {
        let found = pointers.iter().map(|pointer| text(event, pointer)).find(|time| !time.is_empty());
        since(found.unwrap_or_default(), now)
    };
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    let component = match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        component => component,
    };
    let host = match text(event, "/source/host") {
        "" => text(event, "/reportingInstance"),
        host => host,
    };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    let count = match event.pointer("/series/count").and_then(Value::as_i64) {
        Some(count) => count,
        None => number(event, "/count").max(1),
    };
    vec![
        first_of(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"]).into(),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        format!("{kind}/{}", text(event, "/involvedObject/name")).into(),
        text(event, "/involvedObject/fieldPath").into(),
        source.into(),
        text(event, "/message").trim().into(),
        first_of(&["/firstTimestamp", "/eventTime"]).into(),
        count.into(),
        name(event),
    ]
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
