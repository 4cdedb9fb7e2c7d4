use bytes::Bytes;
use machinery_store::{Durability, Encoded, Expect, Key, Op, StoreOptions};
use serde_json::{Value, json};

use super::bootstrap::Reconciled;
use super::*;

struct Cluster {
    store: Store,
    rbac: Rbac,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        Self { store, rbac: Rbac::default(), _dir: dir }
    }

    async fn put(&self, resource: &str, namespace: &str, name: &str, object: Value) {
        let bytes = Bytes::from(object.to_string());
        let put = Op::Put {
            key: Key::new(&format!("{GROUP}/{resource}"), namespace, name),
            expect: Expect::Any,
            encode: Box::new(move |_| Encoded { bytes, ..Encoded::default() }),
        };
        self.store.commit(vec![put], Durability::Group).await.unwrap();
    }

    async fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let key = Key::new(&format!("{GROUP}/{resource}"), namespace, name);
        let delete = Op::Delete { key, expect: Expect::Present, final_bytes: Box::new(|_| Bytes::new()) };
        self.store.commit(vec![delete], Durability::Group).await.unwrap();
    }

    fn decide(&self, identity: &Identity, verb: &str, namespace: Option<&str>) -> Decision {
        let target =
            Target::Resource { group: "", resource: "pods", subresource: None, namespace, name: None, selectors: None };
        self.rbac.authorize(&Access { identity, verb, target, object: None }, &self.store)
    }
}

fn reads_pods() -> Value {
    json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]})
}

fn binding(kind: &str, role: &str, subjects: Value) -> Value {
    json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subjects})
}

fn user(name: &str) -> Identity {
    Identity::new(name, ["team"])
}

#[tokio::test]
async fn a_binding_grants_its_role_in_its_namespace_and_says_which_it_was() {
    let cluster = Cluster::new();
    let none = Decision::NoOpinion(String::new());
    assert_eq!(cluster.decide(&user("alice"), "get", Some("a")), none);
    cluster.put("roles", "a", "reader", reads_pods()).await;
    let subjects = json!([{"kind": "User", "name": "bob"}, {"kind": "User", "name": "alice"}]);
    cluster.put("rolebindings", "a", "readers", binding("Role", "reader", subjects)).await;
    let reason = r#"RBAC: allowed by RoleBinding "readers/a" of Role "reader" to User "alice""#;
    assert_eq!(cluster.decide(&user("alice"), "get", Some("a")), Decision::Allow(reason.to_owned()));
    assert_eq!(cluster.decide(&user("alice"), "delete", Some("a")), none);
    assert_eq!(cluster.decide(&user("alice"), "get", Some("b")), none);
    assert_eq!(cluster.decide(&user("alice"), "get", None), none);
    assert_eq!(cluster.decide(&user("eve"), "get", Some("a")), none);
    cluster.delete("rolebindings", "a", "readers").await;
    assert_eq!(cluster.decide(&user("alice"), "get", Some("a")), none);
}

#[tokio::test]
async fn groups_and_service_accounts_are_subjects() {
    let cluster = Cluster::new();
    cluster.put("clusterroles", "", "reader", reads_pods()).await;
    let subjects = json!([{"kind": "ServiceAccount", "name": "robot"}]);
    cluster.put("rolebindings", "a", "robots", binding("ClusterRole", "reader", subjects)).await;
    let robot = Identity::new("system:serviceaccount:a:robot", Vec::<String>::new());
    let reason = r#"RBAC: allowed by RoleBinding "robots/a" of ClusterRole "reader" to ServiceAccount "robot/a""#;
    assert_eq!(cluster.decide(&robot, "list", Some("a")), Decision::Allow(reason.to_owned()));
    let other = Identity::new("system:serviceaccount:b:robot", Vec::<String>::new());
    assert!(!cluster.decide(&other, "list", Some("a")).is_allowed());

    let subjects = json!([{"kind": "Group", "name": "team"}]);
    cluster.put("clusterrolebindings", "", "team", binding("ClusterRole", "reader", subjects)).await;
    let reason = r#"RBAC: allowed by ClusterRoleBinding "team" of ClusterRole "reader" to Group "team""#;
    assert_eq!(cluster.decide(&user("x"), "list", None), Decision::Allow(reason.to_owned()));
}

