//! Formats as tables of text that has them and text that has not.

use super::{is_supported, validates};

#[track_caller]
fn check(format: &str, good: &[&str], bad: &[&str]) {
    for text in good {
        assert!(validates(format, text), "{text:?} is a {format}");
    }
    for text in bad {
        assert!(!validates(format, text), "{text:?} is no {format}");
    }
}

#[test]
fn times_have_dates_that_exist() {
    check("date", &["2026-02-28", "2024-02-29"], &["2026-02-30", "2026-2-3", ""]);
    let times = ["2026-02-03T04:05:06Z", "2026-02-03t04:05:06.123+01:00"];
    check("date-time", &times, &["2026-02-03 04:05:06", "2026-02-03T24:05:06Z", "now"]);
    check("duration", &["1h2m", "3 days", "1.5s", "22 ns"], &["!", "", "5"]);
}

#[test]
fn addresses_are_those_of_the_internet() {
    check("ipv4", &["192.0.2.1", "192.0.2.01"], &["::1", "192.0.2", "256.1.1.1"]);
    check("ipv6", &["::1", "::ffff:192.0.2.1"], &["192.0.2.1", "fe80::1%eth0"]);
    check("cidr", &["192.0.2.0/24", "::/0"], &["192.0.2.0", "192.0.2.0/33"]);
    check("mac", &["00:00:5e:00:53:01", "0000.5e00.5301"], &["00:00", "00:00:5e:00:53:0g"]);
    check(
        "hostname",
        &["a.example", "localhost", "a-b", "a-b-c.example", "ä.example"],
        &["-a", "a..b", "!", "a-b-c", "a.1"],
    );
    check("email", &["a@b.example", "N <a@b.example>"], &["a", "@b", "a@"]);
    check("uri", &["https://a.example/b", "/a/b"], &["a b", "a", ""]);
}

#[test]
fn numbers_have_their_checksums() {
    check("isbn", &["3836221195", "978-3-8362-2119-1"], &["3836221196", "foo"]);
    check("creditcard", &["4220-8554-2622-2389"], &["4220855426213389", "30190239451016"]);
    check("ssn", &["123-45-6789"], &["123456789"]);
    check("byte", &["aGk="], &["", "aGk", "aG k="]);
    check("hexcolor", &["#aabbcc", "fff"], &["#ff"]);
    check("rgbcolor", &["rgb(1,2,3)", "rgb(0, 31, 255)"], &["rgb(256,1,1)", "rgb(01,1,1)"]);
    check("uuid", &["123e4567-e89b-12d3-a456-426614174000", "123E4567e89b12d3a456426614174000"], &["123e4567", "!"]);
    check("uuid4", &["123e4567-e89b-42d3-a456-426614174000"], &["123e4567-e89b-12d3-a456-426614174000"]);
}

#[test]
fn formats_belong_to_types() {
    assert!(is_supported("string", "date-time") && is_supported("", "k8s-short-name"));
    assert!(!is_supported("string", "nothing") && !is_supported("object", "date") && !is_supported("integer", "float"));
}
