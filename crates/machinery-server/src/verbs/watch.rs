//! GET with `watch`: what happens to objects, as it happens, one JSON object a line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base_http::{Body, BodyPermit};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use machinery_kinds::{IncludeObject, ResourceInfo};
use machinery_merge::compact_to_json;
use machinery_store::{Change, ChangeKind, Expired, Object, Revision, Watch, WatchEnded};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use self::lines::{Lines, Sent};
use super::read::{all, selection};
use crate::flow::Entry;
use crate::negotiate::{Arity, Form, Media, MetaVersion, Output, partial_of_bytes, table};
use crate::object::{as_seen, with_managed, with_revision};
use crate::outgoing::Holder;
use crate::pump::STALL_MAX;
use crate::request::{At, ListOptions};
use crate::selector::Selection;
use crate::server::Context;
use crate::status::{self, ApiError, Result};
use crate::work::Workers;

mod lines;

/// How often an idle watcher that wants bookmarks learns which revision is the newest; as in Kubernetes.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// A watcher that resumes from so many revisions ago learns where it has arrived as soon as it has: if its connection breaks
/// before the next bookmark, the window may have moved on by then, and it would have to list again.
const BEHIND_MIN: u64 = 1000;

/// A watch without a time of its own ends after half an hour to an hour, so that clients do not all come back at once.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);

/// Initial events are sent in pieces of this many bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Groups of lines that wait for a slow client, where they are made on the pool.
const LINES_AHEAD: usize = 2;

/// What the objects that a watch begins with are counted as at most. They are the store's own, like those of a list, unless they
/// change meanwhile: counting all of them would keep an informer of many from ever beginning. So who takes none of them for
/// [`STALL_MAX`] has ended.
const INITIAL_BYTES_MAX: usize = 2 << 20;

/// Says to a client that everything that was there before is now sent.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub(crate) async fn watch(
    context: &Context<'_>,
    options: &ListOptions,
    counted: Option<Entry>,
) -> Result<Response<Body>> {
    if !context.info.verbs.contains(&"watch") {
        return Err(ApiError::not_supported(&context.info, "watch"));
    }
    let output = context.output;
    let selection = selection(context, options)?;
    let encoder = Encoder {
        info: context.info.clone(),
        api_version: context.info.api_version(),
        output,
        with_owners: context.shows_owners(),
        has_columns: false,
    };
    let of_media = |mut response: Response<Body>| {
        if output.media == Media::Protobuf {
            let media = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
        }
        response
    };
    let timeout = options.timeout.unwrap_or_else(default_timeout);
    let holder = Holder::of(context);
    let started = start(context, options, &selection).await;
    let (stream, is_large) = match started {
        Ok(started) => {
            let waiting: usize = started.initial.iter().map(|object| object.bytes.len()).sum();
            let counted_as = waiting.min(INITIAL_BYTES_MAX);
            let initial_held = holder.hold(counted_as).map_err(|_| ApiError::too_many_requests())?;
            let first = if started.is_behind { Duration::ZERO } else { BOOKMARK_PERIOD };
            let stream = Stream {
                watch: Some(started.watch),
                initial: started.initial,
                initial_held,
                holder,
                initial_end: started.marks_end.then_some(started.revision),
                selection,
                encoder,
                wants_bookmarks: options.bookmarks,
                bookmarks: tokio::time::interval_at(Instant::now() + first, BOOKMARK_PERIOD),
                deadline: Instant::now() + timeout,
                shutdown: context.server.shutdown.clone(),
                _counted: counted,
            };
            (stream, waiting > INITIAL_BYTES_MAX)
        }
        // A watch that cannot begin says so in its stream, where clients look for it.
        Err(error) if error.reason() == status::Reason::Expired => {
            let mut line = encoder.error(&error);
            let pieces = std::iter::from_fn(move || line.next_piece().map(Ok::<_, std::convert::Infallible>));
            return Ok(of_media(status::ok(Body::stream(futures::stream::iter(pieces)))));
        }
        Err(error) => return Err(error),
    };
    if output.is_plain() && !is_large {
        return Ok(status::ok(sent(stream)));
    }
    // Rows and metadata are made of decoded objects, which is work for the pool. There it is noticed, too, that nobody takes them.
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    context.server.work.spawn(&Workers::of(context.turn.as_ref()), hand_on(stream, sender));
    Ok(of_media(status::ok(sent(receiver))))
}

