//! The store against a map that remembers every version: any sequence of writes, restarts, lists and watches agrees.

use std::collections::BTreeMap;

use machinery_store::{CommitError, Durability, Expect, Key, Op, Revision, Store};
use proptest::prelude::*;

use crate::util::*;

/// One step; small numbers make keys meet often.
#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, expect: Want, lazy: bool },
    Delete { key: u8, expect: Want },
    Both { put: u8, delete: u8 },
    Restart,
    List { at: prop::sample::Index, limit: usize },
    Watch { from: prop::sample::Index },
}

#[derive(Clone, Copy, Debug)]
enum Want {
    Absent,
    Current,
    Stale,
    Any,
}

fn any_want() -> impl Strategy<Value = Want> {
    prop_oneof![Just(Want::Absent), Just(Want::Current), Just(Want::Stale), Just(Want::Any)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = 0_u8..6;
    prop_oneof![
        6 => (key.clone(), any_want(), any::<bool>()).prop_map(|(key, expect, lazy)| Step::Put { key, expect, lazy }),
        3 => (key.clone(), any_want()).prop_map(|(key, expect)| Step::Delete { key, expect }),
        1 => (key.clone(), key).prop_map(|(put, delete)| Step::Both { put, delete }),
        1 => Just(Step::Restart),
        2 => (any::<prop::sample::Index>(), 1_usize..4).prop_map(|(at, limit)| Step::List { at, limit }),
        2 => any::<prop::sample::Index>().prop_map(|from| Step::Watch { from }),
    ]
}

fn key(number: u8) -> Key {
    Key::new(MAPS, if number.is_multiple_of(2) { "even" } else { "odd" }, &format!("k{}", number / 2))
}

type Contents = BTreeMap<Key, (Revision, String)>;

/// Every state the store was in, by revision, and every change.
#[derive(Default)]
struct Model {
    states: Vec<(Revision, Contents)>,
    changes: Vec<(Revision, Key, Option<String>)>,
}

impl Model {
    fn now(&self) -> Contents {
        self.states.last().map(|(_, contents)| contents.clone()).unwrap_or_default()
    }

    fn expect(&self, key: &Key, want: Want) -> (Expect, Option<&'static str>) {
        let current = self.now().get(key).map(|(revision, _)| *revision);
        match (want, current) {
            (Want::Absent, Some(_)) => (Expect::Absent, Some("conflict")),
            (Want::Absent, None) => (Expect::Absent, None),
            (Want::Current, Some(revision)) => (Expect::Revision(revision), None),
            (Want::Stale, Some(_)) => (Expect::Revision(Revision(0)), Some("conflict")),
            (Want::Current | Want::Stale, None) => (Expect::Revision(Revision(1)), Some("not found")),
            (Want::Any, _) => (Expect::Any, None),
        }
    }

    fn record(&mut self, revision: Revision, key: Key, value: Option<String>) {
        let mut contents = self.now();
        match &value {
            Some(value) => contents.insert(key.clone(), (revision, value.clone())),
            None => contents.remove(&key),
        };
        assert!(self.states.last().is_none_or(|(last, _)| *last < revision), "revisions grow");
        self.states.push((revision, contents));
        self.changes.push((revision, key, value));
    }
}

fn list(store: &Store, at: Revision, limit: usize) -> Contents {
    let mut found = Contents::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let after_names = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let page = store.range(MAPS, None, after_names, Some(limit), Some(at)).unwrap();
        for object in &page.items {
            let value = String::from_utf8(object.bytes.to_vec()).unwrap();
            assert!(found.insert(object.key.clone(), (object.revision, value)).is_none(), "listed twice");
            after = Some((object.key.namespace.to_string(), object.key.name.to_string()));
        }
        if page.remaining == 0 {
            return found;
        }
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut model = Model::default();
    for (number, step) in steps.into_iter().enumerate() {
        let value = format!("value {number}");
        let told = |result: &Result<Vec<Revision>, CommitError>| match result {
            Ok(_) => None,
            Err(CommitError::Conflict { .. }) => Some("conflict"),
            Err(CommitError::NotFound) => Some("not found"),
            Err(other) => panic!("{other}"),
        };
        match step {
            Step::Put { key: name, expect: want, lazy } => {
                let (expect, refusal) = model.expect(&key(name), want);
                let durability = if lazy { Durability::Lazy } else { Durability::Group };
                let result = store.commit(vec![put(&key(name), expect, &value)], durability).await;
                assert_eq!(told(&result), refusal);
                if let Ok(revisions) = result {
                    model.record(revisions[0], key(name), Some(value));
                }
            }
            Step::Delete { key: name, expect: want } => {
                let (expect, mut refusal) = model.expect(&key(name), want);
                if !model.now().contains_key(&key(name)) {
                    refusal = Some("not found");
                }
                let result = store.commit(vec![delete(&key(name), expect)], Durability::Group).await;
                assert_eq!(told(&result), refusal);
                if let Ok(revisions) = result {
                    model.record(revisions[0], key(name), None);
                }
            }
            Step::Both { put: first, delete: second } => {
                let ops: Vec<Op> = vec![put(&key(first), Expect::Any, &value), delete(&key(second), Expect::Any)];
                let present = first == second || model.now().contains_key(&key(second));
                let result = store.commit(ops, Durability::Group).await;
                assert_eq!(result.is_ok(), present);
                if let Ok(revisions) = result {
                    model.record(revisions[0], key(first), Some(value));
                    model.record(revisions[1], key(second), None);
                }
            }
            Step::Restart => {
                drop(store);
                store = open(dir.path());
            }
            Step::List { at, limit } if !model.states.is_empty() => {
                let (revision, contents) = at.get(&model.states);
                assert_eq!(&list(&store, *revision, limit), contents, "at {revision}");
            }
            Step::Watch { from } if !model.states.is_empty() => {
                let (from, _) = from.get(&model.states);
                let changes = drain(&mut store.watch(MAPS, *from).unwrap(), store.current()).await;
                let seen: Vec<_> = changes
                    .iter()
                    .map(|change| {
                        let value = String::from_utf8(change.object.bytes.to_vec()).unwrap();
                        let value = (change.kind == machinery_store::ChangeKind::Put).then_some(value);
                        (change.revision, change.object.key.clone(), value)
                    })
                    .collect();
                let expected: Vec<_> = model.changes.iter().filter(|(revision, ..)| revision > from).cloned().collect();
                assert_eq!(seen, expected, "from {from}");
            }
            Step::List { .. } | Step::Watch { .. } => {}
        }
        assert_eq!(list(&store, store.current(), 100), model.now());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: size(40, 1_000) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_a_memory(steps in prop::collection::vec(any_step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
