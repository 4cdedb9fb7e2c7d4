//! Which form a client wants an answer in, and which form its body is in.

use base_http::{Body, ReadBodyError, read_body};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use machinery_kinds::{DiscoveryVersion, FieldError, IncludeObject, ResourceInfo};
use machinery_schema::protobuf;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protobuf::DecodeError;
use crate::request::Query;
use crate::server::RequestBody;
use crate::status::{ApiError, Result};

/// Largest object that is taken, as in Kubernetes.
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// In which form and which encoding an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) form: Form,
    pub(crate) media: Media,
}

/// Objects as they are stored.
pub(crate) const PLAIN: Output = Output { form: Form::Object, media: Media::Json };

impl Output {
    /// Objects as they are stored, which is what nearly everybody asks for: their bytes are sent as they are.
    pub(crate) fn is_plain(self) -> bool {
        self == PLAIN
    }
}

/// What is shown of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects as they are.
    Object,
    /// A Table, for people.
    Table(MetaVersion, IncludeObject),
    /// Metadata only, of one object or of a list of them.
    Partial(MetaVersion, Arity),
}

/// A version of `meta.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// Whether the client has asked for the form of one object or of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    One,
    List,
}

/// How an answer is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
}

impl Media {
    fn of(name: &str) -> Option<Self> {
        match name {
            "application/json" | "application/*" | "*/*" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            protobuf::MEDIA_TYPE => Some(Self::Protobuf),
            _ => None,
        }
    }
}

/// What an answer may be encoded as, in the order in which upstream names it.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const ACCEPTED_STREAM: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// One media range of an `Accept` header.
struct Range<'a> {
    media: String,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    /// `None` when it is no media range: such a part of the header is passed over.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let media = parts.next().unwrap_or_default().trim();
        let media = match media.split_once('/') {
            Some((kind, rest)) if !rest.contains('/') && !rest.is_empty() => format!("{}/{}", kind.trim(), rest.trim()),
            None if media == "*" => "*/*".to_owned(),
            _ => return None,
        };
        let parameters: Vec<_> = parts
            .filter_map(|part| part.split_once('=').filter(|(_, value)| !value.is_empty() && !value.contains('=')))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let quality = parameters.iter().find(|(key, _)| *key == "q").map_or(1.0, |(_, q)| q.parse().unwrap_or(0.0));
        Some(Self { media, quality, parameters })
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        // As from a map: the last one counts.
        self.parameters.iter().rev().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media.as_str(), "application/json" | "application/*" | "*/*")
    }

    /// How much is left open: what is named goes before what is not.
    fn openness(&self) -> u8 {
        match self.media.split_once('/') {
            Some(("*", _)) => 2,
            Some((_, "*")) => 1,
            _ => 0,
        }
    }
}

