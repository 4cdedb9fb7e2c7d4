//! Certificate signing requests: their approval, their signature and their end.
//!
//! Who may have what is decided in [`verdict`], a plain function. A request is read and its signature verified once; it
//! is looked at when it changes, when the node it speaks of reports its addresses, and when its time is over:
//!
//! | request | is deleted after |
//! | --- | --- |
//! | signed, denied, failed | one hour |
//! | of a join token, and denied | five minutes |
//! | waiting for a person | a day |

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api_kube::base64_text;
use base_pki::{Ca, CsrInfo, Usage};
use hub_pki::join::{EXTRA_KEY_SHA256, JoinRequest};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::info;

use crate::joining::Joining;
use crate::nodes::LEASE_NAMESPACE;
use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{CsrView, LeaseView, NodeView, condition, time};
use hub_runtime::writer::Target;
use hub_runtime::{Event, Next, ObjectRef, Queue, Reconciler};

pub(crate) mod verdict;

pub use verdict::NamePolicy;
use verdict::{NodeFacts, SIGNER_NODE_CLIENT, SIGNER_NODE_SERVING, Verdict, node_of};

/// Gateways are out of reach for months and may come back with a wrong clock.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Upstream's smallest `expirationSeconds`.
const VALIDITY_MIN_S: u64 = 600;
/// A request is a few hundred bytes; as base64, this suffices for long lists of names and none for abuse.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Upstream's csrcleaner: what is done is kept this long for those who wait for it, …
const DONE_KEPT: Duration = Duration::from_secs(3600);
/// … but what was denied to the bearer of a join token, this long: a box whose name is taken requests again all the time. …
const DENIED_TOKEN_KEPT: Duration = Duration::from_secs(300);
/// … And what waits for a person, this long.
const PENDING_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Requests of one sender that wait for a person at a time.
const PENDING_MAX: usize = 32;
/// Unsigned requests of one sender, denied and failed ones among them; what goes beyond and is not approved by itself is deleted
/// right away.
const UNSIGNED_MAX: usize = 64;
/// Reason of the condition `Approved` where the hub set it.
const AUTO_APPROVED: &str = "AutoApproved";
/// A step of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(600);

/// Who signs what.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Client certificates: nodes and people. Whoever calls the hub is known by it.
    pub client: Arc<Ca>,
    /// Serving certificates of nodes. Only the hub's dialer should trust it, so that no node can play the hub to people.
    pub serving: Arc<Ca>,
}

/// The controller.
pub(crate) struct Csr {
    context: Context,
    authorities: Authorities,
    policy: NamePolicy,
    memory: Mutex<Memory>,
}

/// What is remembered of requests; all of it can be read again.
#[derive(Default)]
struct Memory {
    /// By uid: what the request says, or why it cannot be read.
    parsed: HashMap<String, Arc<Result<CsrInfo, String>>>,
    /// By sender: the names of requests without a certificate, and whether they are decided.
    unsigned: HashMap<String, BTreeMap<Box<str>, bool>>,
    /// By name: who has sent it, and its uid.
    senders: HashMap<Box<str>, (String, String)>,
}

