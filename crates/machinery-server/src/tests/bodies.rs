//! What a body must be, and what becomes of one that Go would read otherwise than serde does.

use super::*;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

#[tokio::test]
async fn base64_is_stored_and_answered_in_its_canonical_form_however_it_is_written() {
    let hub = Hub::start().await;
    let wrapped = "QUJD\nREVG\r\n";
    let made = hub.create(SECRETS, json!({"metadata": {"name": "a"}, "data": {"w": wrapped, "l": "eB=="}})).await;
    assert_eq!(made["data"], json!({"w": "QUJDREVG", "l": "eA=="}));
    let made = hub.create(CONFIG_MAPS, json!({"metadata": {"name": "a"}, "binaryData": {"w": wrapped}})).await;
    assert_eq!(made["binaryData"], json!({"w": "QUJDREVG"}));

    let yaml = "apiVersion: v1\nkind: Secret\nmetadata: {name: other}\ndata:\n  w: |\n    QUJD\n    REVG\n";
    let made = hub.send(&Identity::controllers(), "POST", SECRETS, "application/yaml", yaml).await;
    assert_eq!((made.code, &made.body["data"]["w"]), (201, &json!("QUJDREVG")), "{}", made.body);
    let apply = async || {
        let path = format!("{SECRETS}/other?fieldManager=m&force=true");
        hub.send(&Identity::controllers(), "PATCH", &path, "application/apply-patch+yaml", yaml).await
    };
    let applied = apply().await;
    assert_eq!((applied.code, &applied.body["data"]["w"]), (200, &json!("QUJDREVG")), "{}", applied.body);
    let again = apply().await;
    assert_eq!(again.body["metadata"]["resourceVersion"], applied.body["metadata"]["resourceVersion"]);

    let path = format!("{SECRETS}/a");
    for (kind, patch) in [
        ("merge-patch", json!({"data": {"p": wrapped}})),
        ("strategic-merge-patch", json!({"data": {"p": wrapped}})),
        ("json-patch", json!([{"op": "add", "path": "/data/p", "value": wrapped}])),
    ] {
        let patched = hub.patch(&path, kind, patch).await;
        assert_eq!((patched.code, &patched.body["data"]["p"]), (200, &json!("QUJDREVG")), "{kind}: {}", patched.body);
    }
    let put = hub.call("PUT", &path, json!({"metadata": {"name": "a"}, "data": {"w": wrapped}})).await;
    assert_eq!((put.code, &put.body["data"]), (200, &json!({"w": "QUJDREVG"})), "{}", put.body);
    hub.call("POST", SECRETS, json!({"metadata": {"name": "b"}, "data": {"w": "QUI"}})).await.check(
        400,
        "BadRequest",
        "cannot be handled as a Secret: illegal base64 data at input byte 0",
    );
}

