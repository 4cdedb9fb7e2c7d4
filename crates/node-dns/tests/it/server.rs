//! The responder as its clients see it: UDP, TCP, EDNS, dig, garbage.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;

use crate::common::{PATIENCE, Scripted, TcpClient, UdpClient, brief, dig, has, list, names, query, start};
use hickory_proto::op::ResponseCode;
use node_dns::message::kind;
use node_dns::{DnsConfig, DnsServer, EndpointNames, PodNames, ServiceNames};
use proptest::prelude::*;

const WEB: &str = "web.default.svc.cluster.local";

#[test]
fn dig_reads_every_kind_of_answer() {
    if !has("dig") {
        return;
    }
    let server = start(&names(), list(&[]));
    let at = server.addresses()[0];
    for options in [&["+noedns"][..], &["+bufsize=1232"], &["+tcp"], &["+tcp", "+noedns"], &["+dnssec"], &["+nocookie"]]
    {
        let short = |args: &[&str]| dig(at, &[&["+short"], options, args].concat());
        assert_eq!(short(&[WEB, "A"]), "10.96.0.10\n", "{options:?}");
        assert_eq!(short(&["-x", "10.96.0.10"]), format!("{WEB}.\n"), "{options:?}");
        assert_eq!(short(&["dns-version.cluster.local", "TXT"]), "\"1.1.0\"\n", "{options:?}");
        assert_eq!(short(&["cart", "A"]), "10.39.0.9\n", "{options:?}");
        let absent = dig(at, &[options, &["nothing.svc.cluster.local", "A"]].concat());
        assert!(absent.contains("status: NXDOMAIN") && absent.contains("SOA\tns.dns.cluster.local."), "{absent}");
        let empty = dig(at, &[options, &[WEB, "AAAA"]].concat());
        assert!(empty.contains("status: NOERROR") && empty.contains("SOA\tns.dns.cluster.local."), "{empty}");
        assert!(!empty.contains("extra bytes") && !empty.contains("recursion requested"), "{empty}");
    }
    assert!(dig(at, &["+edns=1", "+noednsnegotiation", WEB]).contains("BADVERS"));
    assert!(dig(at, &["+opcode=STATUS", WEB]).contains("NOTIMP"));
    assert!(dig(at, &["CH", "TXT", "version.bind"]).contains("REFUSED"));
    assert!(dig(at, &["+tcp", WEB, "AXFR"]).contains("Transfer failed"));
}

#[test]
fn an_answer_repeats_the_question_to_the_letter() {
    let server = start(&names(), list(&[]));
    let client = UdpClient::new(server.addresses()[0]);
    let mut bytes = query(0x0102, WEB, kind::A, None);
    for index in [13, 15, 17, 22, 40] {
        bytes[index] = bytes[index].to_ascii_uppercase();
    }
    client.send(&bytes);
    let mut space = [0; 512];
    let len = client.socket.recv(&mut space).expect("an answer");
    assert_eq!(space[..2], bytes[..2]);
    assert_eq!(space[12..bytes.len()], bytes[12..]);
    assert!(len > bytes.len());
}

#[test]
fn many_clients_at_once_are_answered_each() {
    let server = start(&names(), list(&[]));
    let clients: Vec<UdpClient> = (0..8).map(|_| UdpClient::new(server.addresses()[0])).collect();
    for round in 0..20_u16 {
        for (client, index) in clients.iter().zip(0_u16..) {
            for turn in 0..8 {
                client.send(&query(
                    round * 64 + index * 8 + turn,
                    if turn % 2 == 0 { WEB } else { "no.svc.cluster.local" },
                    1,
                    None,
                ));
            }
        }
        for (client, index) in clients.iter().zip(0_u16..) {
            for turn in 0..8 {
                let message = client.receive();
                assert_eq!(message.metadata.id, round * 64 + index * 8 + turn);
                assert_eq!(message.answers.len(), usize::from(turn % 2 == 0));
            }
        }
    }
    assert_eq!(server.counters().queries.load(Ordering::Relaxed), 20 * 64);
    assert_eq!(server.counters().local.load(Ordering::Relaxed), 20 * 64);
}

