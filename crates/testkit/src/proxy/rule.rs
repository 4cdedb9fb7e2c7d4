//! Which requests are treated how.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use regex_lite::Regex;

/// One body from another.
pub type Replace = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// What is done with a request.
#[derive(Clone)]
pub enum Action {
    /// The proxy answers itself; the hub sees nothing of the request.
    Answer {
        /// HTTP status.
        status: u16,
        /// Headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Bytes,
    },
    /// The request is passed on after this time.
    Delay(Duration),
    /// Nobody answers; the hub sees nothing of the request.
    Hang,
    /// The stream is reset (over HTTP/1.1: the connection is closed) without an answer; the hub sees nothing of the request.
    Abort,
    /// The hub acts on the request, and its answer is lost as by [`Action::Abort`].
    LoseAnswer,
    /// The whole connection ends with a TCP reset.
    AbortConnection,
    /// So many bytes of the answer's body pass, then the stream is reset.
    CutAfter(u64),
    /// So many bytes of the answer's body pass, then it ends as if it were whole.
    Truncate(u64),
    /// The answer's body passes at so many bytes per second.
    Throttle(u64),
    /// No byte of the whole connection passes any more, until [`super::Proxy::thaw`].
    Freeze,
    /// The whole body of the hub's answer becomes another.
    ReplaceBody(Replace),
    /// The answer's body begins with these bytes; what the hub says follows.
    InjectWatchLine(Bytes),
}

impl Action {
    /// An answer of JSON with status 200.
    pub fn json(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    /// An answer of JSON with any status.
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self::Answer { status, headers, body: Bytes::from(body.into()) }
    }

    /// [`Action::ReplaceBody`] on JSON; an answer that is none passes unchanged.
    pub fn edit(edit: impl Fn(&mut serde_json::Value) + Send + Sync + 'static) -> Self {
        Self::ReplaceBody(Arc::new(move |body| match serde_json::from_slice(body) {
            Ok(mut value) => {
                edit(&mut value);
                value.to_string().into_bytes()
            }
            Err(_) => body.to_vec(),
        }))
    }
}

/// Which requests are treated how, and how often.
#[derive(Clone)]
pub struct Rule {
    method: Regex,
    path: Regex,
    skip: u32,
    times: Option<u32>,
    action: Action,
}

impl Rule {
    /// For requests whose whole method matches the first pattern, and whose path with query contains a match of the second.
    ///
    /// # Panics
    /// A pattern is none.
    pub fn new(method: &str, path: &str) -> Self {
        let regex = |pattern: &str| Regex::new(pattern).expect("a test's pattern is one");
        Self {
            method: regex(&format!("^(?:{method})$")),
            path: regex(path),
            skip: 0,
            times: None,
            action: Action::Delay(Duration::ZERO),
        }
    }

    /// The first so many that match pass unchanged.
    #[must_use]
    pub fn skip(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }

    /// So often, then no more. Without it: always.
    #[must_use]
    pub fn times(mut self, requests: u32) -> Self {
        self.times = Some(requests);
        self
    }

    /// What is done.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.action = action;
        self
    }
}

/// Names a rule of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

#[derive(Default)]
pub(super) struct Rules(Mutex<(u64, Vec<(RuleId, Rule)>)>);

impl Rules {
    pub(super) fn push(&self, rule: Rule) -> RuleId {
        let mut rules = self.0.lock();
        rules.0 += 1;
        let id = RuleId(rules.0);
        rules.1.push((id, rule));
        id
    }

    pub(super) fn remove(&self, id: RuleId) {
        self.0.lock().1.retain(|(own, _)| *own != id);
    }

    pub(super) fn clear(&self) {
        self.0.lock().1.clear();
    }

    /// The rule that acts on a request, which is one of its times.
    pub(super) fn take(&self, method: &str, path: &str) -> Option<(RuleId, Action)> {
        let mut rules = self.0.lock();
        for (id, rule) in &mut rules.1 {
            if rule.times == Some(0) || !rule.method.is_match(method) || !rule.path.is_match(path) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if let Some(times) = &mut rule.times {
                *times -= 1;
            }
            return Some((*id, rule.action.clone()));
        }
        None
    }
}
