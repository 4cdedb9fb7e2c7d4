//! Tests of `assignment`: what is made of its parts, in whichever order they come.

use serde_json::json;

use super::*;

struct Node {
    dir: tempfile::TempDir,
    assignment: Arc<Assignment>,
}

fn store(dir: &tempfile::TempDir) -> Arc<Store> {
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    Arc::new(Store::open(dir.path(), tokio_util::task::TaskTracker::new().token()).unwrap())
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir);
        let published = Published { present: watch::channel(None).0, services: watch::channel(Arc::default()).0 };
        let assignment = Arc::new(Assignment::new("n".into(), store, published, StatusRegistry::new("n")));
        Self { dir, assignment }
    }

    fn part(&self, number: u32) -> Part {
        Part { assignment: self.assignment.clone(), number }
    }

    async fn list(&self, number: u32, items: Vec<Object>) {
        self.part(number).replace(items, "1").await.unwrap();
    }

    async fn change(&self, number: u32, object: Object) {
        self.part(number).apply(object).await.unwrap();
    }

    fn present(&self) -> Option<bool> {
        *self.assignment.published.present.borrow()
    }

    /// Names of the Services that are published, which are those on the disk.
    fn services(&self) -> Vec<String> {
        let published = self.assignment.published.services.borrow().clone();
        assert_eq!(*published, self.assignment.store.services());
        published.iter().map(|service| format!("{}/{}", service.namespace, service.name)).collect()
    }
}

