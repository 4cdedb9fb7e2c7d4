//! A recorded case: how it is read, and how it is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use testkit::wire::{Answer, Connection};

use super::Clients;
use super::compare::difference;

/// More than any topic holds.
const TOPIC_BYTES_MAX: u64 = 16 << 20;

/// An answer later than this is another one; watches end after a second.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a state that takes a moment is waited for, and how often it is looked for.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(3);
const AWAIT_PERIOD: Duration = Duration::from_millis(100);

/// One sequence of requests in an empty namespace.
pub struct Case {
    /// `topic/name`.
    pub name: String,
    is_namespaced: bool,
    steps: Vec<Value>,
}

/// The cases of a topic.
pub fn cases(dir: &Path, topic: &str) -> Result<Vec<Case>> {
    let path = dir.join(format!("{topic}.jsonl.gz"));
    let file = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).take(TOPIC_BYTES_MAX).read_to_string(&mut text).context("failed to unpack")?;
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let step: Value = serde_json::from_str(line).context("a line is JSON")?;
        let name = format!("{topic}/{}", step["case"].as_str().context("a case has a name")?);
        if cases.last().is_none_or(|case| case.name != name) {
            cases.push(Case { name, is_namespaced: step["namespaced"] == true, steps: Vec::new() });
        }
        cases.last_mut().expect("one was pushed").steps.push(step);
    }
    Ok(cases)
}

impl Case {
    /// Whether all the kinds that it asks for are served.
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

    /// Asks the hub; returns of each step that counts its number and the first difference.
    pub async fn replay(&self, clients: &Clients, namespace: &str) -> Vec<(u64, Option<String>)> {
        let namespace = namespace.to_owned();
        let mut session = Session { clients, namespace, connections: BTreeMap::new(), answers: BTreeMap::new() };
        if self.is_namespaced {
            let object = json!({"metadata": {"name": session.namespace}});
            let _ = session.post("/api/v1/namespaces", &object).await;
            let path = format!("/api/v1/namespaces/{}/serviceaccounts", session.namespace);
            // It is there already where a controller was faster.
            let _ = session.post(&path, &json!({"metadata": {"name": "default"}})).await;
        }
        let mut done = Vec::new();
        for step in &self.steps {
            let number = step["step"].as_u64().unwrap_or_default();
            let differs = match session.step(step).await {
                Ok(differs) => differs,
                Err(error) => Some(format!("{error:#}")),
            };
            // With Kubernetes' own controllers beside it, the same server answers otherwise.
            if step["controllers"] != true {
                done.push((number, differs));
            }
        }
        if self.is_namespaced {
            let path = format!("/api/v1/namespaces/{}", session.namespace);
            let _ = session.send("DELETE", &path, &[], Bytes::new(), false).await;
        }
        done
    }
}

/// One run of a case.
struct Session<'a> {
    clients: &'a Clients,
    namespace: String,
    connections: BTreeMap<bool, Connection>,
    /// Bodies of answers by step, for what later steps take from them.
    answers: BTreeMap<String, Value>,
}

impl Session<'_> {
    async fn post(&mut self, path: &str, object: &Value) -> Result<Answer> {
        let headers = [("content-type".to_owned(), "application/json".to_owned())];
        self.send("POST", path, &headers, object.to_string().into(), false).await
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Bytes,
        is_anonymous: bool,
    ) -> Result<Answer> {
        if self.connections.get(&is_anonymous).is_none_or(Connection::is_closed) {
            self.connections.insert(is_anonymous, self.clients.connect(is_anonymous).await?);
        }
        let connection = &self.connections[&is_anonymous];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let method = Method::from_bytes(method.as_bytes())?;
        let answer = connection.send(method, path, &headers, body);
        tokio::time::timeout(STEP_TIMEOUT, answer).await.context("no answer in time")?
    }

    /// Asks one step, until the state is there that it awaits; returns the first difference.
    async fn step(&mut self, step: &Value) -> Result<Option<String>> {
        let request = self.filled(&step["request"]);
        let response = self.filled(&step["response"]);
        let is_anonymous = request["user"] == "anonymous" || !request["headers"]["Authorization"].is_null();
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in request["headers"].as_object().into_iter().flatten() {
            let values = value.as_array().map_or_else(|| vec![value.clone()], Clone::clone);
            headers.extend(values.iter().filter_map(|one| Some((name.to_lowercase(), one.as_str()?.to_owned()))));
        }
        if !headers.iter().any(|(name, _)| name == "user-agent") {
            headers.push(("user-agent".to_owned(), "kube-cases/1.0".to_owned()));
        }
        let body = body_of(&request);
        let method = request["method"].as_str().context("a method")?.to_owned();
        let path = request["path"].as_str().context("a path")?.to_owned();
        let start = std::time::Instant::now();
        let answer = loop {
            let answer = self.send(&method, &path, &headers, body.clone(), is_anonymous).await?;
            let is_there = request["await"].as_u64().is_none_or(|status| u64::from(answer.status) == status)
                && request["await_json"].as_array().is_none_or(|expected| is_at(&answer.json(), expected))
                && (request["await_warning"] != true || answer.headers.contains_key("warning"));
            if is_there || start.elapsed() > AWAIT_TIMEOUT {
                break answer;
            }
            tokio::time::sleep(AWAIT_PERIOD).await;
        };
        self.answers.insert(step["step"].to_string(), answer.json());
        Ok(difference(&response, &answer))
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
