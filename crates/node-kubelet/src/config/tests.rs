use super::*;

#[test]
fn a_host_name_becomes_a_node_name() {
    let (longest, cut) = (format!("{}-b", "a".repeat(62)), "a".repeat(62));
    for (host, node) in [
        // A host's name may be one byte longer than a label.
        (&*longest, &*cut),
        ("press-4", "press-4"),
        ("Press_4.Plant", "press-4.plant"),
        ("_x_", "x"),
        ("", "node"),
        ("Größe", "gr--e"),
        ("a..b", "a.b"),
    ] {
        assert_eq!(node_name_from(host), node, "{host}");
        assert_eq!(api_edge::identity::bad_node_name(&node_name_from(host)), None, "{host}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let config = KubeletConfig {
        node_name: "Press 4".into(),
        hub_urls: vec!["http://hub".into(), "https://hub:6443".into()],
        taints: vec![Taint { key: "a".into(), value: String::new(), effect: "Never".into() }],
        lease_duration: Duration::from_secs(5),
        ..KubeletConfig::default()
    };
    assert_eq!(config.mistakes().len(), 4);
    assert!(KubeletConfig { node_name: "n".into(), ..KubeletConfig::default() }.mistakes().is_empty());
}
