//! GET: one object, or many.

use std::collections::VecDeque;
use std::sync::Arc;

use api_kube::names::quoted;
use base_http::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BytesMut;
use http::Response;
use machinery_kinds::ResourceInfo;
use machinery_store::{Expired, Key, Object, Revision, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::components;
use super::items::Pieces;
use crate::negotiate::{Arity, Form, Media, StaysJson};
use crate::pump;
use crate::request::{At, ListOptions, switch, version_error};
use crate::selector::Selection;
use crate::server::Context;
use crate::status::{ApiError, Result};

/// Objects looked at in one step while a selector picks few of them; others get their turn between two steps.
const SCAN_STEP: usize = 1000;

/// A larger list is nothing that a person reads.
const YAML_LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Larger lists are sent as JSON to those who prefer protobuf: a message begins with its length, so it is made as a whole.
const PROTOBUF_LIST_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(crate) fn get(context: &Context<'_>) -> Result<Response<Body>> {
    let query = &context.query;
    if switch(query, "export") == Some(true) {
        let why = "the export parameter, deprecated since v1.14, is no longer supported";
        return Err(ApiError::bad_request(why));
    }
    if let Some(text) = query.get("resourceVersion") {
        let revision = text.parse().map_err(|_| ApiError::unknown(version_error(text)))?;
        check_reached(context, revision)?;
    }
    if components::are_components(&context.info) {
        return components::get(context);
    }
    let stored = context.stored()?;
    context.authorize_object(&stored)?;
    context.show(context.stored_bytes(&stored), false, &[])
}

/// Where a list continues; opaque to clients, and still upstream's: it is read as carefully.
#[derive(Debug, Serialize, Deserialize)]
struct ContinueToken {
    #[serde(rename = "v", default)]
    version: String,
    /// The revision of the whole list, or `NOW`.
    #[serde(default)]
    rv: i64,
    /// `/NAMESPACE/NAME` of the last object sent, or `/NAME` within a namespace, and the byte after which it continues.
    #[serde(default)]
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// The revision in a token that continues with what is there when it is used.
const NOW: i64 = -1;

/// Some of a resource's objects at one revision.
pub(crate) struct Page {
    pub(crate) items: Vec<Arc<Object>>,
    pub(crate) revision: Revision,
    pub(crate) next: Option<(String, Option<usize>)>,
}

pub(crate) async fn list(context: &Context<'_>, options: &ListOptions) -> Result<Response<Body>> {
    if let Form::Partial(_, Arity::One) = context.output.form {
        let list = go_type(&context.info.group, &context.info.list_kind, context.info.is_custom());
        let why = format!("you requested PartialObjectMetadata, but the requested object is a list ({list})");
        return Err(ApiError::no_such_form(why));
    }
    let selection = selection(context, options)?;
    if components::are_components(&context.info) {
        return components::list(context);
    }
    let page = page(context, options, &selection).await?;
    listed(context, page)
}

/// A type as upstream's program prints it.
pub(crate) fn go_type(group: &str, kind: &str, is_custom: bool) -> String {
    if is_custom {
        let list = if kind.ends_with("List") { "UnstructuredList" } else { "Unstructured" };
        return format!("*unstructured.{list}");
    }
    let package = match group {
        "" => "core",
        other => other.split('.').next().unwrap_or_default(),
    };
    format!("*{package}.{kind}")
}

/// A page as a list of the form that the client wants, made while it is sent.
pub(crate) fn listed(context: &Context<'_>, page: Page) -> Result<Response<Body>> {
    let output = context.output;
    let mut metadata = page.metadata();
    // Lists of custom resources say in so many words that nothing follows.
    if context.info.is_custom() && output.form == Form::Object && page.next.is_none() {
        metadata["continue"] = "".into();
    }
    let head = match output.form {
        Form::Object => format!(
            r#"{{"kind":"{}","apiVersion":"{}","metadata":{metadata},"items":["#,
            context.info.list_kind,
            context.info.api_version(),
        ),
        Form::Partial(version, _) => format!(
            r#"{{"kind":"PartialObjectMetadataList","apiVersion":"{}","metadata":{metadata},"items":["#,
            version.api_version()
        ),
        Form::Table(version, _) => {
            let columns = Value::from(machinery_kinds::column_definitions(&context.info));
            format!(
                r#"{{"kind":"Table","apiVersion":"{}","metadata":{metadata},"columnDefinitions":{columns},"rows":["#,
                version.api_version()
            )
        }
    };
    // Tables and metadata are about a third of their objects.
    let (object_bytes, largest) = page.items.iter().fold((0, 0), |(sum, largest), object| {
        let bytes = object.bytes.len();
        (sum + bytes + 1, bytes.max(largest))
    });
    let is_whole = output.form == Form::Object;
    let bytes_about = head.len() + if is_whole { object_bytes } else { object_bytes / 3 };
    let pieces = Pieces::new(context, head, page.items);
    let stays_json = output.media == Media::Protobuf && bytes_about > PROTOBUF_LIST_BYTES_MAX;
    if output.media == Media::Json || stays_json {
        let mut response =
            pump::respond(context.server, &context.headers, bytes_about, largest, context.turn.clone(), pieces);
        if stays_json {
            response.extensions_mut().insert(StaysJson);
        }
        return Ok(response);
    }
    // YAML is for people, and made of the whole.
    if bytes_about > YAML_LIST_BYTES_MAX {
        return Err(ApiError::too_large("the list is too large for YAML: request pages of it, or JSON"));
    }
    let mut whole = BytesMut::new();
    pieces.for_each(|piece| whole.extend_from_slice(&piece));
    Ok(crate::status::ok(whole.freeze()))
}

/// What the request selects; refuses fields that the resource does not offer.
pub(crate) fn selection(context: &Context<'_>, options: &ListOptions) -> Result<Selection> {
    for field in options.fields.fields() {
        let is_known = matches!(field, "metadata.name" | "metadata.namespace")
            || context.info.selectable_fields.iter().any(|selectable| &*selectable.name == field);
        if !is_known {
            return Err(ApiError::bad_request(unknown_field(&context.info, field)));
        }
    }
    // Objects are found by the fields of the form in which they are stored.
    let fields = options.fields.clone().renamed(|field| context.info.stored_field(field).to_owned());
    Ok(Selection::new(context.path.namespace.clone(), options.labels.clone(), fields))
}

/// What upstream says of a field that a kind does not offer: some have words of their own.
fn unknown_field(info: &ResourceInfo, field: &str) -> String {
    let has_own_fields = !info.selectable_fields.is_empty() || info.is_custom();
    match (&*info.group, &*info.kind) {
        ("batch", "Job") => format!("field label {} not supported for Job", quoted(field)),
        ("resource.k8s.io", "ResourceSlice") => {
            format!("field label not supported for {}, Kind={}: {field}", info.api_version(), info.kind)
        }
        ("", "Namespace" | "Secret" | "Service") => format!("field label not supported: {field}"),
        _ if has_own_fields => format!("field label not supported: {field}"),
        _ => format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", quoted(field)),
    }
}

/// Reads one page.
pub(crate) async fn page(context: &Context<'_>, options: &ListOptions, selection: &Selection) -> Result<Page> {
    let (store, resource) = (&context.server.store, context.resource_key());
    let (at, after) = start(context, options)?;
    let continues_after = after.clone().filter(|_| options.continue_token.is_some());
    let expired = |expired: Expired| expired_list(&expired, selection, continues_after.as_ref());
    let after = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
    if let Some((namespace, name)) = selection.only(context.info.namespaced) {
        let (found, revision) = store.get_at(&Key::new(&resource, namespace, name), at).map_err(expired)?;
        let found =
            found.filter(|object| selection.matches(object) && after.is_none_or(|after| object.names() > after));
        return Ok(Page { items: found.into_iter().collect(), revision, next: None });
    }
    let namespace = selection.namespace.as_deref();
    if !selection.has_selectors() {
        let range = store.range(&resource, namespace, after, options.limit, at).map_err(expired)?;
        let last = range.items.last().filter(|_| range.remaining > 0);
        let next =
            last.map(|last| (token(selection, at_revision(range.revision), last.names()), Some(range.remaining)));
        return Ok(Page { items: range.items, revision: range.revision, next });
    }
    let limit = options.limit.unwrap_or(usize::MAX);
    let term = indexed_term(context, selection);
    if let (Some(term), Some(at)) = (term, at) {
        // The index knows what concerned the value since; to rewind the whole resource would cost what all have changed.
        let range = store.range_where(&resource, term, namespace, after, None, Some(at)).map_err(expired)?;
        let mut found = range.items.into_iter();
        let items: Vec<_> = found.by_ref().filter(|object| selection.matches(object)).take(limit).collect();
        let last = items.last().filter(|_| found.len() > 0);
        let next = last.map(|last| (token(selection, at_revision(at), last.names()), None));
        return Ok(Page { items, revision: at, next });
    }
    let snapshot = match at {
        Some(at) => store.snapshot_at(&resource, at).map_err(expired)?,
        None => store.snapshot(&resource),
    };
    let revision = snapshot.revision();
    let (items, last) = select(&snapshot, term, selection, after, limit).await;
    let next = last.map(|last| {
        store.retain(&resource, &snapshot);
        (token(selection, at_revision(revision), last.names()), None)
    });
    Ok(Page { items: items.into(), revision, next })
}

/// All that is selected now.
pub(crate) async fn all(context: &Context<'_>, selection: &Selection) -> (VecDeque<Arc<Object>>, Revision) {
    let snapshot = context.server.store.snapshot(&context.resource_key());
    let revision = snapshot.revision();
    if let Some((namespace, name)) = selection.only(context.info.namespaced) {
        let found = snapshot.get(namespace, name).filter(|object| selection.matches(object));
        return (found.cloned().into_iter().collect(), revision);
    }
    let (items, _) = select(&snapshot, indexed_term(context, selection), selection, None, usize::MAX).await;
    (items, revision)
}

/// A term of which the store finds the objects at once: a kubelet's list of its pods costs what its pods do.
fn indexed_term<'a>(context: &Context<'_>, selection: &'a Selection) -> Option<(&'a str, &'a str)> {
    let is_indexed = |field: &str| context.server.store.is_indexed(field);
    selection.index_term(is_indexed).filter(|(field, _)| is_indexed(field))
}

/// What is selected of one moment after `after`, at most `limit`; and the last object looked at, if there are more.
async fn select(
    snapshot: &Snapshot,
    term: Option<(&str, &str)>,
    selection: &Selection,
    after: Option<(&str, &str)>,
    limit: usize,
) -> (VecDeque<Arc<Object>>, Option<Arc<Object>>) {
    let namespace = selection.namespace.as_deref();
    let mut items = VecDeque::new();
    let mut last: Option<Arc<Object>> = None;
    loop {
        let after = last.as_ref().map_or(after, |last| Some(last.names()));
        let next = match term {
            Some(term) => scan(snapshot.iter_where(term, namespace, after), selection, limit, &mut items),
            None => scan(snapshot.iter(namespace, after), selection, limit, &mut items),
        };
        if next.is_none() || items.len() >= limit {
            return (items, next);
        }
        last = next;
        tokio::task::yield_now().await;
    }
}

/// Looks at the next objects, and gives the last of them if more follow.
fn scan<'a>(
    mut objects: impl Iterator<Item = &'a Arc<Object>>,
    selection: &Selection,
    limit: usize,
    items: &mut VecDeque<Arc<Object>>,
) -> Option<Arc<Object>> {
    let mut last = None;
    for object in objects.by_ref().take(SCAN_STEP) {
        if selection.matches(object) {
            items.push_back(object.clone());
        }
        last = Some(object);
        if items.len() >= limit {
            break;
        }
    }
    objects.next().and(last.cloned())
}

