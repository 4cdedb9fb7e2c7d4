//! Which box is a node: before a node's client certificate is approved, its key is bound to its name.
//!
//! What may be bound is decided by [`hub_pki::join::decide`]; this reads what that needs and writes what it says, the
//! token first, then the binding. Both writes insist on what was read, so two requests never share one use of a token. With
//! the use goes the key that is to be bound, until it is: a run that is cut in between is finished by the next request of
//! the same box, and of no other.

use api_edge::identity::NodeIdentitySpec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hub_pki::join::{JoinRequest, JoinVerdict, TOKEN_UNFINISHED, TOKEN_USED_BY, TokenGrant, decide, decide_approved};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tracing::info;

use hub_runtime::ReconcileError;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::{WriteError, Writer};

/// What becomes of a request for a node's client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Joining {
    /// The key is bound: approve it.
    Bound,
    /// Deny it, with this sentence.
    Denied(String),
    /// A person decides.
    NotAutomatic,
    /// Somebody else writes all the time: look again.
    Again,
}

/// How often a decision is made anew when somebody else wrote what it was made on.
const TRIES: usize = 5;

/// Binds the key of a request to its node, if it may be.
pub(crate) async fn bind(writer: &Writer, request: &JoinRequest<'_>) -> Result<Joining, ReconcileError> {
    for _ in 0..TRIES {
        match bind_once(writer, request).await? {
            Joining::Again => {}
            joining => return Ok(joining),
        }
    }
    Ok(Joining::Again)
}

/// Makes sure that the key of an approved request is bound to its node before it is signed: what a person approved was not yet.
pub(crate) async fn bind_approved(
    writer: &Writer,
    request: &JoinRequest<'_>,
    by_person: bool,
) -> Result<Joining, ReconcileError> {
    for _ in 0..TRIES {
        let identity = writer.get_now(Kind::NodeIdentity, ("", request.node)).await?;
        let bound = bound_by(identity.as_ref(), request.node)?;
        let binding = match decide_approved(request, bound.as_ref(), by_person) {
            JoinVerdict::Approve { binding, .. } => binding,
            JoinVerdict::Deny(why) => return Ok(Joining::Denied(why)),
            JoinVerdict::NotAutomatic => return Ok(Joining::NotAutomatic),
        };
        let Some(binding) = binding else { return Ok(Joining::Bound) };
        match write(writer, request, identity, &binding).await? {
            Joining::Again => {}
            joining => return Ok(joining),
        }
    }
    Ok(Joining::Again)
}

/// What a name is bound to. An identity that cannot be read is somebody's all the same: its name is not free.
fn bound_by(identity: Option<&Value>, node: &str) -> Result<Option<NodeIdentitySpec>, ReconcileError> {
    let read = |identity: &Value| NodeIdentitySpec::deserialize(&identity["spec"]);
    identity.map(read).transpose().map_err(|error| {
        ReconcileError::Rejected(format!(
            "the NodeIdentity {node} cannot be read, so nobody can join by that name: {error}; correct it, or delete it with `kubectl delete nodeidentity {node}`"
        ))
    })
}

async fn bind_once(writer: &Writer, request: &JoinRequest<'_>) -> Result<Joining, ReconcileError> {
    let identity = writer.get_now(Kind::NodeIdentity, ("", request.node)).await?;
    let bound = bound_by(identity.as_ref(), request.node)?;
    let secret = match request.token_id() {
        Some(id) => writer.get_now(Kind::Secret, ("kube-system", &format!("bootstrap-token-{id}"))).await?,
        None => None,
    };
    let grant = secret.as_ref().map(TokenGrant::of_secret);
    let mut unfinished = grant.as_ref().map(|grant| grant.unfinished.clone()).unwrap_or_default();
    let mut is_unfinished = unfinished.iter().any(|(node, _)| node == request.node);
    let (binding, used_by) = match decide(request, bound.as_ref(), grant.as_ref()) {
        JoinVerdict::Approve { binding, used_by } => (binding, used_by),
        JoinVerdict::Deny(why) => return Ok(Joining::Denied(why)),
        JoinVerdict::NotAutomatic => return Ok(Joining::NotAutomatic),
    };
    if let (Some(used_by), Some(mut secret)) = (used_by, secret) {
        secret["data"][TOKEN_USED_BY] = BASE64.encode(used_by.join(",")).into();
        unfinished.retain(|(node, _)| node != request.node);
        unfinished.push((request.node.to_owned(), request.key_sha256.to_owned()));
        note_unfinished(&mut secret, &unfinished);
        is_unfinished = true;
        if !writer.replace(Kind::Secret, &secret).await? {
            return Ok(Joining::Again);
        }
    }
    let joining = match binding {
        None => Joining::Bound,
        Some(binding) => write(writer, request, identity, &binding).await?,
    };
    let is_bound = joining == Joining::Bound;
    if is_bound && is_unfinished && !finish(writer, request).await? { Ok(Joining::Again) } else { Ok(joining) }
}

/// The key is bound: with what is kept of an unfinished use it could be bound once more, after its revocation.
async fn finish(writer: &Writer, request: &JoinRequest<'_>) -> Result<bool, WriteError> {
    let Some(id) = request.token_id() else { return Ok(true) };
    for _ in 0..TRIES {
        let secret = writer.get_now(Kind::Secret, ("kube-system", &format!("bootstrap-token-{id}"))).await?;
        let Some(mut secret) = secret else { return Ok(true) };
        let mut unfinished = TokenGrant::of_secret(&secret).unfinished;
        unfinished.retain(|(node, _)| node != request.node);
        note_unfinished(&mut secret, &unfinished);
        if writer.replace(Kind::Secret, &secret).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn note_unfinished(secret: &mut Value, unfinished: &[(String, String)]) {
    if unfinished.is_empty() {
        if let Some(data) = secret["data"].as_object_mut() {
            data.remove(TOKEN_UNFINISHED);
        }
        return;
    }
    let text: Vec<String> = unfinished.iter().map(|(node, key)| format!("{node}={key}")).collect();
    secret["data"][TOKEN_UNFINISHED] = BASE64.encode(text.join(",")).into();
}

async fn write(
    writer: &Writer,
    request: &JoinRequest<'_>,
    identity: Option<Value>,
    binding: &NodeIdentitySpec,
) -> Result<Joining, WriteError> {
    let spec = json!(binding);
    let is_written = match identity {
        Some(mut identity) => {
            identity["spec"] = spec;
            writer.replace(Kind::NodeIdentity, &identity).await?
        }
        None => {
            let object = json!({
                "apiVersion": Kind::NodeIdentity.resource().api_version, "kind": Kind::NodeIdentity.name(),
                "metadata": {"name": request.node}, "spec": spec,
            });
            writer.create(Kind::NodeIdentity, object).await?.is_some()
        }
    };
    if is_written {
        info!(node = request.node, generation = binding.generation, "Bound a key to a node.");
    }
    Ok(if is_written { Joining::Bound } else { Joining::Again })
}