/// As kube-apiserver 1.36 answers them, for one object and for all of them.
#[tokio::test]
async fn options_of_a_deletion_that_are_none_delete_nothing() {
    const TYPE_META: &str =
        r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, json!({"metadata": {"name": "victim"}})).await;
    let one = format!("{CONFIG_MAPS}/victim");
    let unreadable = |why: &str| format!("couldn't get version/kind; json parse error: {why}");
    let no_object =
        |what: &str| unreadable(&format!("json: cannot unmarshal {what} into Go value of type {TYPE_META}"));
    let field = |what: &str, path: &str, of: &str| {
        format!("json: cannot unmarshal {what} into Go struct field {path} of type {of}")
    };
    let scheme = r#"in scheme "pkg/runtime/scheme.go:111""#;
    for (body, expected) in [
        ("[]", no_object("array")),
        ("[{}]", no_object("array")),
        ("1", no_object("number")),
        ("\"x\"", no_object("string")),
        ("true", no_object("bool")),
        ("{", unreadable("unexpected end of JSON input")),
        ("{}x", unreadable("invalid character 'x' after top-level value")),
        ("kind: x", unreadable("invalid character 'k' looking for beginning of value")),
        (r#"{"kind":1}"#, unreadable("json: cannot unmarshal number into Go struct field .kind of type string")),
        (
            r#"{"apiVersion":[]}"#,
            unreadable("json: cannot unmarshal array into Go struct field .apiVersion of type string"),
        ),
        (r#"{"kind":"DeleteOptions","apiVersion":"a/b/c"}"#, "unexpected GroupVersion string: a/b/c".to_owned()),
        (r#"{"kind":"Pod","apiVersion":"v1"}"#, format!(r#"no kind "Pod" is registered for version "v1" {scheme}"#)),
        (
            r#"{"kind":"Status","apiVersion":"v1"}"#,
            "converting (v1.Status) to (v1.DeleteOptions): unknown conversion".to_owned(),
        ),
        (r#"{"preconditions":[]}"#, field("array", "DeleteOptions.preconditions", "v1.Preconditions")),
        (r#"{"preconditions":"x"}"#, field("string", "DeleteOptions.preconditions", "v1.Preconditions")),
        (r#"{"preconditions":{"uid":1}}"#, field("number", "Preconditions.preconditions.uid", "types.UID")),
        (
            r#"{"preconditions":{"resourceVersion":1}}"#,
            field("number", "Preconditions.preconditions.resourceVersion", "string"),
        ),
        (r#"{"gracePeriodSeconds":"1"}"#, field("string", "DeleteOptions.gracePeriodSeconds", "int64")),
        (r#"{"gracePeriodSeconds":1.5}"#, field("number 1.5", "DeleteOptions.gracePeriodSeconds", "int64")),
        (r#"{"orphanDependents":"x"}"#, field("string", "DeleteOptions.orphanDependents", "bool")),
        (r#"{"propagationPolicy":1}"#, field("number", "DeleteOptions.propagationPolicy", "v1.DeletionPropagation")),
        (r#"{"dryRun":"All"}"#, field("string", "DeleteOptions.dryRun", "[]string")),
        (r#"{"dryRun":[1]}"#, field("number", "DeleteOptions.dryRun", "string")),
    ] {
        for path in [one.as_str(), CONFIG_MAPS] {
            let answer = hub.send(&Identity::controllers(), "DELETE", path, "application/json", body).await;
            assert_eq!((answer.code, &answer.body["message"]), (400, &json!(expected)), "{path} {body}");
            assert_eq!(answer.body["reason"], "BadRequest", "{path} {body}");
            assert_eq!(hub.get(&one).await.code, 200, "{path} {body}");
        }
    }
    for body in [
        "null",
        "{}",
        r#"{"preconditions":null}"#,
        r#"{"unknown":1}"#,
        r#"{"kind":"DeleteOptions","apiVersion":"x/v1"}"#,
    ] {
        let answer = hub.send(&Identity::controllers(), "DELETE", &one, "application/json", body).await;
        assert_eq!(answer.code, 200, "{body}: {}", answer.body);
        hub.create(CONFIG_MAPS, json!({"metadata": {"name": "victim"}})).await;
    }
}

#[tokio::test]
async fn an_eviction_whose_options_are_none_evicts_nothing() {
    let hub = Hub::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    hub.create(pods, pod).await;
    for (options, field) in [
        (json!([]), "array into Go struct field Eviction.deleteOptions of type v1.DeleteOptions"),
        (
            json!({"preconditions": []}),
            "array into Go struct field DeleteOptions.deleteOptions.preconditions of type v1.Preconditions",
        ),
    ] {
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": options});
        hub.call("POST", &format!("{pods}/p/eviction"), eviction).await.check(400, "BadRequest", field);
    }
    assert_eq!(hub.get(&format!("{pods}/p")).await.code, 200);
}

#[tokio::test]
async fn a_put_that_names_a_uid_creates_nothing_in_the_place_of_what_had_it() {
    let hub = Hub::start().await;
    let lease = |uid: &str| json!({"metadata": {"name": "l", "uid": uid}, "spec": {}});
    let at = format!("{LEASES}/l");
    let said = |key: &str, held: &str| {
        format!(
            "Operation cannot be fulfilled on leases.coordination.k8s.io \"l\": StorageError: invalid object, Code: 4, \
             Key: {key}/leases/default/l, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, \
             UID in object meta: {held}"
        )
    };
    hub.call("PUT", &at, lease("x")).await.check(409, "Conflict", &said("/registry", ""));
    hub.call("PUT", &format!("{at}?dryRun=All"), lease("x")).await.check(409, "Conflict", &said("", ""));
    let service = json!({"metadata": {"name": "s", "uid": "x"}, "spec": {"ports": [{"port": 1}]}});
    let put = hub.call("PUT", "/api/v1/namespaces/default/services/s", service).await;
    put.check(409, "Conflict", "Key: /registry/services/specs/default/s,");
    let role = json!({"metadata": {"name": "r", "uid": "x"}, "rules": []});
    let put = hub.call("PUT", "/apis/rbac.authorization.k8s.io/v1/clusterroles/r", role).await;
    put.check(409, "Conflict", "Key: /registry/clusterroles/r,");
    assert_eq!(hub.get(&at).await.code, 404);
    let made = hub.call("PUT", &at, lease("")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let uid = made.body["metadata"]["uid"].as_str().expect("it has one").to_owned();
    hub.call("PUT", &at, lease("x")).await.check(409, "Conflict", &said("/registry", &uid));
}