type Start = (Option<Revision>, Option<(String, String)>);

fn start(context: &Context<'_>, options: &ListOptions) -> Result<Start> {
    if let Some(text) = &options.continue_token {
        let (revision, after) = read_token(text, context.path.namespace.as_deref(), context.info.namespaced)
            .map_err(|why| ApiError::bad_request(format!("invalid continue token: {why}")))?;
        if !matches!(options.at, Ok(At::Latest | At::Any)) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok((revision, Some(after)));
    }
    match options.at()? {
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

/// Where a token continues: at a revision, or now, after an object.
fn read_token(
    text: &str,
    namespace: Option<&str>,
    is_namespaced: bool,
) -> std::result::Result<(Option<Revision>, (String, String)), String> {
    let invalid = |why: &str| format!("continue key is not valid: {why}");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(&base64_error(&error, text)))?;
    let token: ContinueToken = serde_json::from_slice(&bytes).map_err(|_| invalid(&json_error(&bytes)))?;
    if token.version != TOKEN_VERSION {
        return Err(invalid(&format!("server does not recognize this encoded version {}", token.version)));
    }
    if token.rv == 0 {
        return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
    }
    let key = token.start.trim_start_matches('/').trim_end_matches('\0');
    if key.is_empty() || key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid(&token.start));
    }
    let (namespace, name) = match (namespace, key.split_once('/')) {
        (Some(namespace), None) => (namespace, key),
        (None, Some((namespace, name))) if is_namespaced => (namespace, name),
        (None, None) if !is_namespaced => ("", key),
        _ => return Err(invalid(&token.start)),
    };
    let revision = u64::try_from(token.rv).ok().map(Revision);
    Ok((revision, (namespace.to_owned(), name.to_owned())))
}

