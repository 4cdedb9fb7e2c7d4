//! The store against a map that remembers every version: any sequence of writes, restarts, lists and watches agrees.

use std::collections::BTreeMap;

use machinery_store::{CommitError, Durability, Expect, Key, Op, Revision, Store, StoreOptions};
use proptest::prelude::*;

use crate::util::*;

/// One step; small numbers make keys meet often.
#[derive(Clone, Debug)]
enum Step {
    Put {
        key: u8,
        expect: Want,
        lazy: bool,
    },
    /// A put that happens only when another object is as expected.
    Guarded {
        key: u8,
        check: u8,
        expect: Want,
    },
    Delete {
        key: u8,
        expect: Want,
    },
    Both {
        put: u8,
        delete: u8,
    },
    Restart,
    List {
        at: prop::sample::Index,
        limit: usize,
    },
    ListWhere {
        at: prop::sample::Index,
        limit: usize,
        tag: u8,
        indexed: bool,
    },
    Watch {
        from: prop::sample::Index,
    },
    WatchWhere {
        from: prop::sample::Index,
        tag: u8,
        indexed: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Want {
    Absent,
    Present,
    Current,
    Stale,
    Any,
}

fn any_want() -> impl Strategy<Value = Want> {
    prop_oneof![Just(Want::Absent), Just(Want::Present), Just(Want::Current), Just(Want::Stale), Just(Want::Any)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = 0_u8..6;
    let tag = 0_u8..TAGS;
    prop_oneof![
        6 => (key.clone(), any_want(), any::<bool>()).prop_map(|(key, expect, lazy)| Step::Put { key, expect, lazy }),
        3 => (key.clone(), any_want()).prop_map(|(key, expect)| Step::Delete { key, expect }),
        1 => (key.clone(), key.clone()).prop_map(|(put, delete)| Step::Both { put, delete }),
        2 => (key.clone(), 0_u8..6, any_want()).prop_map(|(key, check, expect)| Step::Guarded { key, check, expect }),
        1 => Just(Step::Restart),
        2 => (any::<prop::sample::Index>(), 1_usize..4).prop_map(|(at, limit)| Step::List { at, limit }),
        2 => (any::<prop::sample::Index>(), 1_usize..4, tag.clone(), any::<bool>())
            .prop_map(|(at, limit, tag, indexed)| Step::ListWhere { at, limit, tag, indexed }),
        2 => any::<prop::sample::Index>().prop_map(|from| Step::Watch { from }),
        2 => (any::<prop::sample::Index>(), tag, any::<bool>())
            .prop_map(|(from, tag, indexed)| Step::WatchWhere { from, tag, indexed }),
    ]
}

fn key(number: u8) -> Key {
    Key::new(MAPS, if number.is_multiple_of(2) { "even" } else { "odd" }, &format!("k{}", number / 2))
}

/// Objects differ by a tag, which is in an indexed field and in one without index. Each value is in two fields of
/// its name, because a field may have several values.
const TAGS: u8 = 3;

fn tag_of(value: &str) -> u8 {
    value.bytes().fold(0, u8::wrapping_add) % TAGS
}

fn tagged(key: &Key, expect: Expect, value: &str) -> Op {
    let (tag, also) = (tag_of(value).to_string(), ((tag_of(value) + 1) % TAGS).to_string());
    let fields = [("indexed", &*tag), ("indexed", &also), ("plain", &tag), ("plain", &also)];
    put_indexed(key, expect, value, &fields)
}

fn has_tag(value: &str, tag: u8) -> bool {
    tag_of(value) == tag || (tag_of(value) + 1) % TAGS == tag
}

fn field(indexed: bool) -> &'static str {
    if indexed { "indexed" } else { "plain" }
}

fn open_indexed(dir: &std::path::Path) -> Store {
    Store::open(dir, StoreOptions { indexed_fields: vec!["other", "indexed"], ..StoreOptions::default() }).unwrap()
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
            (Want::Present, current) => (Expect::Present, current.is_none().then_some("not found")),
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

fn list(store: &Store, at: Revision, limit: usize, term: Option<(&str, &str)>) -> Contents {
    let mut found = Contents::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let after_names = after.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let page = match term {
            None => store.range(MAPS, None, after_names, Some(limit), Some(at)).unwrap(),
            Some(term) => store.range_where(MAPS, term, None, after_names, Some(limit), Some(at)).unwrap(),
        };
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
    let mut store = open_indexed(dir.path());
    let mut model = Model::default();
    for (number, step) in steps.into_iter().enumerate() {
        let value = format!("value {number}");
        let answered = |result: &Result<Vec<Revision>, CommitError>| match result {
            Ok(_) => None,
            Err(CommitError::Conflict { .. }) => Some("conflict"),
            Err(CommitError::NotFound) => Some("not found"),
            Err(other) => panic!("{other}"),
        };
        match step {
            Step::Put { key: name, expect: want, lazy } => {
                let (expect, refusal) = model.expect(&key(name), want);
                let durability = if lazy { Durability::Lazy } else { Durability::Group };
                let result = store.commit(vec![tagged(&key(name), expect, &value)], durability).await;
                assert_eq!(answered(&result), refusal);
                if let Ok(revisions) = result {
                    model.record(revisions[0], key(name), Some(value));
                }
            }
            Step::Guarded { key: name, check, expect: want } => {
                let (expect, refusal) = model.expect(&key(check), want);
                let ops = vec![Op::Check { key: key(check), expect }, tagged(&key(name), Expect::Any, &value)];
                let result = store.commit(ops, Durability::Group).await;
                assert_eq!(answered(&result), refusal);
                if let Ok(revisions) = result {
                    assert_eq!(revisions.len(), 1, "a check has no revision");
                    model.record(revisions[0], key(name), Some(value));
                }
            }
            Step::Delete { key: name, expect: want } => {
                let (expect, mut refusal) = model.expect(&key(name), want);
                if !model.now().contains_key(&key(name)) {
                    refusal = Some("not found");
                }
                let result = store.commit(vec![delete(&key(name), expect)], Durability::Group).await;
                assert_eq!(answered(&result), refusal);
                if let Ok(revisions) = result {
                    model.record(revisions[0], key(name), None);
                }
            }
            Step::Both { put: first, delete: second } => {
                let ops: Vec<Op> = vec![tagged(&key(first), Expect::Any, &value), delete(&key(second), Expect::Any)];
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
                store = open_indexed(dir.path());
            }
            Step::List { at, limit } if !model.states.is_empty() => {
                let (revision, contents) = at.get(&model.states);
                assert_eq!(&list(&store, *revision, limit, None), contents, "at {revision}");
            }
            Step::ListWhere { at, limit, tag, indexed } if !model.states.is_empty() => {
                let (revision, contents) = at.get(&model.states);
                let mut expected = contents.clone();
                expected.retain(|_, (_, value)| has_tag(value, tag));
                let found = list(&store, *revision, limit, Some((field(indexed), &tag.to_string())));
                assert_eq!(found, expected, "tag {tag} at {revision}");
            }
            Step::WatchWhere { from, tag, indexed } if !model.states.is_empty() => {
                let (from, before) = from.get(&model.states);
                let mut watch = store.watch_where(MAPS, *from, field(indexed), &tag.to_string()).unwrap();
                let seen: Vec<_> =
                    drain(&mut watch, store.current()).await.iter().map(|change| change.revision).collect();
                let mut held = before.clone();
                let mut expected = Vec::new();
                for (revision, key, value) in model.changes.iter().filter(|(revision, ..)| revision > from) {
                    let was = held.get(key).is_some_and(|(_, value)| has_tag(value, tag));
                    if was || value.as_ref().is_some_and(|value| has_tag(value, tag)) {
                        expected.push(*revision);
                    }
                    match value {
                        Some(value) => drop(held.insert(key.clone(), (*revision, value.clone()))),
                        None => drop(held.remove(key)),
                    }
                }
                assert_eq!(seen, expected, "tag {tag} from {from}");
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
            Step::List { .. } | Step::ListWhere { .. } | Step::Watch { .. } | Step::WatchWhere { .. } => {}
        }
        assert_eq!(list(&store, store.current(), 100, None), model.now());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: size(40, 1_000) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_a_memory(steps in prop::collection::vec(any_step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(steps));
    }
}
