//! What a body says that it is, and what is said of one that is something else.
//!
//! A body names its kind and version, or leaves them to the URL. What is wrong here is reported before anything is known of the
//! object, in the words of upstream's decoder.

use bytes::Bytes;
use http::HeaderMap;
use machinery_kinds::{Registry, ResourceInfo};
use machinery_schema::{bounded::cut, types::Type};
use serde_json::{Map, Value};

use crate::negotiate::{Decoded, content_type, decode_media};
use crate::object::text_at;
use crate::status::{ApiError, Result};

/// Bytes of a body that an error shows.
const SUMMARY_BYTES: usize = 30;

/// Bytes of a number that an error shows: one may be as long as a body.
const NUMBER_BYTES_MAX: usize = 128;

/// Bytes of a name that an error shows.
const SHOWN_BYTES_MAX: usize = 256;

/// Where upstream keeps its kinds; part of its messages.
const SCHEME: &str = "pkg/runtime/scheme.go:111";

/// What Go prints of the type into which the kind of a body is read.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// Decodes a body that holds an object of a kind; one that is `null` is empty.
pub(crate) fn decode(headers: &HeaderMap, body: &Bytes, values_max: usize, kind: &str) -> Result<Value> {
    let refuse = |why: &str| {
        let summary = summary(body);
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
        ))
    };
    read(headers, body, values_max)?.map_err(|why| refuse(&why))
}

/// Decodes the options of a request; a body that is `null` has none. Whatever its version, an object that says of what kind it
/// is must be of theirs.
///
/// # Errors
/// When it is something else, or has a field of a wrong type, in upstream's words.
pub(crate) fn decode_options(headers: &HeaderMap, body: &Bytes, values_max: usize, kind: &str) -> Result<Value> {
    let value = read(headers, body, values_max)?.map_err(ApiError::bad_request)?;
    let (version, found) = (text_at(&value, "/apiVersion"), text_at(&value, "/kind"));
    if version.matches('/').count() > 1 {
        let shown = cut(version, SHOWN_BYTES_MAX);
        return Err(ApiError::bad_request(format!("unexpected GroupVersion string: {shown}")));
    }
    if !found.is_empty() && found != kind {
        let (version, found) = (cut(version, SHOWN_BYTES_MAX), cut(found, SHOWN_BYTES_MAX));
        return Err(ApiError::bad_request(if found == "Status" {
            format!("converting (v1.Status) to (v1.{kind}): unknown conversion")
        } else {
            // Nothing said is the version of the options themselves.
            let version = if version.is_empty() { "meta.k8s.io/v1" } else { version };
            format!("no kind {found:?} is registered for version {version:?} in scheme {SCHEME:?}")
        }));
    }
    let of = Type::of_kind("", "v1", kind).expect("options are registered with every group");
    fields(of, value).map_err(ApiError::bad_request)
}

/// Checks the fields of an object that is never stored, with the strictness of Go: serde takes a list for a struct.
///
/// # Errors
/// When one is of a wrong type, in upstream's words.
pub(crate) fn check_fields(expected: Kind<'_>, object: &mut Value) -> Result<()> {
    let Kind { group, version, kind } = expected;
    let of = Type::of_kind(group, version, kind).expect("it is a published kind");
    *object = fields(of, std::mem::take(object)).map_err(|error| {
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
    })?;
    Ok(())
}

fn fields(of: Type, mut value: Value) -> std::result::Result<Value, String> {
    machinery_schema::decode::decode(of, &mut value).map_err(|error| error.to_string())?;
    Ok(value)
}

