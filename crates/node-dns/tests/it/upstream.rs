//! The rest of the world: dnsmasq as upstream, upstreams that are slow, away, wrong or hostile.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{
    Dnsmasq, PATIENCE, Scripted, TcpClient, UdpClient, brief, data, dig, free_port, has, list, names, query, reply,
    reply_code, start,
};
use hickory_proto::op::ResponseCode;
use node_dns::message::kind;
use node_dns::{DnsConfig, DnsServer, ServiceNames, UpstreamSource};
use testkit::wait::eventually;

#[test]
fn dnsmasq_is_asked_once_and_its_answers_are_kept() {
    if !has("dnsmasq") || !has("dig") {
        return;
    }
    let upstream = Dnsmasq::with_host(free_port(), "www.example.com", "192.0.2.7", 300);
    let server = start(&names(), list(&[upstream.address]));
    let at = server.addresses()[0];
    for _ in 0..3 {
        assert_eq!(dig(at, &["+short", "wWw.eXample.com", "A"]), "192.0.2.7\n");
    }
    let counters = server.counters();
    assert_eq!(counters.forwarded.load(Ordering::Relaxed), 1);
    assert_eq!(counters.cache_hits.load(Ordering::Relaxed), 2);
    assert!(counters.cache_bytes.load(Ordering::Relaxed) > 0);
    // Kept without dnsmasq, too; and dig finds the question as it was sent.
    drop(upstream);
    let text = dig(at, &["+noall", "+question", "+answer", "WWW.example.com", "A"]);
    assert!(text.contains(";WWW.example.com.\t\tIN\tA") && text.contains("192.0.2.7"), "{text}");
    // What is asked for with signatures is another question, which nobody answers now.
    assert!(dig(at, &["+dnssec", "www.example.com", "A"]).contains("SERVFAIL"));
}

#[test]
fn expired_answers_are_given_while_the_upstream_is_away_and_new_ones_when_it_is_back() {
    if !has("dnsmasq") {
        return;
    }
    let port = free_port();
    let upstream = Dnsmasq::with_host(port, "www.example.com", "192.0.2.7", 1);
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    assert_eq!(brief(&client.ask("www.example.com", kind::A)), ["NoError", "www.example.com. 1 IN A 192.0.2.7"]);
    drop(upstream);
    let stale = |expected: &str| {
        let found = brief(&client.ask("www.example.com", kind::A));
        if found.get(1).is_some_and(|line| line == expected) { Ok(()) } else { Err(format!("{found:?}")) }
    };
    eventually("expired answer", PATIENCE, || stale("www.example.com. 30 IN A 192.0.2.7")).expect("RFC 8767");
    assert!(server.counters().stale.load(Ordering::Relaxed) > 0);
    assert_eq!(client.ask("new.example.com", kind::A).metadata.response_code, ResponseCode::ServFail);
    let _back = Dnsmasq::with_host(port, "www.example.com", "192.0.2.8", 1);
    // Another question shows that the link is back; the expired answer is refreshed then.
    assert_eq!(client.ask("other.example.com", kind::A).metadata.response_code, ResponseCode::Refused);
    client.ask("www.example.com", kind::AAAA);
    eventually("new answer", PATIENCE, || stale("www.example.com. 1 IN A 192.0.2.8")).expect("a refresh");
}

