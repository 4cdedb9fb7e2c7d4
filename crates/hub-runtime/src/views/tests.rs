//! Tests of `views`: what is read of an object, and that it is not copied.

use std::borrow::Cow;

use super::*;

#[test]
fn text_points_into_the_object_unless_it_holds_an_escape() {
    let bytes = br#"{"metadata":{"name":"gw-1","labels":{"plain":"a","escaped":"b\u0063"},"other":[1,{"x":null}]}}"#;
    let view: AnyView<'_> = serde_json::from_slice(bytes).unwrap();
    assert!(matches!(view.metadata.name.0, Cow::Borrowed("gw-1")));
    assert!(matches!(view.metadata.labels.0[0].1.0, Cow::Borrowed("a")));
    assert_eq!(view.metadata.labels.get("escaped"), Some("bc"));
}

#[test]
fn null_means_what_an_absent_field_means() {
    let bytes = br#"{"metadata":{"name":null,"labels":null,"ownerReferences":null,"deletionTimestamp":null},"spec":{},"status":null}"#;
    let view: PodView<'_> = serde_json::from_slice(bytes).unwrap();
    assert!(view.metadata.labels.is_empty() && view.metadata.controller().is_none());
    assert!(!view.metadata.is_terminating());
}

#[test]
fn a_share_is_rounded_up_and_bounded() {
    let read = |text: &str, of: usize| serde_json::from_str::<IntOrPercent<'_>>(text).unwrap().of(of);
    assert_eq!(read("3", 10), Some(3));
    assert_eq!(read("-1", 10), Some(0));
    assert_eq!(read(r#""25%""#, 10), Some(3));
    assert_eq!(read(r#""0%""#, 10), Some(0));
    assert_eq!(read(r#""100%""#, 3), Some(3));
    assert_eq!(read(r#""lots""#, 3), None);
    assert_eq!(read(r#""99999999999999999999%""#, 3), None);
}

#[test]
fn a_daemon_set_keeps_its_template_as_it_is_written() {
    let bytes =
        br#"{"metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"app":"a"}},"template":{"spec":{"x": 1}},
        "updateStrategy":{"rollingUpdate":{"maxSurge":"10%"}}},"status":{"numberReady":2}}"#;
    let view: DaemonSetView<'_> = serde_json::from_slice(bytes).unwrap();
    assert_eq!(view.spec.template.unwrap().get(), r#"{"spec":{"x": 1}}"#);
    assert_eq!(view.spec.update_strategy.rolling_update.max_surge.unwrap().of(20), Some(2));
    assert_eq!(view.status.number_ready, Some(2));
}