fn accept(headers: &HeaderMap) -> &str {
    // Of several headers upstream reads the first.
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The ranges of an `Accept` header, the preferred ones first.
fn ranges(text: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = text.split(',').filter_map(Range::parse).collect();
    ranges.sort_by(|left, right| {
        right.quality.total_cmp(&left.quality).then_with(|| left.openness().cmp(&right.openness()))
    });
    ranges
}

/// The form a client wants an answer in; the first one it names that is served.
///
/// A client that takes none learns it in two ways, as upstream's router and its handlers do.
pub(crate) fn output(info: &ResourceInfo, verb: &str, headers: &HeaderMap, query: &Query) -> Result<Output> {
    let text = accept(headers);
    let is_list = matches!(verb, "list" | "watch");
    if !info.is_custom() && !is_routed(text) {
        let streams = if is_list { format!(", {ACCEPTED_STREAM}") } else { String::new() };
        let available = format!("406: Not Acceptable\n\nAvailable representations: {ACCEPTED}{streams}");
        return Err(ApiError::nothing_acceptable(available));
    }
    let output = negotiated(text, query, info.type_of().is_some())?;
    let output = output.ok_or_else(|| ApiError::not_acceptable(ACCEPTED))?;
    if verb == "watch" && output.media == Media::Yaml {
        return Err(ApiError::not_acceptable(ACCEPTED_STREAM));
    }
    Ok(output)
}

/// Whether upstream's router passes a request on: it compares names of media types alone.
fn is_routed(accept: &str) -> bool {
    let is_named = |text: &str| {
        let media = text.split(';').next().unwrap_or_default().trim();
        matches!(media, "*/*" | "application/json" | "application/yaml" | "application/vnd.kubernetes.protobuf")
    };
    accept.is_empty() || accept.split(',').any(is_named)
}

/// `is_typed` says whether the resource has messages of its own; those of definitions have none.
fn negotiated(accept: &str, query: &Query, is_typed: bool) -> Result<Option<Output>> {
    if accept.is_empty() {
        return Ok(Some(Output { form: Form::Object, media: Media::Json }));
    }
    for range in ranges(accept) {
        let Some(media) = Media::of(&range.media) else { continue };
        if range.get("stream").is_some_and(|stream| stream != "watch" || media == Media::Yaml)
            || range.get("sv").is_some()
        {
            continue;
        }
        let is_converted = ["as", "g", "v"].iter().any(|key| range.get(key).is_some());
        if !is_converted && media == Media::Protobuf && !is_typed {
            continue;
        }
        if !is_converted {
            return Ok(Some(Output { form: Form::Object, media }));
        }
        let version = match (range.get("g"), range.get("v")) {
            (Some("meta.k8s.io"), Some("v1")) => MetaVersion::V1,
            (Some("meta.k8s.io"), Some("v1beta1")) => MetaVersion::V1Beta1,
            _ => continue,
        };
        let form = match range.get("as") {
            Some("Table") => Form::Table(version, include_object(query)?),
            Some("PartialObjectMetadata") => Form::Partial(version, Arity::One),
            Some("PartialObjectMetadataList") => Form::Partial(version, Arity::List),
            _ => continue,
        };
        if media == Media::Protobuf && matches!(form, Form::Table(..)) {
            // There is no message for tables.
            continue;
        }
        return Ok(Some(Output { form, media }));
    }
    Ok(None)
}

/// The encoding of an error: forms of objects are not its own.
pub(crate) fn error_media(headers: &HeaderMap) -> Media {
    let text = accept(headers);
    let plain = |range: &Range<'_>| {
        let media = Media::of(&range.media)?;
        let is_plain = ["as", "g", "v", "sv"].iter().all(|key| range.get(key).is_none());
        let is_streamed = range.get("stream").is_some_and(|stream| stream != "watch" || media == Media::Yaml);
        (is_plain && !is_streamed).then_some(media)
    };
    ranges(text).iter().find_map(plain).unwrap_or(Media::Json)
}

fn include_object(query: &Query) -> Result<IncludeObject> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(IncludeObject::Metadata),
        Some("None") => Ok(IncludeObject::None),
        Some("Object") => Ok(IncludeObject::Object),
        Some(other) => {
            let why = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid("includeObject", &other.into(), why);
            Err(ApiError::bad_request(format!("Unable to convert to Table as requested: {error}")))
        }
    }
}

/// The same answer in YAML. It must be whole: what is streamed is never asked for in YAML.
pub(crate) async fn as_yaml(response: Response<Body>) -> Response<Body> {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/json");
    if !is_json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let whole = http_body_util::Limited::new(body, YAML_BYTES_MAX).collect().await;
    let value = whole.ok().and_then(|whole| serde_json::from_slice::<Value>(&whole.to_bytes()).ok());
    let Some(value) = value else {
        return ApiError::internal("the answer cannot be written as YAML").into_response();
    };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    Response::from_parts(head, Body::from(machinery_schema::yaml::to_yaml(&value)))
}

/// An answer that stays JSON though its client prefers protobuf, which takes JSON as well: it is sent while it is made.
#[derive(Clone, Copy)]
pub(crate) struct StaysJson;

/// The same answer in protobuf, if it has a message: one object, a list, a status.
pub(crate) async fn as_protobuf(response: Response<Body>) -> Response<Body> {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/json");
    if !is_json || response.extensions().get::<StaysJson>().is_some() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(whole) = http_body_util::Limited::new(body, YAML_BYTES_MAX).collect().await else {
        return ApiError::internal("the answer cannot be written as protobuf").into_response();
    };
    let whole = whole.to_bytes();
    let Some(message) = serde_json::from_slice(&whole).ok().and_then(|value| crate::protobuf::encode(&value)) else {
        return Response::from_parts(head, Body::from(whole));
    };
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(protobuf::MEDIA_TYPE));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(message))
}

/// More than any object; lists that are larger are refused before.
const YAML_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Which aggregated discovery a client takes, if any; the first one it names.
pub(crate) fn aggregated_discovery(headers: &HeaderMap) -> Option<DiscoveryVersion> {
    for range in ranges(accept(headers)).into_iter().filter(Range::is_json) {
        match (range.get("as"), range.get("g"), range.get("v")) {
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Some(DiscoveryVersion::V2);
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Some(DiscoveryVersion::V2Beta1);
            }
            (None, ..) => return None,
            _ => {}
        }
    }
    None
}