/// Where lines come from.
trait Source: Send + 'static {
    fn next(&mut self) -> impl Future<Output = Option<Sent>> + Send;

    /// Whether it still has objects that it began with.
    fn is_at_initial(&self) -> bool {
        false
    }
}

/// Makes lines as they are taken, until nobody does: who takes nothing of what was there for [`STALL_MAX`] holds up the store's
/// memory, while what happens later is bounded by what may wait.
async fn hand_on(mut source: impl Source, sender: mpsc::Sender<Sent>) {
    loop {
        let lines = tokio::select! {
            () = sender.closed() => return,
            lines = source.next() => lines,
        };
        let Some(lines) = lines else { return };
        let is_taken = if source.is_at_initial() {
            sender.send_timeout(lines, STALL_MAX).await.is_ok()
        } else {
            sender.send(lines).await.is_ok()
        };
        if !is_taken {
            return;
        }
    }
}

impl Source for Stream {
    fn next(&mut self) -> impl Future<Output = Option<Sent>> + Send {
        Stream::next(self)
    }

    fn is_at_initial(&self) -> bool {
        !self.initial.is_empty()
    }
}

impl Source for mpsc::Receiver<Sent> {
    fn next(&mut self) -> impl Future<Output = Option<Sent>> + Send {
        self.recv()
    }
}

/// Lines as a body, piece by piece; the next lines are asked for when all of the last ones have been taken.
fn sent(source: impl Source) -> Body {
    let state = Box::new((source, Sent::default()));
    Body::stream(futures::stream::unfold(state, |mut state| async move {
        let (source, lines) = &mut *state;
        loop {
            if let Some(piece) = lines.next_piece() {
                return Some((Ok::<_, std::convert::Infallible>(piece), state));
            }
            *lines = source.next().await?;
        }
    }))
}

fn default_timeout() -> Duration {
    let random = u64::from(uuid::Uuid::new_v4().as_bytes()[0]);
    TIMEOUT_MIN + TIMEOUT_MIN.mul_f64(random as f64 / 256.0)
}

struct Started {
    watch: Watch,
    initial: VecDeque<Arc<Object>>,
    revision: Revision,
    marks_end: bool,
    /// Whether it resumes from long ago.
    is_behind: bool,
}

async fn start(context: &Context<'_>, options: &ListOptions, selection: &Selection) -> Result<Started> {
    let store = &context.server.store;
    let marks_end = options.initial_events == Some(true) && options.bookmarks;
    let at = options.at.clone().map_err(ApiError::unknown)?;
    let from = match at {
        At::NotOlderThan(revision) | At::Exact(revision) => Some(revision),
        At::Latest | At::Any => None,
    };
    if let Some(revision) = from.filter(|revision| *revision > store.current()) {
        // It comes from another life of this server: only a new list helps.
        return Err(too_old(&Expired { asked: revision, oldest: store.current(), current: store.current() }));
    }
    let has_initial = match options.initial_events {
        Some(asked) => asked,
        None => from.is_none(),
    };
    let resource = context.resource_key();
    let (initial, revision) = match (has_initial, from) {
        (true, _) => all(context, selection).await,
        (false, Some(revision)) => (VecDeque::new(), revision),
        (false, None) => (VecDeque::new(), store.current()),
    };
    let watch = match selection.index_term(|field| store.is_indexed(field)) {
        Some((field, value)) if field != "metadata.name" || context.info.has_name_field() => {
            store.watch_where(&resource, revision, field, value)
        }
        _ => store.watch(&resource, revision),
    };
    let mut watch = watch.map_err(|expired| too_old(&expired))?;
    // Where nothing is indexed a resumed watch looks through the window for its value. That is work for the pool, and the
    // stream itself is read by a thread that serves many.
    while watch.skip() {
        tokio::task::yield_now().await;
    }
    let is_behind = !has_initial && store.current().0.saturating_sub(revision.0) >= BEHIND_MIN;
    Ok(Started { watch, initial, revision, marks_end, is_behind })
}