#[test]
fn an_expired_answer_is_given_when_a_slow_upstream_has_had_its_time() {
    let mut is_first = true;
    let upstream = Scripted::start(Box::new(move |question, from, socket| {
        if std::mem::take(&mut is_first) {
            socket.send_to(&reply(question, [192, 0, 2, 7], 1), from).expect("loopback");
        }
    }));
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    assert_eq!(client.ask("slow.example", kind::A).answers.len(), 1);
    eventually("expired answer", PATIENCE, || {
        let found = brief(&client.ask("slow.example", kind::A));
        if found[1].contains(" 30 IN A ") { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .expect("RFC 8767");
}

#[test]
fn large_answers_are_fetched_by_tcp() {
    if !has("dnsmasq") {
        return;
    }
    let mut hosts: Vec<String> = (0..250).map(|last| format!("--host-record=many.example,192.0.2.{last}")).collect();
    hosts.push("--local-ttl=60".into());
    let upstream = Dnsmasq::start(free_port(), &hosts);
    let server = start(&names(), list(&[upstream.address]));
    let at = server.addresses()[0];
    let whole = TcpClient::new(at).ask("many.example", kind::A);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (250, false));
    let cut = UdpClient::new(at).ask("many.example", kind::A);
    assert!(cut.metadata.truncation && cut.answers.len() > 50, "{}", cut.answers.len());
    // The client by UDP asks with EDNS, the other without: one question for upstreams.
    assert_eq!(server.counters().forwarded.load(Ordering::Relaxed), 1);
}

#[test]
fn the_next_upstream_is_asked_when_one_is_away_silent_or_unwilling() {
    let good = Scripted::answering([192, 0, 2, 9], 0);
    let silent = Scripted::silent();
    let unwilling = Scripted::start(Box::new(|question, from, socket| {
        socket.send_to(&reply_code(question, 5), from).expect("loopback");
    }));
    let away = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for bad in [away, silent.address, unwilling.address] {
        let server = start(&names(), list(&[bad, good.address]));
        let client = UdpClient::new(server.addresses()[0]);
        assert_eq!(data(&client.ask("www.example", kind::A)), ["192.0.2.9"], "{bad}");
        // The one that answered comes first now: a silent one would be asked no more.
        let before = silent.questions().len();
        assert_eq!(data(&client.ask("www.example", kind::A)), ["192.0.2.9"], "{bad}");
        assert_eq!(silent.questions().len(), before);
    }
    // When all are unwilling, their word is passed on.
    let server = start(&names(), list(&[unwilling.address]));
    let refused = UdpClient::new(server.addresses()[0]).ask("www.example", kind::A);
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
}

#[test]
fn a_late_answer_of_the_first_upstream_counts() {
    // Answers the first question when the second one has come.
    let mut first: Option<(Vec<u8>, SocketAddr)> = None;
    let late = Scripted::start(Box::new(move |question, from, socket| match &first {
        None => first = Some((question.to_vec(), from)),
        Some((former, to)) => {
            socket.send_to(&reply(former, [192, 0, 2, 3], 60), to).expect("loopback");
        }
    }));
    let server = start(&names(), list(&[late.address]));
    let client = UdpClient::new(server.addresses()[0]);
    assert_eq!(data(&client.ask("late.example", kind::A)), ["192.0.2.3"]);
    assert_eq!(server.counters().forwarded.load(Ordering::Relaxed), 1);
}

#[test]
fn forged_answers_are_not_taken() {
    let forger = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let upstream = Scripted::start(Box::new(move |question, from, socket| {
        let good = reply(question, [192, 0, 2, 1], 60);
        let mut wrong_id = reply(question, [6, 6, 6, 1], 60);
        wrong_id[0] ^= 1;
        let mut wrong_name = reply(question, [6, 6, 6, 2], 60);
        wrong_name[13] = b'x';
        let mut wrong_kind = reply(question, [6, 6, 6, 3], 60);
        let end = crate::common::question_end(question);
        wrong_kind[end - 3] = 28;
        let mut no_answer = reply(question, [6, 6, 6, 4], 60);
        no_answer[2] &= 0x7f;
        for bad in [&wrong_id, &wrong_name, &wrong_kind, &no_answer, &good[..20].to_vec(), &vec![0xff; 40]] {
            socket.send_to(bad, from).expect("loopback");
        }
        // The right answer of another server does not even arrive.
        forger.send_to(&reply(question, [6, 6, 6, 5], 60), from).expect("loopback");
        socket.send_to(&good, from).expect("loopback");
    }));
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    for _ in 0..2 {
        assert_eq!(data(&client.ask("www.example", kind::A)), ["192.0.2.1"]);
    }
}

#[test]
fn ports_and_ids_are_another_for_each_question() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let of_script = std::sync::Arc::clone(&seen);
    let upstream = Scripted::start(Box::new(move |question, from, socket| {
        of_script
            .lock()
            .expect("no test panics with it")
            .push((from.port(), u16::from_be_bytes([question[0], question[1]])));
        socket.send_to(&reply(question, [192, 0, 2, 1], 60), from).expect("loopback");
    }));
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    for index in 0..64 {
        client.ask(&format!("host-{index}.example"), kind::A);
    }
    let seen = seen.lock().expect("no test panics with it");
    let distinct =
        |part: fn(&(u16, u16)) -> u16| seen.iter().map(part).collect::<std::collections::BTreeSet<_>>().len();
    // Sixty-four of some twenty-eight thousand seldom meet.
    assert!(distinct(|(port, _)| *port) > 55, "{seen:?}");
    assert!(distinct(|(_, id)| *id) > 55, "{seen:?}");
}

#[test]
fn equal_questions_share_one_on_its_way() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let upstream = Scripted::start(Box::new(move |question, from, socket| {
        held.recv().expect("the test lets it answer");
        socket.send_to(&reply(question, [192, 0, 2, 1], 60), from).expect("loopback");
    }));
    let server = start(&names(), list(&[upstream.address]));
    let clients: Vec<UdpClient> = (0..20).map(|_| UdpClient::new(server.addresses()[0])).collect();
    for client in &clients {
        // Sent twice, as an impatient client does: answered once.
        client.send(&query(7, "same.example", kind::A, None));
        client.send(&query(7, "same.example", kind::A, None));
    }
    eventually("forty questions", PATIENCE, || match server.counters().queries.load(Ordering::Relaxed) {
        40 => Ok(()),
        count => Err(count.to_string()),
    })
    .expect("they arrive");
    release.send(()).expect("the upstream waits");
    for client in &clients {
        assert_eq!(data(&client.receive()), ["192.0.2.1"]);
    }
    let last = &clients[clients.len() - 1].socket;
    last.set_read_timeout(Some(crate::common::SILENCE)).expect("a timeout");
    assert!(last.recv(&mut [0; 512]).is_err(), "one answer each");
    assert_eq!(upstream.questions().len(), 1);
    assert_eq!(server.counters().coalesced.load(Ordering::Relaxed), 39);
}

