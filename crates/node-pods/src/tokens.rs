//! Tokens of pods' service accounts: requested from the hub, kept on disk, renewed before they run out.
//!
//! A projected volume may hold a token of its pod's service account, by which a program in the pod calls the hub's API. The hub
//! issues it for this one pod; it ends with the pod. One task, [`run`], keeps all tokens of the node: it is reported which ones the
//! pods' volumes name, requests those that are missing, and renews each when four fifths of its life or a day are over.
//!
//! ```text
//! manager ──desired──▶ Queue ──due──▶ request ──▶ store (disk) ──changed──▶ manager ──▶ worker ──▶ volume
//! ```
//!
//! What differs from Kubernetes' kubelet, because a node must start its pods with no hub:
//!
//! - A token is kept on disk, sealed, so that a restarted kubelet or a rebooted box mounts it again. One that has run out is
//!   mounted all the same until the hub has issued the next: to its reader it is the token of a pod that could not be renewed.
//! - A pod waits for its first token only while the hub is connected, and only for a moment (`pods::worker`); then it starts
//!   without the file, which comes into the volume when the hub has issued it. So it does when the hub rejects the request, which
//!   is an Event of the pod.
//!
//! Times are this node's own: how long ago a token came and how long it is good for. What the hub's clock says of its end does not
//! matter, so a node whose clock is wrong renews no later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base_retry::{Backoff, BackoffLaw};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::backoff::sleep_until;
use crate::manager::Command;
use crate::model::{Pod, TokenProjection};
use crate::store::Store;
use node_client::encode;
use node_client::{ApiClient, ApiError};
use node_client::{StatusRegistry, chain};

/// Tokens of one pod, those of one audience and life counted once. Nobody names more on purpose.
pub(crate) const TOKENS_OF_POD_MAX: usize = 16;
/// What a token is requested for that does not say, as the API's default is.
const DEFAULT_SECONDS: i64 = 3600;
/// A token has one or two KB; the hub is read with this much patience.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// No API server issues tokens for less, or for more than 2^32 seconds.
const LIFE_SECONDS_MIN: i64 = 600;
const LIFE_SECONDS_MAX: i64 = 1 << 32;
/// As Kubernetes' kubelet: a token of a week is renewed daily all the same.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// As Kubernetes' kubelet: tokens that came together are not renewed together.
const JITTER_MAX: Duration = Duration::from_secs(10);
/// After an outage every token of every node may be due; those whose pods have one already are requested within this.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// Requests that are under way at a time: a hub that comes back has more to do than issue tokens for one node.
const REQUESTS_MAX: usize = 4;
/// How late a change of the clock may be noticed.
const RESYNC_PERIOD: Duration = Duration::from_secs(60);
/// Between two requests for one token that failed. The first pause is short: a namespace that was created with its first pod may get
/// its service account a moment later.
const RETRY: BackoffLaw = BackoffLaw::new(Duration::from_millis(400), Duration::from_secs(300));
/// Rejections in a row that are the hub's word, and not a moment's.
const REJECTIONS_MIN: u32 = 2;

/// Which token: the audience and the life that a volume of a pod names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenRef {
    pub pod_uid: String,
    pub namespace: String,
    pub pod: String,
    pub account: String,
    /// Empty: the API's own.
    pub audience: String,
    pub seconds: i64,
}

impl TokenRef {
    pub(crate) fn of(pod: &Pod, source: &TokenProjection) -> Self {
        let account = pod.spec.service_account_name.clone().filter(|name| !name.is_empty());
        Self {
            pod_uid: pod.metadata.uid.clone(),
            namespace: pod.metadata.namespace.clone(),
            pod: pod.metadata.name.clone(),
            account: account.unwrap_or_else(|| "default".to_owned()),
            audience: source.audience.clone(),
            seconds: source.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }

    /// All that a pod's volumes name. A static pod has no service account: the hub does not know the pod that runs.
    pub(crate) fn all_of(pod: &Pod) -> BTreeSet<Self> {
        if pod.is_static() {
            return BTreeSet::new();
        }
        let projected = pod.spec.volumes.iter().filter_map(|volume| volume.projected.as_ref());
        let sources = projected.flat_map(|projected| &projected.sources);
        let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
        tokens.map(|token| Self::of(pod, token)).take(TOKENS_OF_POD_MAX).collect()
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", encode(&self.namespace), encode(&self.account))
    }

    fn request(&self) -> Value {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": self.pod_uid});
        let mut spec = json!({"expirationSeconds": self.seconds, "boundObjectRef": bound});
        if !self.audience.is_empty() {
            node_client::set_field(&mut spec, "audiences", json!([self.audience]));
        }
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
    }
}

/// A token as it is kept on disk, among those of its pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptToken {
    pub account: String,
    pub audience: String,
    /// What was requested.
    pub seconds: i64,
    pub token: String,
    /// By this node's clock.
    pub obtained_at: Timestamp,
    /// What was given.
    pub life_seconds: i64,
}