fn base64_error(error: &base64::DecodeError, text: &str) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
    };
    format!("illegal base64 data at input byte {at}")
}

/// What Go's decoder says of bytes that are no object.
fn json_error(bytes: &[u8]) -> String {
    let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) else {
        return "unexpected end of JSON input".to_owned();
    };
    let shown = match first {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        other => quoted(&char::from(*other).to_string()).trim_matches('"').to_owned(),
    };
    format!("invalid character '{shown}' looking for beginning of value")
}

fn check_reached(context: &Context<'_>, revision: Revision) -> Result<()> {
    let current = context.server.store.current();
    if revision > current {
        return Err(ApiError::future_revision(&Expired { asked: revision, oldest: current, current }));
    }
    Ok(())
}

fn expired_list(expired: &Expired, selection: &Selection, continues_after: Option<&(String, String)>) -> ApiError {
    if let Some((namespace, name)) = continues_after {
        let token = token(selection, NOW, (namespace, name));
        return ApiError::expired_continue(token);
    }
    if expired.asked > expired.current {
        return ApiError::future_revision(expired);
    }
    ApiError::expired(format!("The resourceVersion for the provided list is too old. ({})", expired.asked))
}

fn at_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A token that continues after an object, at a revision or at `NOW`.
fn token(selection: &Selection, rv: i64, (namespace, name): (&str, &str)) -> String {
    let key = if selection.namespace.is_some() || namespace.is_empty() {
        format!("/{name}\0")
    } else {
        format!("/{namespace}/{name}\0")
    };
    let token = ContinueToken { version: TOKEN_VERSION.to_owned(), rv, start: key };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a number and two strings always serialise"))
}

impl Page {
    fn metadata(&self) -> Value {
        if self.revision == Revision::default() {
            // What is not stored has no revision.
            return json!({});
        }
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
