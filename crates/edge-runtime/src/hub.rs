//! The hub's side: the watch on our assignment, the status back, and batches of events.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use api_edge::resources::{AssignmentEntry, NodeAssignmentSpec, NodeAssignmentStatus, assignment_name};
use api_edge::telemetry::{BATCH_CONTENT_TYPE, BATCHES_PATH, BatchAnswer, BatchHeader};
use api_edge::{GROUP, VERSION};
use base_observe::Chain;
use base_retry::{BackoffLaw, Retry, Wake};
use bytes::Bytes;
use edge_export::{BatchTransport, SendError, encode_body};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http_body_util::{BodyExt as _, Limited};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{BoxFuture, HubAccess};

/// Before the hub is tried again: at the latest half a minute after it is back, at once when somebody notices that it is.
const BACKOFF: BackoffLaw = BackoffLaw::new(Duration::from_secs(1), Duration::from_secs(30));

/// How long the hub may take for one batch or status. A batch of 4 MB over a slow radio link takes most of it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The status is written at most this often.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// Largest answer of the hub that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Parts of one assignment that are followed, each by a watch of its own: some 16 MB of devices and rules.
const PARTS_MAX: u32 = 64;

/// One part of the assignment, as it is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Version of this form.
    pub version: u32,
    /// Generation of the object.
    pub generation: i64,
    /// What it says.
    pub spec: NodeAssignmentSpec,
}

/// Version of [`Part`].
pub const PART_VERSION: u32 = 1;

/// The parts by object name.
pub type Parts = BTreeMap<String, Part>;

/// What the hub's side tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Why the assignment cannot be watched.
    pub watch: Option<String>,
    /// Why the status cannot be written.
    pub status: Option<String>,
}

/// Shared by the hub's tasks.
pub type Troubles = Arc<Mutex<Trouble>>;

/// Whether every part is there. While the hub rewrites parts, entries move between them.
pub fn is_complete(parts: &Parts) -> bool {
    let Some(first) = parts.values().find(|part| part.spec.part == 0) else { return parts.is_empty() };
    (1..first.spec.parts).all(|wanted| parts.values().any(|part| part.spec.part == wanted))
}

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "NodeAssignment"), "nodeassignments")
}

/// Watches the assignment of `node` for ever; each change is published whole.
pub async fn run_watch(
    access: Arc<dyn HubAccess>,
    node: String,
    assignment: watch::Sender<Option<Parts>>,
    troubles: Troubles,
    restored: Wake,
) {
    let mut retry = Retry::new(BACKOFF).with_wake(&restored);
    loop {
        retry.attempt();
        let problem = match access.client().await {
            Err(error) => error.to_string(),
            Ok(client) => {
                let api: Api<DynamicObject> = Api::all_with(client, &resource());
                let began = tokio::time::Instant::now();
                let problem = watch_once(api, &node, &assignment, &troubles, &restored).await;
                // A watch that held for a while was well; the next one may begin soon.
                retry.succeeded_for(began.elapsed());
                problem
            }
        };
        {
            let mut trouble = troubles.lock().unwrap_or_else(PoisonError::into_inner);
            if trouble.watch.is_none() {
                warn!(error = %problem, "Cannot watch this node's assignment; running the last one.");
            }
            trouble.watch = Some(format!("cannot reach the hub: {problem}"));
        }
        retry.pause().await;
    }
}

/// Follows the parts until one of the watches fails; answers why. A fresh client is made for the next, as certificates may have
/// changed.
async fn watch_once(
    api: Api<DynamicObject>,
    node: &str,
    assignment: &watch::Sender<Option<Parts>>,
    troubles: &Troubles,
    restored: &Wake,
) -> String {
    let mut watches = Watches::new(api, node);
    loop {
        let (number, event) = watches.next().await;
        match event {
            None => return "the watch ended".to_owned(),
            Some(Err(error)) => return chain(&error),
            Some(Ok(event)) => watches.note(number, event),
        }
        if !watches.listing.is_empty() {
            continue;
        }
        let unreadable = watches.unreadable.first_key_value().map(|(name, error)| {
            format!("assignment {name} cannot be read, the last one runs; is this node's program older than the hub's? {error}")
        });
        let is_readable = unreadable.is_none();
        let was_away = {
            let mut trouble = troubles.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut trouble.watch, unreadable).is_some()
        };
        if was_away && is_readable {
            info!("The hub answers again.");
            restored.wake_all();
        }
        if is_readable {
            assignment.send_if_modified(|old| {
                let is_new = old.as_ref() != Some(&watches.parts);
                if is_new {
                    *old = Some(watches.parts.clone());
                }
                is_new
            });
        }
    }
}

