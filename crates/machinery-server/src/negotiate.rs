//! Which form a client wants an answer in, and which form its body is in.

use base_http::{ReadBodyError, read_body};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, header};
use machinery_kinds::{DiscoveryVersion, IncludeObject, ResourceInfo};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::protobuf::DecodeError;
use crate::request::Query;
use crate::server::RequestBody;
use crate::status::{ApiError, Result};

/// Largest object that is taken, as in Kubernetes.
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The objects as they are.
    Json,
    /// `meta.k8s.io/v1` Table, for people.
    Table(IncludeObject),
    /// Metadata only.
    Partial,
}

/// One media range of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| part.split_once('=')).map(|(key, value)| (key.trim(), value.trim()));
        Self { media, parameters: parameters.collect() }
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media, "application/json" | "application/*" | "*/*" | "*")
    }
}

fn ranges(headers: &HeaderMap) -> impl Iterator<Item = Range<'_>> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(Range::parse)
}

/// The form a client wants objects in; the first one it names that is served.
pub(crate) fn output(headers: &HeaderMap, query: &Query) -> Result<Output> {
    let mut is_empty = true;
    for range in ranges(headers) {
        is_empty = false;
        if !range.is_json() {
            continue;
        }
        let is_meta = range.get("g").is_none_or(|group| group == "meta.k8s.io");
        let is_served = range.get("v").is_none_or(|version| matches!(version, "v1" | "v1beta1"));
        match range.get("as") {
            None => return Ok(Output::Json),
            Some("Table") if is_meta && is_served => return include_object(query).map(Output::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if is_meta && is_served => {
                return Ok(Output::Partial);
            }
            Some(_) => {}
        }
    }
    if is_empty { Ok(Output::Json) } else { Err(ApiError::not_acceptable()) }
}

fn include_object(query: &Query) -> Result<IncludeObject> {
    match query.get("includeObject") {
        None | Some("Metadata") => Ok(IncludeObject::Metadata),
        Some("None") => Ok(IncludeObject::None),
        Some("Object") => Ok(IncludeObject::Object),
        Some(other) => Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}"))),
    }
}

/// Which aggregated discovery a client takes, if any; the first one it names.
pub(crate) fn aggregated_discovery(headers: &HeaderMap) -> Option<DiscoveryVersion> {
    for range in ranges(headers).filter(Range::is_json) {
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
    value.split(';').next().unwrap_or_default().trim()
}

/// Decodes a body that holds one object.
pub(crate) fn decode_body(headers: &HeaderMap, body: &Bytes, values_max: usize) -> Result<Value> {
    match content_type(headers) {
        "" | "application/json" | "text/json" => json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(body, values_max),
        "application/vnd.kubernetes.protobuf" => {
            crate::protobuf::decode(body, values_max).map_err(|error| match error {
                DecodeError::Malformed(_) => ApiError::bad_request(error.to_string()),
                DecodeError::TooMany { .. } => ApiError::too_large(error.to_string()),
                DecodeError::Unknown { .. } => ApiError::unsupported_media_type(error.to_string()),
            })
        }
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types include: \
             application/json, application/yaml"
        ))),
    }
}

/// Decodes JSON; nesting is bounded by the decoder.
pub(crate) fn json(body: &Bytes) -> Result<Value> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding the body as JSON: {error}")))
}

/// How much larger an object may be than the YAML that it is written in.
const YAML_EXPANSION_MAX: usize = 2;

/// Texts below this expand as this one: a manifest whose containers share their settings is short.
const YAML_BYTES_MIN: usize = 16 * 1024;

/// About what the decoder keeps of each event that an alias may repeat.
const YAML_EVENT_BYTES: usize = 16;

/// Decodes YAML. What aliases repeat is bounded by the size of the text: a few anchors of eight KiB, repeated eight thousand
/// times, would be 64 MiB of an object that nobody wrote.
pub(crate) fn yaml(body: &Bytes, values_max: usize) -> Result<Value> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
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
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { budget: budget })
        .map_err(|error| ApiError::bad_request(format!("error decoding the body as YAML: {error}")))
}

/// An object's metadata alone, from the stored bytes; nothing when they cannot be read.
pub(crate) fn partial_of_bytes(bytes: &[u8], out: &mut BytesMut) {
    #[derive(Deserialize)]
    struct HasMetadata<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    // The metadata is copied as it is; what comes after it is only skipped.
    let Ok(object) = serde_json::from_slice::<HasMetadata<'_>>(bytes) else { return };
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.extend_from_slice(object.metadata.get().as_bytes());
    out.extend_from_slice(b"}");
}

/// A table of objects, now.
pub(crate) fn table(info: &ResourceInfo, objects: &[Value], include: IncludeObject) -> Value {
    machinery_kinds::table(info, objects, jiff::Timestamp::now(), include)
}

#[cfg(test)]
mod tests;
