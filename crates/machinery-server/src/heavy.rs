//! Writes that cost more than others when they come together.
//!
//! A body costs many times its size while it is decoded, merged, checked and encoded; so does the stored object that it
//! changes. Sixty-four large patches of one node at a time would take more memory than a small server has: of heavy writes an
//! identity has one at a time, and there are few in all. A body of 250 KiB that is eighty thousand times `{}` costs as much
//! as one of many MiB, so what counts is bytes or values, whichever is more; and of values a body has a bounded number.
//!
//! Changes of one object that are computed at the same time are nearly all computed again, as one of them is first. Sixty-four
//! of them would be six hundred; so of those that are not trusted an identity makes one at a time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Identity;
use crate::bodies::is_weak;
use crate::flow::Lane;

/// Writes with more bytes, in body and stored object, are heavy. Nearly all of an honest fleet are far below.
pub(crate) const HEAVY_BYTES: usize = 256 * 1024;

/// What a value counts as, were it ever so short: about what it has in an honest text, so that those are weighed by their
/// bytes. Decoded, with what its kind adds to it and a few copies at a time, it takes 800 bytes at most
/// (`tests/memory.rs`): eleven thousand, which make a write heavy, are 8 MiB for each thread that works. A gateway's
/// report of a hundred entries, with the assignment that it is about, has seven thousand.
const VALUE_BYTES: usize = 24;

/// Values that nodes and tokens may send in one body. All that they write is bounded by its bytes when it is known
/// ([admission](crate::Admission)), which for sound objects is fewer than these.
const WEAK_VALUES_MAX: usize = 16 * 1024;

/// Values that anybody may send in one body; a definition of a megabyte has some fifty thousand.
const VALUES_MAX: usize = 256 * 1024;

/// Values that an identity may send in one body.
pub(crate) fn values_max(identity: &Identity) -> usize {
    if is_weak(identity) { WEAK_VALUES_MAX } else { VALUES_MAX }
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How heavy a body or a stored object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    bytes: usize,
    /// What it has at most, which for some forms is far more than what it has.
    values: usize,
}

impl Weight {
    /// Of a body of a media type.
    pub(crate) fn of_body(media: &str, body: &[u8]) -> Self {
        let values = match media {
            // A value of no bytes takes two: which field it is, and its length.
            PROTOBUF => body.len() / 2,
            media if media.contains("yaml") => {
                1 + body.iter().filter(|byte| matches!(byte, b'\n' | b',' | b'{' | b'[')).count()
            }
            _ => json_values(body),
        };
        Self { bytes: body.len(), values }
    }

    /// How many values a body of a media type has before it is decoded; `None` where only its decoder knows and counts them
    /// itself. A text of protobuf looks like thousands of values, and so does a text in YAML.
    pub(crate) fn known_values(self, media: &str) -> Option<usize> {
        (media != PROTOBUF && !media.contains("yaml")).then_some(self.values)
    }

    /// Of a stored object.
    pub(crate) fn of_object(json: &[u8]) -> Self {
        Self { bytes: json.len(), values: json_values(json) }
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, values: self.values + other.values }
    }

    fn is_heavy(self) -> bool {
        self.bytes.max(self.values.saturating_mul(VALUE_BYTES)) > HEAVY_BYTES
    }
}

/// How many values a JSON text has at most: each but the first comes behind a comma or is the first of a list or object.
/// Text that is none is rejected by the decoder, after as many values at most.
fn json_values(text: &[u8]) -> usize {
    let (mut values, mut is_text, mut is_escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b',' | b'{' | b'[' if !is_text => values += 1,
            _ => {}
        }
    }
    values
}

/// Heavy writes worked on at a time.
const HEAVY_MAX: usize = 2;

/// Hands out turns for heavy writes.
pub(crate) struct Heavy {
    all: Arc<Semaphore>,
    /// Administrators' have turns of their own, and do not wait behind a crowd.
    masters: Arc<Semaphore>,
    /// One turn of each identity that has heavy writes now, so that nobody waits in the common queue twice.
    own: Turns,
}

/// A heavy write's turn; given back when dropped.
pub(crate) struct HeavyTurn {
    _all: OwnedSemaphorePermit,
    _own: Turn,
}

/// One turn at a time for each name.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

/// A name's turn; given back when dropped.
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    _line: Line,
}

/// Somebody who has a name's turn, or waits for it. A name without any is forgotten.
struct Line {
    turns: Turns,
    name: String,
    turn: Arc<Semaphore>,
}

impl Turns {
    /// Waits for the turn of a name.
    pub(crate) async fn take(&self, name: String) -> Turn {
        let turn = self.0.lock().entry(name.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        let line = Line { turns: self.clone(), name, turn };
        let permit = line.turn.clone().acquire_owned().await.expect(NEVER_CLOSED);
        Turn { _permit: permit, _line: line }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut known = self.turns.0.lock();
        // The map's and this one's; nobody takes another without the lock.
        if Arc::strong_count(&self.turn) <= 2 {
            known.remove(&self.name);
        }
    }
}

impl Heavy {
    pub(crate) fn new() -> Self {
        let [all, masters] = std::array::from_fn(|_| Arc::new(Semaphore::new(HEAVY_MAX)));
        Self { all, masters, own: Turns::default() }
    }