#[test]
fn a_flood_of_names_is_bounded_and_keeps_the_cluster_s_answers_coming() {
    let upstream = Scripted::silent();
    let server = start(&names(), list(&[upstream.address]));
    let flood = UdpClient::new(server.addresses()[0]);
    let client = UdpClient::new(server.addresses()[0]);
    for index in 0..1_000_u16 {
        flood.send(&query(index, &format!("host-{index}.example"), kind::A, None));
        if index % 100 == 0 {
            assert_eq!(client.ask("web.default.svc.cluster.local", kind::A).answers.len(), 1);
        }
    }
    // Those beyond the bound are refused at once, not when their time is over.
    let refused = flood.receive();
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert!(server.counters().forwarded.load(Ordering::Relaxed) <= 128);
    assert!(server.counters().overloads.load(Ordering::Relaxed) > 0);
    let sockets = fs::read_dir("/proc/self/fd").expect("our descriptors").count();
    assert!(sockets < 1_000, "{sockets}");
}

#[test]
fn a_server_that_does_not_know_edns_is_asked_without() {
    let upstream = Scripted::start(Box::new(|question, from, socket| {
        let has_edns = question[11] == 1;
        let answer = if has_edns { reply_code(question, 1) } else { reply(question, [192, 0, 2, 1], 60) };
        socket.send_to(&answer, from).expect("loopback");
    }));
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    assert_eq!(data(&client.ask("one.example", kind::A)), ["192.0.2.1"]);
    assert_eq!(data(&client.ask("two.example", kind::A)), ["192.0.2.1"]);
    // The second name was asked for without at once.
    assert_eq!(upstream.questions(), ["one.example.", "one.example.", "two.example."]);
}

