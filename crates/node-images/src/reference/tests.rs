//! The table of the distribution project's `reference` package, and completion of short names.

use super::Reference;

const SHA: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn check(text: &str, complete: &str) {
    assert_eq!(Reference::parse(text).map(|found| found.to_string()).as_deref(), Ok(complete), "of `{text}`");
    assert_eq!(Reference::parse(complete), Reference::parse(text), "a complete name stays as it is");
}

fn check_rejected(text: &str, part: &str) {
    let error = Reference::parse(text).expect_err(text);
    assert!(error.reason.contains(part), "`{text}`: {}", error.reason);
}

#[test]
fn short_names_are_completed_as_docker_does() {
    check("busybox", "docker.io/library/busybox:latest");
    check("busybox:1.36", "docker.io/library/busybox:1.36");
    check("org/app", "docker.io/org/app:latest");
    check("index.docker.io/busybox", "docker.io/library/busybox:latest");
    check("docker.io/busybox:1", "docker.io/library/busybox:1");
    check("docker.io/library/busybox", "docker.io/library/busybox:latest");
    check("a/b/c/d", "docker.io/a/b/c/d:latest");
    check("test_com", "docker.io/library/test_com:latest");
    check("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080");
    check("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080");
}

#[test]
fn a_registry_is_what_cannot_be_a_repository() {
    check("quay.io/org/app", "quay.io/org/app:latest");
    check("localhost/app", "localhost/app:latest");
    check("localhost:5000/app:1", "localhost:5000/app:1");
    check("test.com:5000/repo:tag", "test.com:5000/repo:tag");
    check("test:5000/repo", "test:5000/repo:latest");
    check("192.168.1.1/app", "192.168.1.1/app:latest");
    check("192.168.1.1:80/app:1", "192.168.1.1:80/app:1");
    check("[2001:db8::1]/repo", "[2001:db8::1]/repo:latest");
    check("[2001:db8:1::1]:5000/repo:tag", "[2001:db8:1::1]:5000/repo:tag");
    check("lowercase:5000/app:Uppercase", "lowercase:5000/app:Uppercase");
    check("Uppercase/lowercase", "Uppercase/lowercase:latest");
    check("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com");
    check("b.gcr.io/test.example.com/my-app:test.example.com", "b.gcr.io/test.example.com/my-app:test.example.com");
    check("192.168.0.1:5000/a/b", "192.168.0.1:5000/a/b:latest");
}

#[test]
fn a_digest_may_stand_beside_or_instead_of_a_tag() {
    check(&format!("test:5000/repo@{SHA}"), &format!("test:5000/repo@{SHA}"));
    check(&format!("test:5000/repo:tag@{SHA}"), &format!("test:5000/repo:tag@{SHA}"));
    check(&format!("busybox@{SHA}"), &format!("docker.io/library/busybox@{SHA}"));
    let long = format!("sha512:{}", "a".repeat(128));
    check(&format!("a@{long}"), &format!("docker.io/library/a@{long}"));
    check_rejected("repo@sha256:ffff", "digest");
    check_rejected(&format!("repo@{}", SHA.to_uppercase()), "digest");
    check_rejected(&format!("repo@{}", SHA.replace("ffff", "FFFF")), "digest");
    check_rejected(&format!("validname@invaliddigest:{}", "f".repeat(128)), "digest");
    check_rejected(&format!("@{SHA}"), "repository");
    check_rejected(&format!("a@{SHA}@{SHA}"), "digest");
}

#[test]
fn parts_are_joined_by_separators() {
    for (name, is_valid) in [
        ("a-b", true),
        ("a--b", true),
        ("a---b", true),
        ("a.b/c.d", true),
        ("a_b/c__d", true),
        ("a___b", false),
        ("a..b", false),
        ("a._b", false),
        ("-foo/bar", false),
        ("foo-/bar", false),
        ("foo/-bar", false),
        ("foo/bar-", false),
        ("_foo", false),
        ("foo.", false),
        ("foo//bar", false),
        ("/foo", false),
        ("foo/", false),
        ("aa/asdf$$^/aa", false),
        ("foo bar", false),
        ("fööbar", false),
    ] {
        assert_eq!(Reference::parse(name).is_ok(), is_valid, "of `{name}`");
    }
}

#[test]
fn what_is_wrong_is_named() {
    check_rejected("", "empty");
    check_rejected(":justtag", "repository");
    check_rejected("Busybox", "lower case");
    check_rejected("localhost/Foo", "lower case");
    check_rejected("repo:", "tag");
    check_rejected("repo:-x", "tag");
    check_rejected("repo:.x", "tag");
    check_rejected("repo:a:b", "tag");
    check_rejected(&format!("repo:{}", "a".repeat(129)), "tag");
    check_rejected(&"a".repeat(64), "id");
    check_rejected(&format!("{}a:tag", "a/".repeat(128)), "255");
    check_rejected("-test.com/app", "registry");
    check_rejected("test..com/app", "registry");
    check_rejected("test.com:port/app", "registry");
    check_rejected("test.com:+1/app", "registry");
    check_rejected("test.com:70000/app", "registry");
    check_rejected("[fe80::1%25eth0]/app", "registry");
    check_rejected("[fe80::1%eth0]:5000/app", "registry");
    check_rejected("[::1/app", "registry");
    check_rejected("[::1]x/app", "registry");
    check_rejected("https://quay.io/app", "registry");
}

#[test]
fn the_longest_name_is_accepted() {
    let path = format!("{}a", "a/".repeat((255 - "docker.io/".len() - 1) / 2));
    let name = format!("docker.io/{path}:tag");
    assert_eq!(name.len(), 255 + ":tag".len());
    check(&name, &name);
}