    /// Waits for the turn of a write; light ones do not wait.
    pub(crate) async fn turn(&self, user: &str, lane: Lane, weight: Weight) -> Option<HeavyTurn> {
        if !weight.is_heavy() {
            return None;
        }
        let _own = self.own.take(user.to_owned()).await;
        let turns = if lane == Lane::Masters { &self.masters } else { &self.all };
        let _all = turns.clone().acquire_owned().await.expect(NEVER_CLOSED);
        Some(HeavyTurn { _all, _own })
    }
}

const NEVER_CLOSED: &str = "these semaphores are never closed";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_identity_has_one_heavy_write_at_a_time_and_leaves_a_place_to_others() {
        let heavy = Heavy::new();
        let now = |user: &'static str, lane, bytes: usize| {
            futures::FutureExt::now_or_never(heavy.turn(user, lane, Weight { bytes, values: 1 }))
        };
        let is_waiting = |user: &'static str, bytes: usize| now(user, Lane::Shared, bytes);
        let first = is_waiting("a", HEAVY_BYTES + 1).expect("the first has its turn");
        assert!(first.is_some());
        assert!(is_waiting("a", HEAVY_BYTES + 1).is_none(), "the second of one identity waits");
        assert!(is_waiting("a", HEAVY_BYTES).expect("a light one does not").is_none());
        let second = is_waiting("b", 3 << 20).expect("another identity has its turn");
        assert!(is_waiting("c", 3 << 20).is_none(), "there are two in all");
        assert!(now("admin", Lane::Masters, 3 << 20).is_some(), "an administrator waits for none of them");
        drop(first);
        assert!(is_waiting("c", 3 << 20).is_some());
        drop(second);
        assert!(is_waiting("a", 3 << 20).is_some());
        assert!(heavy.own.0.lock().is_empty(), "identities without a heavy write are forgotten");
    }

    #[test]
    fn many_small_values_are_as_heavy_as_many_bytes() {
        let of = |json: &str| Weight::of_body("application/json", json.as_bytes());
        for (json, values) in [
            ("1", 1),
            ("{}", 2),
            (r#"{"a":1,"b":[2,3]}"#, 5),
            (r#""a, b, {c} [d]""#, 1),
            (r#"{"a":"\", {","b":"\\","c":1}"#, 4),
        ] {
            assert_eq!(of(json).values, values, "{json}");
        }
        assert!(!of(&format!("[{}]", vec!["{}"; 5400].join(","))).is_heavy());
        assert!(of(&format!("[{}]", vec!["{}"; 5500].join(","))).is_heavy());
        assert!(!of(&format!("\"{}\"", "{,".repeat(100_000))).is_heavy(), "a text is one value");
        let protobuf = |bytes: usize| Weight::of_body("application/vnd.kubernetes.protobuf", &vec![b'\n'; bytes]);
        assert!(!protobuf(21 << 10).is_heavy() && protobuf(22 << 10).is_heavy());
        let yaml = |lines: usize| Weight::of_body("application/yaml", "- {}\n".repeat(lines).as_bytes());
        assert!(!yaml(5400).is_heavy() && yaml(5500).is_heavy());
        let half = Weight::of_object(format!("[{}]", vec!["0"; 5500].join(",")).as_bytes());
        assert!(!half.is_heavy() && half.and(half).is_heavy(), "what is changed counts with the change");
    }

    #[test]
    fn what_a_large_gateway_reports_of_its_assignment_is_light() {
        let condition = |name: &str| {
            serde_json::json!({"type": name, "status": "True", "observedGeneration": 3, "reason": "Running", "message": "",
                "lastTransitionTime": "2026-11-26T12:00:00Z"})
        };
        let report = |entries: usize| {
            let conditions = ["Accepted", "Applied", "Ready"].map(condition);
            let entry = serde_json::json!({"kind": "Device", "namespace": "default", "name": "meter-17", "generation": 3,
                "conditions": conditions});
            serde_json::json!({"observedGeneration": 3, "entries": vec![entry; entries]})
        };
        let spec = serde_json::json!({"profileName": "meter", "protocols": {"modbus-tcp": {"Address": "10.0.0.17",
            "Port": "502", "UnitID": "1"}}, "autoEvents": [{"interval": "1s", "sourceName": "Power", "onChange": false}]});
        let entry = serde_json::json!({"kind": "Device", "namespace": "default", "name": "meter-17", "generation": 3,
            "uid": "5b0a9f5e-0d5c-4f59-8f0e-0f5f3a6a7c11", "spec": spec});
        let change = |entries: usize| {
            let sent = serde_json::json!({"status": report(entries)}).to_string();
            let stored = serde_json::json!({"spec": {"nodeName": "gw-1", "entries": vec![entry.clone(); entries]},
                "status": report(entries)});
            Weight::of_body("application/merge-patch+json", sent.as_bytes())
                .and(Weight::of_object(stored.to_string().as_bytes()))
        };
        assert!(!change(60).is_heavy() && !change(100).is_heavy(), "{:?}", change(100));
        assert!(change(250).is_heavy(), "{:?}", change(250));
    }
}