#[test]
fn what_does_not_fit_is_truncated_and_whole_by_tcp() {
    let names = names();
    let endpoints = (0..300)
        .map(|index: u16| EndpointNames {
            hostname: Some(format!("host-{index}")),
            address: std::net::Ipv4Addr::from(0x0a27_0100 + u32::from(index)).into(),
            ports: Vec::new(),
            is_ready: true,
        })
        .collect();
    let many = ServiceNames { namespace: "default".into(), name: "many".into(), endpoints, ..ServiceNames::default() };
    names.set_services(vec![many]);
    let server = start(&names, list(&[]));
    let at = server.addresses()[0];
    let client = UdpClient::new(at);
    let name = "many.default.svc.cluster.local";
    for (payload, size) in [(None, 512), (Some(0), 512), (Some(900), 900), (Some(1_232), 1_232), (Some(65_535), 1_232)]
    {
        client.send(&query(1, name, kind::A, payload));
        let mut space = [0; 4_096];
        let len = client.socket.recv(&mut space).expect("an answer");
        assert!(len <= size && len > size - 32, "{payload:?}: {len}");
        assert_eq!(space[2] & 2, 2, "{payload:?}");
    }
    let whole = TcpClient::new(at).ask(name, kind::A);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (300, false));
    if has("dig") {
        // dig asks again by TCP of itself.
        assert_eq!(dig(at, &["+short", name]).lines().count(), 300);
    }
}

#[test]
fn a_connection_is_used_for_many_questions_and_left_behind_without_harm() {
    let server = start(&names(), list(&[]));
    let at = server.addresses()[0];
    let mut client = TcpClient::new(at);
    // All at once, and in pieces of three bytes.
    let mut bytes = Vec::new();
    for id in 0..100_u16 {
        let message = query(id, WEB, kind::A, None);
        bytes.extend_from_slice(&u16::try_from(message.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(&message);
    }
    for piece in bytes.chunks(3) {
        std::io::Write::write_all(&mut client.stream, piece).expect("an open connection");
    }
    for id in 0..100 {
        assert_eq!(client.receive().metadata.id, id);
    }
    // Half a question, then the end.
    let half = TcpClient::new(at);
    std::io::Write::write_all(&mut &half.stream, &bytes[..10]).expect("an open connection");
    drop(half);
    assert_eq!(client.ask(WEB, kind::A).answers.len(), 1);
}

#[test]
fn one_client_does_not_take_all_connections() {
    let server = start(&names(), list(&[]));
    let at = server.addresses()[0];
    // One address has sixteen at most; those beyond are closed, and the sixteen are served.
    let mut streams: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(at).expect("a listener")).collect();
    for beyond in streams.split_off(16) {
        beyond.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert!(matches!((&beyond).read(&mut [0; 1]), Ok(0)), "it is closed");
    }
    let mut served: Vec<TcpClient> = streams.into_iter().map(|stream| TcpClient { stream }).collect();
    for client in &mut served {
        client.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(client.ask(WEB, kind::A).answers.len(), 1);
    }
    let another = TcpStream::from(bound_client("127.0.0.2", at));
    let mut other = TcpClient { stream: another };
    other.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(other.ask(WEB, kind::A).answers.len(), 1);
}

/// A connection from an address of loopback.
fn bound_client(from: &str, to: SocketAddr) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let from: SocketAddr = format!("{from}:0").parse().expect("an address");
    rustix::net::bind(&socket, &from).expect("all of 127/8 is ours");
    rustix::net::connect(&socket, &to).expect("a listener");
    socket
}

#[test]
fn names_of_the_cluster_are_never_forwarded() {
    let upstream = Scripted::answering([192, 0, 2, 1], 60);
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    for (name, kind) in [
        ("nothing.default.svc.cluster.local", kind::A),
        ("a.b.c.d.e.cluster.local", kind::A),
        (WEB, 15),
        (WEB, kind::AAAA),
        ("cart", kind::AAAA),
        ("5.4.39.10.in-addr.arpa", kind::PTR),
        ("5.4.100.10.in-addr.arpa", kind::PTR),
        ("0-0-0-0.nowhere.pod.cluster.local", kind::A),
    ] {
        let message = client.ask(name, kind);
        assert_eq!((message.answers.len(), message.authorities.len()), (0, 1), "{name}");
    }
    // The last one shows that the upstream would have been asked.
    assert_eq!(brief(&client.ask("outside.example", kind::A))[0], "NoError");
    assert_eq!(upstream.questions(), ["outside.example."]);
}