impl Memory {
    fn note(&mut self, name: &str, view: &CsrView<'_>, state: State) {
        let sender = view.spec.username.to_string();
        self.senders.insert(name.into(), (sender.clone(), view.metadata.uid.to_string()));
        if state == State::Signed {
            self.drop_unsigned(name, &sender);
        } else {
            let is_decided = matches!(state, State::Failed | State::Denied);
            self.unsigned.entry(sender).or_default().insert(name.into(), is_decided);
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some((sender, uid)) = self.senders.remove(name) {
            self.parsed.remove(&uid);
            self.drop_unsigned(name, &sender);
        }
    }

    fn drop_unsigned(&mut self, name: &str, sender: &str) {
        if let Some(of_sender) = self.unsigned.get_mut(sender) {
            of_sender.remove(name);
            if of_sender.is_empty() {
                self.unsigned.remove(sender);
            }
        }
    }

    /// How many other requests of the sender wait, and how many have no certificate.
    fn others(&self, name: &str, sender: &str) -> (usize, usize) {
        let of_sender = self.unsigned.get(sender);
        let others = || of_sender.into_iter().flatten().filter(|(other, _)| ***other != *name);
        (others().filter(|(_, is_decided)| !**is_decided).count(), others().count())
    }
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Approved,
    Denied,
    Failed,
    Signed,
}

fn state(view: &CsrView<'_>) -> State {
    let has = |r#type| condition(&view.status.conditions, r#type).is_some_and(|one| one.status != "False");
    if has("Denied") {
        State::Denied
    } else if has("Failed") {
        State::Failed
    } else if !view.status.certificate.is_empty() {
        State::Signed
    } else if has("Approved") {
        State::Approved
    } else {
        State::Pending
    }
}

/// When a request is deleted.
fn kept_until(view: &CsrView<'_>, state: State) -> Timestamp {
    let decided = view.status.conditions.iter().filter_map(|one| one.last_update_time.as_deref().and_then(time)).max();
    let (since, kept) = match state {
        State::Pending => (view.metadata.created(), PENDING_KEPT),
        State::Denied if view.spec.groups.iter().any(|group| **group == *verdict::GROUP_BOOTSTRAPPERS) => {
            (decided.unwrap_or_else(|| view.metadata.created()), DENIED_TOKEN_KEPT)
        }
        _ => (decided.unwrap_or_else(|| view.metadata.created()), DONE_KEPT),
    };
    since.checked_add(kept).unwrap_or(Timestamp::MAX)
}

/// What is to be done about a request now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing, until something changes.
    Wait,
    Approve,
    Sign(Usage),
    Fail(&'static str, String),
    Delete,
}

/// Decides about one request, given what it deserves and how many others its sender has (waiting, without a certificate).
fn step(state: State, verdict: impl FnOnce() -> Verdict, others: (usize, usize), is_over: bool) -> Step {
    let (waiting, unsigned) = others;
    match state {
        _ if is_over => Step::Delete,
        State::Denied | State::Failed | State::Signed => Step::Wait,
        State::Pending | State::Approved => match verdict() {
            // Whatever else its sender has: many boxes may share a token, and none of them keeps the others out.
            Verdict::AutoApprove(_) if state == State::Pending => Step::Approve,
            _ if state == State::Pending && unsigned >= UNSIGNED_MAX => Step::Delete,
            _ if state == State::Pending && waiting >= PENDING_MAX => Step::Fail(
                "TooManyRequests",
                format!("{PENDING_MAX} requests of this sender wait already; approve or delete them first"),
            ),
            Verdict::Ignore => Step::Wait,
            Verdict::Fail(reason) => Step::Fail("SignerValidationFailure", reason),
            Verdict::NeedsApproval(..) if state == State::Pending => Step::Wait,
            Verdict::AutoApprove(usage) | Verdict::NeedsApproval(usage, _) => Step::Sign(usage),
        },
    }
}

fn pem(request: &str) -> Result<String, String> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(format!("spec.request is larger than {REQUEST_BYTES_MAX} bytes"));
    }
    let bytes = base64_text::decode(request).map_err(|_| "spec.request is not base64".to_owned())?;
    String::from_utf8(bytes).map_err(|_| "spec.request holds no PEM".to_owned())
}

impl Csr {
    pub fn new(context: Context, authorities: Authorities, policy: NamePolicy) -> Self {
        Self { context, authorities, policy, memory: Mutex::default() }
    }

    /// What the request says; read and verified once.
    fn parse(&self, view: &CsrView<'_>) -> Arc<Result<CsrInfo, String>> {
        if let Some(parsed) = self.memory.lock().parsed.get(&*view.metadata.uid) {
            return parsed.clone();
        }
        let parsed =
            pem(&view.spec.request).and_then(|pem| base_pki::parse_csr(&pem).map_err(|error| error.to_string()));
        let parsed = Arc::new(parsed);
        self.memory.lock().parsed.insert(view.metadata.uid.to_string(), parsed.clone());
        parsed
    }

    fn judge(&self, view: &CsrView<'_>) -> Verdict {
        match &*self.parse(view) {
            Err(reason) => Verdict::Fail(reason.clone()),
            Ok(info) => {
                let node = node_of(&info.cn).and_then(|node| self.context.reader.get(Kind::Node, "", node));
                let node: Option<NodeView<'_>> = node.as_ref().and_then(ObjectRef::view_or_log);
                let addresses = node.as_ref().map(|node| node.status.addresses.as_slice());
                verdict::judge(&view.spec, info, NodeFacts { addresses }, &self.policy)
            }
        }
    }

