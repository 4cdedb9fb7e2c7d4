//! OpenAPI documents: negotiated, tagged, and kept while they are right.
//!
//! One copy of a document serves everybody who reads it, however slowly; a server that serves none keeps none. The document of
//! v2 has two megabytes, so it is kept compressed, and sent as it is kept to clients that take gzip, as nearly all do;
//! for others it is inflated piece by piece.

use std::collections::HashMap;
use std::io::Read as _;

use base_http::{Body, BoxError};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use machinery_kinds::Registry;
use parking_lot::Mutex;

use crate::outgoing::BytesKept;
use crate::pump::{PIECE_BYTES, accepts_gzip};
use crate::request::Query;
use crate::status;

/// Of a shared document each response keeps the frame that is being sent, and the one in the socket.
const SHARED_BYTES_KEPT: usize = 32 * 1024;

const JSON: &str = "application/json";
const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients request it by; the name of the answer is the one that is a valid media type.
const PROTOBUF_V2_AS_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// As documents say when they were last changed.
const HTTP_DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// The documents that were requested, as they were made last.
#[derive(Default)]
pub(crate) struct Documents {
    /// By path, such as `apis/apps/v1`.
    v3: Mutex<HashMap<String, Document>>,
    v2: Mutex<Option<V2>>,
}

/// A document of v3 in JSON.
#[derive(Clone)]
struct Document {
    etag: String,
    modified: HeaderValue,
    bytes: Bytes,
}

/// The document of v2, gzipped; a form that nobody has requested is absent.
struct V2 {
    etag: String,
    modified: HeaderValue,
    json: Option<Bytes>,
    protobuf: Option<Bytes>,
}

impl Documents {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.v3.lock().len()
    }

    /// The answer to `GET /openapi/v3/PATH`; none when there is no such document.
    pub(crate) fn v3(
        &self,
        registry: &Registry,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        let hash = registry.openapi_hash(path)?;
        let etag = format!("\"{hash}\"");
        if negotiated(headers, &[JSON]).is_none() {
            return Some(not_acceptable());
        }
        let query = Query::parse(query).unwrap_or_default();
        let asked = query.iter().find(|(key, value)| *key == "hash" && !value.is_empty()).map(|(_, value)| value);
        if asked.is_some_and(|asked| asked != hash) {
            return Some(moved(&format!("/openapi/v3/{path}?hash={hash}"), &etag));
        }
        let is_kept_for_good = asked.is_some();
        let document = self.document(registry, path, &etag)?;
        let mut response = if is_held(headers, &etag, &document.modified) {
            status::not_modified()
        } else {
            let mut response = status::ok(document.bytes);
            response.extensions_mut().insert(BytesKept(SHARED_BYTES_KEPT));
            response
        };
        describe(&mut response, &etag, &document.modified);
        if is_kept_for_good {
            // The address changes with the document.
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            let next_year = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(365 * 24));
            headers.insert(header::EXPIRES, http_date(next_year.unwrap_or(jiff::Timestamp::MAX)));
        }
        Some(response)
    }

    fn document(&self, registry: &Registry, path: &str, etag: &str) -> Option<Document> {
        let mut documents = self.v3.lock();
        if let Some(document) = documents.get(path).filter(|document| document.etag == etag) {
            return Some(document.clone());
        }
        // Made under the lock, so that many who come at once have it made once. Those of groups that are no longer served are dropped.
        let bytes = Bytes::from(registry.openapi_document(path)?);
        documents.retain(|path, _| registry.openapi_hash(path).is_some());
        let modified = http_date(jiff::Timestamp::now());
        let document = Document { etag: etag.to_owned(), modified, bytes };
        documents.insert(path.to_owned(), document.clone());
        Some(document)
    }

    /// The answer to `GET /openapi/v2`.
    pub(crate) fn v2(&self, registry: &Registry, headers: &HeaderMap) -> Response<Body> {
        let Some(media) = negotiated(headers, &[JSON, PROTOBUF_V2_AS_ASKED, PROTOBUF_V2]) else {
            return not_acceptable();
        };
        let is_json = media == JSON;
        let etag = format!("\"{}\"", registry.openapi_v2_hash());
        let (packed, modified) = self.packed(registry, &etag, is_json);
        let mut response = if is_held(headers, &etag, &modified) {
            status::not_modified()
        } else if accepts_gzip(headers) {
            let mut response = status::ok(packed);
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        } else {
            let length = length(&packed);
            let mut response = status::ok(Body::stream(futures::stream::iter(Pieces::new(packed))));
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            response
        };
        response.extensions_mut().insert(BytesKept(SHARED_BYTES_KEPT + PIECE_BYTES));
        describe(&mut response, &etag, &modified);
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(if is_json { JSON } else { PROTOBUF_V2 }));
        response
    }

    fn packed(&self, registry: &Registry, etag: &str, is_json: bool) -> (Bytes, HeaderValue) {
        let mut kept = self.v2.lock();
        if kept.as_ref().is_none_or(|kept| kept.etag != etag) {
            let modified = http_date(jiff::Timestamp::now());
            *kept = Some(V2 { etag: etag.to_owned(), modified, json: None, protobuf: None });
        }
        let kept = kept.as_mut().expect("it was put there");
        let packed = if is_json {
            kept.json.get_or_insert_with(|| registry.openapi_v2().into())
        } else {
            kept.protobuf.get_or_insert_with(|| registry.openapi_v2_protobuf().into())
        };
        (packed.clone(), kept.modified.clone())
    }
}