/// Reads a body. Boxed, because the compiler cannot see through the generic future that it is `Send`
/// (rust-lang/rust#102211).
pub(crate) fn bounded_body(
    body: RequestBody,
    max: usize,
) -> BoxFuture<'static, std::result::Result<Bytes, ReadBodyError>> {
    Box::pin(read_body(body, max))
}

/// The media type of a body, without its parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    // Letters of either case are the same in it.
    KNOWN_MEDIA.iter().find(|known| known.eq_ignore_ascii_case(media)).copied().unwrap_or(media)
}

/// What bodies may be.
const KNOWN_MEDIA: [&str; 8] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

/// A body, or why it is none.
pub(crate) enum Decoded {
    Value(Value),
    BadJson(String),
    BadYaml(String),
    BadProtobuf(String),
}

/// Decodes a body by its media type.
///
/// # Errors
/// When that is none that is taken, or when what it holds is too much.
pub(crate) fn decode_media(headers: &HeaderMap, body: &Bytes, values_max: usize) -> Result<Decoded> {
    Ok(match content_type(headers) {
        "" | "application/json" => match serde_json::from_slice(body) {
            Ok(value) => Decoded::Value(value),
            Err(error) => Decoded::BadJson(error.to_string()),
        },
        "application/yaml" => match yaml(body, values_max) {
            Ok(value) => Decoded::Value(value),
            Err(error) => Decoded::BadYaml(error.message().to_owned()),
        },
        "application/vnd.kubernetes.protobuf" => match crate::protobuf::decode(body, values_max) {
            Ok(value) => Decoded::Value(value),
            Err(DecodeError::Malformed(why)) => Decoded::BadProtobuf(why),
            Err(error @ DecodeError::TooMany { .. }) => return Err(ApiError::too_large(error.to_string())),
            Err(error @ DecodeError::Unknown { .. }) => {
                return Err(ApiError::unsupported_media_type(error.to_string()));
            }
        },
        _ => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {ACCEPTED}"
            )));
        }
    })
}

/// Decodes a body that holds one object.
pub(crate) fn decode_body(headers: &HeaderMap, body: &Bytes, values_max: usize) -> Result<Value> {
    match decode_media(headers, body, values_max)? {
        Decoded::Value(value) => Ok(value),
        Decoded::BadJson(why) => Err(ApiError::bad_request(format!("error decoding the body as JSON: {why}"))),
        Decoded::BadYaml(why) | Decoded::BadProtobuf(why) => Err(ApiError::bad_request(why)),
    }
}

/// How much larger an object may be than the YAML that it is written in.
const YAML_EXPANSION_MAX: usize = 2;

/// Texts below this expand as this one: a manifest whose containers share their settings is short.
const YAML_BYTES_MIN: usize = 16 * 1024;

/// No object of Kubernetes is as deep, and every reader goes deeper.
const PLAIN_DEPTH_MAX: usize = 48;

/// A key of YAML must end within 1,024 characters.
const PLAIN_KEY_BYTES_MAX: usize = 512;

/// About what the decoder keeps of each event that an alias may repeat.
const YAML_EVENT_BYTES: usize = 16;

/// Decodes a body in YAML.
pub(crate) fn yaml(body: &Bytes, values_max: usize) -> Result<Value> {
    read_yaml(body, values_max).map_err(ApiError::bad_request)
}

/// Reads YAML as the server reads bodies: of what YAML 1.1 and 1.2 disagree on, as Kubernetes does. What aliases repeat is bounded
/// by the size of the text (a few anchors of eight KiB, repeated eight thousand times, would be 64 MiB of an object that nobody
/// wrote), and all keys and values by `values_max`.
///
/// # Errors
/// Where the text is not UTF-8, no YAML, or larger than that.
pub fn read_yaml(text: &[u8], values_max: usize) -> std::result::Result<Value, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the body is not UTF-8")?;
    if let Some(value) = plain_json(text, values_max) {
        return Ok(value);
    }
    yaml_of(text, values_max)
}

fn yaml_of(text: &str, values_max: usize) -> std::result::Result<Value, String> {
    let mut value = serde_saphyr::from_str_with_options(text, yaml_options(text, values_max))
        .map_err(|error| format!("error decoding the body as YAML: {error}"))?;
    write_whole_numbers(&mut value);
    Ok(value)
}

