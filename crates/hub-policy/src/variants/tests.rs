//! Tests of `variants`.

use std::cell::RefCell;

use machinery_kinds::Registry;
use machinery_server::Identity;
use machinery_store::{Durability, Encoded, Expect, Op, Store, StoreOptions};

use super::*;

const LIST: &str = r#"[
    {"name": "orin", "nodeSelector": {"accelerator": "orin"}, "runtimeClassName": "nvidia", "containers": [{"name": "main", "image": "app:cuda"}]},
    {"nodeSelector": {"kubernetes.io/arch": "arm64"}, "containers": [{"name": "main", "image": "app:arm64"}]}
]"#;

async fn store() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let objects = [
        ("/nodes", "jetson", json!({"metadata": {"labels": {"accelerator": "orin", "kubernetes.io/arch": "arm64"}}})),
        ("/nodes", "pi", json!({"metadata": {"labels": {"kubernetes.io/arch": "arm64"}}})),
        ("/nodes", "pc", json!({"metadata": {"labels": {"kubernetes.io/arch": "amd64"}}})),
        ("node.k8s.io/runtimeclasses", "nvidia", json!({"handler": "n", "overhead": {"podFixed": {"memory": "64Mi"}}})),
    ];
    for (resource, name, object) in objects {
        let bytes = object.to_string().into_bytes().into();
        let put = Op::Put {
            key: Key::new(resource, "", name),
            expect: Expect::Absent,
            encode: Box::new(move |_| Encoded { bytes, ..Encoded::default() }),
        };
        store.commit(vec![put], Durability::Group).await.unwrap();
    }
    (store, dir)
}

/// What becomes of an object of a kind: the plug-in's changes, then its judgement.
fn admitted(store: &Store, kind: (&str, &str), object: &Value, old: Option<&Value>) -> Result<Value, String> {
    let (registry, identity) = (Registry::builtin(), Identity::new("admin", ["system:masters"]));
    let (warnings, commits) = (RefCell::default(), RefCell::default());
    let request = AdmissionRequest {
        operation: if old.is_some() { Operation::Update } else { Operation::Create },
        info: registry.resource(kind.0, "v1", kind.1).unwrap(),
        subresource: None,
        namespace: "default",
        name: "web",
        identity: &identity,
        old,
        dry_run: false,
        store,
        warnings: &warnings,
        commits: &commits,
    };
    let mut object = object.clone();
    PodVariants.mutate(&request, &mut object).map_err(|error| error.to_string())?;
    PodVariants.validate(&request, &object).map_err(|error| error.to_string())?;
    Ok(object)
}

fn pod(list: &str, node: Option<&str>) -> Value {
    let mut pod = json!({
        "metadata": {"annotations": {ANNOTATION_VARIANTS: list, ANNOTATION_VARIANT: "mine"}},
        "spec": {"containers": [{"name": "main", "image": "app:amd64"}]},
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

#[tokio::test]
async fn a_pod_that_is_created_on_a_node_is_what_it_is_there() {
    let (store, _dir) = store().await;
    let admitted = |pod: &Value| admitted(&store, ("", "pods"), pod, None).unwrap();
    for (node, image, variant) in [
        (Some("jetson"), "app:cuda", json!("orin")),
        (Some("pi"), "app:arm64", json!("1")),
        (Some("pc"), "app:amd64", Value::Null),
        (Some("unknown"), "app:amd64", Value::Null),
        (None, "app:amd64", Value::Null),
    ] {
        let pod = admitted(&pod(LIST, node));
        assert_eq!(pod["spec"]["containers"][0]["image"], image, "{node:?}");
        assert_eq!(pod["metadata"]["annotations"][ANNOTATION_VARIANT], variant, "{node:?}");
        assert_eq!(admitted(&pod)["spec"], pod["spec"], "again it is the same");
    }
    let pod = admitted(&pod(LIST, Some("jetson")));
    assert_eq!(
        (&pod["spec"]["runtimeClassName"], &pod["spec"]["overhead"]["memory"]),
        (&json!("nvidia"), &json!("64Mi"))
    );
    let mut mirror = super::tests::pod(LIST, Some("pi"));
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x");
    assert_eq!(admitted(&mirror), mirror, "a static pod runs as its node has it");
}

#[tokio::test]
async fn mistakes_are_named_where_a_person_writes_them() {
    let (store, _dir) = store().await;
    let check = |kind: (&str, &str), object: &Value, parts: &[&str]| {
        let why = admitted(&store, kind, object, None).expect_err("it is rejected");
        parts.iter().for_each(|part| assert!(why.contains(part), "{why} has no {part}"));
    };
    let misspelt = LIST.replace("nodeSelector\": {\"kub", "nodeselector\": {\"kub");
    check(("", "pods"), &pod(&misspelt, None), &["metadata.annotations[selvedge.dev/variants][1]", "nodeselector"]);
    let template = |list: &str| json!({"spec": {"template": pod(list, None)}});
    let unknown = LIST.replace("main", "other");
    let path = "spec.template.metadata.annotations[selvedge.dev/variants][0].containers[0].name";
    for kind in [("apps", "deployments"), ("apps", "daemonsets"), ("apps", "statefulsets"), ("batch", "jobs")] {
        check(kind, &template(&unknown), &[path, "no container \"other\""]);
        admitted(&store, kind, &template(LIST), None).unwrap();
    }
    let cron = json!({"spec": {"jobTemplate": template(&unknown)}});
    check(("batch", "cronjobs"), &cron, &["spec.jobTemplate.spec.template.metadata.annotations"]);
    // What the runtime of a variant does not honour.
    let process = r#"[{"nodeSelector": {"a": "b"}, "runtimeClassName": "selvedge-process"}]"#;
    check(("", "pods"), &pod(process, None), &["[selvedge.dev/variants][0]", "spec.containers[0].image"]);
    // What no pod may be.
    let negative = LIST.replace(r#""image": "app:cuda""#, r#""resources": {"requests": {"memory": "-1Gi"}}"#);
    let field = "spec.containers[0].resources.requests[memory]: Invalid value: \"-1Gi\"";
    check(("", "pods"), &pod(&negative, None), &["metadata.annotations[selvedge.dev/variants][0]", field]);
    check(
        ("apps", "daemonsets"),
        &template(&negative),
        &["[selvedge.dev/variants][0]", &format!("spec.template.{field}")],
    );
    // One that is stored already is not in the way of another change.
    let stored = template(&unknown);
    admitted(&store, ("apps", "deployments"), &stored, Some(&stored)).unwrap();
}
