//! Who may have the client certificate of a node: a plain function of the request, what the name is bound to, and the
//! token.
//!
//! A name is bound to one box by the key that it shows ([`NodeIdentitySpec`]). Four may bind a key to a name:
//!
//! | who sends the request | when the name is free or revoked | when another key has it |
//! | --- | --- | --- |
//! | a join token | it joins | rejected |
//! | a join token made for that very name | it joins | it replaces the broken box, whose key is good no longer |
//! | the node itself, with its bound key | | it renews: both keys are good until the new one is used |
//! | anybody, and a person approves it | it joins | it replaces the broken box |
//!
//! A token is good for one use unless it was made for more. The same key under the same name is no further use, also when the
//! hub was stopped between the use and the binding, and while a box has not registered yet it may try again with another key:
//! its first certificate may never have reached it.

use std::collections::BTreeMap;

use api_edge::identity::{NodeIdentitySpec, NodeIdentityState};
use api_kube::base64_text;
use api_kube::names::{is_label_value, is_qualified_name};
use serde_json::Value;

/// Key of a bootstrap token's Secret: the only node that it is for.
pub const TOKEN_NODE_NAME: &str = "node-name";
/// Key of a bootstrap token's Secret: how many boxes may join with it; one when absent.
pub const TOKEN_USES: &str = "uses";
/// Key of a bootstrap token's Secret: the nodes that have joined with it, with commas.
pub const TOKEN_USED_BY: &str = "used-by";
/// Key of a bootstrap token's Secret: uses of it whose binding is not known to be written, `NODE=KEY_SHA256` with commas.
pub const TOKEN_UNFINISHED: &str = "unfinished";
/// Key of a bootstrap token's Secret: labels of the nodes that join with it, `k=v` with commas.
pub const TOKEN_LABELS: &str = "registration-labels";

/// Key of a caller's extras under which the API server keeps the key of its client certificate.
pub const EXTRA_KEY_SHA256: &str = "selvedge.dev/key-sha256";

/// Users that are bearers of bootstrap tokens are this and the token's id.
const USER_TOKEN_PREFIX: &str = "system:bootstrap:";
const USER_NODE_PREFIX: &str = "system:node:";

/// As much of a text from outside as a message shows.
const SHOWN_CHARS: usize = 80;

/// What a join token allows, and what it was used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenGrant {
    /// The only node that it is for.
    pub node_name: Option<String>,
    /// How many boxes may join with it.
    pub uses: usize,
    /// The nodes that have.
    pub used_by: Vec<String>,
    /// Nodes of [`used_by`](Self::used_by) whose binding may be missing, and the keys that were to be bound: the hub was
    /// stopped in between.
    pub unfinished: Vec<(String, String)>,
    /// Labels of the nodes that join with it.
    pub labels: BTreeMap<String, String>,
}

impl TokenGrant {
    /// Reads the Secret of a bootstrap token. One that says nothing of uses is good for one.
    pub fn of_secret(secret: &Value) -> Self {
        let data = |key: &str| {
            let encoded = secret.get("data")?.get(key)?.as_str()?;
            String::from_utf8(base64_text::decode(encoded).ok()?).ok().filter(|text| !text.is_empty())
        };
        let list = |key: &str| -> Vec<String> {
            let text = data(key).unwrap_or_default();
            text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
        };
        let pairs = |key: &str| {
            let split = |one: String| one.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            list(key).into_iter().filter_map(split)
        };
        Self {
            node_name: data(TOKEN_NODE_NAME),
            // A number that cannot be read is none that somebody set.
            uses: data(TOKEN_USES).map_or(1, |text| text.trim().parse().unwrap_or(0)),
            used_by: list(TOKEN_USED_BY),
            unfinished: pairs(TOKEN_UNFINISHED).collect(),
            labels: pairs(TOKEN_LABELS).collect(),
        }
    }
}

