use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn a_new_object_gets_what_the_server_owns() {
    let hub = Hub::start().await;
    let made = hub.create(CONFIG_MAPS, config_map("a", json!({"x": "y"}), json!({"k": "v"}))).await;
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(!made["metadata"][field].as_str().unwrap().is_empty(), "{field}");
    }
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}/a")).await.body, made);
    let generated = hub.create(CONFIG_MAPS, json!({"metadata": {"generateName": "b-"}})).await;
    let name = generated["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("b-") && name.len() == 7, "{name}");
    assert_eq!((&generated["kind"], &generated["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
}

#[tokio::test]
async fn refusals_are_worded_as_clients_know_them() {
    let hub = Hub::start().await;
    let made = hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    let a = format!("{CONFIG_MAPS}/a");
    let again = hub.call("POST", CONFIG_MAPS, config_map("a", json!({}), json!({}))).await;
    again.check(409, "AlreadyExists", r#"configmaps "a" already exists"#);
    hub.get(&format!("{CONFIG_MAPS}/b")).await.check(404, "NotFound", r#"configmaps "b" not found"#);
    hub.get("/api/v1/nothing").await.check(404, "NotFound", "the server could not find the requested resource");
    hub.call("PUT", CONFIG_MAPS, json!({})).await.check(405, "MethodNotAllowed", "does not allow this method");
    hub.call("PATCH", &a, json!({})).await.check(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    hub.get_as(&a, "text/html").await.check(406, "NotAcceptable", "application/json");
    let nowhere =
        hub.call("POST", "/api/v1/namespaces/nowhere/configmaps", config_map("a", json!({}), json!({}))).await;
    nowhere.check(404, "NotFound", r#"namespaces "nowhere" not found"#);
    hub.call("POST", CONFIG_MAPS, json!({"metadata": {}})).await.check(
        422,
        "Invalid",
        "name or generateName is required",
    );
    hub.call("POST", CONFIG_MAPS, json!({"kind": "Pod", "metadata": {"name": "x"}})).await.check(
        400,
        "BadRequest",
        "Pod",
    );
    let mut stale = made.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    hub.call("PUT", &a, stale).await.check(409, "Conflict", "the object has been modified; please apply your changes");
    let mut other = made.clone();
    other["metadata"]["name"] = json!("c");
    hub.call("PUT", &a, other).await.check(400, "BadRequest", "does not match the name on the URL");
    let mut nameless = made.clone();
    nameless["metadata"]["name"] = Value::Null;
    hub.call("PUT", &a, nameless).await.check(400, "BadRequest", "was undeterminable: name must be provided");
    let same = hub.send(&Identity::controllers(), "PUT", &a, "Application/JSON", &made.to_string()).await;
    assert_eq!(same.code, 200, "{}", same.body);
    let mut other = made;
    other["metadata"]["uid"] = json!("other");
    hub.call("PUT", &a, other).await.check(409, "Conflict", "Precondition failed: UID");
    let admin = Identity::controllers();
    let cbor = hub.send(&admin, "POST", CONFIG_MAPS, "application/cbor", "").await;
    cbor.check(415, "UnsupportedMediaType", "application/json");
    let pod = "k8s\0\n\t\n\u{2}v1\u{12}\u{3}Pod";
    let protobuf = hub.send(&admin, "POST", PODS, "application/vnd.kubernetes.protobuf", pod).await;
    protobuf.check(422, "Invalid", "name or generateName is required");
    let big = "x".repeat(4 * 1024 * 1024);
    hub.call("POST", CONFIG_MAPS, json!(big)).await.check(413, "RequestEntityTooLarge", "limit is 3145728");
    hub.send(&admin, "POST", CONFIG_MAPS, "application/json", "{").await.check(400, "BadRequest", "JSON");
    hub.get(&format!("{CONFIG_MAPS}?fieldSelector=data%3Dx")).await.check(
        400,
        "BadRequest",
        "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
    );
    hub.get(&format!("{CONFIG_MAPS}?labelSelector=a+b")).await.check(
        400,
        "BadRequest",
        "found 'b', expected: in, notin, =, ==, !=, gt, lt",
    );
    for (path, part) in
        [("/api/v2", "could not find"), ("/apis/apps/v9/x", "could not find"), ("/api/v1/pods/x", "find")]
    {
        hub.get(path).await.check(404, "NotFound", part);
    }
    for path in ["/nothing", "/apis/nothing.example", "/apis/nothing.example/v1/things", "/metrics/nothing"] {
        let page = hub.get(path).await;
        assert_eq!((page.code, &page.body), (404, &json!("404 page not found\n")), "{path}");
    }
}

#[tokio::test]
async fn unknown_fields_are_rejected_reported_or_dropped_as_the_client_wants() {
    let hub = Hub::start().await;
    let object = || json!({"metadata": {"name": "a"}, "dta": {"x": "y"}});
    let strict = hub.call("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), object()).await;
    strict.check(400, "BadRequest", r#"strict decoding error: unknown field "dta""#);
    let warned = hub.call("POST", &format!("{CONFIG_MAPS}?dryRun=All"), object()).await;
    assert_eq!((warned.code, warned.warnings.as_slice()), (201, &[r#"299 - "unknown field \"dta\"""#.to_owned()][..]));
    let ignored = hub.call("POST", &format!("{CONFIG_MAPS}?fieldValidation=Ignore"), object()).await;
    assert_eq!((ignored.code, ignored.warnings.len()), (201, 0));
    assert!(ignored.body.get("dta").is_none());
}

#[tokio::test]
async fn fields_that_are_there_twice_are_rejected_reported_or_overwritten_as_the_client_wants() {
    let hub = Hub::start().await;
    let admin = Identity::controllers();
    let send =
        async |method: &str, path: &str, media: &str, text: &str| hub.send(&admin, method, path, media, text).await;
    let json = r#"{"metadata":{"name":"a","labels":{"x":"1","x":"2"}},"data":{"k":"1"},"data":{"k":"2"},"nope":{"y":1,"y":2}}"#;
    let strict = send("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), "application/json", json).await;
    let said =
        r#"strict decoding error: duplicate field "metadata.labels.x", duplicate field "data", unknown field "nope""#;
    strict.check(400, "BadRequest", said);
    let warned = send("POST", &format!("{CONFIG_MAPS}?dryRun=All"), "application/json", json).await;
    let said: Vec<&str> = warned.warnings.iter().map(String::as_str).collect();
    let expected = [
        r#"299 - "duplicate field \"metadata.labels.x\"""#,
        r#"299 - "duplicate field \"data\"""#,
        r#"299 - "unknown field \"nope\"""#,
    ];
    assert_eq!((warned.code, said.as_slice()), (201, &expected[..]));
    let ignored = send("POST", &format!("{CONFIG_MAPS}?fieldValidation=Ignore"), "application/json", json).await;
    assert_eq!((ignored.code, ignored.warnings.len(), &ignored.body["data"]["k"]), (201, 0, &json!("2")));

    let yaml = "metadata:\n  name: b\ndata: {k: '1', k: '2'}\n";
    let strict = send("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), "application/yaml", yaml).await;
    strict.check(
        400,
        "BadRequest",
        "strict decoding error: yaml: unmarshal errors:\n  line 3: key \"k\" already set in map",
    );
    let warned = send("POST", CONFIG_MAPS, "application/yaml", yaml).await;
    assert_eq!((warned.code, &warned.body["data"]["k"]), (201, &json!("2")));
    assert_eq!(warned.warnings, [r#"299 - "line 3: key \"k\" already set in map""#]);

    let a = format!("{CONFIG_MAPS}/a?fieldValidation=Strict");
    let twice = r#"{"data":{"k":"3","k":"4"}}"#;
    let patched = send("PATCH", &a, "application/merge-patch+json", twice).await;
    patched.check(422, "Invalid", r#"strict decoding error: duplicate field "data.k""#);
    let operations = r#"[{"op":"add","op":"add","path":"/data/k","value":"5"}]"#;
    let patched = send("PATCH", &a, "application/json-patch+json", operations).await;
    patched.check(422, "Invalid", r#"strict decoding error: json patch duplicate field "[0].op""#);
    let config = "apiVersion: v1\nkind: ConfigMap\ndata:\n  z: '1'\n  z: '2'\n";
    let applied = send("PATCH", &format!("{a}&fieldManager=m"), "application/apply-patch+yaml", config).await;
    let said = "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"z\" already set in map";
    applied.check(400, "BadRequest", said);
    let applied =
        send("PATCH", &format!("{CONFIG_MAPS}/a?fieldManager=m"), "application/apply-patch+yaml", config).await;
    assert_eq!((applied.code, &applied.body["data"]["z"]), (200, &json!("2")));
    assert_eq!(applied.warnings, [r#"299 - "line 5: key \"z\" already set in map""#]);

    // Of a custom resource everything is read, whether it is known or not.
    hub.create(CRDS, gadget_crd()).await;
    let gadget = r#"{"metadata":{"name":"g"},"spec":{"size":1,"size":2,"nope":{"y":1,"y":2}}}"#;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets?fieldValidation=Strict";
    let strict = send("POST", gadgets, "application/json", gadget).await;
    let said = r#"strict decoding error: duplicate field "spec.size", duplicate field "spec.nope.y", unknown field "spec.nope""#;
    strict.check(400, "BadRequest", said);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing_behind() {
    let hub = Hub::start().await;
    let dry = hub.call("POST", &format!("{CONFIG_MAPS}?dryRun=All"), config_map("a", json!({}), json!({}))).await;
    assert_eq!(dry.code, 201);
    assert!(dry.body["metadata"].get("resourceVersion").is_none());
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    let made = hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({"k": "1"}))).await;
    let a = format!("{CONFIG_MAPS}/a?dryRun=All");
    assert_eq!(hub.patch(&a, "merge-patch", json!({"data": {"k": "2"}})).await.body["data"]["k"], "2");
    assert_eq!(hub.call("DELETE", &a, Value::Null).await.code, 200);
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}/a")).await.body, made);
}

#[tokio::test]
async fn three_patch_languages_change_an_object() {
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, config_map("a", json!({"x": "1"}), json!({"k": "1", "old": "1"}))).await;
    let a = format!("{CONFIG_MAPS}/a");
    let merged = hub.patch(&a, "merge-patch", json!({"data": {"k": "2", "old": null}})).await;
    assert_eq!(merged.body["data"], json!({"k": "2"}));
    let json_patched = hub.patch(&a, "json-patch", json!([{"op": "replace", "path": "/data/k", "value": "3"}])).await;
    assert_eq!(json_patched.body["data"], json!({"k": "3"}));
    let strategic = hub.patch(&a, "strategic-merge-patch", json!({"metadata": {"labels": {"y": "2"}}})).await;
    assert_eq!(strategic.body["metadata"]["labels"], json!({"x": "1", "y": "2"}));
    let same = hub.patch(&a, "strategic-merge-patch", json!({"metadata": {"labels": {"y": "2"}}})).await;
    assert_eq!(same.body, strategic.body, "a patch that changes nothing spends no revision");
    let test = json!([{"op": "test", "path": "/data/k", "value": "9"}]);
    hub.patch(&a, "json-patch", test).await.check(422, "Invalid", "rejected our request due to an error");
    let renamed = hub.patch(&a, "merge-patch", json!({"metadata": {"name": "b"}})).await;
    renamed.check(400, "BadRequest", "does not match the name on the URL");
    let stale = json!({"metadata": {"resourceVersion": "1"}});
    hub.patch(&a, "merge-patch", stale).await.check(409, "Conflict", "has been modified");
}

#[tokio::test]
async fn two_managers_apply_and_each_keeps_its_own() {
    let hub = Hub::start().await;
    let admin = Identity::controllers();
    let apply = async |manager: &str, query: &str, config: &str| {
        let path = format!("{CONFIG_MAPS}/a?fieldManager={manager}{query}");
        hub.send(&admin, "PATCH", &path, "application/apply-patch+yaml", config).await
    };
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let created = apply("one", "", &format!("{head}data: {{x: '1', y: '1'}}")).await;
    assert_eq!((created.code, &created.body["data"]), (201, &json!({"x": "1", "y": "1"})));
    let joined = apply("two", "", &format!("{head}data: {{x: '1', z: '2'}}")).await;
    assert_eq!(joined.body["data"], json!({"x": "1", "y": "1", "z": "2"}));
    let conflict = apply("two", "", &format!("{head}data: {{x: '2'}}")).await;
    conflict.check(409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    assert_eq!(conflict.body["details"]["causes"][0]["field"], ".data.x");
    // What one no longer names stays while the other does, and what nobody names leaves.
    let left = apply("one", "", &format!("{head}data: {{}}")).await;
    assert_eq!(left.body["data"], json!({"x": "1", "z": "2"}));
    let again = apply("one", "", &format!("{head}data: {{}}")).await;
    assert_eq!(again.body, left.body, "an apply that changes nothing spends no revision");
    let forced = apply("one", "&force=true", &format!("{head}data: {{z: '3'}}")).await;
    assert_eq!(forced.body["data"], json!({"x": "1", "z": "3"}));
    let entries = forced.body["metadata"]["managedFields"].as_array().unwrap();
    let owned =
        |manager: &str| &entries.iter().find(|entry| entry["manager"] == manager).unwrap()["fieldsV1"]["f:data"];
    assert_eq!((owned("one"), owned("two")), (&json!({"f:z": {}}), &json!({"f:x": {}})));
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}/a")).await.body, forced.body);
    assert_eq!(hub.get(CONFIG_MAPS).await.body["items"][0]["metadata"], forced.body["metadata"]);
    // Who asks for no owners gets none, in both ways of saying so; who says nothing of them changes none.
    let path = format!("{CONFIG_MAPS}/a");
    for (fields, are_kept) in [(json!(null), true), (json!([]), false), (json!([{}]), false)] {
        apply("one", "&force=true", &format!("{head}data: {{z: '3'}}")).await;
        let reset = hub.patch(&path, "merge-patch", json!({"metadata": {"managedFields": fields}})).await;
        assert_eq!(reset.body["metadata"]["managedFields"].is_array(), are_kept, "{}", reset.body);
    }
}

#[tokio::test]
async fn lists_are_selected_and_paged_at_one_moment() {
    let hub = Hub::start().await;
    for number in 0..7 {
        let labels = json!({"parity": if number % 2 == 0 { "even" } else { "odd" }});
        hub.create(CONFIG_MAPS, config_map(&format!("c{number}"), labels, json!({}))).await;
    }
    let other = config_map("c0", json!({}), json!({}));
    hub.create("/api/v1/namespaces/kube-system/configmaps", other).await;
    assert_eq!(hub.get("/api/v1/configmaps").await.names().len(), 8);
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}?labelSelector=parity%3Dodd")).await.names(), ["c1", "c3", "c5"]);
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc4")).await.names(), ["c4"]);

    let first = hub.get(&format!("{CONFIG_MAPS}?limit=3")).await;
    assert_eq!(first.names(), ["c0", "c1", "c2"]);
    assert_eq!(first.body["metadata"]["remainingItemCount"], 4);
    assert_eq!(first.body["kind"], "ConfigMapList");
    hub.call("DELETE", &format!("{CONFIG_MAPS}/c4"), Value::Null).await;
    let token = first.body["metadata"]["continue"].as_str().unwrap();
    let second = hub.get(&format!("{CONFIG_MAPS}?limit=9&continue={token}")).await;
    assert_eq!(second.names(), ["c3", "c4", "c5", "c6"], "the list is still that of the first page");
    assert_eq!(second.body["metadata"]["resourceVersion"], first.body["metadata"]["resourceVersion"]);
    assert!(second.body["metadata"].get("continue").is_none());

    let odd = hub.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=parity%3Dodd")).await;
    assert_eq!(odd.names(), ["c1", "c3"]);
    let token = odd.body["metadata"]["continue"].as_str().unwrap();
    let rest = hub.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=parity%3Dodd&continue={token}")).await;
    assert_eq!(rest.names(), ["c5"]);
    // One object of then, by its name; a token that was not given for it does no harm.
    let then = first.body["metadata"]["resourceVersion"].as_str().unwrap();
    let named = format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3D");
    let exact = format!("resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(hub.get(&format!("{named}c4&{exact}")).await.names(), ["c4"]);
    assert_eq!(hub.get(&format!("{named}c5&limit=1&continue={token}")).await.names(), ["c5"]);
    assert!(hub.get(&format!("{named}c1&continue={token}")).await.names().is_empty());
    assert!(hub.get(&format!("{named}c4")).await.names().is_empty());
    hub.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.check(400, "BadRequest", "continue key");
    let future = hub.get(&format!("{CONFIG_MAPS}?resourceVersion=999999999&resourceVersionMatch=NotOlderThan")).await;
    future.check(504, "Timeout", "Too large resource version");
}

#[tokio::test]
async fn a_list_whose_revision_is_forgotten_continues_at_a_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let store_dir = dir.path().join("short");
    std::fs::create_dir(&store_dir).unwrap();
    let hub = Hub::open_with(dir, |config| {
        let options = StoreOptions { window_changes_max: 2, ..super::store_options() };
        config.store = Store::open(&store_dir, options).unwrap();
    });
    for namespace in ["default", "other"] {
        hub.create("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await;
    }
    let (one, all) = ("/api/v1/namespaces/default/configmaps", "/api/v1/configmaps");
    for name in ["c0", "c1", "c2", "c3"] {
        hub.create(one, config_map(name, json!({"some": "label"}), json!({}))).await;
    }
    let mut begun = Vec::new();
    for query in [format!("{one}?limit=2"), format!("{all}?limit=2"), format!("{all}?limit=2&labelSelector=some")] {
        begun.push((hub.get(&query).await.body["metadata"]["continue"].as_str().unwrap().to_owned(), query));
    }
    hub.call("DELETE", &format!("{one}/c2"), Value::Null).await;
    for name in ["c4", "c5", "a0"] {
        hub.create(one, config_map(name, json!({"some": "label"}), json!({}))).await;
    }
    for (token, query) in begun {
        let expired = hub.get(&format!("{query}&continue={token}")).await;
        expired.check(410, "Expired", "use the continue token in this response to retrieve the remainder");
        let token = expired.body["metadata"]["continue"].as_str().unwrap();
        let second = hub.get(&format!("{query}&continue={token}")).await;
        assert_eq!(second.names(), ["c3", "c4"], "{query}: from the same place, as it is now");
        let (metadata, now) = (&second.body["metadata"], hub.get(all).await);
        assert_eq!(metadata["resourceVersion"], now.body["metadata"]["resourceVersion"]);
        let token = metadata["continue"].as_str().unwrap();
        assert_eq!(hub.get(&format!("{query}&continue={token}")).await.names(), ["c5"]);
    }
    // A list that is not continued has nothing to continue with.
    let path = format!("{one}?resourceVersion=1&resourceVersionMatch=Exact&limit=2");
    let expired = hub.get(&path).await;
    expired.check(410, "Expired", "The resourceVersion for the provided list is too old");
    assert_eq!(expired.body["metadata"], json!({}));
}

#[tokio::test]
async fn tables_and_metadata_are_given_on_request() {
    let hub = Hub::start().await;
    hub.create(CONFIG_MAPS, config_map("a", json!({}), json!({"k": "v"}))).await;
    let table = hub.get_as(CONFIG_MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!(table.body["kind"], "Table");
    assert_eq!(table.body["rows"][0]["cells"][0], "a");
    assert!(!table.body["metadata"]["resourceVersion"].as_str().unwrap().is_empty());
    let one = hub.get_as(&format!("{CONFIG_MAPS}/a"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!(one.body["rows"].as_array().unwrap().len(), 1);
    let partial = hub.get_as(CONFIG_MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(partial.body["kind"], "PartialObjectMetadataList");
    assert_eq!(partial.names(), ["a"]);
    assert!(partial.body["items"][0].get("data").is_none());
}

#[tokio::test]
async fn a_pod_on_a_node_stays_until_its_kubelet_lets_it_go() {
    let hub = Hub::start().await;
    hub.create(PODS, pod("web", "gw-1")).await;
    let web = format!("{PODS}/web");
    let going = hub.call("DELETE", &web, json!({"gracePeriodSeconds": 20})).await;
    assert_eq!(going.body["metadata"]["deletionGracePeriodSeconds"], 20);
    let longer = hub.call("DELETE", &web, json!({"gracePeriodSeconds": 25})).await;
    assert_eq!(longer.body, going.body, "a second delete does not lengthen the time");
    let shorter = hub.call("DELETE", &format!("{web}?gracePeriodSeconds=5"), Value::Null).await;
    assert_eq!(shorter.body["metadata"]["deletionGracePeriodSeconds"], 5);
    let wrong = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "other"}});
    hub.call("DELETE", &web, wrong).await.check(409, "Conflict", "the UID in the precondition (other) does not match");
    let deleted = hub.call("DELETE", &web, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((deleted.code, &deleted.body["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(0)));
    assert_eq!(hub.get(&web).await.code, 404);
    hub.create(PODS, pod("unbound", "")).await;
    hub.call("DELETE", &format!("{PODS}/unbound"), Value::Null).await;
    assert_eq!(hub.get(&format!("{PODS}/unbound")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_deletes_a_pod_is_not_at_fault_when_its_node_removes_it_first() {
    let hub = Hub::start().await;
    let at_once = || json!({"gracePeriodSeconds": 0});
    for round in 0..50 {
        let mut pods = hub.watch(&format!("{PODS}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3Dweb")).await;
        hub.create(PODS, pod("web", "edge-1")).await;
        let path = format!("{PODS}/web");
        let node = async {
            // As soon as the mark is seen, as a kubelet does whose containers have ended.
            while let Some(event) = pods.next().await {
                if event["object"]["metadata"]["deletionTimestamp"].is_string() {
                    return hub.call("DELETE", &path, at_once()).await.code;
                }
            }
            0
        };
        let (person, node) = tokio::join!(hub.call("DELETE", &path, at_once()), node);
        assert_eq!(
            (person.code, &person.body["metadata"]["name"]),
            (200, &json!("web")),
            "round {round}: {}",
            person.body
        );
        assert!(node == 200 || node == 404, "round {round}: {node}");
    }
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_one_goes() {
    let hub = Hub::start().await;
    let mut object = config_map("a", json!({}), json!({}));
    object["metadata"]["finalizers"] = json!(["example.org/hold"]);
    hub.create(CONFIG_MAPS, object).await;
    let a = format!("{CONFIG_MAPS}/a");
    let waiting = hub.call("DELETE", &a, Value::Null).await;
    assert!(waiting.body["metadata"]["deletionTimestamp"].is_string(), "{}", waiting.body);
    assert_eq!(hub.get(&a).await.code, 200);
    let freed = hub.patch(&a, "merge-patch", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200);
    assert_eq!(hub.get(&a).await.code, 404);
}

#[tokio::test]
async fn a_namespace_terminates_takes_nothing_new_and_goes_when_it_is_finalized() {
    let hub = Hub::start().await;
    hub.create("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
    let team = hub.call("DELETE", "/api/v1/namespaces/team", Value::Null).await;
    assert_eq!(team.body["status"]["phase"], "Terminating");
    let refused = hub.call("POST", "/api/v1/namespaces/team/configmaps", config_map("a", json!({}), json!({}))).await;
    refused.check(403, "Forbidden", "because it is being terminated");
    let mut finalized = hub.get("/api/v1/namespaces/team").await.body;
    finalized["spec"]["finalizers"] = json!([]);
    assert_eq!(hub.call("PUT", "/api/v1/namespaces/team/finalize", finalized).await.code, 200);
    assert_eq!(hub.get("/api/v1/namespaces/team").await.code, 404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let hub = Hub::start().await;
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        hub.create(CONFIG_MAPS, config_map(name, json!({"app": app}), json!({}))).await;
    }
    let deleted = hub.call("DELETE", &format!("{CONFIG_MAPS}?labelSelector=app%3Dx"), Value::Null).await;
    assert_eq!(deleted.names(), ["a", "b"]);
    assert_eq!(hub.get(CONFIG_MAPS).await.names(), ["c"]);
}

#[tokio::test]
async fn orphans_keep_living_without_their_owner() {
    let hub = Hub::start().await;
    let owner = hub.create(CONFIG_MAPS, config_map("owner", json!({}), json!({}))).await;
    let mut child = config_map("child", json!({}), json!({}));
    child["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    hub.create(CONFIG_MAPS, child).await;
    hub.call("DELETE", &format!("{CONFIG_MAPS}/owner"), json!({"propagationPolicy": "Orphan"})).await;
    let child = hub.get(&format!("{CONFIG_MAPS}/child")).await.body;
    assert_eq!(child["metadata"]["ownerReferences"].as_array().map(Vec::len).unwrap_or(0), 0);
}

#[tokio::test]
async fn a_deletion_sets_the_finalizer_of_its_propagation_where_somebody_serves_it() {
    const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let hub = Hub::start().await;
    let held = |finalizers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1, "data": {},
            "metadata": {"name": "r", "finalizers": finalizers}})
    };
    let path = format!("{REVISIONS}/r");
    let orphan = json!(["orphan"]);
    for (before, options, query, code, after) in [
        (json!([]), json!({"propagationPolicy": "Orphan"}), "", 200, &orphan),
        (json!([]), json!({"orphanDependents": true}), "", 200, &orphan),
        (json!([]), Value::Null, "?propagationPolicy=Orphan", 200, &orphan),
        (json!([]), Value::Null, "?orphanDependents=true", 200, &orphan),
        (json!([]), json!({"propagationPolicy": "Foreground"}), "", 200, &json!(["foregroundDeletion"])),
        (
            json!(["a.example.com/b"]),
            json!({"propagationPolicy": "Orphan"}),
            "",
            200,
            &json!(["a.example.com/b", "orphan"]),
        ),
        (json!(["foregroundDeletion"]), json!({"propagationPolicy": "Orphan"}), "", 200, &orphan),
        // Without a word of the client's the object's own finalizers say it.
        (json!(["orphan"]), json!({"gracePeriodSeconds": 0}), "", 200, &orphan),
        (json!(["orphan"]), json!({"propagationPolicy": "Background"}), "", 200, &Value::Null),
        (json!(["a.example.com/b"]), json!({"orphanDependents": false}), "", 202, &json!(["a.example.com/b"])),
        (json!([]), json!({"propagationPolicy": "Background"}), "", 200, &Value::Null),
        (json!([]), Value::Null, "", 200, &Value::Null),
    ] {
        hub.create(REVISIONS, held(before.clone())).await;
        let answer = hub.call("DELETE", &format!("{path}{query}"), options.clone()).await;
        assert_eq!((answer.code, &answer.warnings[..]), (code, &[][..]), "{options}{query}");
        let left = hub.get(&path).await;
        if after.is_null() {
            assert_eq!(left.code, 404, "{before} {options}: nothing holds it");
            continue;
        }
        let metadata = &left.body["metadata"];
        assert_eq!(&metadata["finalizers"], after, "{before} {options}{query}");
        assert!(metadata["deletionTimestamp"].is_string() && metadata["deletionGracePeriodSeconds"] == 0);
        // Whoever serves it takes it away, and with the last one the object.
        let served = hub.patch(&path, "merge-patch", json!({"metadata": {"finalizers": []}})).await;
        assert_eq!((served.code, hub.get(&path).await.code), (200, 404));
    }
    hub.create(REVISIONS, held(json!([]))).await;
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    hub.call("DELETE", &path, both).await.check(422, "Invalid", "cannot be both set");
    // One may think better of it while it waits.
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        hub.call("DELETE", &path, json!({"propagationPolicy": policy})).await;
        assert_eq!(hub.get(&path).await.body["metadata"]["finalizers"], json!([finalizer]));
    }
    // Of a kind that nobody serves none is set, and the client learns that.
    hub.create(CONFIG_MAPS, config_map("m", json!({}), json!({}))).await;
    let answer = hub.call("DELETE", &format!("{CONFIG_MAPS}/m"), json!({"propagationPolicy": "Foreground"})).await;
    assert!(answer.warnings[0].contains("foreground deletion is not served for ConfigMap"), "{:?}", answer.warnings);
    assert_eq!(hub.get(&format!("{CONFIG_MAPS}/m")).await.code, 404);
}

pub(super) fn gadget_crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "listKind": "GadgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["size"], "properties": {
                        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}},
                    "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}}}],
        },
    })
}

#[tokio::test]
async fn a_definition_brings_a_resource_that_survives_a_restart_and_goes_with_it() {
    let hub = Hub::start().await;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    assert_eq!(hub.get(gadgets).await.code, 404);
    let made = hub.create(CRDS, gadget_crd()).await;
    assert_eq!(made["status"]["conditions"], Value::Null, "the answer is what was written first");
    let settled = hub.get(&format!("{CRDS}/gadgets.example.org")).await.body;
    let conditions = settled["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["status"] == "True") && conditions.len() == 2);
    let gadget = hub.create(gadgets, json!({"metadata": {"name": "a"}, "spec": {"size": 3}})).await;
    assert_eq!((&gadget["spec"]["color"], &gadget["metadata"]["generation"]), (&json!("red"), &json!(1)));
    let wrong = hub.call("POST", gadgets, json!({"metadata": {"name": "b"}, "spec": {"size": 0}})).await;
    wrong.check(422, "Invalid", "spec.size");

    let hub = hub.restart();
    let a = format!("{gadgets}/a");
    let status =
        hub.patch(&format!("{a}/status"), "merge-patch", json!({"spec": {"size": 9}, "status": {"ready": true}})).await;
    assert_eq!((&status.body["spec"]["size"], &status.body["status"]["ready"]), (&json!(3), &json!(true)));
    assert_eq!(status.body["metadata"]["generation"], 1);
    let grown = hub.patch(&a, "merge-patch", json!({"spec": {"size": 4}, "status": {"ready": false}})).await;
    assert_eq!((&grown.body["metadata"]["generation"], &grown.body["status"]["ready"]), (&json!(2), &json!(true)));
    let strategic = hub.patch(&a, "strategic-merge-patch", json!({})).await;
    strategic.check(415, "UnsupportedMediaType", "application/merge-patch+json");

    assert_eq!(hub.call("DELETE", &format!("{CRDS}/gadgets.example.org"), Value::Null).await.code, 200);
    assert_eq!(hub.get(gadgets).await.code, 404);
    hub.create(CRDS, gadget_crd()).await;
    assert!(hub.get(gadgets).await.names().is_empty(), "the objects went with the definition");
}

#[tokio::test]
async fn a_number_that_no_float_holds_is_named() {
    let hub = Hub::start().await;
    hub.create(CRDS, gadget_crd()).await;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    let body = r#"{"metadata":{"name":"a1e999","labels":{"x":"\"1e999"}},"spec":{"size":1e400,"color":true}}"#;
    let answer = hub.send(&Identity::controllers(), "POST", gadgets, "application/json", body).await;
    let said = r#"Gadget in version "v1" cannot be handled as a Gadget: json: cannot unmarshal number 1e400 into Go value of type float64"#;
    answer.check(400, "BadRequest", said);
}

#[tokio::test]
async fn a_dry_run_under_a_changed_definition_has_no_revision() {
    let hub = Hub::start().await;
    hub.create(CRDS, gadget_crd()).await;
    let mut versions = gadget_crd()["spec"]["versions"].clone();
    versions[0]["schema"]["openAPIV3Schema"]["description"] = json!("Another.");
    let definition = format!("{CRDS}/gadgets.example.org");
    let changed = hub.patch(&definition, "merge-patch", json!({"spec": {"versions": versions}})).await;
    assert_eq!(changed.body["metadata"]["generation"], 2);
    let gadget = || json!({"metadata": {"name": "a"}, "spec": {"size": 3}});
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    let dry = hub.call("POST", &format!("{gadgets}?dryRun=All"), gadget()).await;
    assert_eq!((dry.code, dry.body["metadata"].get("resourceVersion")), (201, None));
    assert!(hub.create(gadgets, gadget()).await["metadata"]["resourceVersion"].is_string());
}

#[tokio::test]
async fn a_custom_object_is_scaled_and_whoever_scales_owns_the_number() {
    let hub = Hub::start().await;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    let mut crd = gadget_crd();
    crd["spec"]["versions"][0]["subresources"]["scale"] =
        json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"});
    hub.create(CRDS, crd).await;
    hub.create(gadgets, json!({"metadata": {"name": "a"}, "spec": {"size": 3}})).await;
    let scale = format!("{gadgets}/a/scale");
    let shown = hub.get(&scale).await.body;
    assert_eq!((&shown["kind"], &shown["spec"]), (&json!("Scale"), &json!({"replicas": 3})));
    let admin = Identity::controllers();
    let apply = async |manager: &str, query: &str, replicas: u8| {
        let path = format!("{scale}?fieldManager={manager}{query}");
        let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"},
            "spec": {"replicas": replicas}});
        hub.send(&admin, "PATCH", &path, "application/apply-patch+yaml", &config.to_string()).await
    };
    apply("one", "", 4).await.check(409, "Conflict", "Apply failed with 1 conflict: conflict with \"unknown\" using");
    assert_eq!(apply("one", "&force=true", 4).await.body["spec"], json!({"replicas": 4}));
    let taken = apply("two", "", 5).await;
    taken.check(409, "Conflict", "conflict with \"one\" with subresource \"scale\": .spec.replicas");
    let object = hub.get(&format!("{gadgets}/a")).await.body;
    assert_eq!((&object["spec"]["size"], &object["metadata"]["generation"]), (&json!(4), &json!(2)));
    let owner = &object["metadata"]["managedFields"][0];
    assert_eq!((&owner["manager"], &owner["subresource"]), (&json!("one"), &json!("scale")));
    assert_eq!(owner["fieldsV1"], json!({"f:spec": {"f:size": {}}}));
    apply("one", "", 0).await.check(422, "Invalid", "spec.size in body should be greater than or equal to 1");
}

#[tokio::test]
async fn a_definition_that_was_held_by_a_finalizer_takes_its_resource_along() {
    let hub = Hub::start().await;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    let mut held = gadget_crd();
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    hub.create(CRDS, held).await;
    hub.create(gadgets, json!({"metadata": {"name": "a"}, "spec": {"size": 3}})).await;
    let definition = format!("{CRDS}/gadgets.example.org");
    hub.call("DELETE", &definition, Value::Null).await;
    assert!(hub.get(gadgets).await.names().is_empty(), "its objects go at once");
    let refused = hub.call("POST", gadgets, json!({"metadata": {"name": "b"}, "spec": {"size": 3}})).await;
    refused.check(403, "Forbidden", "create not allowed while custom resource definition is terminating");
    let freed = hub.patch(&definition, "merge-patch", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200, "{}", freed.body);
    assert_eq!((hub.get(&definition).await.code, hub.get(gadgets).await.code), (404, 404));
    hub.create(CRDS, gadget_crd()).await;
    assert!(hub.get(gadgets).await.names().is_empty(), "the objects went with the definition");
}

#[tokio::test]
async fn an_object_with_a_finalizer_holds_its_definition() {
    let hub = Hub::start().await;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    hub.create(CRDS, gadget_crd()).await;
    let held = json!({"metadata": {"name": "a", "finalizers": ["example.org/hold"]}, "spec": {"size": 3}});
    hub.create(gadgets, held).await;
    let definition = format!("{CRDS}/gadgets.example.org");
    let answer = hub.call("DELETE", &definition, Value::Null).await;
    assert_eq!(answer.body["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let waiting = hub.get(&format!("{gadgets}/a")).await;
    assert!(waiting.body["metadata"]["deletionTimestamp"].is_string(), "{}", waiting.body);
    hub.patch(&format!("{gadgets}/a"), "merge-patch", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!((hub.get(&definition).await.code, hub.get(gadgets).await.code), (404, 404));
}

#[tokio::test]
async fn no_object_outlives_its_definition_unseen() {
    let hub = Hub::start().await;
    let gadgets = "/apis/example.org/v1/namespaces/default/gadgets";
    let definition = format!("{CRDS}/gadgets.example.org");
    for round in 0..10 {
        hub.create(CRDS, gadget_crd()).await;
        let creates = futures::future::join_all((0..20).map(|number| {
            let gadget = json!({"metadata": {"name": format!("g{number}")}, "spec": {"size": 1}});
            hub.call("POST", gadgets, gadget)
        }));
        let delete = hub.call("DELETE", &definition, Value::Null);
        let (created, deleted) = futures::future::join(creates, delete).await;
        assert_eq!(deleted.code, 200, "{}", deleted.body);
        for answer in created {
            assert!(matches!(answer.code, 201 | 404), "{}", answer.body);
        }
        let left = hub.server.0.store.range("example.org/gadgets", None, None, None, None).unwrap().items.len();
        assert_eq!(left, 0, "round {round}");
    }
}

#[tokio::test]
async fn a_definition_that_makes_no_sense_is_refused_whole() {
    let hub = Hub::start().await;
    let mut crd = gadget_crd();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({"type": "strange"});
    let refused = hub.call("POST", CRDS, crd).await;
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")), "{}", refused.body);
    assert_eq!(hub.get("/apis/example.org/v1").await.code, 404);
}

#[tokio::test]
async fn what_is_served_is_shown() {
    let hub = Hub::start().await;
    let version = hub.get("/version").await.body;
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    assert_eq!(hub.get("/readyz").await.body, "ok");
    assert!(hub.get("/livez?verbose").await.body.as_str().unwrap().contains("livez check passed"));
    assert_eq!(hub.get("/api").await.body["kind"], "APIVersions");
    assert_eq!(hub.get("/apis").await.body["kind"], "APIGroupList");
    assert_eq!(hub.get("/api/v1").await.body["kind"], "APIResourceList");
    let aggregated = hub.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await;
    assert_eq!(aggregated.body["kind"], "APIGroupDiscoveryList");
    let index = hub.get("/openapi/v3").await.body;
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(hub.get(url).await.body["openapi"], "3.0.0");
}

/// A group that is computed.
struct Figures;

impl crate::Extension for Figures {
    fn prefix(&self) -> &'static str {
        "/apis/figures.example"
    }

    fn api_group(&self) -> Option<crate::ExtensionGroup> {
        const RESOURCES: &[crate::ExtensionResource] = &[
            crate::ExtensionResource { plural: "nodes", kind: "NodeFigures", is_namespaced: false },
            crate::ExtensionResource { plural: "pods", kind: "PodFigures", is_namespaced: true },
        ];
        Some(crate::ExtensionGroup { group: "figures.example", version: "v1", resources: RESOURCES })
    }

    fn call<'a>(
        &'a self,
        request: Request<crate::RequestBody>,
        _: &'a Identity,
    ) -> futures::future::BoxFuture<'a, Response<Body>> {
        Box::pin(async move { Response::new(Body::from(json!(request.uri().path()).to_string())) })
    }
}

#[tokio::test]
async fn a_group_that_is_computed_is_found_and_read_as_any_other() {
    let hub = Hub::open_with(tempfile::tempdir().unwrap(), |config| config.extensions.push(Arc::new(Figures)));
    let named = |list: &Value, field: &str| {
        let entries = list.as_array().unwrap().iter();
        entries.filter(|entry| entry.pointer(field).is_some_and(|name| name == "figures.example")).count()
    };
    assert_eq!(named(&hub.get("/apis").await.body["groups"], "/name"), 1);
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert_eq!(named(&hub.get_as("/apis", aggregated).await.body["items"], "/metadata/name"), 1);
    assert_eq!(named(&hub.get_as("/api", aggregated).await.body["items"], "/metadata/name"), 0);
    let group = hub.get("/apis/figures.example").await.body;
    assert_eq!(
        (&group["kind"], &group["preferredVersion"]["groupVersion"]),
        (&json!("APIGroup"), &json!("figures.example/v1"))
    );
    let resources = hub.get("/apis/figures.example/v1").await.body;
    assert_eq!((&resources["kind"], &resources["resources"][1]["name"]), (&json!("APIResourceList"), &json!("pods")));
    assert_eq!(hub.get("/apis/figures.example/v1/nodes/a").await.body, "/apis/figures.example/v1/nodes/a");
    // Who may is asked of the resource, not of the path.
    let node = Identity::new("system:node:a", [crate::GROUP_NODES]);
    for (path, code) in [("nodes/a", 200), ("namespaces/d/pods", 403)] {
        let path = format!("/apis/figures.example/v1/{path}");
        assert_eq!(hub.send(&node, "GET", &path, "application/json", "").await.code, code, "{path}");
    }
}

#[tokio::test]
async fn events_go_an_hour_after_they_were_last_seen() {
    let hub = Hub::start().await;
    let events = "/api/v1/namespaces/default/events";
    let after = |seconds| jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
    for (name, last_seen) in [("once", after(0)), ("again", after(1800)), ("clock-ahead", after(1 << 30))] {
        let object = json!({"kind": "Pod", "name": "web", "namespace": "default"});
        let event =
            json!({"metadata": {"name": name}, "involvedObject": object, "lastTimestamp": last_seen.to_string()});
        hub.create(events, event).await;
    }
    for (seconds, left) in [(3500, &["again", "clock-ahead", "once"][..]), (3700, &["again"]), (5500, &[])] {
        hub.server.expire_events(after(seconds)).await.unwrap();
        assert_eq!(hub.get(events).await.names(), left, "{seconds} s later");
    }
}

#[tokio::test]
async fn the_parts_of_a_control_plane_answer_without_being_stored() {
    let hub = Hub::start().await;
    let list = hub.get("/api/v1/componentstatuses").await.body;
    assert_eq!(list["metadata"], json!({}));
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["scheduler", "controller-manager", "etcd-0"]);
    let store = hub.get("/api/v1/componentstatuses/etcd-0").await.body;
    assert_eq!(store["conditions"], json!([{"type": "Healthy", "status": "True", "message": "ok"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_clients_read_and_watch_in_protobuf() {
    use machinery_schema::{protobuf, types::Type};

    const ACCEPT: &str = "application/vnd.kubernetes.protobuf,application/json";
    let hub = Hub::start().await;
    let object = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let created = hub.create("/api/v1/namespaces/default/configmaps", object).await;
    let read = async |path: &str, accept: &str| {
        let request = Request::get(path).header("accept", accept).body(String::new()).unwrap();
        let response = hub.raw(Some(&Identity::controllers()), request).await;
        let media = response.headers()["content-type"].to_str().unwrap().to_owned();
        (response.status().as_u16(), media, response.into_body().collect().await.unwrap().to_bytes())
    };
    let message = |bytes: &[u8], kind: &str| {
        let envelope = protobuf::open(bytes).unwrap();
        assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", kind));
        let of = Type::of_kind("", "v1", kind);
        let of = of.unwrap_or_else(|| Type::named("io.k8s.apimachinery.pkg.apis.meta.v1.Status").unwrap());
        let mut object = Value::Object(protobuf::decode(of, envelope.raw, 1000).unwrap());
        machinery_schema::decode::decode(of, &mut object).unwrap();
        object
    };
    let (code, media, bytes) = read("/api/v1/namespaces/default/configmaps/a", ACCEPT).await;
    assert_eq!((code, media.as_str()), (200, "application/vnd.kubernetes.protobuf"));
    assert_eq!(message(&bytes, "ConfigMap")["data"], created["data"]);
    let (_, _, bytes) = read("/api/v1/namespaces/default/configmaps", ACCEPT).await;
    let list = message(&bytes, "ConfigMapList");
    assert_eq!(list["items"][0]["metadata"]["uid"], created["metadata"]["uid"]);
    let (code, _, bytes) = read("/api/v1/namespaces/default/configmaps/absent", ACCEPT).await;
    assert_eq!((code, &message(&bytes, "Status")["reason"]), (404, &json!("NotFound")));

    let path = "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1";
    let (_, media, bytes) = read(path, "application/vnd.kubernetes.protobuf;stream=watch").await;
    assert_eq!(media, "application/vnd.kubernetes.protobuf;stream=watch");
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    let of = Type::named("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent").unwrap();
    assert!(bytes.len() >= 4 + length);
    assert!(bytes[4..4 + length].starts_with(b"\x0a\x05ADDED\x12"), "{of:?}");

    // What has no message is JSON, if the client takes that.
    let (_, media, _) = read("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", ACCEPT).await;
    assert_eq!(media, "application/vnd.kubernetes.protobuf");
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, media, _) = read("/api/v1/namespaces/default/configmaps", table).await;
    assert_eq!(media, "application/json");
}

/// Whoever applies a null says that the field is theirs and null; who creates or updates with one says nothing.
#[tokio::test]
async fn a_null_that_is_applied_is_rejected_where_none_is_allowed() {
    let hub = Hub::start().await;
    let fields = json!({
        "c": {"type": "string"}, "d": {"type": "string", "default": "dd"}, "n": {"type": "string", "nullable": true},
    });
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}});
    let definition = json!({
        "metadata": {"name": "lamps.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    hub.create(CRDS, definition).await;
    let lamps = "/apis/example.com/v1/namespaces/default/lamps";
    let apply = async |name: &str, spec: &str| {
        let path = format!("{lamps}/{name}?fieldManager=m");
        let config = format!("apiVersion: example.com/v1\nkind: Lamp\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n");
        hub.send(&Identity::controllers(), "PATCH", &path, "application/apply-patch+yaml", &config).await
    };
    let refusal = "spec.c in body must be of type string: \"null\"";
    apply("a", "c: null").await.check(422, "Invalid", refusal);
    let made = apply("a", "c: x, d: null, n: null").await;
    assert_eq!((made.code, &made.body["spec"]), (201, &json!({"c": "x", "d": "dd", "n": null})), "{}", made.body);
    apply("a", "c: null").await.check(422, "Invalid", refusal);
    let config =
        json!({"apiVersion": "example.com/v1", "kind": "Lamp", "metadata": {"name": "b"}, "spec": {"c": null}});
    assert_eq!(hub.create(lamps, config).await["spec"], json!({"d": "dd"}));
}

#[tokio::test]
async fn a_schema_of_fifty_levels_is_taken_and_what_nests_deeper_is_named() {
    let hub = Hub::start().await;
    let definition = |plural: &str, levels: usize| {
        let schema = (0..levels)
            .fold(json!({"type": "object"}), |schema, _| json!({"type": "object", "properties": {"a": schema}}));
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.example.com")},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": plural, "singular": plural, "kind": plural.to_uppercase()},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        })
    };
    hub.create(CRDS, definition("deep", 50)).await;
    let path = format!("{CRDS}/deep.example.com");
    let labelled = hub.patch(&path, "merge-patch", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled.code, 200, "{}", labelled.body);
    let value = (0..50).fold(json!({}), |value, _| json!({"a": value}));
    let mut object = json!({"apiVersion": "example.com/v1", "kind": "DEEP", "metadata": {"name": "x"}});
    object["a"] = value["a"].clone();
    hub.create("/apis/example.com/v1/namespaces/default/deep", object).await;
    let hub = hub.restart();
    assert_eq!(hub.get("/apis/example.com/v1/namespaces/default/deep/x").await.code, 200);
    let refused = hub.call("POST", CRDS, definition("deeper", 58)).await;
    refused.check(413, "RequestEntityTooLarge", "the object would nest deeper than 120 levels");
}

#[tokio::test]
async fn owners_have_a_bound_and_what_is_answered_is_what_is_stored() {
    let hub = Hub::start().await;
    let data: serde_json::Map<String, Value> = (0..50_000).map(|number| (format!("key-{number}"), json!(""))).collect();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}).to_string();
    let path = format!("{CONFIG_MAPS}/a");
    let apply = |manager: usize| {
        let path = format!("{path}?force=true&fieldManager=m{manager}");
        let (hub, object) = (&hub, &object);
        async move { hub.send(&Identity::controllers(), "PATCH", &path, "application/apply-patch+yaml", object).await }
    };
    let mut applied = 0;
    let refused = loop {
        let answer = apply(applied).await;
        if answer.code >= 400 {
            break answer;
        }
        let stored = hub.get(&path).await.body;
        assert_eq!(answer.body, stored);
        assert_eq!(stored["metadata"]["managedFields"].as_array().unwrap().len(), applied + 1);
        applied += 1;
        assert!(applied < 10, "there is a bound");
    };
    assert_eq!((refused.code, applied), (413, 3), "{}", refused.body);
    assert!(refused.body["message"].as_str().unwrap().contains("managedFields to [{}]"), "{}", refused.body);
    // Who has managed it continues, and it can be begun anew.
    assert_eq!(apply(0).await.code, 200);
    let reset = hub.patch(&path, "merge-patch", json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!((reset.code, &reset.body["metadata"]["managedFields"]), (200, &Value::Null));
    assert_eq!(apply(9).await.code, 200);
}