/// Decodes a body into an object whose kind and version are texts; else says what it is.
fn read(headers: &HeaderMap, body: &Bytes, values_max: usize) -> Result<std::result::Result<Value, String>> {
    let unknown = |why: &str| Ok(Err(format!("couldn't get version/kind; json parse error: {why}")));
    let value = match decode_media(headers, body, values_max)? {
        Decoded::Value(value) => value,
        Decoded::BadJson(why) => match machinery_kinds::json_type(body) {
            Err(why) => return unknown(&why),
            // Go takes what our decoder does not, such as very deep nesting.
            Ok(_) => return unknown(&why),
        },
        Decoded::BadYaml(why) => return Ok(Err(yaml_error(&why))),
        Decoded::BadProtobuf(why) => return Ok(Err(why)),
    };
    let what = match &value {
        Value::Null => return Ok(Ok(Value::Object(Map::new()))),
        Value::Object(members) => {
            let mistyped =
                ["apiVersion", "kind"].into_iter().find_map(|name| Some((name, go_type(members.get(name)?)?)));
            return match mistyped {
                None => Ok(Ok(value)),
                Some((name, what)) => {
                    unknown(&format!("json: cannot unmarshal {what} into Go struct field .{name} of type string"))
                }
            };
        }
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    unknown(&format!("json: cannot unmarshal {what} into Go value of type {TYPE_META}"))
}

/// The first number of a JSON text that is none of a `float64`, as `1e400` is, which Go finds later than our decoder.
pub(crate) fn number_beyond<'b>(headers: &HeaderMap, body: &'b Bytes) -> Option<&'b str> {
    if !matches!(content_type(headers), "" | "application/json") || machinery_kinds::json_type(body).is_err() {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    let (mut is_text, mut is_escaped, mut start) = (false, false, None);
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        let is_number = !is_text && matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        match (start, is_number) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                // The letter of `true` and `false` is among them, and no number.
                if text[from..at].parse().is_ok_and(f64::is_infinite) {
                    return Some(cut(&text[from..at], NUMBER_BYTES_MAX));
                }
                start = None;
            }
            _ => {}
        }
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            _ => {}
        }
    }
    None
}

/// What is wrong with YAML, as far as upstream's words can be found in our decoder's: `line 3 column 5: WHAT` and a picture of it.
fn yaml_error(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let Some((_, rest)) = first.split_once("line ") else { return format!("yaml: {first}") };
    let (place, what) = rest.split_once(": ").unwrap_or(("", rest));
    match place.split(' ').next().and_then(|line| line.parse::<u32>().ok()) {
        Some(line) if line > 1 => format!("yaml: line {line}: {what}"),
        _ => format!("yaml: {what}"),
    }
}

/// What a value is that is no text, in Go's words.
fn go_type(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null | Value::String(_) => None,
        Value::Object(_) => Some("object"),
        Value::Array(_) => Some("array"),
        Value::Number(_) => Some("number"),
        Value::Bool(_) => Some("bool"),
    }
}

/// The beginning of a body, as upstream shows it.
fn summary(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SUMMARY_BYTES)];
    let more = if body.len() > SUMMARY_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// A kind in one version of its group.
#[derive(Clone, Copy)]
pub(crate) struct Kind<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
}

impl<'a> Kind<'a> {
    pub(crate) fn of(info: &'a ResourceInfo) -> Self {
        Self { group: &info.group, version: &info.version, kind: &info.kind }
    }

    fn api_version(self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Fills in `apiVersion` and `kind` where the client left them out, and refuses others than the URL's.
pub(crate) fn check_kind(registry: &Registry, expected: Kind<'_>, object: &mut Value) -> Result<()> {
    let api_version = match text_at(object, "/apiVersion") {
        "" => expected.api_version(),
        given => given.to_owned(),
    };
    let kind = match text_at(object, "/kind") {
        "" => expected.kind.to_owned(),
        given => given.to_owned(),
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let refused = |why: String| {
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", expected.kind))
    };
    if (group, version, kind.as_str()) != (expected.group, expected.version, expected.kind) {
        if !is_registered(registry, group, version, &kind) {
            let why = format!("no kind {kind:?} is registered for version {api_version:?} in scheme {SCHEME:?}");
            return Err(refused(why));
        }
        if kind != expected.kind {
            let package = match expected.group {
                "" => "core",
                group => group.split('.').next().unwrap_or_default(),
            };
            let target = expected.kind;
            return Err(refused(format!("converting ({version}.{kind}) to ({package}.{target}): unknown conversion")));
        }
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version()
        )));
    }
    let fields = object.as_object_mut().ok_or_else(|| ApiError::bad_request("the body must be an object"))?;
    fields.insert("apiVersion".to_owned(), api_version.into());
    fields.insert("kind".to_owned(), kind.into());
    Ok(())
}

