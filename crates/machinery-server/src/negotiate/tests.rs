use http::HeaderValue;
use proptest::prelude::*;

use serde_json::json;

use super::*;

fn headers(accept: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !accept.is_empty() {
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
    }
    headers
}

fn asked(accept: &str, verb: &str, query: &str) -> std::result::Result<Output, String> {
    let registry = machinery_kinds::Registry::builtin();
    let info = registry.resource("", "v1", "pods").expect("pods are built in");
    let query = Query::parse(Some(query)).unwrap();
    output(info, verb, &headers(accept), &query).map_err(|error| error.message().to_owned())
}

fn check(accept: &str, query: &str, form: Form) {
    assert_eq!(asked(accept, "list", query), Ok(Output { form, media: Media::Json }), "{accept} {query}");
}

fn check_refused(accept: &str, verb: &str, query: &str, part: &str) {
    let error = asked(accept, verb, query).unwrap_err();
    assert!(error.starts_with(part), "{accept} {query}: {error}");
}

#[test]
fn the_first_form_that_is_served_is_given() {
    use MetaVersion::{V1, V1Beta1};
    let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    check(kubectl, "", Form::Table(V1, IncludeObject::Metadata));
    check(kubectl, "includeObject=Object", Form::Table(V1, IncludeObject::Object));
    check("application/json;as=Table;v=v1beta1;g=meta.k8s.io", "", Form::Table(V1Beta1, IncludeObject::Metadata));
    check("", "", Form::Object);
    check("*/*", "", Form::Object);
    check("application/json;stream=watch", "", Form::Object);
    let typed = Output { form: Form::Object, media: Media::Protobuf };
    assert_eq!(asked("application/vnd.kubernetes.protobuf,application/json", "list", ""), Ok(typed));
    check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "", Form::Partial(V1, Arity::List));
    check("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "", Form::Partial(V1, Arity::One));
    check("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", "", Form::Object);
    check(
        "application/json;q=0.1, application/json;as=Table;v=v1;g=meta.k8s.io;q=0.9",
        "",
        Form::Table(V1, IncludeObject::Metadata),
    );
    check("application/json;q=0.9, */*;q=0.8, application/yaml;q=0.1", "", Form::Object);
    let yaml = asked("application/yaml, application/json;q=0.5", "get", "").unwrap();
    assert_eq!(yaml, Output { form: Form::Object, media: Media::Yaml });
}

#[test]
fn what_is_not_served_is_named_with_what_is() {
    check_refused(
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "get",
        "includeObject=All",
        "Unable to convert to Table",
    );
    let accepted = "only the following media types are accepted: application/json, application/yaml, application/vnd.k";
    check_refused("application/json;as=Pods;v=v1;g=meta.k8s.io", "get", "", accepted);
    check_refused("text/html", "get", "", "406: Not Acceptable\n\nAvailable representations: application/json, ");
    check_refused(
        "application/yaml",
        "watch",
        "",
        "only the following media types are accepted: application/json;stream",
    );
    assert_eq!(error_media(&headers("application/yaml;as=Table, application/json")), Media::Json);
    assert_eq!(error_media(&headers("application/yaml")), Media::Yaml);
    assert_eq!(error_media(&headers("text/html")), Media::Json);
}

#[test]
fn aggregated_discovery_is_given_to_those_who_ask_first_for_it() {
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    assert_eq!(aggregated_discovery(&headers(&format!("{v2},{v2beta1},application/json"))), Some(DiscoveryVersion::V2));
    assert_eq!(aggregated_discovery(&headers(&format!("{v2beta1},application/json"))), Some(DiscoveryVersion::V2Beta1));
    assert_eq!(aggregated_discovery(&headers("application/json")), None);
}