#[tokio::test]
async fn a_role_that_is_missing_is_named_and_one_that_comes_grants() {
    let cluster = Cluster::new();
    let subjects = json!([{"kind": "User", "name": "alice"}]);
    cluster.put("clusterrolebindings", "", "b", binding("ClusterRole", "ghost", subjects.clone())).await;
    cluster.put("rolebindings", "a", "b", binding("Role", "ghost", subjects)).await;
    let why = r#"RBAC: [clusterrole.rbac.authorization.k8s.io "ghost" not found, role.rbac.authorization.k8s.io "ghost" not found]"#;
    assert_eq!(cluster.decide(&user("alice"), "get", Some("a")), Decision::NoOpinion(why.to_owned()));
    cluster.put("clusterroles", "", "ghost", reads_pods()).await;
    assert!(cluster.decide(&user("alice"), "get", None).is_allowed());
}

#[test]
fn the_default_policy_is_whole() {
    let policy = default_policy();
    let count = |kind: &str| policy.iter().filter(|object| object.object["kind"] == kind).count();
    let counts = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"].map(count);
    assert_eq!(counts.iter().sum::<usize>(), policy.len());
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    let scheduler = policy.iter().find(|object| object.name == "system::extension-apiserver-authentication-reader");
    let scheduler = scheduler.expect("it is a RoleBinding of kube-system");
    assert_eq!(scheduler.collection, "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings");
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    assert_eq!(scheduler.object["metadata"]["labels"], labels);
}

#[test]
fn what_somebody_took_away_from_a_default_comes_back_and_what_he_added_stays() {
    let policy = default_policy();
    let default = |name: &str, kind: &str| {
        let found = policy.iter().find(|object| object.name == name && object.object["kind"] == kind);
        found.unwrap().object.clone()
    };
    let role = default("system:discovery", "ClusterRole");
    assert_eq!(reconciled(&role, &role), Reconciled::Nothing);
    let mut changed = role.clone();
    changed["rules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["/mine"]}]);
    changed["metadata"]["labels"] = json!({"mine": "yes"});
    let Reconciled::Update(next) = reconciled(&changed, &role) else { panic!("it has to change") };
    assert_eq!(next["rules"].as_array().unwrap().len(), 2);
    assert_eq!(next["metadata"]["labels"], json!({"kubernetes.io/bootstrapping": "rbac-defaults", "mine": "yes"}));
    changed["metadata"]["annotations"] = json!({"rbac.authorization.kubernetes.io/autoupdate": "false"});
    assert_eq!(reconciled(&changed, &role), Reconciled::Nothing);
    let bound = default("system:discovery", "ClusterRoleBinding");
    let mut changed = bound.clone();
    changed["subjects"] = json!([]);
    let Reconciled::Update(next) = reconciled(&changed, &bound) else { panic!("it has to change") };
    assert_eq!(next["subjects"], bound["subjects"]);
    changed["roleRef"]["name"] = json!("cluster-admin");
    assert_eq!(reconciled(&changed, &bound), Reconciled::Recreate(bound));
}

#[tokio::test]
async fn an_aggregated_role_is_made_of_those_that_its_selectors_find() {
    let cluster = Cluster::new();
    let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
    let part =
        |name: &str, rules: Value| json!({"metadata": {"name": name, "labels": {"to": "whole"}}, "rules": rules});
    let whole = json!({
        "metadata": {"name": "whole"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "whole"}}]},
    });
    cluster.put("clusterroles", "", "whole", whole.clone()).await;
    cluster.put("clusterroles", "", "b", part("b", json!([rule("pods"), rule("secrets")]))).await;
    cluster.put("clusterroles", "", "a", part("a", json!([rule("secrets")]))).await;
    let expected = vec![rule("secrets"), rule("pods")];
    assert_eq!(aggregate_roles(&cluster.store), [("whole".to_owned(), expected.clone())]);
    let mut filled = whole;
    filled["rules"] = expected.into();
    cluster.put("clusterroles", "", "whole", filled).await;
    assert_eq!(aggregate_roles(&cluster.store), []);
}
