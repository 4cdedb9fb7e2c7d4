//! Objects as upstream's server has them inside, for messages that show them.
//!
//! A message about a whole struct shows it as JSON of the server's own types: their field names begin with capitals, and
//! what is absent is there as null or zero. [`json`] writes that form of a part of a pod (and of the few structs beside it),
//! [`diff`] compares two of them line by line, as the message about an update of a pod does.

mod types;

use std::fmt::Write as _;

use serde_json::Value;

use super::go_diff;
use crate::{
    checks,
    kit::{Read, Write},
};

/// How a field is written.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A text that is no pointer.
    Text,
    /// A number, or a number or text, that is no pointer.
    Number,
    /// A flag that is no pointer.
    Flag,
    /// An amount that is no pointer.
    Quantity,
    /// A struct that is no pointer.
    Struct(&'static str),
    /// A struct that may be nil.
    Pointer(&'static str),
    /// A list of structs that may be nil.
    List(&'static str),
    /// Anything that is written as it is, and may be nil.
    Any,
}

/// A value whose fields have an order.
enum Node {
    Leaf(String),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// Fields of metadata in their order.
const METADATA: [&str; 14] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// The JSON of a value of one of upstream's types, on one line.
pub(crate) fn json(kind: &str, value: &Value) -> String {
    let mut out = String::new();
    write_line(&node(kind, value), &mut out);
    out
}

/// The same for a list of values.
pub(crate) fn json_list(kind: &str, values: &[Value]) -> String {
    let mut out = String::new();
    write_line(&Node::List(values.iter().map(|value| node(kind, value)).collect()), &mut out);
    out
}

/// What changed between two values of one type, line by line.
pub(crate) fn diff(kind: &str, old: &Value, new: &Value) -> String {
    go_diff::unified(&lines(kind, old), &lines(kind, new))
}

/// The same on many lines, with one space for each level.
fn lines(kind: &str, value: &Value) -> String {
    let mut out = String::new();
    write_lines(&node(kind, value), 0, &mut out);
    out
}

fn node(kind: &str, value: &Value) -> Node {
    match kind {
        "ObjectMeta" => return tagged(value, &METADATA),
        "LabelSelector" => return selector(value),
        "PodSpec" => return Node::Fields(fields(kind, &pod_spec(value))),
        _ => {}
    }
    Node::Fields(fields(kind, value))
}

/// Upstream keeps the namespaces of the host with the security context, and each name once.
fn pod_spec(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        if let Some(value) = spec.unset(key) {
            spec.make("securityContext").set(key, value);
        }
    }
    spec
}

fn fields(kind: &str, value: &Value) -> Vec<(String, Node)> {
    let known = types::TYPES.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, fields)| *fields);
    let mut written = Vec::with_capacity(known.len());
    for (name, key, shape) in known {
        let value = value.part(key);
        let found = match shape {
            Shape::Text => Node::Leaf(text(value.as_str().unwrap_or_default())),
            Shape::Number if value.is_null() => Node::Leaf("0".to_owned()),
            Shape::Flag if value.is_null() => Node::Leaf("false".to_owned()),
            Shape::Quantity => Node::Leaf(text(&checks::quantity(value).to_string())),
            Shape::Number | Shape::Flag | Shape::Any => any(value),
            Shape::Struct(kind) => node(kind, value),
            Shape::Pointer(_) | Shape::List(_) if value.is_null() => any(value),
            Shape::Pointer(kind) => node(kind, value),
            Shape::List(kind) => {
                Node::List(value.as_array().into_iter().flatten().map(|item| node(kind, item)).collect())
            }
        };
        match found {
            // Embedded metadata are written among the fields of their holder.
            Node::Fields(embedded) if name.is_empty() => written.extend(embedded),
            found => written.push(((*name).to_owned(), found)),
        }
    }
    written
}

/// A struct whose fields have the names of the API, and are left out where they are absent.
fn tagged(value: &Value, keys: &[&str]) -> Node {
    let present = keys.iter().filter(|key| value.has(key));
    Node::Fields(present.map(|key| ((*key).to_owned(), any(value.part(key)))).collect())
}

