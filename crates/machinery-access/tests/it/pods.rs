use serde_json::{Value, json};

use crate::harness::{Api, admin, pod};

const PODS: &str = "/api/v1/namespaces/a/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/a/serviceaccounts";

#[tokio::test]
async fn every_pod_runs_as_a_service_account_and_finds_its_token() {
    let api = Api::start().await;
    let made = api.create(PODS, pod("p", json!({}))).await;
    let spec = &made["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    let volume = &spec["volumes"][0];
    let name = volume["name"].as_str().unwrap();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]);
    assert_eq!(volume["projected"], json!({"defaultMode": 420, "sources": sources}));
    let mount = json!({"name": name, "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(spec["containers"][0]["volumeMounts"], json!([mount]));

    let without = api.create(PODS, pod("without", json!({"automountServiceAccountToken": false}))).await;
    assert!(without["spec"].get("volumes").is_none(), "{without}");
    let account = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "pull"}]});
    api.create(ACCOUNTS, account).await;
    let quiet = api.create(PODS, pod("quiet", json!({"serviceAccountName": "quiet"}))).await;
    assert!(quiet["spec"].get("volumes").is_none());
    assert_eq!(quiet["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
    api.call(admin(), "POST", PODS, pod("x", json!({"serviceAccountName": "none"})))
        .await
        .check(403, r#"error looking up service account a/none: serviceaccount "none" not found"#);
}

#[tokio::test]
async fn a_service_account_may_lend_only_the_secrets_that_it_names() {
    let api = Api::start().await;
    let annotations = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    let account = json!({"metadata": {"name": "s", "annotations": annotations}, "secrets": [{"name": "m"}]});
    api.create(ACCOUNTS, account).await;
    let with = |name: &str, secret: &str| {
        pod(name, json!({"serviceAccountName": "s", "volumes": [{"name": "v", "secret": {"secretName": secret}}]}))
    };
    api.create(PODS, with("good", "m")).await;
    api.call(admin(), "POST", PODS, with("bad", "other")).await.check(
        403,
        "volume with secret.secretName=\"other\" is not allowed because service account s does not reference that secret",
    );
}

#[tokio::test]
async fn a_pods_priority_follows_from_its_class() {
    let api = Api::start().await;
    let plain = api.create(PODS, pod("plain", json!({}))).await;
    assert_eq!(
        (&plain["spec"]["priority"], &plain["spec"]["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    api.create(classes, json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true})).await;
    let usual = api.create(PODS, pod("usual", json!({}))).await;
    assert_eq!((&usual["spec"]["priority"], &usual["spec"]["priorityClassName"]), (&json!(7), &json!("usual")));
    let second = json!({"metadata": {"name": "second"}, "value": 8, "globalDefault": true});
    api.call(admin(), "POST", classes, second)
        .await
        .check(403, "PriorityClass usual is already marked as default. Only one default can exist");
    let critical = api.create(PODS, pod("critical", json!({"priorityClassName": "system-node-critical"}))).await;
    assert_eq!(critical["spec"]["priority"], 2_000_001_000);
    for (spec, part) in [
        (json!({"priorityClassName": "ghost"}), "no PriorityClass with name ghost was found"),
        (json!({"priority": 5}), "the integer value of priority (5) must not be provided in pod spec"),
    ] {
        api.call(admin(), "POST", PODS, pod("x", spec)).await.check(403, part);
    }
}

#[tokio::test]
async fn a_pod_stays_five_minutes_on_a_node_that_fails_unless_it_says_otherwise() {
    let api = Api::start().await;
    let made = api.create(PODS, pod("p", json!({}))).await;
    let toleration =
        |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let both = json!([toleration("node.kubernetes.io/not-ready"), toleration("node.kubernetes.io/unreachable")]);
    assert_eq!(made["spec"]["tolerations"], both);
    let made = api.create(PODS, pod("q", json!({"tolerations": [{"operator": "Exists"}]}))).await;
    assert_eq!(made["spec"]["tolerations"], json!([{"operator": "Exists"}]));
}

#[tokio::test]
async fn a_placed_pod_is_changed_as_far_as_its_node_follows() {
    let api = Api::start().await;
    let init = json!([{"name": "i", "image": "i", "resources": {"limits": {"cpu": "1"}}}]);
    let url = format!("{PODS}/p");
    let mut image = api.create(PODS, pod("p", json!({"nodeName": "n", "initContainers": init}))).await;
    image["spec"]["containers"][0]["image"] = json!("other");
    let mut resized = api.call(admin(), "PUT", &url, image).await.ok();
    resized["spec"]["initContainers"][0]["resources"] = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}});
    let resize = async || api.call(admin(), "PUT", &format!("{url}/resize"), resized.clone()).await;
    resize().await.check(403, r#"node "n" not found"#);
    let feature = "InPlacePodVerticalScalingInitContainers";
    let mut node = api.create("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    let refused = format!(r#"pod update requires features {feature} which are not available on node "n""#);
    resize().await.check(403, &refused);
    node["status"]["declaredFeatures"] = json!([feature]);
    api.call(admin(), "PUT", "/api/v1/nodes/n/status", node).await.ok();
    // What the API itself says of it is another question.
    assert_ne!(resize().await.code, 403);
}

#[tokio::test]
async fn a_runtime_class_says_what_its_pods_cost_and_where_they_run() {
    let api = Api::start().await;
    let class = json!({
        "metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"cpu": "10m"}},
        "scheduling": {"nodeSelector": {"kvm": "yes"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
    });
    api.create("/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let made = api.create(PODS, pod("p", json!({"runtimeClassName": "vm"}))).await;
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"kvm": "yes"}));
    for (spec, part) in [
        (json!({"runtimeClassName": "ghost"}), r#"pod rejected: RuntimeClass "ghost" not found"#),
        (json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}), "doesn't match RuntimeClass's defined Overhead"),
        (json!({"overhead": {"cpu": "1"}}), "Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"kvm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no",
        ),
    ] {
        api.call(admin(), "POST", PODS, pod("x", spec)).await.check(403, part);
    }
}

#[tokio::test]
async fn claims_are_protected_get_the_newest_default_class_and_grow_where_that_allows_it() {
    let api = Api::start().await;
    let class = json!({
        "metadata": {"name": "slow", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/slow", "allowVolumeExpansion": false,
    });
    api.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    let claims = "/api/v1/namespaces/a/persistentvolumeclaims";
    let claim = json!({
        "metadata": {"name": "c"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let made = api.create(claims, claim).await;
    assert_eq!(made["spec"]["storageClassName"], "slow");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let path = format!("{claims}/c");
    api.call(admin(), "PATCH", &format!("{path}/status"), json!({"status": {"phase": "Bound"}})).await.ok();
    api.call(admin(), "PATCH", &path, grow)
        .await
        .check(403, "the storageclass that provisions the pvc must support resize");
}

#[tokio::test]
async fn what_nothing_enforces_is_stored_with_a_warning() {
    let api = Api::start().await;
    let limits = json!({"metadata": {"name": "l"}, "spec": {"limits": []}});
    let request = http::Request::post("/api/v1/namespaces/a/limitranges").header("content-type", "application/json");
    let body = http_body_util::Full::new(bytes::Bytes::from(limits.to_string()));
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(body, |never| match never {}));
    let response = api.server.handle(request.body(body).unwrap(), Some(admin())).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("does not enforce it"), "{warning}");
}

#[tokio::test]
async fn a_mirror_pod_opens_nothing() {
    let api = Api::start().await;
    let mirror = |spec: Value| {
        let mut pod = pod("m", spec);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod
    };
    let made = api.create(PODS, mirror(json!({"nodeName": "n1"}))).await;
    assert!(made["spec"].get("serviceAccountName").is_none() && made["spec"].get("volumes").is_none(), "{made}");
    for (spec, part) in [
        (json!({"serviceAccountName": "default"}), "a mirror pod may not reference service accounts"),
        (json!({"imagePullSecrets": [{"name": "s"}]}), "a mirror pod may not reference secrets"),
        (
            json!({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        api.call(admin(), "POST", PODS, mirror(spec)).await.check(403, part);
    }
}
