use super::*;

#[test]
fn watch_events_are_told_apart() {
    for (line, expected) in [
        (r#"{"type":"ADDED","object":{"a":1}}"#, Ok(Event::Applied(serde_json::json!({"a": 1})))),
        (r#"{"type":"MODIFIED","object":{"a":2}}"#, Ok(Event::Applied(serde_json::json!({"a": 2})))),
        (r#"{"type":"DELETED","object":{}}"#, Ok(Event::Deleted(serde_json::json!({})))),
        (r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#, Ok(Event::Bookmark("7".into()))),
        (
            r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#,
            Ok(Event::Error { code: 410, message: "too old".into() }),
        ),
        (r#"{"type":"NEW","object":{}}"#, Err("unknown event type `NEW`".to_owned())),
    ] {
        assert_eq!(parse_event(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn hub_urls_are_read() {
    for (url, authority) in [
        ("https://hub", Some("hub:443")),
        ("https://127.0.0.1:6443", Some("127.0.0.1:6443")),
        ("https://[::1]:6443/", Some("[::1]:6443")),
        ("http://hub", None),
        ("hub:6443", None),
        ("", None),
    ] {
        assert_eq!(HubAddress::parse(url).ok().map(|address| address.authority).as_deref(), authority, "{url}");
    }
}

#[test]
fn the_pause_grows_and_stays_bounded() {
    for failures in 0..100 {
        let pause = pause(failures);
        assert!(pause >= BACKOFF.0 / 2 && pause <= BACKOFF.1, "{failures}: {pause:?}");
    }
    assert!(pause(20) >= BACKOFF.1 / 2);
}