fn selector(value: &Value) -> Node {
    let mut written = Vec::new();
    if value.has("matchLabels") {
        written.push(("matchLabels".to_owned(), any(value.part("matchLabels"))));
    }
    if value.has("matchExpressions") {
        let expressions = value.items("matchExpressions").iter();
        let expressions = expressions.map(|expression| tagged(expression, &["key", "operator", "values"])).collect();
        written.push(("matchExpressions".to_owned(), Node::List(expressions)));
    }
    Node::Fields(written)
}

fn any(value: &Value) -> Node {
    match value {
        Value::Array(items) => Node::List(items.iter().map(any).collect()),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|(key, value)| (key.clone(), any(value))).collect();
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            Node::Fields(fields)
        }
        Value::String(content) => Node::Leaf(text(content)),
        other => Node::Leaf(other.to_string()),
    }
}

/// A text as Go writes it as JSON.
fn text(content: &str) -> String {
    let mut out = String::with_capacity(content.len() + 2);
    out.push('"');
    for character in content.chars() {
        let written = match character {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\u{8}' => out.write_str("\\b"),
            '\u{c}' => out.write_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(character))
            }
            other => out.write_char(other),
        };
        written.expect("writing to a string never fails");
    }
    out.push('"');
    out
}

fn write_line(node: &Node, out: &mut String) {
    match node {
        Node::Leaf(text) => out.push_str(text),
        Node::List(items) => {
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                write_line(item, out);
            }
            out.push(']');
        }
        Node::Fields(fields) => {
            out.push('{');
            for (number, (name, value)) in fields.iter().enumerate() {
                if number > 0 {
                    out.push(',');
                }
                out.push_str(&text(name));
                out.push(':');
                write_line(value, out);
            }
            out.push('}');
        }
    }
}

fn write_lines(node: &Node, depth: usize, out: &mut String) {
    let begin = |out: &mut String, number: usize| {
        out.push_str(if number > 0 { ",\n" } else { "\n" });
        out.extend(std::iter::repeat_n(' ', depth + 1));
    };
    let end = |out: &mut String, bracket: char| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
        out.push(bracket);
    };
    match node {
        Node::Leaf(text) => out.push_str(text),
        Node::List(items) if items.is_empty() => out.push_str("[]"),
        Node::Fields(fields) if fields.is_empty() => out.push_str("{}"),
        Node::List(items) => {
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                begin(out, number);
                write_lines(item, depth + 1, out);
            }
            end(out, ']');
        }
        Node::Fields(fields) => {
            out.push('{');
            for (number, (name, value)) in fields.iter().enumerate() {
                begin(out, number);
                out.push_str(&text(name));
                out.push_str(": ");
                write_lines(value, depth + 1, out);
            }
            end(out, '}');
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{diff, json as internal_json, lines};

    #[test]
    fn what_is_absent_is_there_as_null_or_zero() {
        let profile = json!({"type": "Unconfined"});
        assert_eq!(internal_json("SeccompProfile", &profile), r#"{"Type":"Unconfined","LocalhostProfile":null}"#);
        let spec = json!({"hostNetwork": true, "containers": [{"name": "a<b"}], "serviceAccount": "x"});
        let shown = internal_json("PodSpec", &spec);
        assert!(
            shown.starts_with(r#"{"Volumes":null,"InitContainers":null,"Containers":[{"Name":"a\u003cb","Image":"","#)
        );
        assert!(shown.contains(r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"#));
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {}});
        assert!(
            internal_json("PodTemplateSpec", &template).starts_with(r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"#)
        );
        let strategy = json!({"type": "x"});
        assert_eq!(lines("DeploymentStrategy", &strategy), "{\n \"Type\": \"x\",\n \"RollingUpdate\": null\n}");
    }

    #[test]
    fn an_update_is_shown_line_by_line() {
        let old = json!({"containers": [{"name": "a"}], "restartPolicy": "Always", "nodeName": ""});
        let mut new = old.clone();
        new["nodeName"] = json!("n");
        let shown = diff("PodSpec", &old, &new);
        let expected = "\n \"NodeSelector\": null,\n \"ServiceAccountName\": \"\",\n \"AutomountServiceAccountToken\": null,\
                        \n- \"NodeName\": \"\",\n+ \"NodeName\": \"n\",\n \"SecurityContext\": null,\n \"ImagePullSecrets\": \
                        null,\n \"Hostname\": \"\",\n";
        let expected = expected.replace("\n \"", "\n  \"");
        assert!(shown.starts_with("@@ -") && shown.ends_with(&expected), "{shown}");
    }
}
