//! GET: one object, or many.

use std::collections::VecDeque;
use std::sync::Arc;

use base_http::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::Response;
use machinery_store::{Expired, Object, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::error;

use crate::negotiate::{Output, output, partial_of_bytes};
use crate::object::{decode, with_api_version};
use crate::pump::{self, PIECE_BYTES};
use crate::request::{At, ListOptions};
use crate::selector::Selection;
use crate::server::Context;
use crate::status::{ApiError, Result};

/// Objects looked at in one step while a selector picks few of them; others get their turn between two steps.
const SCAN_STEP: usize = 1000;

pub(crate) fn get(context: &Context<'_>) -> Result<Response<Body>> {
    if let At::NotOlderThan(revision) = ListOptions::parse(&context.query)?.at {
        check_reached(context, revision)?;
    }
    let stored = context.stored()?;
    context.authorize_object(&stored)?;
    context.show(stored.bytes.clone(), false, &[])
}

/// Where a list continues; opaque to clients.
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
    pub(crate) next: Option<(String, Option<usize>)>,
}

pub(crate) async fn list(context: &Context<'_>, options: &ListOptions) -> Result<Response<Body>> {
    let output = output(&context.headers, &context.query)?;
    let selection = selection(context, options)?;
    let page = page(context, options, &selection).await?;
    Ok(listed(context, page, output))
}

/// A page as a list of the form that the client wants, made while it is sent.
pub(crate) fn listed(context: &Context<'_>, page: Page, output: Output) -> Response<Body> {
    let metadata = page.metadata();
    let now = jiff::Timestamp::now();
    let head = match output {
        Output::Json => format!(
            r#"{{"apiVersion":"{}","kind":"{}","metadata":{metadata},"items":["#,
            context.info.api_version(),
            context.info.list_kind,
        ),
        Output::Partial => format!(
            r#"{{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList","metadata":{metadata},"items":["#
        ),
        Output::Table(_) => {
            let columns = Value::from(machinery_schema::column_definitions(&context.info));
            format!(
                r#"{{"apiVersion":"meta.k8s.io/v1","kind":"Table","metadata":{metadata},"columnDefinitions":{columns},"rows":["#
            )
        }
    };
    // Tables and metadata are about a third of their objects.
    let (object_bytes, largest) = page.items.iter().fold((0, 0), |(sum, largest), object| {
        let bytes = object.bytes.len();
        (sum + bytes + 1, bytes.max(largest))
    });
    let bytes_about = head.len() + if output == Output::Json { object_bytes } else { object_bytes / 3 };
    let info = context.info.clone();
    let api_version = info.api_version();
    let write_item = move |object: &Object, piece: &mut BytesMut| match output {
        Output::Json => piece.extend_from_slice(&with_api_version(&object.bytes, &api_version)),
        Output::Partial => partial_of_bytes(&object.bytes, piece),
        // What cannot be read was written by this server and damaged since: its row is left out rather than the list.
        Output::Table(include) => match decode(&info, object) {
            Ok(value) => {
                let row = machinery_schema::table_row(&info, &value, now, include);
                serde_json::to_writer(piece.writer(), &row).expect("a JSON value always serialises into memory");
            }
            Err(error) => error!(reason = error.message(), "Left an object out of a table."),
        },
    };
    let pieces =
        Pieces { head: Some(head), items: page.items.into_iter(), write_item, has_items: false, is_done: false };
    pump::respond(context.server, &context.headers, bytes_about, largest, context.turn.clone(), pieces)
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
pub(crate) async fn page(context: &Context<'_>, options: &ListOptions, selection: &Selection) -> Result<Page> {
    let resource = context.resource_key();
    let (mut at, mut after) = start(context, options)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut items: Vec<Arc<Object>> = Vec::new();
    let is_continued = options.continue_token.is_some();
    if let Some((namespace, name)) = selection.only(context.info.namespaced)
        && !is_continued
    {
        let store = &context.server.store;
        let snapshot = match at {
            Some(at) => store.snapshot_at(&resource, at).map_err(|expired| expired_list(&expired, is_continued))?,
            None => store.snapshot(&resource),
        };
        let found = snapshot.get(namespace, name).filter(|object| selection.matches(object));
        return Ok(Page { items: found.cloned().into_iter().collect(), revision: snapshot.revision(), next: None });
    }
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
        tokio::task::yield_now().await;
    }
}

/// All that is selected now.
pub(crate) async fn all(context: &Context<'_>, selection: &Selection) -> (VecDeque<Arc<Object>>, Revision) {
    let store = &context.server.store;
    let snapshot = store.snapshot(&context.resource_key());
    let revision = snapshot.revision();
    if let Some((namespace, name)) = selection.only(context.info.namespaced) {
        let found = snapshot.get(namespace, name).filter(|object| selection.matches(object));
        return (found.cloned().into_iter().collect(), revision);
    }
    let term = selection.index_term().filter(|(field, _)| store.is_indexed(field));
    let mut items = VecDeque::new();
    let mut after: Option<Arc<Object>> = None;
    loop {
        let last = after.as_ref().map(|object| (&*object.key.namespace, &*object.key.name));
        let (seen, next) = match term {
            Some(term) => scan(snapshot.iter_where(term, selection.namespace.as_deref(), last), selection, &mut items),
            None => scan(snapshot.iter(selection.namespace.as_deref(), last), selection, &mut items),
        };
        if seen < SCAN_STEP {
            return (items, revision);
        }
        after = next;
        tokio::task::yield_now().await;
    }
}

/// Looks at the next objects, and gives their number and the last of them.
fn scan<'a>(
    objects: impl Iterator<Item = &'a Arc<Object>>,
    selection: &Selection,
    items: &mut VecDeque<Arc<Object>>,
) -> (usize, Option<Arc<Object>>) {
    let (mut seen, mut last) = (0, None);
    for object in objects.take(SCAN_STEP) {
        if selection.matches(object) {
            items.push_back(object.clone());
        }
        seen += 1;
        last = Some(object);
    }
    (seen, last.cloned())
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

/// The pieces of a list.
struct Pieces<W> {
    head: Option<String>,
    items: std::vec::IntoIter<Arc<Object>>,
    write_item: W,
    has_items: bool,
    is_done: bool,
}

impl<W: FnMut(&Object, &mut BytesMut)> Iterator for Pieces<W> {
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
            let start = piece.len();
            if self.has_items {
                piece.extend_from_slice(b",");
            }
            let item_start = piece.len();
            (self.write_item)(&object, &mut piece);
            if piece.len() == item_start {
                piece.truncate(start);
            } else {
                self.has_items = true;
            }
            if piece.len() >= PIECE_BYTES {
                return Some(piece.freeze());
            }
        }
        self.is_done = true;
        piece.extend_from_slice(b"]}");
        Some(piece.freeze())
    }
}