type PartEvents = BoxStream<'static, Result<watcher::Event<DynamicObject>, watcher::Error>>;

/// One watch for each part of the assignment, by its name: roles on clusters without our authorizer grant names, and no labels. The
/// first part is always watched, and says how many there are; more than one has who runs hundreds of rules.
struct Watches {
    api: Api<DynamicObject>,
    node: String,
    events: BTreeMap<u32, PartEvents>,
    /// Whose first list, or list anew, has not come yet.
    listing: BTreeSet<u32>,
    parts: Parts,
    /// What is there, but not understood: without it the others are not the whole.
    unreadable: BTreeMap<String, String>,
}

impl Watches {
    fn new(api: Api<DynamicObject>, node: &str) -> Self {
        let (events, listing) = (BTreeMap::new(), BTreeSet::new());
        let (parts, unreadable) = (Parts::new(), BTreeMap::new());
        let mut watches = Self { api, node: node.to_owned(), events, listing, parts, unreadable };
        watches.follow(1);
        watches
    }

    /// The next event of any part.
    async fn next(&mut self) -> (u32, Option<Result<watcher::Event<DynamicObject>, watcher::Error>>) {
        std::future::poll_fn(|context| {
            for (number, events) in &mut self.events {
                if let Poll::Ready(event) = events.poll_next_unpin(context) {
                    return Poll::Ready((*number, event));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn note(&mut self, number: u32, event: watcher::Event<DynamicObject>) {
        let name = assignment_name(&self.node, number);
        match event {
            watcher::Event::Init => {
                self.forget(&name);
                self.listing.insert(number);
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object)
                if object.metadata.name.as_deref() == Some(&*name) =>
            {
                self.forget(&name);
                match part(&object) {
                    Ok(part) => drop(self.parts.insert(name, part)),
                    Err(error) => {
                        warn!(assignment = name, error = %Chain(&error), "An assignment cannot be read; the last one stays.");
                        self.unreadable.insert(name, chain(&error));
                    }
                }
            }
            // Only what was asked for is taken.
            watcher::Event::InitApply(_) | watcher::Event::Apply(_) => {}
            watcher::Event::Delete(_) => self.forget(&name),
            watcher::Event::InitDone => {
                self.listing.remove(&number);
            }
        }
        // While the first part is read anew, cannot be read, or is away, as many as before are followed.
        if let (0, Some(first)) = (number, self.parts.get(&assignment_name(&self.node, 0))) {
            self.follow(first.spec.parts.max(1));
        }
    }

    fn forget(&mut self, name: &str) {
        self.parts.remove(name);
        self.unreadable.remove(name);
    }

    /// Follows this many parts, and no others.
    fn follow(&mut self, count: u32) {
        for number in self.events.split_off(&count).into_keys() {
            self.listing.remove(&number);
            self.forget(&assignment_name(&self.node, number));
        }
        for number in 0..count {
            if let Entry::Vacant(vacant) = self.events.entry(number) {
                let name = assignment_name(&self.node, number);
                let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
                vacant.insert(watcher(self.api.clone(), config).boxed());
                self.listing.insert(number);
            }
        }
    }
}

/// Why an object is no part of an assignment that can be followed.
#[derive(Debug, thiserror::Error)]
enum ReadPartError {
    #[error("failed to read its spec")]
    Spec(#[from] serde_json::Error),
    #[error("it says that there are {0} parts; a node follows {PARTS_MAX}")]
    TooMany(u32),
}

fn part(object: &DynamicObject) -> Result<Part, ReadPartError> {
    let spec = object.data.get("spec").cloned().unwrap_or_else(|| json!({}));
    let mut spec: NodeAssignmentSpec = serde_json::from_value(spec)?;
    // The node itself acts on those.
    spec.entries.retain(AssignmentEntry::is_for_edge_plane);
    if spec.parts > PARTS_MAX {
        return Err(ReadPartError::TooMany(spec.parts));
    }
    Ok(Part { version: PART_VERSION, generation: object.metadata.generation.unwrap_or_default(), spec })
}

/// Writes the status of each part when it differs from what was written last.
pub async fn run_status(
    access: Arc<dyn HubAccess>,
    mut statuses: watch::Receiver<BTreeMap<String, NodeAssignmentStatus>>,
    troubles: Troubles,
    restored: Wake,
) {
    let mut written: BTreeMap<String, NodeAssignmentStatus> = BTreeMap::new();
    let mut client: Option<kube::Client> = None;
    let mut retry = Retry::new(BACKOFF).with_wake(&restored);
    loop {
        retry.attempt();
        let wanted = statuses.borrow_and_update().clone();
        written.retain(|name, _| wanted.contains_key(name));
        let mut problem = None;
        for (name, status) in &wanted {
            if written.get(name) == Some(status) {
                continue;
            }
            match write_status(&access, &mut client, name, status).await {
                Ok(()) => drop(written.insert(name.clone(), status.clone())),
                Err(error) => {
                    client = None;
                    problem = Some(error);
                    break;
                }
            }
        }
        let failed = problem.is_some();
        troubles.lock().unwrap_or_else(PoisonError::into_inner).status =
            problem.map(|problem| format!("cannot write the assignment's status: {problem}"));
        if failed {
            retry.pause().await;
            continue;
        }
        retry.succeeded();
        tokio::time::sleep(STATUS_PERIOD).await;
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

async fn write_status(
    access: &Arc<dyn HubAccess>,
    client: &mut Option<kube::Client>,
    name: &str,
    status: &NodeAssignmentStatus,
) -> Result<(), String> {
    let current = match client {
        Some(client) => client.clone(),
        None => client.insert(access.client().await.map_err(|error| error.to_string())?).clone(),
    };
    let api: Api<DynamicObject> = Api::all_with(current, &resource());
    let patch = Patch::Merge(json!({"status": status}));
    let parameters = PatchParams::default();
    let writing = api.patch_status(name, &parameters, &patch);
    match tokio::time::timeout(REQUEST_TIMEOUT, writing).await {
        Ok(Ok(_)) => {
            debug!(assignment = name, "Wrote the status.");
            Ok(())
        }
        // Deleted meanwhile; the watch will tell.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
    }
}

/// Sends batches over the hub's own connection, with the node's identity.
pub struct HubTransport {
    access: Arc<dyn HubAccess>,
    client: Mutex<Option<kube::Client>>,
    restored: Wake,
    /// Whether the last batch found no hub.
    is_away: AtomicBool,
}

impl HubTransport {
    /// Asks `access` for a client when the first batch goes, and again after each failure. The first answer after an outage is
    /// noticed by `restored`.
    pub fn new(access: Arc<dyn HubAccess>, restored: Wake) -> Self {
        Self { access, client: Mutex::new(None), restored, is_away: AtomicBool::new(false) }
    }

    async fn post(&self, body: Bytes) -> Result<(http::StatusCode, Bytes), String> {
        let cached = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = match cached {
            Some(client) => client,
            None => {
                let client = self.access.client().await.map_err(|error| error.to_string())?;
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
                client
            }
        };
        let request = http::Request::post(BATCHES_PATH)
            .header(http::header::CONTENT_TYPE, BATCH_CONTENT_TYPE)
            .body(kube::client::Body::from(body))
            .map_err(|error| error.to_string())?;
        let response = client.send(request).await.map_err(|error| chain(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}

impl BatchTransport for HubTransport {
    fn send(&self, header: BatchHeader, lines: Vec<Bytes>) -> BoxFuture<'_, Result<BatchAnswer, SendError>> {
        Box::pin(async move {
            let body = encode_body(&header, &lines);
            let posted = match tokio::time::timeout(REQUEST_TIMEOUT, self.post(body)).await {
                Ok(posted) => posted,
                Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            let answer = match posted {
                Ok((status, body)) => judge(status, &body),
                Err(problem) => Err(SendError::Unreachable(problem)),
            };
            let is_away = matches!(answer, Err(SendError::Unreachable(_)));
            if self.is_away.swap(is_away, Ordering::Relaxed) && !is_away {
                self.restored.wake_all();
            }
            if is_away {
                self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            answer
        })
    }
}

/// What the hub's answer to a batch means.
pub fn judge(status: http::StatusCode, body: &[u8]) -> Result<BatchAnswer, SendError> {
    let answer = || serde_json::from_slice::<BatchAnswer>(body).ok();
    let message = || {
        let text = serde_json::from_slice::<serde_json::Value>(body).ok();
        let text = text.and_then(|status| status.get("message")?.as_str().map(str::to_owned));
        format!("the hub answered {status}: {}", text.unwrap_or_else(|| "no further word".to_owned()))
    };
    match status.as_u16() {
        200 => answer().ok_or_else(|| SendError::Unreachable("the hub's answer to a batch cannot be read".to_owned())),
        409 => Err(answer().map_or_else(|| SendError::Unreachable(message()), SendError::Elsewhere)),
        400 | 413 | 422 => Err(SendError::Refused(message())),
        _ => Err(SendError::Unreachable(message())),
    }
}

/// An error with its causes; of a request that found no hub the last one alone, since the others name parts of the library.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(kube::Error::Service(_)) = error.downcast_ref::<kube::Error>() {
            return base_observe::last_cause(error);
        }
        link = error.source();
    }
    Chain(error).to_string()
}
