//! Tests of `namespaces`: its decisions, as data.

use super::*;
use crate::testing::TestApi;

fn remaining(resources: &[(&str, usize)], finalizers: &[(&str, usize)]) -> Remaining {
    let owned = |list: &[(&str, usize)]| list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Remaining { resources: owned(resources), finalizers: owned(finalizers), error: None }
}

#[test]
fn the_conditions_say_what_holds_a_namespace() {
    let left = remaining(&[("configmaps.", 2), ("rules.edge.selvedge.dev", 1)], &[("x.io/mine", 1)]);
    let first = conditions(&json!({}), &left, Timestamp::UNIX_EPOCH);
    let text = |index: usize, field: &str| first[index][field].as_str().unwrap().to_owned();
    assert_eq!((text(2, "type"), text(2, "status")), ("NamespaceDeletionContentFailure".into(), "False".into()));
    assert_eq!((text(3, "type"), text(3, "status")), ("NamespaceContentRemaining".into(), "True".into()));
    assert_eq!(
        text(3, "message"),
        "Some resources are remaining: configmaps. has 2 resource instances, rules.edge.selvedge.dev has 1 resource instances"
    );
    assert_eq!(
        text(4, "message"),
        "Some content in the namespace has finalizers remaining: x.io/mine in 1 resource instances"
    );
    let types: Vec<&str> = first.as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types[..2], ["NamespaceDeletionDiscoveryFailure", "NamespaceDeletionGroupVersionParsingFailure"]);
    // The same again is the same to the letter, whenever it is said.
    let held = json!({"status": {"conditions": first}});
    assert_eq!(conditions(&held, &left, Timestamp::from_second(99).unwrap()), first);
    let later = conditions(&held, &remaining(&[], &[]), Timestamp::from_second(99).unwrap());
    assert_eq!(later[3]["reason"], "ContentRemoved");
    assert_eq!(later[3]["lastTransitionTime"], "1970-01-01T00:01:39Z");
    assert_eq!(later[2]["lastTransitionTime"], "1970-01-01T00:00:00Z");
}

#[tokio::test]
async fn the_objects_of_a_definition_that_nobody_heard_of_are_deleted_too() {
    let api = TestApi::start().await;
    let namespace = api.make(Kind::Namespace, json!({"metadata": {"name": "line-2"}})).await;
    let namespaces = Namespaces::new(api.context.clone());
    let known = namespaces.resources.known(namespaces.discover()).await.unwrap();
    assert!(known.iter().any(|resource| resource.plural == "configmaps"));
    api.define_gadgets().await;
    api.gadget("line-2", "press").await;
    api.context.writer.delete(Kind::Namespace, &namespace, None).await.unwrap();
    let terminating = api.find(Kind::Namespace, ("", "line-2")).await.unwrap();
    namespaces.empty(&terminating, "line-2").await.unwrap();
    assert!(api.gadgets("line-2").get_opt("press").await.unwrap().is_none());
}
