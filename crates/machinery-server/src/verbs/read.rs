//! GET: one object, or many.

use std::sync::Arc;

use base_http::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::Response;
use machinery_store::{Expired, Object, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::negotiate::{Output, output, partial, table};
use crate::object::{decode, with_api_version};
use crate::request::{At, ListOptions};
use crate::selector::Selection;
use crate::server::Context;
use crate::status::{self, ApiError, Result};

/// Objects looked at in one step while a selector picks few of them.
const SCAN_STEP: usize = 1000;

/// Small objects are put together to pieces of this size, which suit sockets and TLS records.
const PIECE_BYTES: usize = 64 * 1024;

pub(crate) fn get(context: &Context<'_>) -> Result<Response<Body>> {
    if let At::NotOlderThan(revision) = ListOptions::parse(&context.query)?.at {
        check_reached(context, revision)?;
    }
    context.show(context.stored()?.bytes.clone(), false, &[])
}

/// Where a list goes on; opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct ContinueToken {
    /// The revision of the whole list.
    rv: u64,
    /// Namespace and name of the last object sent.
    after: (String, String),
}

/// Some of a resource's objects at one revision.
pub(crate) struct Page {
    pub(crate) items: Vec<Arc<Object>>,
    pub(crate) revision: Revision,
    next: Option<(String, Option<usize>)>,
}

pub(crate) fn list(context: &Context<'_>, options: &ListOptions) -> Result<Response<Body>> {
    let output = output(&context.headers, &context.query)?;
    let selection = selection(context, options)?;
    let page = page(context, options, &selection)?;
    match output {
        Output::Json => Ok(spliced(context, page)),
        Output::Partial => {
            let items = decoded(context, &page)?.iter().map(partial).collect::<Vec<_>>();
            let list = json!({
                "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": page.metadata(),
                "items": items,
            });
            Ok(status::ok_json(&list))
        }
        Output::Table(include) => {
            let mut shown = table(&context.info, &decoded(context, &page)?, include);
            shown["metadata"] = page.metadata();
            Ok(status::ok_json(&shown))
        }
    }
}

/// What the request selects; refuses fields that the resource does not offer.
pub(crate) fn selection(context: &Context<'_>, options: &ListOptions) -> Result<Selection> {
    for field in options.fields.fields() {
        let is_known = matches!(field, "metadata.name" | "metadata.namespace")
            || context.info.selectable_fields.iter().any(|selectable| &*selectable.name == field);
        if !is_known {
            return Err(ApiError::bad_request(format!("field label not supported: {field}")));
        }
    }
    Ok(Selection::new(context.path.namespace.clone(), options.labels.clone(), options.fields.clone()))
}

/// Reads one page.
pub(crate) fn page(context: &Context<'_>, options: &ListOptions, selection: &Selection) -> Result<Page> {
    let resource = context.resource_key();
    let (mut at, mut after) = start(context, options)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut items: Vec<Arc<Object>> = Vec::new();
    let is_continued = options.continue_token.is_some();
    loop {
        let is_plain = !selection.has_selectors();
        let step = if is_plain { options.limit } else { Some(SCAN_STEP) };
        let start_after = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let (store, namespace) = (&context.server.store, selection.namespace.as_deref());
        let range = match selection.index_term().filter(|(field, _)| store.is_indexed(field)) {
            // A kubelet's list of its pods costs what its pods do.
            Some(term) => store.range_where(&resource, term, namespace, start_after, step, at),
            None => store.range(&resource, namespace, start_after, step, at),
        };
        let range = range.map_err(|expired| expired_list(&expired, is_continued))?;
        let (revision, remaining) = (range.revision, range.remaining);
        // Every further step is at the revision of the first: one list is one moment.
        at = Some(revision);
        let mut found = range.items.into_iter();
        if is_plain {
            items.extend(found);
            let next = (remaining > 0).then(|| items.last()).flatten().map(|last| token(revision, last));
            return Ok(Page { items, revision, next: next.map(|token| (token, Some(remaining))) });
        }
        let mut last_seen = None;
        for object in found.by_ref() {
            after = Some((object.key.namespace.to_string(), object.key.name.to_string()));
            if selection.matches(&object) {
                items.push(object.clone());
            }
            last_seen = Some(object);
            if items.len() >= limit {
                break;
            }
        }
        let is_rest_empty = remaining == 0 && found.len() == 0;
        if is_rest_empty || items.len() >= limit {
            let next = if is_rest_empty { None } else { last_seen.map(|last| token(revision, &last)) };
            return Ok(Page { items, revision, next: next.map(|token| (token, None)) });
        }
    }
}

