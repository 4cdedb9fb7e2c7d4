//! What each kind of name is answered with, read by another implementation of the protocol.

use std::sync::Arc;

use hickory_proto::op::Message;

use super::*;
use crate::answer::{Local, answer};
use crate::message::{HEADER_LEN, WireName, kind, parse_query};

/// A query as resolvers write it, with EDNS where a payload is given.
pub(crate) fn query(id: u16, name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())]);
    let lower = WireName::parse(name).expect("a name");
    bytes.extend_from_slice(lower.as_bytes());
    // As it is written, in upper case where it is.
    for (place, byte) in bytes[HEADER_LEN + 1..].iter_mut().zip(name.bytes()) {
        if byte != b'.' {
            *place = byte;
        }
    }
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(payload) = payload {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&payload.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

fn config() -> NamesConfig {
    NamesConfig {
        server_addresses: vec![ip("169.254.20.10")],
        networks: vec![
            Network { address: ip("10.39.0.0"), prefix_len: 16 },
            Network { address: ip("10.96.0.0"), prefix_len: 12 },
            Network { address: ip("fd00:39::"), prefix_len: 64 },
        ],
        ..NamesConfig::default()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn pod(namespace: &str, name: &str, addresses: &[&str]) -> PodNames {
    PodNames {
        namespace: namespace.into(),
        name: name.into(),
        addresses: ips(addresses),
        is_ready: true,
        ..PodNames::default()
    }
}

fn service(namespace: &str, name: &str, addresses: &[&str]) -> ServiceNames {
    ServiceNames {
        namespace: namespace.into(),
        name: name.into(),
        cluster_ips: ips(addresses),
        ..ServiceNames::default()
    }
}

fn port(name: &str, protocol: PortProtocol, port: u16) -> PortName {
    PortName { name: name.into(), protocol, port }
}

fn endpoint(hostname: Option<&str>, address: &str, is_ready: bool) -> EndpointNames {
    EndpointNames { hostname: hostname.map(str::to_owned), address: ip(address), ports: Vec::new(), is_ready }
}

fn table(pods: Vec<PodNames>, services: Vec<ServiceNames>) -> Arc<Table> {
    let names = Names::new(&config()).expect("a domain");
    names.replace(NameRecords { pods, services, node_addresses: ips(&["192.168.7.2"]) });
    Arc::clone(names.reader().table())
}

/// The answer in brief: its code, then the records by section.
fn ask(table: &Table, name: &str, kind: u16) -> Vec<String> {
    ask_bytes(table, &query(7, name, kind, None), 65_535).map_or_else(|other| vec![other], |message| brief(&message))
}

fn brief(message: &Message) -> Vec<String> {
    let mut lines = vec![format!("{:?}", message.metadata.response_code)];
    lines.extend(message.answers.iter().map(ToString::to_string));
    // The serial is the time.
    lines
        .extend(message.authorities.iter().map(|record| format!("authority {} {}", record.name, record.record_type())));
    lines.extend(message.additionals.iter().map(|record| format!("also {record}")));
    lines
}

fn ask_bytes(table: &Table, bytes: &[u8], limit: usize) -> Result<Message, String> {
    let mut name = WireName::ROOT;
    let parsed = parse_query(bytes, &mut name).expect("a query");
    let mut out = vec![0; limit];
    match answer(table, &parsed, &mut out) {
        Local::Written(len) => Ok(Message::from_vec(&out[..len]).expect("another implementation reads it")),
        Local::Alias { target, count, .. } => Err(format!("{count} aliases to {target:?}")),
        Local::Forward => Err("forward".into()),
    }
}

#[track_caller]
fn check(table: &Table, name: &str, kind: u16, expected: &[&str]) {
    assert_eq!(ask(table, name, kind), expected, "{name} {kind}");
}

const NXDOMAIN: &[&str] = &["NXDomain", "authority cluster.local. SOA"];
const NODATA: &[&str] = &["NoError", "authority cluster.local. SOA"];

#[test]
fn a_service_has_its_cluster_addresses_srv_records_and_a_reverse_name() {
    let mut web = service("default", "web", &["10.96.0.10", "fd00:96::a"]);
    web.ports = vec![port("http", PortProtocol::Tcp, 80), port("", PortProtocol::Udp, 9)];
    let table = table(vec![], vec![web]);
    let full = "web.default.svc.cluster.local.";
    check(&table, full, kind::A, &["NoError", "web.default.svc.cluster.local. 5 IN A 10.96.0.10"]);
    check(&table, full, kind::AAAA, &["NoError", "web.default.svc.cluster.local. 5 IN AAAA fd00:96::a"]);
    check(&table, full, 15, NODATA);
    check(
        &table,
        "_http._tcp.web.default.svc.cluster.local",
        kind::SRV,
        &[
            "NoError",
            "_http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.",
            "also web.default.svc.cluster.local. 5 IN A 10.96.0.10",
            "also web.default.svc.cluster.local. 5 IN AAAA fd00:96::a",
        ],
    );
    check(&table, "_tcp.web.default.svc.cluster.local", kind::SRV, NODATA);
    check(&table, "_http._udp.web.default.svc.cluster.local", kind::SRV, NXDOMAIN);
    check(
        &table,
        "10.0.96.10.in-addr.arpa",
        kind::PTR,
        &["NoError", "10.0.96.10.in-addr.arpa. 5 IN PTR web.default.svc.cluster.local."],
    );
    let v6 = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa";
    check(&table, v6, kind::PTR, &["NoError", &format!("{v6}. 5 IN PTR {full}")]);
}

#[test]
fn a_headless_service_has_its_ready_endpoints_and_without_any_no_name() {
    let mut db = service("data", "db", &[]);
    db.endpoints = vec![
        endpoint(Some("db-0"), "10.39.0.5", true),
        endpoint(None, "10.39.0.6", true),
        endpoint(Some("db-2"), "10.39.0.7", false),
    ];
    db.endpoints[0].ports = vec![port("sql", PortProtocol::Tcp, 5433)];
    db.ports = vec![port("sql", PortProtocol::Tcp, 5432)];
    let with = table(vec![], vec![db.clone()]);
    let full = "db.data.svc.cluster.local";
    let mut addresses = ask(&with, full, kind::A);
    addresses.sort();
    assert_eq!(
        addresses,
        ["NoError", "db.data.svc.cluster.local. 5 IN A 10.39.0.5", "db.data.svc.cluster.local. 5 IN A 10.39.0.6"]
    );
    check(
        &with,
        "db-0.db.data.svc.cluster.local",
        kind::A,
        &["NoError", "db-0.db.data.svc.cluster.local. 5 IN A 10.39.0.5"],
    );
    check(
        &with,
        "10-39-0-6.db.data.svc.cluster.local",
        kind::A,
        &["NoError", "10-39-0-6.db.data.svc.cluster.local. 5 IN A 10.39.0.6"],
    );
    check(&with, "db-2.db.data.svc.cluster.local", kind::A, NXDOMAIN);
    let srv = "_sql._tcp.db.data.svc.cluster.local";
    check(
        &with,
        srv,
        kind::SRV,
        &[
            "NoError",
            "_sql._tcp.db.data.svc.cluster.local. 5 IN SRV 0 50 5432 10-39-0-6.db.data.svc.cluster.local.",
            "_sql._tcp.db.data.svc.cluster.local. 5 IN SRV 0 50 5433 db-0.db.data.svc.cluster.local.",
            "also 10-39-0-6.db.data.svc.cluster.local. 5 IN A 10.39.0.6",
            "also db-0.db.data.svc.cluster.local. 5 IN A 10.39.0.5",
        ],
    );
    let reverse = "5.0.39.10.in-addr.arpa";
    check(&with, reverse, kind::PTR, &["NoError", &format!("{reverse}. 5 IN PTR db-0.db.data.svc.cluster.local.")]);
    db.endpoints.retain(|endpoint| !endpoint.is_ready);
    let without = table(vec![], vec![db.clone()]);
    check(&without, full, kind::A, NXDOMAIN);
    db.publish_not_ready = true;
    let published = table(vec![], vec![db]);
    check(&published, full, kind::A, &["NoError", &format!("{full}. 5 IN A 10.39.0.7")]);
}

#[test]
fn what_has_names_below_it_exists_and_what_has_none_does_not() {
    let table = table(vec![pod("shop", "cart", &["10.39.0.9"])], vec![]);
    for parent in
        ["cluster.local", "svc.cluster.local", "pod.cluster.local", "shop.svc.cluster.local", "dns.cluster.local"]
    {
        check(&table, parent, kind::A, NODATA);
    }
    for absent in [
        "example.com.cluster.local",
        "example.com.svc.cluster.local",
        "cart.other.svc.cluster.local",
        "a.b.c.cluster.local",
    ] {
        check(&table, absent, kind::A, NXDOMAIN);
    }
    check(&table, "dns-version.cluster.local", kind::TXT, &["NoError", "dns-version.cluster.local. 5 IN TXT 1.1.0"]);
    check(&table, "ns.dns.cluster.local", kind::A, &["NoError", "ns.dns.cluster.local. 5 IN A 169.254.20.10"]);
    check(&table, "cluster.local", kind::NS, &["NoError", "cluster.local. 5 IN NS ns.dns.cluster.local."]);
    let soa = ask(&table, "cluster.local", kind::SOA);
    assert!(soa[1].starts_with("cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. "), "{soa:?}");
    for outside in ["example.com", "local", "notcluster.local", "xcluster.local", ""] {
        check(&table, outside, kind::A, &["forward"]);
    }
}

#[test]
fn a_negative_answer_says_how_long_it_may_be_remembered() {
    let table = table(vec![], vec![]);
    let message = ask_bytes(&table, &query(9, "nothing.svc.cluster.local", kind::A, Some(1_232)), 1_232).expect("ours");
    let soa = message.authorities[0].to_string();
    assert!(soa.starts_with("cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local."), "{soa}");
    assert!(soa.ends_with(" 7200 1800 86400 5"), "{soa}");
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert!(message.edns.is_some());
}

#[test]
fn a_pod_has_the_names_of_smarter() {
    let mut cart = pod("shop", "cart-x7", &["10.39.0.9"]);
    cart.hostname = Some("cart".into());
    cart.app_label = Some("basket".into());
    cart.subdomain = Some("nodes".into());
    let mut cam = pod("shop", "cam-q2", &["192.168.7.2"]);
    cam.name_label = Some("camera".into());
    cam.hostname = Some("the-node".into());
    cam.is_host_network = true;
    let table = table(vec![cart, cam], vec![]);
    for name in ["cart", "cart-x7", "basket"] {
        for suffix in ["", ".shop", ".shop.svc.cluster.local", ".svc.cluster.local", ".cluster.local"] {
            let full = format!("{name}{suffix}");
            check(&table, &full, kind::A, &["NoError", &format!("{full}. 5 IN A 10.39.0.9")]);
        }
    }
    check(&table, "camera", kind::A, &["NoError", "camera. 5 IN A 192.168.7.2"]);
    check(
        &table,
        "camera.shop.svc.cluster.local",
        kind::A,
        &["NoError", "camera.shop.svc.cluster.local. 5 IN A 192.168.7.2"],
    );
    // The hostname of a pod in the host's network is the node's.
    check(&table, "the-node", kind::A, &["forward"]);
    check(
        &table,
        "cart.nodes.shop.svc.cluster.local",
        kind::A,
        &["NoError", "cart.nodes.shop.svc.cluster.local. 5 IN A 10.39.0.9"],
    );
    let reverse = "9.0.39.10.in-addr.arpa";
    check(&table, reverse, kind::PTR, &["NoError", &format!("{reverse}. 5 IN PTR cart.nodes.shop.svc.cluster.local.")]);
    // Outside of the domain the name is a zone of its own.
    check(&table, "cart", kind::AAAA, &["NoError", "authority cart. SOA"]);
    // `xcluster.local` shares the end of the bytes, not of the labels.
    check(&table, "cart.xcluster.local", kind::A, &["forward"]);
}

#[test]
fn pods_are_found_by_their_addresses() {
    let table = table(vec![pod("shop", "cart", &["10.39.0.9", "fd00:39::9"])], vec![]);
    for (name, kind, data) in [
        ("10-39-0-9.shop.pod.cluster.local", kind::A, "A 10.39.0.9"),
        ("192-0-2-1.shop.pod.cluster.local", kind::A, "A 192.0.2.1"),
        ("fd00-39--9.shop.pod.cluster.local", kind::AAAA, "AAAA fd00:39::9"),
    ] {
        check(&table, name, kind, &["NoError", &format!("{name}. 5 IN {data}")]);
    }
    check(&table, "10-39-0-9.shop.pod.cluster.local", kind::AAAA, NODATA);
    for absent in [
        "10-39-0-9.other.pod.cluster.local",
        "10-39-0.shop.pod.cluster.local",
        "10-39-0-256.shop.pod.cluster.local",
        "x.10-39-0-9.shop.pod.cluster.local",
        "10-39-0-9.pod.cluster.local",
    ] {
        check(&table, absent, kind::A, NXDOMAIN);
    }
    let reverse = "9.0.39.10.in-addr.arpa";
    check(&table, reverse, kind::PTR, &["NoError", &format!("{reverse}. 5 IN PTR 10-39-0-9.shop.pod.cluster.local.")]);
}

#[test]
fn reverse_names_of_our_networks_are_never_forwarded() {
    let table = table(vec![], vec![]);
    check(&table, "1.2.39.10.in-addr.arpa", kind::PTR, &["NXDomain", "authority 39.10.in-addr.arpa. SOA"]);
    check(&table, "2.39.10.in-addr.arpa", kind::PTR, &["NoError", "authority 39.10.in-addr.arpa. SOA"]);
    // 10.96.0.0/12 ends within a label: each of its sixteen is a zone.
    check(&table, "1.2.111.10.in-addr.arpa", kind::PTR, &["NXDomain", "authority 111.10.in-addr.arpa. SOA"]);
    let inside = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.3.0.0.0.0.d.f.ip6.arpa";
    check(&table, inside, kind::PTR, &["NXDomain", "authority 0.0.0.0.0.0.0.0.9.3.0.0.0.0.d.f.ip6.arpa. SOA"]);
    for outside in [
        "1.2.112.10.in-addr.arpa",
        "1.2.40.10.in-addr.arpa",
        "10.in-addr.arpa",
        "in-addr.arpa",
        "x.2.39.10.in-addr.arpa",
        "0.1.2.39.10.in-addr.arpa",
        "8.8.8.8.in-addr.arpa",
        "f.ip6.arpa",
    ] {
        check(&table, outside, kind::PTR, &["forward"]);
    }
}

#[test]
fn a_service_wins_over_a_pod_and_the_namespace_default_over_others() {
    let check_order = |pods: Vec<PodNames>| {
        let table = table(pods, vec![service("shop", "web", &["10.96.0.10"])]);
        for name in ["web", "web.shop", "web.shop.svc.cluster.local", "web.cluster.local"] {
            check(&table, name, kind::A, &["NoError", &format!("{name}. 5 IN A 10.96.0.10")]);
        }
        check(&table, "web.default", kind::A, &["NoError", "web.default. 5 IN A 10.39.0.2"]);
        check(&table, "db", kind::A, &["NoError", "db. 5 IN A 10.39.0.4"]);
        check(&table, "db.aaa", kind::A, &["NoError", "db.aaa. 5 IN A 10.39.0.5"]);
        check(&table, "job", kind::A, &["NoError", "job. 5 IN A 10.39.0.6"]);
    };
    let mut labelled = pod("default", "zzz", &["10.39.0.7"]);
    labelled.app_label = Some("job".into());
    let pods = vec![
        pod("shop", "web", &["10.39.0.1"]),
        pod("default", "web", &["10.39.0.2"]),
        pod("default", "db", &["10.39.0.4"]),
        pod("aaa", "db", &["10.39.0.5"]),
        pod("bbb", "job", &["10.39.0.6"]),
        labelled,
    ];
    check_order(pods.clone());
    check_order(pods.into_iter().rev().collect());
}

#[test]
fn pods_with_one_label_share_its_name_while_they_are_ready() {
    let labelled = |name: &str, address: &str, is_ready| {
        let mut pod = pod("default", name, &[address]);
        pod.app_label = Some("web".into());
        pod.is_ready = is_ready;
        pod
    };
    let check_ready = |ready: [bool; 2], expected: &[&str]| {
        let table = table(vec![labelled("a", "10.39.0.1", ready[0]), labelled("b", "10.39.0.2", ready[1])], vec![]);
        let mut found: Vec<String> = ask(&table, "web", kind::A)[1..].to_vec();
        found.sort();
        let expected: Vec<String> = expected.iter().map(|address| format!("web. 5 IN A {address}")).collect();
        assert_eq!(found, expected);
    };
    check_ready([true, true], &["10.39.0.1", "10.39.0.2"]);
    check_ready([true, false], &["10.39.0.1"]);
    check_ready([false, false], &["10.39.0.1", "10.39.0.2"]);
}

#[test]
fn names_that_would_answer_for_others_are_not_given_to_pods() {
    let mut dotted = pod("evil", "api.example.com", &["10.39.0.3"]);
    dotted.app_label = Some("www.example.com".into());
    let mut reserved = pod("default", "svc", &["10.39.0.4"]);
    reserved.app_label = Some("localhost".into());
    let table = table(vec![dotted, reserved, pod("default", "dns-version", &["10.39.0.5"])], vec![]);
    check(&table, "api.example.com", kind::A, &["forward"]);
    check(&table, "www.example.com", kind::A, &["forward"]);
    check(
        &table,
        "api.example.com.evil.svc.cluster.local",
        kind::A,
        &["NoError", "api.example.com.evil.svc.cluster.local. 5 IN A 10.39.0.3"],
    );
    check(&table, "svc.cluster.local", kind::A, NODATA);
    check(&table, "dns-version.cluster.local", kind::A, NODATA);
    check(&table, "localhost", kind::A, &["NoError", "localhost. 5 IN A 127.0.0.1"]);
}

#[test]
fn an_external_name_is_an_alias_whose_target_may_be_ours() {
    let alias = |name: &str, target: &str| {
        let mut service = service("default", name, &[]);
        service.external_name = Some(target.into());
        service
    };
    let table = table(
        vec![],
        vec![
            alias("out", "www.example.com"),
            alias("in", "web.default.svc.cluster.local."),
            alias("twice", "in.default.svc.cluster.local"),
            alias("lost", "nothing.svc.cluster.local"),
            alias("ring", "gnir.default.svc.cluster.local"),
            alias("gnir", "ring.default.svc.cluster.local"),
            service("default", "web", &["10.96.0.10"]),
        ],
    );
    let full = |name: &str| format!("{name}.default.svc.cluster.local");
    check(&table, &full("out"), kind::A, &["1 aliases to www.example.com."]);
    check(&table, &full("out"), kind::CNAME, &["NoError", &format!("{}. 5 IN CNAME www.example.com.", full("out"))]);
    check(&table, &full("out"), 15, &["NoError", &format!("{}. 5 IN CNAME www.example.com.", full("out"))]);
    let hop = format!("{}. 5 IN CNAME {}.", full("in"), full("web"));
    let end = format!("{}. 5 IN A 10.96.0.10", full("web"));
    check(&table, &full("in"), kind::A, &["NoError", &hop, &end]);
    check(
        &table,
        &full("twice"),
        kind::A,
        &["NoError", &format!("{}. 5 IN CNAME {}.", full("twice"), full("in")), &hop, &end],
    );
    check(
        &table,
        &full("lost"),
        kind::A,
        &["NXDomain", &format!("{}. 5 IN CNAME nothing.svc.cluster.local.", full("lost"))],
    );
    assert_eq!(ask(&table, &full("ring"), kind::A)[0], "ServFail");
}

#[test]
fn a_question_is_answered_to_the_letter_it_was_sent_in() {
    let table = table(vec![], vec![service("default", "web", &["10.96.0.10"])]);
    let bytes = query(0xbeef, "wEb.DeFault.svc.CLUSTER.local", kind::A, None);
    let message = ask_bytes(&table, &bytes, 512).expect("ours");
    assert_eq!(message.metadata.id, 0xbeef);
    assert_eq!(message.queries[0].name().to_string(), "wEb.DeFault.svc.CLUSTER.local.");
    assert_eq!(message.answers.len(), 1);
}

#[test]
fn many_addresses_take_turns_and_what_does_not_fit_is_truncated() {
    let mut many = service("default", "many", &[]);
    many.endpoints = (0..200).map(|last| endpoint(None, &format!("10.39.1.{last}"), true)).collect();
    let table = table(vec![], vec![many]);
    let name = "many.default.svc.cluster.local";
    let first = |id| ask_bytes(&table, &query(id, name, kind::A, None), 65_535).expect("ours").answers[0].to_string();
    assert_ne!(first(1), first(2));
    let whole = ask_bytes(&table, &query(1, name, kind::A, None), 65_535).expect("ours");
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
    for (limit, payload) in [(512, None), (1_232, Some(1_232))] {
        let cut = ask_bytes(&table, &query(1, name, kind::A, payload), limit).expect("ours");
        assert!(cut.metadata.truncation);
        assert_eq!(cut.answers.len(), (limit - 12 - 4 - 32 - if payload.is_some() { 11 } else { 0 }) / 16);
        assert_eq!(cut.edns.is_some(), payload.is_some());
    }
}

#[test]
fn a_full_table_leaves_pods_out_before_services_and_counts_them() {
    let names = Names::new(&NamesConfig { table_bytes_max: 4_096, ..config() }).expect("a domain");
    names.set_services(vec![service("default", "web", &["10.96.0.10"])]);
    assert_eq!(names.counts().1, 0);
    names.set_pods((0..100).map(|index| pod("default", &format!("pod-{index}"), &["10.39.0.1"])).collect());
    let (kept, left_out) = names.counts();
    assert!(left_out > 400 && kept < 40, "{kept} {left_out}");
    let table = Arc::clone(names.reader().table());
    check(&table, "web.default", kind::A, &["NoError", "web.default. 5 IN A 10.96.0.10"]);
}

#[test]
fn a_service_of_a_thousand_ports_does_not_take_the_table_from_others() {
    let mut wide = service("default", "wide", &["10.96.0.11"]);
    wide.ports = (0..1_000).map(|index| port(&format!("p{index}"), PortProtocol::Tcp, index)).collect();
    let mut deep = service("default", "deep", &[]);
    deep.ports = wide.ports.clone();
    deep.endpoints = (0..200).map(|last| endpoint(None, &format!("10.39.1.{last}"), true)).collect();
    let table = table(vec![], vec![wide, deep, service("default", "web", &["10.96.0.10"])]);
    let srv = |name: &str| ask(&table, &format!("{name}.default.svc.cluster.local"), kind::SRV);
    assert_eq!(srv("_p999._tcp.wide").len(), 3);
    // Of each port some endpoints, rather than all of some ports.
    assert!(srv("_p0._tcp.deep").len() > 25 && srv("_p900._tcp.deep").len() > 25);
    assert_eq!(ask(&table, "deep.default.svc.cluster.local", kind::A).len(), 201);
    assert_eq!(ask(&table, "web.default.svc.cluster.local", kind::A).len(), 2);
    assert!(table.left_out() > 100_000, "{}", table.left_out());
}

#[test]
fn names_that_are_none_are_left_out_and_the_others_stay() {
    let long = "x".repeat(64);
    let mut bad = service("default", "bad", &["10.96.0.11"]);
    bad.ports = vec![port(&long, PortProtocol::Tcp, 1)];
    let table = table(vec![pod("default", &long, &["10.39.0.1"]), pod("", "", &["10.39.0.2"])], vec![bad]);
    check(&table, "bad.default", kind::A, &["NoError", "bad.default. 5 IN A 10.96.0.11"]);
    assert!(table.left_out() > 0);
}

#[test]
fn an_update_is_seen_by_a_reader_that_was_there_before() {
    let names = Names::new(&config()).expect("a domain");
    let mut reader = names.reader();
    check(reader.table(), "cart.shop", kind::A, &["forward"]);
    names.set_pod(pod("shop", "cart", &["10.39.0.9"]));
    check(reader.table(), "cart.shop", kind::A, &["NoError", "cart.shop. 5 IN A 10.39.0.9"]);
    names.set_pod(pod("shop", "cart", &["10.39.0.10"]));
    check(reader.table(), "cart.shop", kind::A, &["NoError", "cart.shop. 5 IN A 10.39.0.10"]);
    names.remove_pod("shop", "cart");
    check(reader.table(), "cart.shop", kind::A, &["forward"]);
}

#[test]
fn a_domain_that_is_none_is_refused() {
    for domain in ["", ".", "a..b", &"x".repeat(64)] {
        assert!(Names::new(&NamesConfig { domain: domain.into(), ..config() }).is_err(), "{domain}");
    }
}