    fn sign(&self, view: &CsrView<'_>, usage: Usage) -> Result<String, String> {
        let pem = pem(&view.spec.request)?;
        let asked = view.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let asked = asked.map(|seconds| Duration::from_secs(seconds.clamp(VALIDITY_MIN_S, VALIDITY.as_secs())));
        let is_serving = view.spec.signer_name == SIGNER_NODE_SERVING;
        let ca = if is_serving { &self.authorities.serving } else { &self.authorities.client };
        ca.sign_csr(&pem, usage, asked.unwrap_or(VALIDITY)).map_err(|error| error.to_string())
    }

    /// Binds the key of a node's client certificate to its name, before it is approved or, if it is already, before it is
    /// signed; whatever else is approved binds nothing.
    async fn bind(&self, view: &CsrView<'_>, object: &ObjectRef, state: State) -> Result<Joining, ReconcileError> {
        let parsed = self.parse(view);
        let (Ok(info), SIGNER_NODE_CLIENT) = (&*parsed, &*view.spec.signer_name) else { return Ok(Joining::Bound) };
        let request = object.value()?;
        let Context { reader, writer, .. } = &self.context;
        let node = node_of(&info.cn).unwrap_or_default();
        let lease = reader.get(Kind::Lease, LEASE_NAMESPACE, node);
        let lease: Option<LeaseView<'_>> = lease.as_ref().and_then(ObjectRef::view_or_log);
        let join = JoinRequest {
            node,
            key_sha256: &info.key_sha256,
            username: &view.spec.username,
            sender_key_sha256: request["spec"]["extra"][EXTRA_KEY_SHA256][0].as_str(),
            has_node: reader.get(Kind::Node, "", node).is_some(),
            last_seen: lease.as_ref().and_then(|lease| lease.spec.renew_time.as_deref()),
        };
        if state == State::Approved {
            let approved = condition(&view.status.conditions, "Approved");
            let by_person = approved.is_none_or(|approved| *approved.reason != *AUTO_APPROVED);
            return crate::joining::bind_approved(writer, &join, by_person).await;
        }
        crate::joining::bind(writer, &join).await
    }

    /// Shows at a Node that somebody has asked for its name, for those who watch over it: the request itself is soon deleted.
    fn note_intruder(&self, view: &CsrView<'_>, why: &str) {
        let parsed = self.parse(view);
        let (Ok(info), SIGNER_NODE_CLIENT) = (&*parsed, &*view.spec.signer_name) else { return };
        let name = node_of(&info.cn).unwrap_or_default();
        let Some(node) = self.context.reader.get(Kind::Node, "", name) else { return };
        let Some(node) = node.view_or_log::<NodeView<'_>>() else { return };
        let target = Target { namespace: "", name, uid: &node.metadata.uid };
        let message = format!("Rejected a request of {} to join as this node: {why}", view.spec.username);
        self.context.recorder.warning(Kind::Node, target, "JoinRejected", message);
    }

    fn observe_request(&self, object: &ObjectRef, queue: &Queue<Box<str>>) {
        let Some(view) = object.view_or_log::<CsrView<'_>>() else { return };
        self.memory.lock().note(object.name(), &view, state(&view));
        queue.add(object.name().into());
    }

    /// A node's addresses are known, or others: what it has requested is looked at again.
    fn observe_node(&self, name: &str, queue: &Queue<Box<str>>) {
        let memory = self.memory.lock();
        let sender = format!("{}{name}", verdict::NODE_PREFIX);
        let waiting = memory.unsigned.get(&sender).into_iter().flatten().filter(|(_, is_decided)| !**is_decided);
        waiting.for_each(|(request, _)| queue.add(request.clone()));
    }
}

impl Reconciler for Csr {
    type Key = Box<str>;

