//! Recognises bearers of service accounts' tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery_server::{AuthRequest, AuthenticateError, Authenticator, Identity};
use machinery_store::{Key, Store};
use serde_json::Value;

use super::Issuer;
use super::jwt::{Claims, Read, Reference, read};
use crate::json::{decoded, quoted, text};

/// Clocks differ, and a token may be used in the second in which it was issued.
const LEEWAY_SECONDS: i64 = 60;

const EXTRA: &str = "authentication.kubernetes.io/";

/// Recognises tokens of an issuer, as long as what they are bound to is there.
pub struct TokenAuthenticator(Arc<Issuer>);

impl TokenAuthenticator {
    /// For the tokens of this issuer.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self(issuer)
    }
}

impl Authenticator for TokenAuthenticator {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Identity>, AuthenticateError> {
        let Some(token) = request.bearer() else { return Ok(None) };
        let claims = match read(&self.0, token) {
            Read::Foreign => return Ok(None),
            Read::Invalid(why) => return Err(AuthenticateError::of_token(why)),
            Read::Claims(claims) => claims,
        };
        self.check(request, &claims).map(Some).map_err(AuthenticateError::of_token)
    }
}

impl TokenAuthenticator {
    fn check(&self, request: &AuthRequest<'_>, claims: &Claims) -> Result<Identity, String> {
        let own = &self.0.audiences;
        let meant = if claims.aud.is_empty() { own } else { &claims.aud };
        let desired = request.audiences.unwrap_or(own);
        let audiences: Vec<String> = meant.iter().filter(|audience| desired.contains(audience)).cloned().collect();
        if audiences.is_empty() && !own.is_empty() {
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(meant),
                quoted(desired)
            ));
        }
        let now = request.now.as_second();
        if claims.nbf.is_some_and(|at| now + LEEWAY_SECONDS < at) {
            return Err("service account token is not valid yet".to_owned());
        }
        if claims.exp.is_some_and(|at| now - LEEWAY_SECONDS > at) {
            return Err("service account token has expired".to_owned());
        }
        if claims.iat.is_some_and(|at| now + LEEWAY_SECONDS < at) {
            return Err("service account token is issued in the future".to_owned());
        }
        self.check_bound(request.store, claims, now)?;
        let kubernetes = &claims.kubernetes;
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("{EXTRA}{key}"), vec![value.to_owned()]);
            }
        };
        if !claims.jti.is_empty() {
            add("credential-id", &format!("JTI={}", claims.jti));
        }
        if let Some(node) = &kubernetes.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        if let Some(pod) = &kubernetes.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        let (namespace, account) = (&kubernetes.namespace, &kubernetes.serviceaccount);
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let user = format!("{}{namespace}:{}", machinery_server::USER_SERVICE_ACCOUNT_PREFIX, account.name);
        Ok(Identity { uid: account.uid.clone(), extra, audiences, ..Identity::new(user, groups) })
    }

    /// Whether all that the token names is there.
    fn check_bound(&self, store: &Store, claims: &Claims, now: i64) -> Result<(), String> {
        let kubernetes = &claims.kubernetes;
        let namespace = kubernetes.namespace.as_str();
        let account = &kubernetes.serviceaccount;
        let Some(stored) = get(store, "/serviceaccounts", namespace, &account.name) else {
            return Err(format!("serviceaccounts {:?} not found", account.name));
        };
        let uid = text(&stored, "/metadata/uid");
        if uid != account.uid {
            return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
        }
        if is_deleted(&stored, now) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        let check = |resource: &str, namespace: &str, kind: &str, word: &str, bound: &Reference| {
            let invalidated = || "service account token has been invalidated".to_owned();
            let stored = get(store, resource, namespace, &bound.name).ok_or_else(invalidated)?;
            let uid = text(&stored, "/metadata/uid");
            if uid != bound.uid {
                return Err(format!(
                    "{kind} UID ({uid}) does not match service account {word} ref claim ({})",
                    bound.uid
                ));
            }
            if is_deleted(&stored, now) { Err(invalidated()) } else { Ok(()) }
        };
        if let Some(secret) = &kubernetes.secret {
            check("/secrets", namespace, "secret", "secret", secret)?;
        }
        match (&kubernetes.pod, &kubernetes.node) {
            (Some(pod), _) => check("/pods", namespace, "pod", "pod", pod),
            (None, Some(node)) => check("/nodes", "", "node", "node", node),
            (None, None) => Ok(()),
        }
    }
}

fn get(store: &Store, resource: &str, namespace: &str, name: &str) -> Option<Value> {
    store.get(&Key::new(resource, namespace, name)).map(|object| decoded(&object))
}

/// Whether an object's deletion began so long ago that nobody works with it any more.
fn is_deleted(object: &Value, now: i64) -> bool {
    let deleted = text(object, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>();
    deleted.is_ok_and(|at| at.as_second() < now - LEEWAY_SECONDS)
}