#[test]
fn a_change_is_seen_by_the_next_question() {
    let names = names();
    let server = start(&names, list(&[]));
    let client = UdpClient::new(server.addresses()[0]);
    for last in 1..=50_u8 {
        let pod = PodNames {
            namespace: "shop".into(),
            name: "cart".into(),
            addresses: vec![std::net::Ipv4Addr::new(10, 39, 1, last).into()],
            is_ready: true,
            ..PodNames::default()
        };
        names.set_pod(pod);
        assert_eq!(crate::common::data(&client.ask("cart.shop", kind::A)), [format!("10.39.1.{last}")]);
    }
    names.remove_pod("shop", "cart");
    assert_eq!(client.ask("cart.shop.svc.cluster.local", kind::A).metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn several_addresses_are_listened_on_and_free_again_afterwards() {
    let names = names();
    let start_at = |listen: Vec<SocketAddr>| {
        DnsServer::start(DnsConfig { listen, upstreams: list(&[]), ..DnsConfig::default() }, &names)
    };
    let server =
        start_at(vec!["127.0.0.1:0".parse().expect("v4"), "[::1]:0".parse().expect("v6")]).expect("free ports");
    let addresses = server.addresses().to_vec();
    for address in &addresses {
        let socket = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).expect("a free port");
        socket.connect(address).expect("loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(UdpClient { socket }.ask(WEB, kind::A).answers.len(), 1);
        assert_eq!(TcpClient::new(*address).ask(WEB, kind::A).answers.len(), 1);
    }
    let taken = start_at(addresses.clone());
    assert!(taken.is_err_and(|error| error.to_string().contains(&addresses[0].to_string())));
    drop(server);
    drop(start_at(addresses).expect("the ports are free again"));
}

#[test]
fn an_address_may_come_to_its_interface_later() {
    let listen = vec!["169.254.20.10:0".parse().expect("an address")];
    let server = DnsServer::start(DnsConfig { listen, upstreams: list(&[]), ..DnsConfig::default() }, &names());
    assert!(server.expect("an address that nobody has").is_alive());
}

#[test]
fn garbage_is_answered_with_a_code_or_not_at_all() {
    let server = start(&names(), list(&[]));
    let at = server.addresses()[0];
    let client = UdpClient::new(at);
    let check = |bytes: &[u8], code: ResponseCode| {
        client.send(bytes);
        let message = client.receive();
        assert_eq!(message.metadata.response_code, code, "{bytes:?}");
    };
    let good = query(1, WEB, kind::A, None);
    let changed = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        bytes
    };
    check(&good[..12], ResponseCode::FormErr);
    check(&good[..20], ResponseCode::FormErr);
    check(&changed(5, 2), ResponseCode::FormErr);
    check(&changed(5, 0), ResponseCode::FormErr);
    check(&changed(12, 0xc0), ResponseCode::FormErr);
    check(&changed(12, 0x80), ResponseCode::FormErr);
    check(&changed(12, 63), ResponseCode::FormErr);
    check(&changed(2, 0x28), ResponseCode::NotImp);
    // Answers, and what is too short to be one, are not answered: the next good question is.
    client.send(&changed(2, 0x80));
    client.send(&good[..11]);
    client.send(&[]);
    client.send(&good);
    assert_eq!(client.receive().answers.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_responder_survives_what_is_sent_to_it(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..40)) {
        let server = start(&names(), list(&[]));
        let at = server.addresses()[0];
        let client = UdpClient::new(at);
        for bytes in &datagrams {
            client.send(bytes);
            let mut tcp = TcpClient::new(at);
            // It may be closed in our face, which is as good an answer as any.
            let _ = std::io::Write::write_all(&mut tcp.stream, bytes);
        }
        let last = UdpClient::new(at);
        prop_assert_eq!(last.ask(WEB, kind::A).answers.len(), 1);
        prop_assert!(server.is_alive());
    }
}