/// Of what a gzip member says at its end, how long its content is.
fn length(packed: &[u8]) -> u32 {
    let last = packed.last_chunk().expect("it was packed here, and has an end");
    u32::from_le_bytes(*last)
}

/// What a document inflates to, piece by piece.
struct Pieces(flate2::read::GzDecoder<std::io::Cursor<Bytes>>);

impl Pieces {
    fn new(packed: Bytes) -> Self {
        Self(flate2::read::GzDecoder::new(std::io::Cursor::new(packed)))
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, BoxError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match self.0.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some(Ok(piece.into())),
            Err(error) => Some(Err(error.into())),
        }
    }
}

/// The first of what is offered that a client takes; what it likes best goes first.
fn negotiated<'o>(headers: &HeaderMap, offered: &[&'o str]) -> Option<&'o str> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut ranges: Vec<(f32, &str)> = Vec::new();
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).and_then(|text| text.parse().ok()).unwrap_or(1.0);
        ranges.push((quality, media));
    }
    ranges.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    ranges.into_iter().find_map(|(_, media)| {
        offered.iter().copied().find(|offered| match media.split_once('/') {
            Some(("*", "*")) => true,
            Some((kind, "*")) => offered.split_once('/').is_some_and(|(own, _)| own == kind),
            _ => media == *offered,
        })
    })
}

fn not_acceptable() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn moved(url: &str, etag: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    for (name, value) in [(header::LOCATION, url), (header::ETAG, etag)] {
        // A path with letters that no header has is none of a document.
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn describe(response: &mut Response<Body>, etag: &str, modified: &HeaderValue) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, value);
    }
    headers.insert(header::LAST_MODIFIED, modified.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
}

/// Whether a client has the document already, by its tag, or where it sends none by its time.
fn is_held(headers: &HeaderMap, etag: &str, modified: &HeaderValue) -> bool {
    match headers.get(header::IF_NONE_MATCH) {
        Some(held) => held.to_str().is_ok_and(|held| held.contains(etag)),
        None => headers.get(header::IF_MODIFIED_SINCE) == Some(modified),
    }
}

fn http_date(time: jiff::Timestamp) -> HeaderValue {
    let text = time.to_zoned(jiff::tz::TimeZone::UTC).strftime(HTTP_DATE).to_string();
    HeaderValue::from_str(&text).expect("a date is plain text")
}
