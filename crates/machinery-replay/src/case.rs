//! A recorded case: how it is read, and how it is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::compare::{Comparison, Varying, compare};
use crate::{Answer, Sender, Transport};

/// More than any topic holds.
const TOPIC_BYTES_MAX: u64 = 16 << 20;

/// An answer later than this is another one; watches end after a second.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a state that takes a moment is waited for, and how often it is looked for.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(3);
const AWAIT_PERIOD: Duration = Duration::from_millis(50);

/// Who asked when the cases were recorded: a name that is in managedFields.
const USER_AGENT: &str = "kube-cases/1.0";

/// One sequence of requests in an empty namespace.
pub struct Case {
    /// `topic/name`.
    pub name: String,
    is_namespaced: bool,
    steps: Vec<Value>,
    /// All that its requests say: what they name does not vary.
    asked: String,
}

/// What a step came to.
pub struct StepOutcome {
    /// Its number in the case.
    pub step: u64,
    /// Method, path and query as sent.
    pub request: String,
    /// What was compared, or why there was no answer.
    pub compared: Result<Comparison>,
}

/// The recorded topics in a directory, in order: of `TOPIC.jsonl` and `TOPIC.jsonl.gz` those with cases to replay.
///
/// # Errors
/// When the directory cannot be read.
pub fn topics(dir: &Path) -> Result<Vec<String>> {
    let mut topics = BTreeSet::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(topic) = name.strip_suffix(".gz").unwrap_or(&name).strip_suffix(".jsonl")
            && !cases(dir, topic)?.is_empty()
        {
            topics.insert(topic.to_owned());
        }
    }
    Ok(topics.into_iter().collect())
}

/// The cases of a topic that can be replayed.
///
/// # Errors
/// When there is no such topic, or its lines are not what they should be.
pub fn cases(dir: &Path, topic: &str) -> Result<Vec<Case>> {
    let text = read_topic(dir, topic)?;
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let step: Value = serde_json::from_str(line).context("a line is JSON")?;
        if step["replay"] != true {
            continue;
        }
        let name = format!("{topic}/{}", step["case"].as_str().context("a case has a name")?);
        if cases.last().is_none_or(|case| case.name != name) {
            let is_namespaced = step["namespaced"] == true;
            cases.push(Case { name, is_namespaced, steps: Vec::new(), asked: String::new() });
        }
        let case = cases.last_mut().expect("one was pushed");
        case.asked.push_str(&step["request"].to_string());
        case.steps.push(step);
    }
    Ok(cases)
}

fn read_topic(dir: &Path, topic: &str) -> Result<String> {
    let plain = dir.join(format!("{topic}.jsonl"));
    let packed = dir.join(format!("{topic}.jsonl.gz"));
    let mut text = String::new();
    if plain.exists() {
        let file = fs::File::open(&plain).with_context(|| format!("failed to open {}", plain.display()))?;
        file.take(TOPIC_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("failed to read {}", plain.display()))?;
    } else {
        let file = fs::File::open(&packed).with_context(|| format!("failed to open {}", packed.display()))?;
        flate2::read::GzDecoder::new(file)
            .take(TOPIC_BYTES_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("failed to unpack {}", packed.display()))?;
    }
    Ok(text)
}

impl Case {
    /// Whether all the kinds that it asks for are served, by their plural names.
    pub fn is_of(&self, served: &BTreeSet<String>) -> bool {
        self.steps.iter().all(|step| {
            let path = step["request"]["path"].as_str().unwrap_or_default().split('?').next().unwrap_or_default();
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            let rest = match parts.as_slice() {
                ["api", _, rest @ ..] => rest,
                // Groups of the case's own definitions.
                ["apis", group, ..] if group.contains("${ns}") => return true,
                ["apis", _, _, rest @ ..] => rest,
                _ => return true,
            };
            match rest {
                ["namespaces", _, kind, ..] => served.contains(*kind) || ["status", "finalize"].contains(kind),
                [kind, ..] => served.contains(*kind),
                [] => true,
            }
        })
    }

    /// `topic/name/step` of each of its steps.
    pub fn step_names(&self) -> impl Iterator<Item = String> {
        self.steps.iter().map(|step| format!("{}/{}", self.name, step["step"]))
    }

    /// Asks a server, in a namespace that is made before and deleted afterwards; returns each step that counts.
    pub async fn replay(&self, transport: &dyn Transport, namespace: &str) -> Vec<StepOutcome> {
        let mut session = Session {
            transport,
            case: self,
            namespace: namespace.to_owned(),
            answers: BTreeMap::new(),
            created: Vec::new(),
        };
        if self.is_namespaced {
            session.post("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await;
            let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            // It is there already where a controller was faster.
            session.post(&path, &json!({"metadata": {"name": "default"}})).await;
        }
        let mut done = Vec::new();
        for step in &self.steps {
            let outcome = session.step(step).await;
            // With Kubernetes' own controllers beside it, the same server answers otherwise.
            if step["controllers"] != true {
                done.push(outcome);
            }
        }
        session.clean_up().await;
        done
    }
}

/// One run of a case.
struct Session<'a> {
    transport: &'a dyn Transport,
    case: &'a Case,
    namespace: String,
    /// Bodies of answers by step, for what later steps take from them.
    answers: BTreeMap<String, Value>,
    /// Paths of cluster-wide objects that steps made, to be deleted.
    created: Vec<String>,
}