/// JSON is what clients apply, and read as YAML it costs ten times as much, a quarter of an apply. So it is read as JSON where
/// that is certain to be the same: on one line of printable ASCII without escapes, with whole numbers and keys of usual
/// length. `None` is all else, and what breaks a bound, which is the YAML reader's to say.
fn plain_json(text: &str, values_max: usize) -> Option<Value> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    // A key `<<` merges what it has.
    if !text.starts_with('{') || !text.bytes().all(is_plain) || text.contains("<<") {
        return None;
    }
    let (mut depth, mut nodes, mut is_text) = (0_usize, 1_usize, false);
    for byte in text.bytes() {
        match byte {
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'{' | b'[' => (depth, nodes) = (depth + 1, nodes + 1),
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' | b':' => nodes += 1,
            _ => {}
        }
        if depth > PLAIN_DEPTH_MAX {
            return None;
        }
    }
    if nodes >= values_max.saturating_mul(2) {
        return None;
    }
    serde_json::from_str(text).ok().filter(is_same_in_yaml)
}

/// Whether all numbers are whole, and no key is as long as those that YAML has a rule of its own for.
fn is_same_in_yaml(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_i64(),
        Value::Array(items) => items.iter().all(is_same_in_yaml),
        Value::Object(members) => {
            members.iter().all(|(key, value)| key.len() <= PLAIN_KEY_BYTES_MAX && is_same_in_yaml(value))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Upstream makes JSON of YAML first, and Go writes a number without a fraction as a whole one: `420.0` is 420.
fn write_whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            // A float with the value of a whole number is exact below 2^53, and Go's digits of larger ones are too.
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() < i64::MAX as f64 {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers),
        Value::Object(members) => members.values_mut().for_each(write_whole_numbers),
        _ => {}
    }
}

/// How YAML is read: of keys that are there twice the last counts, as in JSON, and [`crate::repeats`] finds them.
pub(crate) fn yaml_options(text: &str, values_max: usize) -> serde_saphyr::Options {
    let bytes_max = YAML_EXPANSION_MAX.saturating_mul(text.len().max(YAML_BYTES_MIN));
    let budget = serde_saphyr::budget! {
        max_documents: 1,
        // A key is one too.
        max_nodes: bytes_max.min(values_max.saturating_mul(2)),
        max_total_scalar_bytes: bytes_max,
        max_recorded_anchor_events: bytes_max / YAML_EVENT_BYTES,
        max_recorded_anchor_bytes: bytes_max,
        max_total_comment_bytes: bytes_max,
    };
    let duplicate_keys = serde_saphyr::DuplicateKeyPolicy::PassThrough;
    // Modes of files are written like that; YAML 1.1, which Go's reader follows, knows them.
    serde_saphyr::options! { budget: budget, duplicate_keys: duplicate_keys, legacy_octal_numbers: true }
}

/// An object's metadata alone, from the stored bytes; nothing when they cannot be read.
pub(crate) fn partial_of_bytes(bytes: &[u8], version: MetaVersion, out: &mut BytesMut) {
    #[derive(Deserialize)]
    struct HasMetadata<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    // The metadata is copied as it is; what comes after it is only skipped.
    let Ok(object) = serde_json::from_slice::<HasMetadata<'_>>(bytes) else { return };
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":""#);
    out.extend_from_slice(version.api_version().as_bytes());
    out.extend_from_slice(br#"","metadata":"#);
    out.extend_from_slice(object.metadata.get().as_bytes());
    out.extend_from_slice(b"}");
}

/// A row of a table, now.
pub(crate) fn table_row(
    info: &ResourceInfo,
    object: &Value,
    version: MetaVersion,
    include: IncludeObject,
    now: jiff::Timestamp,
) -> Value {
    let mut row = machinery_kinds::table_row(info, object, now, include);
    match include {
        // Upstream's field has no `omitempty`.
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => row["object"]["apiVersion"] = version.api_version().into(),
        IncludeObject::Object => {}
    }
    row
}

/// A table of one object, now.
pub(crate) fn table(info: &ResourceInfo, object: &Value, version: MetaVersion, include: IncludeObject) -> Value {
    let row = table_row(info, object, version, include, jiff::Timestamp::now());
    serde_json::json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": {"resourceVersion": crate::object::text_at(object, "/metadata/resourceVersion")},
        "columnDefinitions": machinery_kinds::column_definitions(info),
        "rows": [row],
    })
}

#[cfg(test)]
mod tests;