    fn name(&self) -> &'static str {
        "csr"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::CertificateSigningRequest, Kind::Node]
    }

    fn observe(&self, event: &Event, queue: &Queue<Box<str>>) {
        match event {
            Event::Listed(Kind::Node, _) => {
                let memory = self.memory.lock();
                memory.senders.keys().for_each(|request| queue.add(request.clone()));
            }
            Event::Listed(_, requests) => {
                let names: HashSet<&str> = requests.iter().map(ObjectRef::name).collect();
                let removed: Vec<Box<str>> = {
                    let memory = self.memory.lock();
                    memory.senders.keys().filter(|name| !names.contains(&***name)).cloned().collect()
                };
                removed.iter().for_each(|name| self.memory.lock().forget(name));
                requests.iter().for_each(|request| self.observe_request(request, queue));
            }
            Event::Changed(change) => match (change.kind, &change.current) {
                (Kind::Node, Some(node)) => {
                    let addresses = |object: &ObjectRef| {
                        let view: NodeView<'_> = object.view_or_log()?;
                        Some(view.status.addresses.iter().map(|one| one.address.to_string()).collect::<Vec<_>>())
                    };
                    if change.previous.as_ref().and_then(addresses) != addresses(node) {
                        self.observe_node(node.name(), queue);
                    }
                }
                (Kind::Node, None) => {}
                (_, Some(request)) => self.observe_request(request, queue),
                (_, None) => self.memory.lock().forget(change.newest().name()),
            },
        }
    }

    async fn reconcile(&self, name: &Box<str>) -> Result<Next, ReconcileError> {
        let kind = Kind::CertificateSigningRequest;
        let Context { reader, writer, recorder, .. } = &self.context;
        let Some(object) = reader.get(kind, "", name) else { return Ok(Next::OnChange) };
        let view: CsrView<'_> = object.view()?;
        let (state, now) = (state(&view), self.context.clock.now());
        let until = kept_until(&view, state);
        let others = self.memory.lock().others(name, &view.spec.username);
        let target = Target { namespace: "", name, uid: &view.metadata.uid };
        let (subresource, certificate, condition) = match step(state, || self.judge(&view), others, until <= now) {
            Step::Wait => return Ok(until_deadline(until, now)),
            Step::Delete => {
                writer.delete_target(kind, target, None, None).await?;
                return Ok(Next::OnChange);
            }
            Step::Approve => match self.bind(&view, &object, state).await? {
                Joining::Bound => {
                    let message = "Requested by a node or with its bootstrap token.";
                    ("approval", None, Some(("Approved", AUTO_APPROVED, message.to_owned())))
                }
                Joining::Denied(why) => {
                    self.note_intruder(&view, &why);
                    ("approval", None, Some(("Denied", "NotThisNode", why)))
                }
                Joining::NotAutomatic => return Ok(until_deadline(until, now)),
                Joining::Again => return Ok(Next::After(Duration::from_secs(1))),
            },
            Step::Fail(reason, message) => ("status", None, Some(("Failed", reason, message))),
            Step::Sign(usage) => match self.bind(&view, &object, state).await? {
                Joining::Denied(why) => ("status", None, Some(("Failed", "NotThisNode", why))),
                Joining::Again => return Ok(Next::After(Duration::from_secs(1))),
                Joining::Bound | Joining::NotAutomatic => match self.sign(&view, usage) {
                    Ok(pem) => ("status", Some(pem), None),
                    Err(reason) => ("status", None, Some(("Failed", "SigningError", reason))),
                },
            },
        };
        let mut changed = object.value()?;
        if let Some((r#type, reason, message)) = &condition {
            add_condition(&mut changed, r#type, reason, message, now);
        }
        if let Some(pem) = &certificate {
            changed["status"]["certificate"] = json!(base64_text::encode(pem.as_bytes()));
        }
        if !writer.replace_subresource(kind, name, subresource, &changed).await? {
            return Ok(Next::OnChange);
        }
        match condition {
            Some(("Failed" | "Denied", reason, message)) => recorder.warning(kind, target, reason, message),
            None => info!(name, signer = %view.spec.signer_name, "Signed a certificate."),
            Some(_) => {}
        }
        Ok(Next::OnChange)
    }
}

/// When a request that waits is looked at again: its time is over then, or the clock was set.
fn until_deadline(until: Timestamp, now: Timestamp) -> Next {
    let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    Next::After(left.clamp(Duration::from_secs(1), DEADLINE_MAX))
}

fn add_condition(request: &mut Value, r#type: &str, reason: &str, message: &str, now: Timestamp) {
    let condition = json!({
        "type": r#type, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": seconds(now), "lastTransitionTime": seconds(now),
    });
    let mut conditions = request["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.push(condition);
    if !request["status"].is_object() {
        request["status"] = json!({});
    }
    request["status"]["conditions"] = conditions.into();
}

#[cfg(test)]
mod tests;
