//! Recorded answers of a kube-apiserver, asked of an API server of ours: how cases are read, sent again and compared.
//!
//! A case is a short sequence of requests that begins in an empty namespace. It is sent over any [`Transport`]: over TLS to
//! a whole hub (the black-box tests), or in process to a server over a store in a temporary directory (the program
//! `machinery-replay`, for whoever works on the API: seconds from a change to every difference that is left).
//!
//! ```text
//! TOPIC.jsonl(.gz) ─▶ case ──request──▶ Transport ──answer──▶ compare ─▶ differences by place
//! ```
//!
//! What may differ from run to run (uids, revisions, times, …) is set aside in `compare.rs`, and nothing else is.

mod case;
mod compare;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::Value;

pub use case::{Case, StepOutcome, cases, topics};
pub use compare::{Comparison, Difference};

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An answer that is still to come.
pub type AnswerFuture<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Answer>> + Send + 'a>>;

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    /// The administrator, by certificate.
    Admin,
    /// Nobody, who may yet send a token.
    Anonymous,
}

/// What takes requests to a server and brings its answers.
pub trait Transport: Send + Sync {
    /// Sends a request and reads the whole answer. The URI is path and query.
    ///
    /// # Errors
    /// When there is no answer.
    fn send(&self, request: Request<Bytes>, sender: Sender) -> AnswerFuture<'_>;
}

/// What cases need that is not part of the API yet, by how their names begin: limits, quotas, pod security, policies and webhooks
/// are stored and not enforced.
const APART: [&str; 8] = [
    "admission/limit-range-",
    "admission/mutating-policy-",
    "admission/pod-security-",
    "admission/policies-refused",
    "admission/policy-",
    "admission/quota-",
    "admission/validating-policy",
    "admission/webhook-",
];

/// Whether a case (`topic/name`) is counted apart from the others.
pub fn is_apart(case: &str) -> bool {
    APART.iter().any(|beginning| case.starts_with(beginning))
}