impl KeptToken {
    pub(crate) fn is_of(&self, of: &TokenRef) -> bool {
        (&self.account, &self.audience, self.seconds) == (&of.account, &of.audience, of.seconds)
    }

    /// Reads the answer to a request.
    fn read(of: &TokenRef, answer: &Value, now: Timestamp) -> Result<Self, ApiError> {
        let unreadable = |message: &str| {
            Err(ApiError::Unreadable { act: format!("POST {}", of.path()), message: message.to_owned() })
        };
        let token = answer["status"]["token"].as_str().unwrap_or_default();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return unreadable("it holds no token");
        }
        if token.len() > TOKEN_BYTES_MAX {
            return unreadable("the token is too large");
        }
        let life = answer["spec"]["expirationSeconds"].as_i64().unwrap_or(of.seconds);
        Ok(Self {
            account: of.account.clone(),
            audience: of.audience.clone(),
            seconds: of.seconds,
            token: token.to_owned(),
            obtained_at: now,
            life_seconds: life.clamp(LIFE_SECONDS_MIN, LIFE_SECONDS_MAX),
        })
    }

    /// How old it gets before it is renewed.
    fn renewal_age(&self, random: f64) -> Duration {
        let life = u64::try_from(self.life_seconds.clamp(LIFE_SECONDS_MIN, LIFE_SECONDS_MAX)).unwrap_or_default();
        let age = Duration::from_secs(life).mul_f64(0.8).min(AGE_MAX);
        age.saturating_sub(JITTER_MAX.mul_f64(random))
    }
}

/// A moment by both clocks: the monotonic one stops while a machine sleeps, the other one may be set.
#[derive(Clone, Copy, Debug)]
struct Now {
    clock: Instant,
    wall: Timestamp,
}

impl Now {
    fn read() -> Self {
        Self { clock: Instant::now(), wall: Timestamp::now() }
    }
}

/// When something is to be done: when one of the clocks says so.
#[derive(Clone, Copy, Debug)]
struct Due {
    clock: Instant,
    wall: Timestamp,
}

impl Due {
    fn after(now: Now, pause: Duration) -> Self {
        let signed = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        Self { clock: now.clock + pause, wall: now.wall.checked_add(signed).unwrap_or(Timestamp::MAX) }
    }

    fn has_come(&self, now: Now) -> bool {
        now.clock >= self.clock || now.wall >= self.wall
    }
}

/// What is known of one token.
#[derive(Debug)]
struct Entry {
    due: Due,
    is_requested: bool,
    /// The pod has one, be it an old one.
    is_known: bool,
    backoff: Backoff,
    rejections: u32,
}

/// When to request which token. It is given the time and does nothing itself.
#[derive(Debug, Default)]
struct Queue {
    entries: BTreeMap<TokenRef, Entry>,
}

impl Queue {
    /// Makes these the tokens that are looked after; `kept` is what the disk has of a new one.
    fn set_desired(&mut self, desired: &BTreeSet<TokenRef>, kept: impl Fn(&TokenRef) -> Option<KeptToken>, now: Now) {
        self.entries.retain(|of, _| desired.contains(of));
        for of in desired {
            if self.entries.contains_key(of) {
                continue;
            }
            let known = kept(of);
            let pause = known.as_ref().map_or(Duration::ZERO, |kept| {
                // A token of the future: one of the clocks was wrong, so its age is not known.
                let age = Duration::try_from(now.wall.duration_since(kept.obtained_at));
                age.map_or(Duration::ZERO, |age| kept.renewal_age(fastrand::f64()).saturating_sub(age))
            });
            let entry = Entry {
                due: Due::after(now, pause),
                is_requested: false,
                is_known: known.is_some(),
                backoff: Backoff::new(RETRY),
                rejections: 0,
            };
            self.entries.insert(of.clone(), entry);
        }
    }

    /// The next token to be requested, a missing one first; it counts as requested from now on.
    fn take_due(&mut self, now: Now) -> Option<TokenRef> {
        let due = self.entries.iter_mut().filter(|(_, entry)| !entry.is_requested && entry.due.has_come(now));
        let (of, entry) = due.min_by_key(|(_, entry)| entry.is_known)?;
        entry.is_requested = true;
        Some(of.clone())
    }

    /// When to look again at the latest.
    fn next_look(&self, now: Now) -> Option<Instant> {
        let waiting = self.entries.values().filter(|entry| !entry.is_requested);
        let next = waiting.map(|entry| entry.due.clock).min()?;
        Some(next.min(now.clock + RESYNC_PERIOD))
    }

