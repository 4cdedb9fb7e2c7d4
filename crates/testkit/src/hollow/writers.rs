//! An administrator's writers: they create and change ConfigMaps without pause and remember each acknowledgement, so that
//! a hub that is killed under them can be asked for all it has promised.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Shared;
use crate::wire::{Access, Connection, MERGE};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Objects per writer: each is created once, then changed in turn.
const OBJECTS: u64 = 16;
/// A kill takes the connection; the next one is tried at this pace.
const DIAL_PERIOD: Duration = Duration::from_millis(100);

/// All writers.
pub(crate) struct Writers {
    access: Option<Access>,
    shared: Arc<Shared>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// By object: the last value that was acknowledged, and those sent after it whose answer never came.
    promised: Mutex<HashMap<String, Promise>>,
    acknowledged: AtomicU64,
    rejected: AtomicU64,
}

#[derive(Clone, Default)]
struct Promise {
    value: u64,
    revision: u64,
    in_doubt: Vec<u64>,
}

/// Starts them.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<Writers> {
    let plan = &shared.plan;
    let access = plan.kubeconfig.as_deref().map(Access::kubeconfig).transpose()?;
    let state = Arc::new(State::default());
    for number in 0..plan.writers {
        let access = access.clone().context("writers need --kubeconfig")?;
        tokio::spawn(write(number, access, shared.clone(), state.clone()));
    }
    Ok(Writers { access, shared: shared.clone(), state })
}

async fn write(number: usize, access: Access, shared: Arc<Shared>, state: Arc<State>) {
    let mut next = 0_u64;
    let mut connection: Option<Connection> = None;
    loop {
        let Some(open) = connection.as_ref().filter(|one| !one.is_closed()) else {
            connection = access.connect().await.ok();
            if connection.is_none() {
                tokio::time::sleep(DIAL_PERIOD).await;
            }
            continue;
        };
        let name = format!("{}-writer-{number}-{}", shared.plan.prefix, next % OBJECTS);
        let is_known = state.promised.lock().get(&name).is_some_and(|promise| promise.revision > 0);
        next += 1;
        state.promised.lock().entry(name.clone()).or_default().in_doubt.push(next);
        let answer = if is_known {
            open.patch(&format!("{CONFIG_MAPS}/{name}"), MERGE, &json!({"data": {"value": next.to_string()}})).await
        } else {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": next.to_string()},
            });
            open.post(CONFIG_MAPS, &object).await
        };
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                let object = answer.json();
                let metadata = &object["metadata"];
                let revision = metadata["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
                shared.ledger.note(revision, metadata["uid"].as_str().unwrap_or_default());
                state.promised.lock().insert(name, Promise { value: next, revision, in_doubt: Vec::new() });
                state.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // Created by a try whose answer never came: it is there, so the next turn changes it.
            Ok(answer) if answer.status == 409 => {
                state.promised.lock().entry(name).or_default().revision = 1;
            }
            Ok(answer) => {
                state.rejected.fetch_add(1, Ordering::Relaxed);
                shared.tally.error(format!("writer {number}: {}: {}", answer.status, answer.text()));
                tokio::time::sleep(DIAL_PERIOD).await;
            }
            Err(_) => connection = None,
        }
    }
}

impl Writers {
    pub(crate) fn acknowledged(&self) -> u64 {
        self.state.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.state.rejected.load(Ordering::Relaxed)
    }

    /// Asks the hub for every object that it has acknowledged.
    pub(crate) async fn verify(&self) -> Value {
        let outcome = async {
            let access = self.access.as_ref().context("there are no writers")?;
            let connection = access.connect().await?;
            // Taken before the reads: a writer that continues meanwhile only makes what is read newer.
            let promised = self.state.promised.lock().clone();
            let mut lost = Vec::new();
            for (name, promise) in promised.iter().filter(|(_, promise)| promise.value > 0) {
                let answer = connection.get(&format!("{CONFIG_MAPS}/{name}")).await?;
                let object = answer.json();
                let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
                let (value, revision) =
                    (number(&object["data"]["value"]), number(&object["metadata"]["resourceVersion"]));
                if answer.status != 200 || value < promise.value || revision < promise.revision {
                    lost.push(format!("{name}: {} at {} is {value} at {revision}", promise.value, promise.revision));
                }
            }
            anyhow::Ok(json!({
                "objects": promised.len(),
                "acknowledged": self.acknowledged(),
                "lost": lost.len(),
                "first": lost.iter().take(10).collect::<Vec<_>>(),
                "revisionsTwice": self.shared.ledger.twice(),
            }))
        };
        outcome.await.unwrap_or_else(|error| json!({"error": format!("{error:#}")}))
    }
}