impl Session<'_> {
    /// Sends what the case needs and no step judges.
    async fn post(&self, path: &str, object: &Value) {
        let headers = [("content-type", "application/json"), ("user-agent", USER_AGENT)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let sent = self.send("POST", path, &headers, object.to_string().into(), Sender::Admin).await;
        drop(sent);
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
        sender: Sender,
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name.as_str(), value.as_str());
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            request = request.header("content-length", body.len());
        }
        let request = request.body(body).context("the request cannot be sent")?;
        let answer = self.transport.send(request, sender);
        tokio::time::timeout(STEP_TIMEOUT, answer).await.context("no answer in time")?
    }

    /// Asks one step, until the state is there that it awaits.
    async fn step(&mut self, step: &Value) -> StepOutcome {
        let request = self.filled(&step["request"]);
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        let path = request["path"].as_str().unwrap_or_default().to_owned();
        let compared = self.ask(step, &request, &method, &path).await;
        StepOutcome { step: step["step"].as_u64().unwrap_or_default(), request: format!("{method} {path}"), compared }
    }

    async fn ask(&mut self, step: &Value, request: &Value, method: &str, path: &str) -> Result<Comparison> {
        let response = self.filled(&step["response"]);
        let is_anonymous = request["user"] == "anonymous" || !request["headers"]["Authorization"].is_null();
        let sender = if is_anonymous { Sender::Anonymous } else { Sender::Admin };
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in request["headers"].as_object().into_iter().flatten() {
            let values = value.as_array().map_or_else(|| vec![value.clone()], Clone::clone);
            headers.extend(values.iter().filter_map(|one| Some((name.to_lowercase(), one.as_str()?.to_owned()))));
        }
        if !headers.iter().any(|(name, _)| name == "user-agent") {
            headers.push(("user-agent".to_owned(), USER_AGENT.to_owned()));
        }
        let body = body_of(request);
        let start = Instant::now();
        let answer = loop {
            let answer = self.send(method, path, &headers, body.clone(), sender).await?;
            let is_there = request["await"].as_u64().is_none_or(|status| u64::from(answer.status) == status)
                && request["await_json"].as_array().is_none_or(|expected| is_at(&answer.json(), expected))
                && (request["await_warning"] != true || answer.headers.contains_key("warning"));
            if is_there || start.elapsed() > AWAIT_TIMEOUT {
                break answer;
            }
            tokio::time::sleep(AWAIT_PERIOD).await;
        };
        self.note_created(method, path, &answer);
        self.answers.insert(step["step"].to_string(), answer.json());
        Ok(compare(&response, &answer, &Varying { asked: &self.case.asked, namespace: &self.namespace }))
    }

    /// Remembers cluster-wide objects, which do not end with the namespace.
    fn note_created(&mut self, method: &str, path: &str, answer: &Answer) {
        let path = path.split('?').next().unwrap_or_default();
        if !matches!(method, "POST" | "PUT" | "PATCH") || answer.status != 201 || path.contains("/namespaces/") {
            return;
        }
        let answer = answer.json();
        let Some(name) = answer["metadata"]["name"].as_str() else { return };
        if name.contains(&self.namespace) {
            let path = if method == "POST" { format!("{path}/{name}") } else { path.to_owned() };
            self.created.push(path);
        }
    }

    async fn clean_up(&self) {
        for path in self.created.iter().rev() {
            drop(self.send("DELETE", path, &[], Bytes::new(), Sender::Admin).await);
        }
        if self.case.is_namespaced {
            let path = format!("/api/v1/namespaces/{}", self.namespace);
            drop(self.send("DELETE", &path, &[], Bytes::new(), Sender::Admin).await);
        }
    }

    /// With the namespace and values of earlier answers in place of `${…}`.
    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.filled_text(text)),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::Object(members) => {
                members.iter().map(|(key, value)| (self.filled_text(key), self.filled(value))).collect()
            }
            other => other.clone(),
        }
    }

    fn filled_text(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else { break };
            filled.push_str(before);
            let (step, pointer) = name.split_once('/').unwrap_or((name, ""));
            match self.answers.get(step).and_then(|answer| answer.pointer(&format!("/{pointer}"))) {
                _ if name == "ns" => filled.push_str(&self.namespace),
                Some(Value::String(value)) => filled.push_str(value),
                Some(value) => filled.push_str(&value.to_string()),
                None => filled.push_str(name),
            }
            rest = after;
        }
        filled + rest
    }
}

fn is_at(answer: &Value, expected: &[Value]) -> bool {
    let [pointer, value] = expected else { return true };
    pointer.as_str().and_then(|pointer| answer.pointer(pointer)) == Some(value)
}

fn body_of(request: &Value) -> Bytes {
    if let Some(text) = request["text"].as_str() {
        return text.to_owned().into();
    }
    if let Some(fill) = request["fill"].as_object() {
        let part = |name: &str| fill.get(name).and_then(Value::as_str).unwrap_or_default();
        let count = fill.get("count").and_then(Value::as_u64).unwrap_or_default().min(TOPIC_BYTES_MAX);
        return format!("{}{}{}", part("head"), part("byte").repeat(count as usize), part("tail")).into();
    }
    request.get("body").map(|body| body.to_string().into()).unwrap_or_default()
}