/// A request for a node's client certificate.
#[derive(Clone, Copy, Debug)]
pub struct JoinRequest<'a> {
    /// The node that it is for, from its common name.
    pub node: &'a str,
    /// SHA-256 of the key that it is for.
    pub key_sha256: &'a str,
    /// The user that sent it, `system:bootstrap:ID` or `system:node:NAME`.
    pub username: &'a str,
    /// SHA-256 of the key with which the sender showed itself, when it showed a certificate.
    pub sender_key_sha256: Option<&'a str>,
    /// Whether there is a Node of that name.
    pub has_node: bool,
    /// When the box that has the name was last heard, as its Lease says.
    pub last_seen: Option<&'a str>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinVerdict {
    /// It is approved, after both have been written: the token first, then the binding. Both are idempotent.
    Approve {
        /// What the name is bound to from now on; `None` when that does not change.
        binding: Option<NodeIdentitySpec>,
        /// The nodes that have used the token from now on; `None` when that does not change. Until the binding is written
        /// too, the use is kept as [unfinished](TokenGrant::unfinished).
        used_by: Option<Vec<String>>,
    },
    /// It is denied, with a sentence that says what to do.
    Deny(String),
    /// Neither a token nor the node itself has sent it: a person decides.
    NotAutomatic,
}

impl JoinRequest<'_> {
    /// The id of the token that sent the request.
    pub fn token_id(&self) -> Option<&str> {
        self.username.strip_prefix(USER_TOKEN_PREFIX)
    }
}

/// Decides about a request, given what its name is bound to and the sender's token.
pub fn decide(request: &JoinRequest<'_>, bound: Option<&NodeIdentitySpec>, token: Option<&TokenGrant>) -> JoinVerdict {
    if let Some(id) = request.token_id() {
        return match token {
            Some(token) => by_token(request, id, bound, token),
            None => JoinVerdict::Deny(format!(
                "token {id} does not exist any more; make a new one with `selvedge token create`"
            )),
        };
    }
    match request.username.strip_prefix(USER_NODE_PREFIX) {
        Some(sender) if sender == request.node => renewal(request, bound),
        _ => JoinVerdict::NotAutomatic,
    }
}

/// Decides about a request that is approved already, by a person or by [`decide`], and is about to be signed.
pub fn decide_approved(request: &JoinRequest<'_>, bound: Option<&NodeIdentitySpec>, by_person: bool) -> JoinVerdict {
    let node = request.node;
    if bound.is_some_and(|bound| !bound.keys.is_empty() && bound.accepts(request.key_sha256)) {
        return JoinVerdict::Approve { binding: None, used_by: None };
    }
    if !by_person {
        return match bound {
            // A cluster without bindings.
            None => JoinVerdict::Approve { binding: None, used_by: None },
            // Its key was bound when it was approved; to bind it once more would undo what has happened since.
            Some(_) => JoinVerdict::Deny(format!(
                "another key was bound to node {node:?} after this request was approved, or its identity was revoked; request again"
            )),
        };
    }
    let binding = NodeIdentitySpec {
        keys: vec![request.key_sha256.to_owned()],
        generation: bound.map_or(1, |bound| bound.generation.saturating_add(1)),
        ..NodeIdentitySpec::default()
    };
    JoinVerdict::Approve { binding: Some(binding), used_by: None }
}

