//! Challenges as registries write them.

use http::HeaderValue;

use super::Challenge;

fn check(header: &str, expected: Option<Challenge>) {
    let header = HeaderValue::from_str(header).unwrap();
    assert_eq!(Challenge::read([&header].into_iter()), expected.into_iter().collect::<Vec<_>>(), "of {header:?}");
}

fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
}

#[test]
fn challenges_are_read_as_registries_write_them() {
    check(
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
        bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push")),
    );
    check(r#"bearer  realm="x" , service=y"#, bearer("x", Some("y"), None));
    check(r#"Bearer realm="a\"b",error="invalid_token""#, bearer("a\"b", None, None));
    check(r#"Basic realm="Registry Realm""#, Some(Challenge::Basic));
    check("Basic", Some(Challenge::Basic));
    check(r#"Bearer service="x""#, None);
    check(r#"Bearer realm="unterminated"#, None);
    check("Negotiate", None);
    check("", None);
}