#[test]
fn json_and_yaml_say_the_same() {
    let mut yaml = HeaderMap::new();
    yaml.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml; charset=utf-8"));
    let from_yaml = decode_body(&yaml, &Bytes::from_static(b"kind: Pod\nspec:\n  ports: [1, '2']\n"), 1000).unwrap();
    assert_eq!(from_yaml, json!({"kind": "Pod", "spec": {"ports": [1, "2"]}}));
    assert!(decode_body(&yaml, &Bytes::from_static(b"a: ["), 1000).is_err());
    assert!(decode_body(&HeaderMap::new(), &Bytes::from_static(b"{"), 1000).is_err());
    let mut protobuf = HeaderMap::new();
    protobuf.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.kubernetes.protobuf"));
    let pod = Bytes::from_static(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod");
    assert_eq!(decode_body(&protobuf, &pod, 1000).unwrap(), json!({"apiVersion": "v1", "kind": "Pod"}));
}

#[test]
fn numbers_in_yaml_are_those_that_go_reads() {
    for (text, number) in [
        ("0644", 420),
        ("0o644", 420),
        ("0x1a4", 420),
        ("420.0", 420),
        ("4.2e2", 420),
        ("-3.0", -3),
        ("0", 0),
        ("10", 10),
    ] {
        let decoded = yaml(&Bytes::from(format!("a: {text}")), 1000).unwrap();
        assert_eq!(decoded["a"], json!(number), "{text}");
    }
    assert_eq!(yaml(&Bytes::from_static(b"a: [0.5, '0644']"), 1000).unwrap()["a"], json!([0.5, "0644"]));
}

#[test]
fn a_body_that_nests_for_ever_is_refused() {
    let deep = "[".repeat(100_000);
    assert!(decode_body(&HeaderMap::new(), &Bytes::from(deep.clone()), usize::MAX).is_err());
    assert!(yaml(&Bytes::from(deep), usize::MAX).is_err());
}

#[test]
fn json_that_is_read_as_json_is_the_same_as_yaml() {
    for text in [
        r#"{}"#,
        r#"{"a":1,"b":[true,false,null,-7,"x"],"c":{"d":{}}}"#,
        r#"{ "a" : "b: c # d", "e":"- f", "0644":"0644", "y":"yes", "":"" , "~":"~"}"#,
        r#"{"a":"  spaces  ","b":"it's {[,:]}&*!|>%@`","a":"last"}"#,
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"1e3\",\"b\":\".5\"}}\n",
        r#"{"n":9223372036854775807,"m":-9223372036854775808,"z":0}"#,
    ] {
        let plain = plain_json(text, 1000).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(Ok(plain), yaml_of(text, 1000), "{text}");
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(60), "]".repeat(60));
    let long = format!("{{\"{}\":1}}", "k".repeat(1100));
    let many = format!("{{\"a\":[{}]}}", vec!["0"; 3000].join(","));
    for text in [
        r#"{"a":"\u0041"}"#,
        r#"{"a":"tab	tab"}"#,
        "{\"a\":\n1}",
        r#"{"a":1.0}"#,
        r#"{"a":1e3}"#,
        r#"{"a":-0}"#,
        r#"{"a":18446744073709551615}"#,
        r#"{"<<":{"a":1}}"#,
        "{\"a\":\"\u{e9}\"}",
        r#"[1]"#,
        r#"{a: 1}"#,
        r#"{"a":1} #"#,
        r#"{"a":1}}"#,
        &deep,
        &long,
        &many,
    ] {
        assert_eq!(plain_json(text, 1000), None, "{text}");
    }
}

proptest! {
    #[test]
    fn json_of_any_shape_is_the_same_as_yaml(value in json_values()) {
        for text in [value.to_string(), format!("{value}\n")] {
            if let Some(plain) = plain_json(&text, 1000) {
                prop_assert_eq!(Some(plain), yaml_of(&text, 1000).ok(), "{}", text);
            }
        }
    }
}

/// Objects, most of whose texts are those that mean something in YAML.
fn json_values() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[ -~]{0,12}", "[0-9.eE:+-]{0,8}", "(yes|no|null|~|true|0x1f|0o7|<<|---|[.]nan|[.]inf)"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    let any = leaf.prop_recursive(4, 32, 4, move |inner| {
        let members = proptest::collection::btree_map(text.clone(), inner.clone(), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    proptest::collection::btree_map("[ -~]{0,8}", any, 0..5)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn no_header_makes_the_parser_panic(accept in "[ -~]{0,60}") {
        let headers = headers(&accept);
        let _ = negotiated(super::accept(&headers), &Query::default(), true);
        let _ = error_media(&headers);
        let _ = aggregated_discovery(&headers);
    }
}

#[test]
fn aliases_repeat_no_more_than_the_text_is_worth() {
    let shared = "a: &shared {cpu: 1, memory: 2}\nb: *shared\nc: *shared\n";
    let expected = json!({"cpu": 1, "memory": 2});
    let decoded = yaml(&Bytes::from(shared), usize::MAX).unwrap();
    assert_eq!((&decoded["b"], &decoded["c"]), (&expected, &expected));
    let large = "x".repeat(8 << 10);
    let bomb = |alias: &str, count: usize| {
        let dummies: String = (0..count / 10 + 1).map(|number| format!("d{number}: &d{number} 1\n")).collect();
        format!("{dummies}x: &a {alias}\ny: [{}]\n", vec!["*a"; count].join(", "))
    };
    for (what, text) in [
        ("bytes", bomb(&format!("\"{large}\""), 8000)),
        ("nodes", bomb(&format!("[{}]", vec!["1"; 1000].join(",")), 2000)),
        ("a merge", bomb(&format!("{{k: \"{large}\"}}"), 8000)),
    ] {
        let error = yaml(&Bytes::from(text), usize::MAX).unwrap_err();
        assert!(error.message().contains("YAML"), "{what}: {}", error.message());
    }
}