type Start = (Option<Revision>, Option<(String, String)>);

fn start(context: &Context<'_>, options: &ListOptions) -> Result<Start> {
    if let Some(text) = &options.continue_token {
        let token: Option<ContinueToken> =
            URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let token =
            token.ok_or_else(|| ApiError::bad_request("continue key is not valid: it is not one of this server's"))?;
        if !matches!(options.at, At::Latest | At::Any) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok((Some(Revision(token.rv)), Some(token.after)));
    }
    match options.at {
        At::Latest | At::Any => Ok((None, None)),
        At::NotOlderThan(revision) => {
            check_reached(context, revision)?;
            Ok((None, None))
        }
        At::Exact(revision) => {
            check_reached(context, revision)?;
            Ok((Some(revision), None))
        }
    }
}

fn check_reached(context: &Context<'_>, revision: Revision) -> Result<()> {
    let current = context.server.store.current();
    if revision > current {
        return Err(ApiError::future_revision(&Expired { asked: revision, oldest: current, current }));
    }
    Ok(())
}

fn expired_list(expired: &Expired, is_continued: bool) -> ApiError {
    if expired.asked > expired.current && !is_continued {
        return ApiError::future_revision(expired);
    }
    if is_continued {
        return ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You must start a new list without the continue parameter.",
        );
    }
    ApiError::expired(format!("The resourceVersion for the provided list is too old. ({})", expired.asked))
}

fn token(revision: Revision, last: &Object) -> String {
    let token = ContinueToken { rv: revision.0, after: (last.key.namespace.to_string(), last.key.name.to_string()) };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a number and two strings always serialise"))
}

impl Page {
    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some((token, remaining)) = &self.next {
            metadata["continue"] = token.as_str().into();
            if let Some(remaining) = remaining {
                metadata["remainingItemCount"] = (*remaining).into();
            }
        }
        metadata
    }
}

fn decoded(context: &Context<'_>, page: &Page) -> Result<Vec<Value>> {
    page.items.iter().map(|object| decode(&context.info, object)).collect()
}

/// A list made of the stored bytes. It is put together piece by piece while it is sent, so a list of 50,000 objects
/// needs no second copy of them.
fn spliced(context: &Context<'_>, page: Page) -> Response<Body> {
    let api_version = context.info.api_version();
    let head = format!(
        r#"{{"apiVersion":"{api_version}","kind":"{}","metadata":{},"items":["#,
        context.info.list_kind,
        page.metadata()
    );
    let len: usize = head.len() + page.items.iter().map(|object| object.bytes.len() + 1).sum::<usize>();
    let mut pieces =
        Pieces { head: Some(head), items: page.items.into_iter(), is_first: true, is_done: false, api_version };
    if len <= PIECE_BYTES {
        return status::ok(pieces.next().unwrap_or_default());
    }
    status::ok(Body::stream(futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>))))
}

struct Pieces {
    head: Option<String>,
    items: std::vec::IntoIter<Arc<Object>>,
    is_first: bool,
    is_done: bool,
    api_version: String,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        let mut piece = BytesMut::new();
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(head.as_bytes());
        }
        for object in self.items.by_ref() {
            if !std::mem::take(&mut self.is_first) {
                piece.extend_from_slice(b",");
            }
            piece.extend_from_slice(&with_api_version(&object.bytes, &self.api_version));
            if piece.len() >= PIECE_BYTES {
                return Some(piece.freeze());
            }
        }
        self.is_done = true;
        piece.extend_from_slice(b"]}");
        Some(piece.freeze())
    }
}