fn too_old(expired: &Expired) -> ApiError {
    ApiError::expired(format!("too old resource version: {} ({})", expired.asked, expired.oldest))
}

/// One watch in progress.
struct Stream {
    watch: Option<Watch>,
    initial: VecDeque<Arc<Object>>,
    /// Counts them, as the store may have others by now.
    initial_held: Option<BodyPermit>,
    holder: Holder,
    /// The revision of the bookmark that ends the initial events, while it is still to come.
    initial_end: Option<Revision>,
    selection: Selection,
    encoder: Encoder,
    wants_bookmarks: bool,
    bookmarks: Interval,
    deadline: Instant,
    shutdown: CancellationToken,
    /// Counts the watch against its identity.
    _counted: Option<Entry>,
}

impl Stream {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Sent> {
        if !self.initial.is_empty() {
            return Some(self.take_initial());
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(self.encoder.bookmark(revision, true));
        }
        let watch = self.watch.as_mut()?;
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => {
                    let bookmark = self.wants_bookmarks.then(|| self.encoder.bookmark(watch.progress(), false));
                    self.watch = None;
                    return bookmark;
                }
                batch = watch.next() => {
                    match batch {
                        Ok(batch) => {
                            let mut lines = Lines::default();
                            for change in &batch.changes {
                                self.encoder.change(change, &self.selection, &mut lines);
                            }
                            if lines.len() > 0 {
                                return Some(self.hold(lines));
                            }
                        }
                        Err(ended) => {
                            self.watch = None;
                            return (ended == WatchEnded::Lagged).then(|| self.encoder.lagged());
                        }
                    }
                }
                _ = self.bookmarks.tick(), if self.wants_bookmarks => {
                    return Some(self.encoder.bookmark(watch.progress(), false));
                }
            }
        }
    }

    fn take_initial(&mut self) -> Sent {
        let mut lines = Lines::default();
        while let Some(object) = self.initial.pop_front() {
            self.encoder.event("ADDED", &object.bytes, object.managed.as_ref(), &mut lines);
            if lines.len() >= PIECE_BYTES {
                break;
            }
        }
        // As they are, they are counted already.
        let held = if self.initial.is_empty() { self.initial_held.take() } else { None };
        if self.encoder.output.is_plain() && !self.encoder.with_owners {
            return lines.held(held);
        }
        drop(held);
        self.hold(lines)
    }

    /// Counts lines until they are taken. An identity that lets too much wait has to list again.
    fn hold(&mut self, lines: Lines) -> Sent {
        if let Ok(held) = self.holder.hold(lines.len()) {
            return lines.held(held);
        }
        self.watch = None;
        self.initial = VecDeque::new();
        self.initial_end = None;
        self.encoder.lagged()
    }
}

/// Writes events in the form that the client wants.
struct Encoder {
    info: Arc<ResourceInfo>,
    api_version: String,
    output: Output,
    with_owners: bool,
    /// Whether the client has the columns of a table already; they are sent once.
    has_columns: bool,
}

impl Encoder {
    /// A change as this client sees it: what enters its selection is added, what leaves it is deleted.
    fn change(&mut self, change: &Change, selection: &Selection, lines: &mut Lines) {
        let is_in = change.kind == ChangeKind::Put && selection.matches(&change.object);
        let was_in = change.previous.as_ref().is_some_and(|previous| selection.matches(previous));
        let object = (&change.object.bytes, change.object.managed.as_ref());
        match (was_in, is_in) {
            (false, false) => {}
            (false, true) => self.event("ADDED", object.0, object.1, lines),
            (true, true) => self.event("MODIFIED", object.0, object.1, lines),
            (true, false) if change.kind == ChangeKind::Delete => {
                // The last version is stored without its owners, who are those of the version before.
                let managed = change.previous.as_ref().and_then(|previous| previous.managed.as_ref());
                self.event("DELETED", object.0, managed, lines);
            }
            (true, false) => {
                // The client is shown what it knew, at the revision at which it went out of its sight.
                let previous = change.previous.as_ref().expect("it was in the selection");
                let last = with_revision(&previous.bytes, change.revision);
                self.event("DELETED", &last, previous.managed.as_ref(), lines);
            }
        }
    }

