//! One list-watch, and the distrust of it.
//!
//! The decisions are plain functions on lines of text: [`Sequence::take`] says what a line is and whether it may come now.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// An object as far as a hollow node looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub namespace: String,
    pub name: String,
    pub revision: u64,
    pub is_running: bool,
    /// It has succeeded or failed.
    pub is_ended: bool,
    /// Its containers are started again whenever they end.
    pub is_restarted: bool,
    pub is_terminating: bool,
    pub containers: Vec<(String, String)>,
    pub generation: Option<i64>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: Object<'a>,
}

/// A list, by borrowed views of its items.
#[derive(Deserialize)]
pub(crate) struct List<'a> {
    #[serde(borrow)]
    pub metadata: Meta<'a>,
    #[serde(borrow, default)]
    pub items: Vec<Object<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Object<'a> {
    #[serde(borrow, default)]
    pub metadata: Meta<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: MaybeStatus<'a>,
    /// Of a Status in an ERROR line.
    #[serde(default)]
    code: u16,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    pub uid: Cow<'a, str>,
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default, rename = "continue")]
    pub next: Cow<'a, str>,
    #[serde(default)]
    generation: Option<i64>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
}

impl Meta<'_> {
    pub(crate) fn revision(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

#[derive(Default, Deserialize)]
struct Spec<'a> {
    #[serde(borrow, default)]
    containers: Vec<Container<'a>>,
    #[serde(borrow, default, rename = "restartPolicy")]
    restart_policy: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    image: Cow<'a, str>,
}

/// A pod's status is an object; that of a Status is a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum MaybeStatus<'a> {
    Pod {
        #[serde(borrow, default)]
        phase: Cow<'a, str>,
    },
    Other(IgnoredAny),
}

impl Default for MaybeStatus<'_> {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

impl Object<'_> {
    pub(crate) fn entry(&self) -> Entry {
        let phase = match &self.status {
            MaybeStatus::Pod { phase } => phase.as_ref(),
            MaybeStatus::Other(_) => "",
        };
        let container = |one: &Container<'_>| (one.name.to_string(), one.image.to_string());
        Entry {
            namespace: self.metadata.namespace.to_string(),
            name: self.metadata.name.to_string(),
            revision: self.metadata.revision(),
            is_running: phase == "Running",
            is_ended: phase == "Succeeded" || phase == "Failed",
            is_restarted: self.spec.restart_policy == "Always",
            is_terminating: self.metadata.deletion_timestamp.is_some(),
            containers: self.spec.containers.iter().map(container).collect(),
            generation: self.metadata.generation,
        }
    }
}

/// What a line of a watch was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Changed {
        uid: String,
        revision: u64,
    },
    Deleted {
        uid: String,
        revision: u64,
    },
    Bookmark,
    /// The hub asks for a new list.
    Expired,
    Error(u16),
}

/// What was wrong with it, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This revision has come already.
    Duplicate,
    /// A later revision has come already.
    OutOfOrder,
    /// Added, though it was there.
    AddedTwice,
    /// Deleted, though it was not there: no event of its creation came.
    UnknownDelete,
}

/// Where a watch is, and what it has built up.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The last revision that came; 0 before the first list.
    pub revision: u64,
    pub objects: HashMap<String, Entry>,
}

impl Sequence {
    /// Begins anew from a list.
    pub(crate) fn replace(&mut self, revision: u64, objects: HashMap<String, Entry>) {
        self.revision = revision;
        self.objects = objects;
    }

    /// Takes one line.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<(Seen, Option<Fault>), serde_json::Error> {
        let line: Line<'_> = serde_json::from_slice(line)?;
        let revision = line.object.metadata.revision();
        match line.r#type.as_ref() {
            "BOOKMARK" => {
                let fault = (revision < self.revision).then_some(Fault::OutOfOrder);
                self.revision = self.revision.max(revision);
                Ok((Seen::Bookmark, fault))
            }
            "ERROR" if line.object.code == 410 => Ok((Seen::Expired, None)),
            "ERROR" => Ok((Seen::Error(line.object.code), None)),
            kind => {
                let mut fault = match revision.cmp(&self.revision) {
                    std::cmp::Ordering::Greater => None,
                    std::cmp::Ordering::Equal => Some(Fault::Duplicate),
                    std::cmp::Ordering::Less => Some(Fault::OutOfOrder),
                };
                self.revision = self.revision.max(revision);
                let uid = line.object.metadata.uid.to_string();
                if kind == "DELETED" {
                    if self.objects.remove(&uid).is_none() {
                        fault = fault.or(Some(Fault::UnknownDelete));
                    }
                    return Ok((Seen::Deleted { uid, revision }, fault));
                }
                let before = self.objects.insert(uid.clone(), line.object.entry());
                if kind == "ADDED" && before.is_some() {
                    fault = fault.or(Some(Fault::AddedTwice));
                }
                Ok((Seen::Changed { uid, revision }, fault))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, uid: &str, revision: u64) -> String {
        format!(
            r#"{{"type":"{kind}","object":{{"metadata":{{"name":"p","uid":"{uid}","resourceVersion":"{revision}"}},"status":{{"phase":"Running"}}}}}}"#
        )
    }

    fn check(lines: &[(&str, &str, u64)], expected: Option<Fault>) {
        let mut sequence = Sequence::default();
        let (last, before) = lines.split_last().unwrap();
        for (kind, uid, revision) in before {
            assert_eq!(sequence.take(line(kind, uid, *revision).as_bytes()).unwrap().1, None);
        }
        assert_eq!(sequence.take(line(last.0, last.1, last.2).as_bytes()).unwrap().1, expected, "{lines:?}");
    }

    #[test]
    fn a_watch_is_not_believed() {
        check(&[("ADDED", "a", 1), ("MODIFIED", "a", 2)], None);
        check(&[("ADDED", "a", 2), ("MODIFIED", "a", 2)], Some(Fault::Duplicate));
        check(&[("ADDED", "a", 3), ("ADDED", "b", 2)], Some(Fault::OutOfOrder));
        check(&[("ADDED", "a", 1), ("ADDED", "a", 2)], Some(Fault::AddedTwice));
        check(&[("ADDED", "a", 1), ("DELETED", "b", 2)], Some(Fault::UnknownDelete));
        check(&[("ADDED", "a", 5), ("BOOKMARK", "", 4)], Some(Fault::OutOfOrder));
        check(&[("ADDED", "a", 1), ("DELETED", "a", 2), ("ADDED", "a", 3)], None);
    }

    #[test]
    fn an_expired_watch_is_no_other_error() {
        let mut sequence = Sequence::default();
        let text = br#"{"type":"ERROR","object":{"kind":"Status","metadata":{},"status":"Failure","code":410}}"#;
        assert_eq!(sequence.take(text).unwrap(), (Seen::Expired, None));
    }
}
