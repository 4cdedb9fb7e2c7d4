//! Who may ask the kubelet, as Kubernetes' own kubelets decide it: whoever shows a certificate or a token of the cluster, and may do
//! this with Nodes by the cluster's rules.
//!
//! ```text
//! certificate ──▶ user, groups ──┬─ system:masters ──────────────────────▶ served, with no hub in sight too
//! bearer token ─▶ TokenReview ───┴─▶ SubjectAccessReview of nodes/… ─────▶ served, or forbidden with the rule that is missing
//! ```
//!
//! Answers of the hub are kept for a while, yes longer than no, and no more than a few: whoever shows one made-up token after the other
//! makes the hub work, not this node remember.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base_http::Peer;
use http::{HeaderMap, Method, StatusCode, header};
use node_client::{ApiClient, ApiError, chain};
use serde_json::{Value, json};

/// Whose members may do everything, and need not be asked about.
const ADMIN_GROUP: &str = "system:masters";
/// How long an answer holds, as long as upstream's by default.
const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const TOKEN_FOR: Duration = Duration::from_secs(120);
/// Answers that are kept, of each kind.
const KEPT_MAX: usize = 256;
/// Tokens of Kubernetes have some 1,000 bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a caller is not served.
pub(crate) type Refusal = (StatusCode, String);

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caller {
    user: String,
    groups: Vec<String>,
}

/// Decides who is served.
#[derive(Clone)]
pub(crate) struct Callers {
    hub: ApiClient,
    node: String,
    tokens: Arc<Mutex<Answers<Option<Caller>>>>,
    rights: Arc<Mutex<Answers<bool>>>,
}

/// Answers of the hub, each until it is over.
struct Answers<T>(HashMap<String, (T, Instant)>);

impl<T: Clone> Answers<T> {
    fn get(&self, key: &str, now: Instant) -> Option<T> {
        self.0.get(key).filter(|(_, until)| now < *until).map(|(answer, _)| answer.clone())
    }

    fn keep(&mut self, key: String, answer: T, now: Instant, lasts: Duration) {
        if self.0.len() >= KEPT_MAX {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= KEPT_MAX {
            self.0.clear();
        }
        self.0.insert(key, (answer, now + lasts));
    }
}

impl Callers {
    pub fn new(hub: ApiClient, node: &str) -> Self {
        Self {
            hub,
            node: node.to_owned(),
            tokens: Arc::new(Mutex::new(Answers(HashMap::new()))),
            rights: Arc::new(Mutex::new(Answers(HashMap::new()))),
        }
    }

    /// Whether a request of this method may reach this part of the Node: `metrics`, `pods`, `proxy` …; the first that the caller may
    /// reach counts.
    ///
    /// # Errors
    /// Why not, for the caller.
    pub async fn check(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        method: &Method,
        parts: &[&str],
    ) -> Result<(), Refusal> {
        let caller = self.caller(peer, headers).await?;
        if caller.groups.iter().any(|group| group == ADMIN_GROUP) {
            return Ok(());
        }
        let verb = verb(method);
        for part in parts {
            if self.may(&caller, verb, part).await? {
                return Ok(());
            }
        }
        let parts: Vec<String> = parts.iter().map(|part| format!("nodes/{part}")).collect();
        let text = format!("Forbidden: user {:?} may not {verb} {} of {}", caller.user, parts.join(" or "), self.node);
        Err((StatusCode::FORBIDDEN, text))
    }

    async fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let shown = peer.client_cert.as_ref().and_then(|certificate| base_pki::client_identity(certificate).ok());
        if let Some(identity) = shown {
            return Ok(Caller { user: identity.user, groups: identity.groups });
        }
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token =
            token.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let unknown = "Unauthorized: show a client certificate or a bearer token of the cluster";
        let Some((_, token)) = token.filter(|(_, token)| token.len() <= TOKEN_BYTES_MAX) else {
            return Err((StatusCode::UNAUTHORIZED, unknown.to_owned()));
        };
        let found = self.token_of(token.trim()).await?;
        found.ok_or_else(|| (StatusCode::UNAUTHORIZED, "Unauthorized: the hub does not know this token".to_owned()))
    }

    async fn token_of(&self, token: &str) -> Result<Option<Caller>, Refusal> {
        let key = base_pki::fingerprint_of_der(token.as_bytes());
        if let Some(known) = locked(&self.tokens).get(&key, Instant::now()) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let answer = self.ask("/apis/authentication.k8s.io/v1/tokenreviews", &review).await?;
        let status = answer.get("status");
        let is_known = status.and_then(|status| status.get("authenticated")) == Some(&Value::Bool(true));
        let user = status.and_then(|status| status.get("user")).filter(|_| is_known);
        let name = user.and_then(|user| user.get("username")).and_then(Value::as_str).filter(|name| !name.is_empty());
        let groups = user.and_then(|user| user.get("groups")).and_then(Value::as_array).into_iter().flatten();
        let groups = groups.filter_map(|group| Some(group.as_str()?.to_owned())).collect();
        let caller = name.map(|name| Caller { user: name.to_owned(), groups });
        let lasts = if caller.is_some() { TOKEN_FOR } else { DENIED_FOR };
        locked(&self.tokens).keep(key, caller.clone(), Instant::now(), lasts);
        Ok(caller)
    }

    async fn may(&self, caller: &Caller, verb: &str, part: &str) -> Result<bool, Refusal> {
        // A name may have any character; the form of JSON keeps them apart.
        let key = json!([caller.user, caller.groups, verb, part]).to_string();
        if let Some(known) = locked(&self.rights).get(&key, Instant::now()) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": caller.user, "groups": caller.groups,
                "resourceAttributes": {
                    "verb": verb, "version": "v1", "resource": "nodes", "subresource": part, "name": self.node,
                },
            },
        });
        let answer = self.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await?;
        let allowed = answer.get("status").and_then(|status| status.get("allowed")) == Some(&Value::Bool(true));
        let lasts = if allowed { ALLOWED_FOR } else { DENIED_FOR };
        locked(&self.rights).keep(key, allowed, Instant::now(), lasts);
        Ok(allowed)
    }

    async fn ask(&self, path: &str, review: &Value) -> Result<Value, Refusal> {
        let refuse = |why: String| {
            let text =
                format!("the hub cannot be asked who may do this, so only members of {ADMIN_GROUP} are served: {why}");
            (StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let answer: Result<Result<Value, ApiError>, _> =
            tokio::time::timeout(REVIEW_TIMEOUT, self.hub.create(path, review)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(refuse(chain(&error))),
            Err(_) => Err(refuse("it does not answer".to_owned())),
        }
    }
}

fn locked<T>(answers: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As in rules.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_few_and_each_is_over_some_time() {
        let mut answers = Answers(HashMap::new());
        let start = Instant::now();
        answers.keep("a".into(), true, start, DENIED_FOR);
        assert_eq!(answers.get("a", start), Some(true));
        assert_eq!(answers.get("a", start + DENIED_FOR), None);
        for number in 0..KEPT_MAX * 3 {
            answers.keep(format!("{number}"), false, start, ALLOWED_FOR);
            assert!(answers.0.len() <= KEPT_MAX);
        }
        assert_eq!(answers.get(&format!("{}", KEPT_MAX * 3 - 1), start), Some(false));
    }
}