fn service_entry(name: &str) -> Value {
    let spec = json!({"clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]});
    json!({"kind": "Service", "namespace": "d", "name": name, "uid": name, "generation": 0, "spec": spec})
}

fn object(number: u32, parts: u32, entries: Vec<Value>) -> Object {
    let metadata = json!({"name": assignment_name("n", number), "resourceVersion": "1"});
    let spec = json!({"nodeName": "n", "part": number, "parts": parts, "entries": entries});
    Object::new(json!({"metadata": metadata, "spec": spec})).unwrap()
}

#[tokio::test]
async fn an_assignment_with_entries_for_the_edge_plane_in_any_part_is_present_and_remembered() {
    let node = Node::new();
    let store = &node.assignment.store;
    assert_eq!(store.assignment_present(), None, "not known yet, which is not the same as none");
    node.list(0, vec![object(0, 2, vec![])]).await;
    assert_eq!((node.present(), store.assignment_present()), (Some(false), Some(false)));
    node.list(1, vec![object(1, 2, vec![json!({"kind": "Rule"})])]).await;
    assert_eq!((node.present(), store.assignment_present()), (Some(true), Some(true)));
    node.part(1).delete(object(1, 2, vec![])).await.unwrap();
    assert_eq!((node.present(), store.assignment_present()), (Some(false), Some(false)));
}

#[tokio::test]
async fn services_start_no_edge_plane() {
    let node = Node::new();
    node.list(0, vec![object(0, 1, vec![service_entry("web")])]).await;
    assert_eq!((node.present(), node.services()), (Some(false), vec!["d/web".to_owned()]));
    node.change(0, object(0, 1, vec![json!({"kind": "Device"}), service_entry("web")])).await;
    assert_eq!(node.present(), Some(true));
    node.change(0, object(0, 1, vec![])).await;
    assert_eq!((node.present(), node.services()), (Some(false), vec![]), "an empty assignment is the hub's word");
}

#[tokio::test]
async fn an_absent_assignment_leaves_services_as_they_were_and_a_deletion_removes_them() {
    let node = Node::new();
    node.list(0, vec![object(0, 1, vec![service_entry("web")])]).await;
    // As after a restore of the hub's store.
    node.list(0, vec![]).await;
    assert_eq!((node.present(), node.services()), (Some(false), vec!["d/web".to_owned()]));
    // An object of another name is no word on this one.
    node.list(0, vec![object(1, 1, vec![])]).await;
    assert_eq!(node.services(), ["d/web"]);
    node.change(0, object(0, 1, vec![service_entry("web")])).await;
    node.part(0).delete(object(0, 1, vec![])).await.unwrap();
    assert_eq!(node.services(), [""; 0]);
    drop(node.assignment);
    assert_eq!(store(&node.dir).services(), []);
}

#[tokio::test]
async fn services_of_several_parts_are_published_once_all_are_there() {
    let node = Node::new();
    node.list(0, vec![object(0, 3, vec![service_entry("a")])]).await;
    node.list(2, vec![object(2, 3, vec![service_entry("c")])]).await;
    assert_eq!(node.services(), [""; 0], "a part is missing");
    assert_eq!(*node.assignment.count.borrow(), 3);
    node.list(1, vec![object(1, 3, vec![service_entry("b")])]).await;
    assert_eq!(node.services(), ["d/a", "d/b", "d/c"]);
    // Fewer parts: the others count no more, also when they are still seen.
    node.change(0, object(0, 2, vec![service_entry("a")])).await;
    node.change(2, object(2, 3, vec![service_entry("c")])).await;
    assert_eq!((node.services(), *node.assignment.count.borrow()), (vec!["d/a".to_owned(), "d/b".to_owned()], 2));
}

#[tokio::test]
async fn a_service_that_moves_to_another_part_is_never_away() {
    let node = Node::new();
    node.list(0, vec![object(0, 2, vec![service_entry("a"), service_entry("b")])]).await;
    node.list(1, vec![object(1, 2, vec![])]).await;
    assert_eq!(node.services(), ["d/a", "d/b"]);
    let mut published = node.assignment.published.services.subscribe();
    published.mark_unchanged();
    let leaves = node.change(0, object(0, 2, vec![service_entry("a")]));
    let arrives = node.change(1, object(1, 2, vec![service_entry("b")]));
    futures::future::join(leaves, arrives).await;
    assert!(!published.has_changed().unwrap(), "{:?}", node.services());
    // One that is removed is removed all the same.
    node.change(1, object(1, 2, vec![])).await;
    assert_eq!(node.services(), ["d/a"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_reported() {
    let node = Node::new();
    let wrong = |field: &str, value: Value| {
        let mut entry = service_entry("wrong");
        entry[field] = value;
        entry
    };
    let entries = vec![
        wrong("spec", json!({"ports": [{"port": 100_000}]})),
        wrong("spec", json!("text")),
        wrong("namespace", json!("a/b")),
        wrong("name", json!("")),
        json!({"kind": "Service"}),
        service_entry("right"),
    ];
    node.list(0, vec![object(0, 1, entries)]).await;
    assert_eq!((node.present(), node.services()), (Some(false), vec!["d/right".to_owned()]));
    let errors = node.assignment.registry.report().last_errors;
    assert!(errors.iter().any(|error| error.contains("cannot be read")), "{errors:?}");
    for spec in [json!("text"), json!({"entries": "text", "parts": -1}), json!(null)] {
        let strange = Object::new(json!({"metadata": {"name": "n", "resourceVersion": "2"}, "spec": spec})).unwrap();
        node.change(0, strange).await;
    }
    assert_eq!(*node.assignment.count.borrow(), 1);
    node.change(0, object(0, u32::MAX, vec![])).await;
    assert_eq!(*node.assignment.count.borrow(), PARTS_MAX);
}

#[tokio::test]
async fn a_node_takes_so_many_services_and_no_more() {
    let node = Node::new();
    let entries = (0..=SERVICES_MAX).map(|number| service_entry(&format!("s{number:05}"))).collect();
    let contents = Contents::of(object(0, 1, entries), &node.assignment.registry);
    node.assignment.note(0, Some(contents), false);
    let (_, services) = node.assignment.desired();
    assert_eq!(services.unwrap().len(), SERVICES_MAX);
    let mut large = service_entry("large");
    large["spec"]["externalName"] = "x".repeat(SERVICES_BYTES_MAX).into();
    let contents = Contents::of(object(0, 1, vec![service_entry("a"), large]), &node.assignment.registry);
    node.assignment.note(0, Some(contents), false);
    let (_, services) = node.assignment.desired();
    assert_eq!(services.unwrap().len(), 1);
}