    /// The hub has issued it.
    fn obtained(&mut self, of: &TokenRef, kept: &KeptToken, now: Now) {
        let Some(entry) = self.entries.get_mut(of) else { return };
        entry.due = Due::after(now, kept.renewal_age(fastrand::f64()));
        (entry.is_requested, entry.is_known, entry.rejections) = (false, true, 0);
        entry.backoff.reset();
    }

    /// The request failed; answers whether this is a rejection that the pod's author should read of.
    fn failed(&mut self, of: &TokenRef, is_outage: bool, now: Now) -> bool {
        let Some(entry) = self.entries.get_mut(of) else { return false };
        entry.is_requested = false;
        entry.due = Due::after(now, entry.backoff.next_delay());
        if is_outage {
            return false;
        }
        entry.rejections = entry.rejections.saturating_add(1);
        entry.rejections == REJECTIONS_MIN
    }

    /// The hub is there again: what was put off is due now.
    fn restored(&mut self, now: Now) {
        for entry in self.entries.values_mut().filter(|entry| !entry.is_requested) {
            let is_late = entry.due.has_come(now);
            let is_put_off = entry.backoff.failures() > 0;
            if is_late || is_put_off {
                let pause = if entry.is_known { CATCH_UP_MAX.mul_f64(fastrand::f64()) } else { Duration::ZERO };
                entry.due = Due::after(now, pause);
            }
        }
    }
}

/// Keeps the tokens that pods name until `shutdown`.
pub(crate) async fn run(
    hub: ApiClient,
    store: Arc<Store>,
    mut desired: watch::Receiver<BTreeSet<TokenRef>>,
    commands: mpsc::Sender<Command>,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let mut queue = Queue::default();
    let mut requests: JoinSet<(TokenRef, Result<KeptToken, ApiError>)> = JoinSet::new();
    let restored = hub.restored();
    let mut restored = restored.notice();
    let swept = store.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || swept.sweep_tokens()).await {
        warn!(error = %chain(&error), "Failed to forget tokens of pods that are deleted; the next start tries again.");
    }
    loop {
        // Without a hub nothing is to be looked at: the connection that is made wakes.
        let is_connected = hub.is_connected();
        while is_connected && requests.len() < REQUESTS_MAX {
            let Some(of) = queue.take_due(Now::read()) else { break };
            let hub = hub.clone();
            base_observe::spawn_in_set(&mut requests, "token-request", async move {
                let issued = hub.create(&of.path(), &of.request()).await;
                let read = issued.and_then(|answer| KeptToken::read(&of, &answer, Timestamp::now()));
                (of, read)
            });
        }
        let is_free = is_connected && requests.len() < REQUESTS_MAX;
        let look = queue.next_look(Now::read()).filter(|_| is_free);
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = desired.changed() => {
                if changed.is_err() {
                    break;
                }
                let now = desired.borrow_and_update().clone();
                queue.set_desired(&now, |of| store.token(of), Now::read());
            }
            () = restored.called() => queue.restored(Now::read()),
            Some(done) = requests.join_next() => match done {
                Ok((of, result)) => finish(&mut queue, of, result, &store, &commands, &registry).await,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
            () = sleep_until(look) => {}
        }
    }
    requests.shutdown().await;
}

async fn finish(
    queue: &mut Queue,
    of: TokenRef,
    result: Result<KeptToken, ApiError>,
    store: &Arc<Store>,
    commands: &mpsc::Sender<Command>,
    registry: &StatusRegistry,
) {
    let uid = of.pod_uid.clone();
    let kept = match result {
        Ok(kept) => kept,
        Err(error) => {
            debug!(account = %of.account, pod = %of.pod, error = %chain(&error), "The hub issued no token.");
            if queue.failed(&of, error.is_outage(), Now::read()) {
                warn!(account = %of.account, pod = %of.pod, error = %chain(&error), "The hub rejects a pod's token; trying again now and then.");
                registry.error(format!("token of {}/{}: {}", of.namespace, of.pod, chain(&error)));
                // The manager is deleted at shutdown only.
                let _ = commands.send(Command::TokenRejected { uid, message: error.message() }).await;
            }
            return;
        }
    };
    let (disk, key, token) = (store.clone(), of.clone(), kept.clone());
    let written = tokio::task::spawn_blocking(move || disk.put_token(&key, token)).await;
    match written {
        Ok(Ok(())) => {
            queue.obtained(&of, &kept, Now::read());
            let _ = commands.send(Command::TokenChanged { uid }).await;
        }
        Ok(Err(error)) => {
            queue.failed(&of, true, Now::read());
            registry.error(chain(&error));
            warn!(error = %chain(&error), "Failed to keep a token; trying again.");
        }
        Err(error) => {
            queue.failed(&of, true, Now::read());
            warn!(%error, "Failed to keep a token; trying again.");
        }
    }
}

#[cfg(test)]
mod tests;