fn by_token(request: &JoinRequest<'_>, id: &str, bound: Option<&NodeIdentitySpec>, token: &TokenGrant) -> JoinVerdict {
    let node = request.node;
    if let Some(only) = token.node_name.as_deref().filter(|only| *only != node) {
        return JoinVerdict::Deny(format!(
            "token {id} is for node {only:?}, not for {node:?}; start it with --node-name {only}"
        ));
    }
    let live = bound.filter(|bound| bound.is_live());
    if live.is_some_and(|live| !live.keys.is_empty() && live.accepts(request.key_sha256)) {
        return JoinVerdict::Approve { binding: None, used_by: None };
    }
    // Every attempt to create its Node would be rejected, after the token was used up. `selvedge token create` makes none
    // such, but a Secret may be written by hand.
    let is_label = |key: &str, value: &str| is_qualified_name(key) && is_label_value(value);
    if let Some((key, value)) = token.labels.iter().find(|(key, value)| !is_label(key, value)) {
        let shown: String = format!("{key}={value}").chars().take(SHOWN_CHARS).collect();
        return JoinVerdict::Deny(format!(
            "token {id} gives its nodes {shown:?}, which is no label; make a new one with `selvedge token create --label KEY=VALUE`"
        ));
    }
    let generation = bound.map_or(1, |bound| bound.generation.saturating_add(1));
    let binding = |generation| NodeIdentitySpec {
        state: NodeIdentityState::Active,
        keys: vec![request.key_sha256.to_owned()],
        generation,
        registered: false,
        token: id.to_owned(),
        labels: token.labels.clone(),
        reason: String::new(),
    };
    let has_used = token.used_by.iter().any(|used| used == node);
    // Its certificate may never have reached it, or its key may not have reached its disk.
    if let Some(live) = live
        && has_used
        && live.token == id
        && !live.registered
    {
        return JoinVerdict::Approve { binding: Some(binding(live.generation)), used_by: None };
    }
    // The use was recorded and the hub stopped before the key was bound: the same box finishes what it began.
    let is_same = |(name, key): &(String, String)| name == node && key == request.key_sha256;
    if has_used && token.unfinished.iter().any(is_same) && (live.is_none() || token.node_name.is_some()) {
        return JoinVerdict::Approve { binding: Some(binding(generation)), used_by: None };
    }
    if token.used_by.len() >= token.uses {
        return JoinVerdict::Deny(format!(
            "token {id} was used already, by {}; make a new one with `selvedge token create`",
            token.used_by.join(", ")
        ));
    }
    if live.is_some() && token.node_name.is_none() {
        // Also when it is not heard: gateways are out of reach for weeks, and no token for many may open what is one's own.
        let seen = request.last_seen.map(|at| format!(" (last seen {at})")).unwrap_or_default();
        return JoinVerdict::Deny(format!(
            "another box is joined as node {node:?}{seen}: choose another name with --node-name; if this one replaces it, use a token made for that name (`selvedge token create --node-name {node}`) or run `kubectl delete node {node}` first"
        ));
    }
    let used_by = token.used_by.iter().cloned().chain([node.to_owned()]).collect();
    JoinVerdict::Approve { binding: Some(binding(generation)), used_by: Some(used_by) }
}

/// A node asks for its next certificate, with its current key.
fn renewal(request: &JoinRequest<'_>, bound: Option<&NodeIdentitySpec>) -> JoinVerdict {
    let node = request.node;
    let bound = match bound {
        Some(bound) if bound.state == NodeIdentityState::Revoked => {
            return JoinVerdict::Deny(format!(
                "the identity of node {node:?} was revoked; join again with a new token"
            ));
        }
        Some(bound) => bound.clone(),
        // A cluster without bindings: the sender has proved that it is the node, as upstream asks no more.
        None => return JoinVerdict::Approve { binding: None, used_by: None },
    };
    if let Some(key) = request.sender_key_sha256
        && !bound.accepts(key)
    {
        return JoinVerdict::Deny(format!("the key with which node {node:?} asks is not the one that it is bound to"));
    }
    if bound.keys.last().is_some_and(|newest| newest == request.key_sha256) {
        return JoinVerdict::Approve { binding: None, used_by: None };
    }
    // Who never becomes a node is not seen among them; its identity ends with its first certificate.
    if !bound.registered && !request.has_node {
        return JoinVerdict::Deny(format!(
            "node {node:?} has never registered, so it gets no further certificate; start it, or join again with a new token"
        ));
    }
    // The current key stays good until the next one is used: its certificate may get lost on the way.
    let current = request.sender_key_sha256.map(str::to_owned).or_else(|| bound.keys.first().cloned());
    let mut keys: Vec<String> = current.into_iter().collect();
    keys.retain(|key| key != request.key_sha256);
    keys.push(request.key_sha256.to_owned());
    JoinVerdict::Approve { binding: Some(NodeIdentitySpec { keys, ..bound }), used_by: None }
}

#[cfg(test)]
mod tests;