    fn event(&mut self, kind: &str, bytes: &Bytes, managed: Option<&Bytes>, lines: &mut Lines) {
        let bytes = as_seen(&self.info, bytes);
        let managed = managed.filter(|_| self.with_owners).and_then(|managed| compact_to_json(managed).ok());
        let managed = managed.as_deref();
        let whole = || managed.map_or_else(|| bytes.clone(), |managed| with_managed(&bytes, managed));
        if self.output.media == Media::Protobuf {
            let shown = match self.output.form {
                Form::Partial(version, Arity::One) => {
                    let mut shown = BytesMut::new();
                    partial_of_bytes(&whole(), version, &mut shown);
                    shown.freeze()
                }
                _ => whole(),
            };
            if let Ok(object) = serde_json::from_slice::<Value>(&shown) {
                lines.push_frame(&crate::protobuf::event(kind, &object));
            }
            return;
        }
        match self.output.form {
            Form::Object => lines.push_with(kind, &bytes, managed),
            // Upstream cannot make a list of an event, and sends the object as it is.
            Form::Partial(_, Arity::List) => lines.push_with(kind, &bytes, managed),
            Form::Partial(version, Arity::One) => {
                let mut shown = BytesMut::new();
                partial_of_bytes(&whole(), version, &mut shown);
                lines.push(kind, &shown.freeze());
            }
            Form::Table(version, include) => {
                if let Ok(object) = serde_json::from_slice::<Value>(&whole()) {
                    let shown = self.row(&object, version, include);
                    lines.push(kind, &shown.to_string().into());
                }
            }
        }
    }

    fn row(&mut self, object: &Value, version: MetaVersion, include: IncludeObject) -> Value {
        let mut shown = table(&self.info, object, version, include);
        if std::mem::replace(&mut self.has_columns, true) {
            shown["columnDefinitions"] = Value::Null;
        }
        shown
    }

    /// The newest revision, for a client that resumes.
    fn bookmark(&self, revision: Revision, is_initial_end: bool) -> Sent {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if is_initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let partial = |version: MetaVersion| json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version(), "metadata": metadata});
        let object = match self.output.form {
            Form::Object | Form::Partial(_, Arity::List) => {
                json!({"kind": self.info.kind, "apiVersion": self.api_version, "metadata": metadata})
            }
            Form::Partial(version, Arity::One) => partial(version),
            Form::Table(version, _) => json!({
                "kind": "Table", "apiVersion": version.api_version(), "columnDefinitions": null,
                "metadata": {"resourceVersion": revision.to_string()},
                "rows": [{"cells": [], "object": partial(version)}],
            }),
        };
        self.one("BOOKMARK", &object)
    }

    fn lagged(&self) -> Sent {
        self.error(&ApiError::expired("the watch fell behind the history that is kept; list again"))
    }

    fn error(&self, error: &ApiError) -> Sent {
        self.one("ERROR", &error.status())
    }

    fn one(&self, kind: &str, object: &Value) -> Sent {
        match self.output.media {
            Media::Protobuf => Sent::frame(&crate::protobuf::event(kind, object)),
            Media::Json | Media::Yaml => Sent::line(kind, object.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Endless {
        is_at_initial: bool,
    }

    impl Source for Endless {
        async fn next(&mut self) -> Option<Sent> {
            Some(Sent::default())
        }

        fn is_at_initial(&self) -> bool {
            self.is_at_initial
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_what_was_there_has_ended() {
        let began = Instant::now();
        let (sender, _kept) = mpsc::channel(LINES_AHEAD);
        hand_on(Endless { is_at_initial: true }, sender).await;
        assert_eq!(began.elapsed(), STALL_MAX);
        let (sender, _kept) = mpsc::channel(LINES_AHEAD);
        let waiting = hand_on(Endless { is_at_initial: false }, sender);
        assert!(tokio::time::timeout(10 * STALL_MAX, waiting).await.is_err(), "a watch may be idle for long");
    }
}