#[test]
fn the_upstreams_of_a_file_are_read_again_when_it_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("resolv.conf");
    let port = free_port();
    // Two servers with one port, as files have no ports.
    let listen = |ip: &str, last: u8| {
        let socket = UdpSocket::bind((ip, port)).expect("all of 127/8 is ours");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        std::thread::spawn(move || {
            let mut space = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut space) {
                if &space[13..16] == b"end" {
                    return;
                }
                socket.send_to(&reply(&space[..len], [192, 0, 2, last], 0), from).expect("loopback");
            }
        })
    };
    let threads = [listen("127.0.0.2", 2), listen("127.0.0.3", 3)];
    let upstreams = UpstreamSource::File { path: path.clone(), port };
    let server = start(&names(), upstreams);
    let client = UdpClient::new(server.addresses()[0]);
    // No file, no upstream.
    assert_eq!(client.ask("www.example", kind::A).metadata.response_code, ResponseCode::ServFail);
    for last in ["2", "3"] {
        fs::write(&path, format!("# by a test\nsearch example\nnameserver 127.0.0.{last}\n")).expect("a file");
        eventually("the file's server", PATIENCE, || {
            let found = data(&client.ask("www.example", kind::A));
            if found == [format!("192.0.2.{last}")] { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .expect("it is read again");
    }
    // A file that was removed leaves what there was.
    fs::remove_file(&path).expect("a file");
    assert_eq!(data(&client.ask("www.example", kind::A)), ["192.0.2.3"]);
    for ip in ["127.0.0.2", "127.0.0.3"] {
        let end = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        end.send_to(&query(0, "end", kind::A, None), (ip, port)).expect("loopback");
    }
    for thread in threads {
        thread.join().expect("it ends");
    }
}

#[test]
fn a_responder_does_not_ask_itself() {
    let listen: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let config = DnsConfig { listen: vec![listen], upstreams: list(&[listen]), ..DnsConfig::default() };
    let server = DnsServer::start(config, &names()).expect("a free port");
    let client = UdpClient::new(listen);
    assert_eq!(client.ask("www.example", kind::A).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.counters().queries.load(Ordering::Relaxed), 1);
}

#[test]
fn an_upstream_that_leads_back_is_found_and_left_out() {
    if !has("dnsmasq") {
        return;
    }
    let listen: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let upstream =
        Dnsmasq::start(free_port(), &[format!("--server=127.0.0.1#{}", listen.port()), "--cache-size=0".into()]);
    let good = Scripted::answering([192, 0, 2, 4], 60);
    let config =
        DnsConfig { listen: vec![listen], upstreams: list(&[upstream.address, good.address]), ..DnsConfig::default() };
    let server = DnsServer::start(config, &names()).expect("a free port");
    let client = UdpClient::new(listen);
    eventually("the question that comes round", PATIENCE, || match server.counters().queries.load(Ordering::Relaxed) {
        0 => Err("none"),
        _ => Ok(()),
    })
    .expect("dnsmasq passes it on");
    let begin = server.counters().queries.load(Ordering::Relaxed);
    assert_eq!(data(&client.ask("www.example", kind::A)), ["192.0.2.4"]);
    // Nothing came round but the first.
    assert_eq!(server.counters().queries.load(Ordering::Relaxed), begin + 1);
}

#[test]
fn an_external_name_is_resolved_by_the_upstream() {
    if !has("dnsmasq") || !has("dig") {
        return;
    }
    let args =
        ["--host-record=www.example.com,192.0.2.7", "--cname=alias.example.com,www.example.com", "--local-ttl=300"];
    let upstream = Dnsmasq::start(free_port(), &args.map(str::to_owned));
    let names = names();
    let external = |name: &str, target: &str| ServiceNames {
        namespace: "default".into(),
        name: name.into(),
        external_name: Some(target.into()),
        ..ServiceNames::default()
    };
    names.set_services(vec![external("out", "alias.example.com"), external("lost", "nothing.example.com")]);
    let server = start(&names, list(&[upstream.address]));
    let at = server.addresses()[0];
    let name = "out.default.svc.cluster.local";
    for options in [&["+noedns"][..], &["+edns"], &["+tcp"], &["+edns"]] {
        let text = dig(at, &[&["+short"], options, &[name, "A"]].concat());
        assert_eq!(text, "alias.example.com.\nwww.example.com.\n192.0.2.7\n", "{options:?}");
    }
    assert_eq!(dig(at, &["+short", name, "CNAME"]), "alias.example.com.\n");
    let lost = dig(at, &["lost.default.svc.cluster.local", "A"]);
    assert!(lost.contains("CNAME\tnothing.example.com.") || lost.contains("REFUSED"), "{lost}");
    drop(upstream);
    let away = dig(at, &["lost.default.svc.cluster.local", "AAAA"]);
    assert!(away.contains("SERVFAIL"), "{away}");
}

#[test]
fn a_client_without_patience_is_answered_before_it_gives_up() {
    let upstream = Scripted::silent();
    let server = start(&names(), list(&[upstream.address]));
    let client = UdpClient::new(server.addresses()[0]);
    let begin = Instant::now();
    assert_eq!(client.ask("www.example", kind::A).metadata.response_code, ResponseCode::ServFail);
    eprintln!("SERVFAIL after {:?}; clients give up after {:?}", begin.elapsed(), Duration::from_secs(5));
    assert_eq!(upstream.questions().len(), 4);
}