/// Whether upstream knows a kind, of those that a client may send here by mistake.
fn is_registered(registry: &Registry, group: &str, version: &str, kind: &str) -> bool {
    let is_own = |kind: &str| {
        registry.resource_by_kind(group, version, kind).is_some_and(|info| !info.is_custom())
            || registry.resources_of(group, version).any(|info| {
                !info.is_custom() && info.subresources.iter().any(|part| &*part.kind == kind && part.group.is_empty())
            })
    };
    // Options are registered with every group.
    let is_option = matches!(
        kind,
        "DeleteOptions"
            | "CreateOptions"
            | "UpdateOptions"
            | "PatchOptions"
            | "GetOptions"
            | "ListOptions"
            | "WatchEvent"
    );
    is_own(kind)
        || kind.strip_suffix("List").is_some_and(is_own)
        || (is_option && registry.resources_of(group, version).any(|info| !info.is_custom()))
        || (group, version, kind) == ("", "v1", "Status")
        || (group, version, kind) == ("autoscaling", "v1", "Scale")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_body(body: &'static str, expected: &str) {
        let found = decode(&HeaderMap::new(), &Bytes::from_static(body.as_bytes()), usize::MAX, "Pod").unwrap_err();
        let message = found.message().replace("the object provided is unrecognized (must be of type Pod): ", "");
        assert_eq!(message.replace("couldn't get version/kind; json parse error: ", "~ "), expected, "{body}");
    }

    #[test]
    fn a_body_that_is_no_object_is_named_and_shown() {
        check_body("{", "~ unexpected end of JSON input ({)");
        check_body("", "~ unexpected end of JSON input (<empty>)");
        check_body("[]", &format!("~ json: cannot unmarshal array into Go value of type {TYPE_META} (5b5d)"));
        check_body(
            "{\"kind\":1}",
            "~ json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":1})",
        );
        check_body(
            "{\"a\":x,\"b\":\"more than thirty bytes\"}",
            "~ invalid character 'x' looking for beginning of value ({\"a\":x,\"b\":\"more than thirty b ...)",
        );
        let mut yaml = HeaderMap::new();
        yaml.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/yaml"));
        let error = decode(&yaml, &Bytes::from_static(b"a: b: c\n"), usize::MAX, "ConfigMap").unwrap_err();
        let expected = "the object provided is unrecognized (must be of type ConfigMap): yaml: mapping values are not allowed in this context (613a20623a20630a)";
        assert_eq!(error.message(), expected);
        let empty = decode(&HeaderMap::new(), &Bytes::from_static(b"null"), usize::MAX, "Pod").unwrap();
        assert_eq!(empty, serde_json::json!({}));
    }

    fn check(api_version: &str, kind: &str, expected: &str) {
        let registry = Registry::builtin();
        let info = registry.resource("", "v1", "configmaps").expect("they are built in");
        let mut object = serde_json::json!({"apiVersion": api_version, "kind": kind});
        let found = check_kind(&registry, Kind::of(info), &mut object).map_err(|error| error.message().to_owned());
        match expected {
            "" => assert_eq!((found, object["kind"].as_str()), (Ok(()), Some("ConfigMap"))),
            expected => assert_eq!(found, Err(expected.to_owned())),
        }
    }

    #[test]
    fn another_kind_than_the_urls_is_refused_as_upstream_refuses_it() {
        check("", "", "");
        check("v1", "ConfigMap", "");
        check("", "ConfigMap", "");
        check(
            "v1",
            "Nothing",
            "Nothing in version \"v1\" cannot be handled as a ConfigMap: no kind \"Nothing\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\"",
        );
        check(
            "nothing/v9",
            "ConfigMap",
            "ConfigMap in version \"v9\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"nothing/v9\" in scheme \"pkg/runtime/scheme.go:111\"",
        );
        check(
            "v1",
            "Secret",
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        );
        let registry = Registry::builtin();
        let info = registry.resource("autoscaling", "v2", "horizontalpodautoscalers").expect("they are built in");
        let mut object = serde_json::json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler"});
        let error = check_kind(&registry, Kind::of(info), &mut object).unwrap_err();
        let expected =
            "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)";
        assert_eq!(error.message(), expected);
    }
}
