//! Files of nodes and of pods.

use super::*;

const NODE: &str = "# by somebody\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1 ; two\n\
    search old.example\nsearch lan.example. example.com\noptions edns0 trust-ad\nsortlist 1.2.3.4\nnameserver nonsense\n";

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

#[test]
fn a_node_s_file_is_read_as_resolvers_do() {
    let conf = ResolvConf::parse(NODE);
    assert_eq!(conf.nameservers, ips(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(conf.searches, ["lan.example", "example.com"]);
    assert_eq!(conf.options, ["edns0", "trust-ad"]);
    assert_eq!(ResolvConf::parse("domain lan.example\n").searches, ["lan.example"]);
    assert_eq!(ResolvConf::parse("\0\u{fffd}\nnameserver\nsearch .\n"), ResolvConf::default());
}

#[track_caller]
fn check(policy: DnsPolicy, is_host_network: bool, config: Option<&PodDnsConfig>, expected: &str) {
    let node = ResolvConf::parse(NODE);
    let servers = ips(&["169.254.20.10"]);
    let pod = PodDns {
        policy,
        is_host_network,
        namespace: "shop",
        domain: "cluster.local",
        servers: &servers,
        node: Some(&node),
        config,
    };
    assert_eq!(resolv_conf(&pod), (expected.to_owned(), Vec::new()));
}

const CLUSTER: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local lan.example example.com\n\
    nameserver 169.254.20.10\noptions ndots:5\n";
const DEFAULT: &str =
    "search lan.example example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0 trust-ad\n";

#[test]
fn a_pod_s_file_is_as_its_policy_says() {
    check(DnsPolicy::ClusterFirst, false, None, CLUSTER);
    check(DnsPolicy::ClusterFirst, true, None, DEFAULT);
    check(DnsPolicy::ClusterFirstWithHostNet, true, None, CLUSTER);
    check(DnsPolicy::ClusterFirstWithHostNet, false, None, CLUSTER);
    check(DnsPolicy::Default, false, None, DEFAULT);
    check(DnsPolicy::None, false, None, "");
}

#[test]
fn a_pod_s_own_settings_are_added_and_its_options_win() {
    let option = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let config = PodDnsConfig {
        nameservers: ips(&["192.0.2.53", "169.254.20.10"]),
        searches: vec![
            "my.dns.search.suffix".into(),
            "svc.cluster.local".into(),
            "two words".into(),
            "x\noptions evil".into(),
        ],
        options: vec![
            option("ndots", Some("2")),
            option("edns0", None),
            option("a b", None),
            option("timeout", Some("1\nx")),
        ],
    };
    check(
        DnsPolicy::ClusterFirst,
        false,
        Some(&config),
        "search shop.svc.cluster.local svc.cluster.local cluster.local lan.example example.com my.dns.search.suffix\n\
         nameserver 169.254.20.10\nnameserver 192.0.2.53\noptions ndots:2 edns0\n",
    );
    check(
        DnsPolicy::None,
        false,
        Some(&config),
        "search my.dns.search.suffix svc.cluster.local\nnameserver 192.0.2.53\nnameserver 169.254.20.10\noptions ndots:2 edns0\n",
    );
}

#[test]
fn what_kubernetes_does_not_allow_is_left_out_and_named() {
    let config = PodDnsConfig {
        nameservers: ips(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]),
        searches: (0..40).map(|index| format!("s{index}.example")).collect(),
        options: Vec::new(),
    };
    let pod = PodDns { policy: DnsPolicy::None, config: Some(&config), ..PodDns::default() };
    let (text, left_out) = resolv_conf(&pod);
    assert_eq!(left_out, ["nameservers", "searches"]);
    assert_eq!(text.lines().filter(|line| line.starts_with("nameserver")).count(), NAMESERVERS_MAX);
    let conf = ResolvConf::parse(&text);
    assert_eq!(conf.searches.len(), SEARCHES_MAX);
    let long = PodDnsConfig {
        searches: (0..32).map(|_| "x".repeat(90)).enumerate().map(|(i, x)| format!("{i}{x}")).collect(),
        ..config
    };
    let (text, left_out) = resolv_conf(&PodDns { policy: DnsPolicy::None, config: Some(&long), ..PodDns::default() });
    assert_eq!(left_out, ["nameservers", "searches"]);
    let line = text.lines().find(|line| line.starts_with("search")).expect("some fit");
    assert!(line.len() - "search ".len() <= SEARCH_CHARS_MAX && line.len() > 1_900, "{}", line.len());
}

#[test]
fn a_node_without_a_responder_gives_its_own() {
    let node = ResolvConf::parse(NODE);
    let pod = PodDns { namespace: "shop", domain: "cluster.local", node: Some(&node), ..PodDns::default() };
    assert_eq!(resolv_conf(&pod).0, DEFAULT);
}
