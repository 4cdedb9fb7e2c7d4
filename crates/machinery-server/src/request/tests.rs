use proptest::prelude::*;

use super::*;

fn check_resource(path: &str, expected: &str) {
    let found = match Route::parse(path) {
        Route::Resource(found) => format!(
            "{}|{}|{}|{}|{}|{}",
            found.group,
            found.version,
            found.plural,
            found.namespace.as_deref().unwrap_or("-"),
            found.name.as_deref().unwrap_or("-"),
            found.subresource.as_deref().unwrap_or("-")
        ),
        other => format!("{other:?}"),
    };
    assert_eq!(found, expected, "{path}");
}

#[test]
fn a_path_names_group_version_resource_namespace_name_and_part() {
    check_resource("/api/v1/pods", "|v1|pods|-|-|-");
    check_resource("/api/v1/namespaces", "|v1|namespaces|-|-|-");
    check_resource("/api/v1/namespaces/default", "|v1|namespaces|-|default|-");
    check_resource("/api/v1/namespaces/default/status", "|v1|namespaces|-|default|status");
    check_resource("/api/v1/namespaces/default/finalize", "|v1|namespaces|-|default|finalize");
    check_resource("/api/v1/namespaces/default/pods", "|v1|pods|default|-|-");
    check_resource("/api/v1/namespaces/default/pods/web/", "|v1|pods|default|web|-");
    check_resource("/api/v1/namespaces/default/pods/web/log", "|v1|pods|default|web|log");
    check_resource("/apis/apps/v1/namespaces/default/daemonsets/web", "apps|v1|daemonsets|default|web|-");
    check_resource(
        "/apis/edge.selvedge.dev/v1alpha1/nodeassignments/gw-1/status",
        "edge.selvedge.dev|v1alpha1|nodeassignments|-|gw-1|status",
    );
    check_resource("/api/v1/nodes/a%20b", "|v1|nodes|-|a b|-");
    check_resource("/api/v1/watch/namespaces/default/pods", "|v1|pods|default|-|-");
    check_resource("/api/v1/namespaces/default/pods/web/proxy/a/b", "|v1|pods|default|web|proxy");
    for nowhere in [
        "/",
        "/metrics",
        "/api/v1/namespaces/a/pods/b/c/d",
        "/api/v1/nodes//status",
        "/api/v1/nodes/a%2Fb",
        "/api/v1/nodes/%ff",
    ] {
        check_resource(nowhere, "Other");
    }
    let Route::Resource(proxied) = Route::parse("/api/v1/nodes/n/proxy/a%2Fb/c") else { panic!("it is a resource") };
    assert_eq!(proxied.rest.as_deref(), Some("/a%2Fb/c"));
    assert_eq!(Route::parse("/api/"), Route::CoreVersions);
    assert_eq!(Route::parse("/apis"), Route::Groups);
    assert_eq!(Route::parse("/apis/apps"), Route::Group("apps".into()));
    assert_eq!(Route::parse("/apis/apps/v1"), Route::Resources { group: "apps".into(), version: "v1".into() });
}

fn options(query: &str) -> std::result::Result<ListOptions, String> {
    let query = Query::parse(Some(query)).map_err(|error| ApiError::from(error).message().to_owned())?;
    ListOptions::parse(&query).map_err(|error| error.message().to_owned())
}

#[test]
fn list_options_are_read_together() {
    assert_eq!(options("resourceVersion=0").unwrap().at, Ok(At::Any));
    assert_eq!(options("resourceVersion=").unwrap().at, Ok(At::Latest));
    assert_eq!(options("resourceVersion=7").unwrap().at, Ok(At::NotOlderThan(Revision(7))));
    let exact = options("resourceVersion=7&resourceVersionMatch=Exact&limit=500").unwrap();
    assert_eq!((exact.at, exact.limit), (Ok(At::Exact(Revision(7))), Some(500)));
    // A page at a revision is of that revision, and of whatever is at hand there is one page.
    assert_eq!(options("resourceVersion=7&limit=5").unwrap().at, Ok(At::Exact(Revision(7))));
    assert_eq!(options("resourceVersion=0&limit=5").unwrap().limit, None);
    assert_eq!(options("watch=1").unwrap().initial_events, Some(true));
    assert_eq!(options("watch=1&resourceVersion=7").unwrap().initial_events, None);
    assert!(options("resourceVersion=x").unwrap().at().unwrap_err().message().contains("strconv.ParseUint"));
    assert_eq!(options("limit=0").unwrap().limit, None);
    let watch =
        options("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true").unwrap();
    assert_eq!(watch.initial_events, Some(true));
    for (query, part) in [
        ("limit=many", "strconv.ParseInt: parsing \"many\": invalid syntax"),
        (
            "timeoutSeconds=99999999999999999999",
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
        ),
        ("resourceVersionMatch=Exact", "forbidden unless resourceVersion"),
        ("resourceVersion=7&resourceVersionMatch=Newest", "Unsupported value"),
        ("watch=true&sendInitialEvents=true", "resourceVersionMatch"),
        ("sendInitialEvents=true", "forbidden for list"),
        ("labelSelector=a%20in%20b", "unable to parse requirement: found 'b' expected: '('"),
        ("fieldSelector=nothing", "invalid selector: 'nothing'; can't understand 'nothing'"),
        ("labelSelector=%zz", "invalid query parameter"),
    ] {
        let error = options(query).unwrap_err();
        assert!(error.contains(part), "{query}: {error}");
    }
}

#[test]
fn write_options_know_dry_run_and_field_validation() {
    let parse = |query: &str| WriteOptions::parse(&Query::parse(Some(query)).unwrap(), "PatchOptions");
    let plain = WriteOptions { dry_run: false, field_validation: FieldValidation::Warn };
    assert_eq!(parse("").unwrap(), plain);
    assert_eq!(parse("fieldManager=kubectl").unwrap(), plain);
    let strict = WriteOptions { dry_run: true, field_validation: FieldValidation::Strict };
    assert_eq!(parse("dryRun=All&fieldValidation=Strict").unwrap(), strict);
    let error = parse("dryRun=Some").unwrap_err();
    assert!(error.message().contains("PatchOptions") && error.message().contains("dryRun"), "{}", error.message());
    let error = parse("fieldManager=a%00b").unwrap_err();
    assert!(error.message().ends_with("invalid character U+0000 (at position 1)"), "{}", error.message());
    assert!(parse("fieldValidation=Maybe").unwrap_err().message().contains("fieldValidation"));
}

proptest! {
    #[test]
    fn no_url_makes_the_parsers_panic(path in ".{0,80}", query in ".{0,80}") {
        let _ = Route::parse(&path);
        if let Ok(query) = Query::parse(Some(&query)) {
            let _ = ListOptions::parse(&query);
            let _ = WriteOptions::parse(&query, "PatchOptions");
        }
    }
}
