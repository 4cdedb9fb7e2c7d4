use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
};

use node_network::{Network, NetworkConfig, Notice, PodLink, Protocol, ServiceEntry, ServicePort};

use crate::{
    fixture::{answer_tcp, ask, ask_from, ask_udp, inside, ip, isolated, name_in, run, say, serve_tcp, serve_udp},
    pods::{Node, Pod, config, host_port, service, uplink},
};

/// Two pods that answer on port 8080 by their names.
fn servers(node: &Node) -> (Pod, Pod) {
    let (one, two) = (node.pod("one"), node.pod("two"));
    serve_tcp(&one.netns, 8080, "one");
    serve_tcp(&two.netns, 8080, "two");
    (one, two)
}

fn endpoints(pods: &[&Pod]) -> Vec<(IpAddr, u16)> {
    pods.iter().map(|pod| (pod.address(), 8080)).collect()
}

/// Who answers so many connections, by name.
fn counted(times: u32, mut ask: impl FnMut() -> io::Result<String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(name_in(&ask().unwrap()).to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn a_service_spreads_connections_of_pods_and_of_the_node_over_its_endpoints() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let client = node.pod("client");
        node.network.set_services(vec![service("web", "10.96.0.10", &endpoints(&[&one, &two]))]).unwrap();
        let to = (ip("10.96.0.10"), 80);
        assert_eq!(client.ask(to).unwrap().split(' ').nth(1), Some("10.39.0.4"), "the client's own address");
        let counts = counted(60, || client.ask(to));
        assert!(counts.len() == 2 && counts.values().all(|count| *count >= 10), "{counts:?}");
        let counts = counted(60, || ask(to));
        assert!(counts.len() == 2 && counts.values().all(|count| *count >= 10), "without any uplink: {counts:?}");
        let hairpin = counted(40, || one.ask(to));
        assert_eq!(hairpin.len(), 2, "a pod behind the service: {hairpin:?}");
    });
}

#[test]
fn a_client_stays_with_its_endpoint_when_others_come_and_are_deleted() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let mut sticky = service("web", "10.96.0.10", &endpoints(&[&one, &two]));
        sticky.affinity_secs = Some(10_800);
        node.network.set_services(vec![sticky.clone()]).unwrap();
        let clients: Vec<Pod> = (0..12).map(|number| node.pod(&format!("client{number}"))).collect();
        let to = (ip("10.96.0.10"), 80);
        let chosen = |client: &Pod| name_in(&client.ask(to).unwrap()).to_owned();
        let first: Vec<String> = clients.iter().map(chosen).collect();
        for _ in 0..3 {
            assert_eq!(clients.iter().map(chosen).collect::<Vec<_>>(), first);
        }
        assert!(first.iter().any(|name| name == "one") && first.iter().any(|name| name == "two"), "{first:?}");
        sticky.ports[0].endpoints = endpoints(&[&two]);
        node.network.set_services(vec![sticky.clone()]).unwrap();
        assert!(clients.iter().map(chosen).all(|name| name == "two"));
        sticky.ports[0].endpoints = endpoints(&[&one, &two]);
        node.network.set_services(vec![sticky]).unwrap();
        assert_eq!(clients.iter().map(chosen).collect::<Vec<_>>(), first);
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    isolated(|dir| {
        let node = Node::new(dir);
        let client = node.pod("client");
        let mut empty = service("web", "10.96.0.10", &[]);
        let dns = ServicePort { protocol: Protocol::Udp, port: 53, ..empty.ports[0].clone() };
        empty.ports.push(dns);
        node.network.set_services(vec![empty]).unwrap();
        let refused = |result: io::Result<String>| result.unwrap_err().kind() == io::ErrorKind::ConnectionRefused;
        assert!(refused(client.ask((ip("10.96.0.10"), 80))));
        assert!(refused(ask((ip("10.96.0.10"), 80))));
        assert!(refused(client.ask((ip("10.96.0.10"), 81))), "a port that the service does not have");
        let datagram = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.96.0.10:53").unwrap();
            socket.send(b"x").unwrap();
            socket.set_read_timeout(Some(crate::fixture::ANSWER_WAIT)).unwrap();
            Err(socket.recv(&mut [0; 8]).unwrap_err())
        };
        assert!(refused(inside(&client.netns, datagram)));
        // The host's own datagram is refused when it is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("10.96.0.10:53").unwrap();
        let error = socket.send(b"x").and_then(|_| socket.recv(&mut [0; 8])).unwrap_err();
        assert!([io::ErrorKind::ConnectionRefused, io::ErrorKind::PermissionDenied].contains(&error.kind()), "{error}");
    });
}

#[test]
fn a_node_port_leads_to_the_service_from_outside_and_from_the_node() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let mut web = service("web", "10.96.0.10", &endpoints(&[&one, &two]));
        web.ports[0].node_port = Some(30080);
        node.network.set_services(vec![web.clone()]).unwrap();
        let to = (ip("198.18.0.1"), 30080);
        assert_eq!(counted(40, || ask_from(&outside, to)).len(), 2);
        assert!(ask_from(&outside, to).unwrap().ends_with(" 198.18.0.2"), "the client's own address");
        assert_eq!(counted(40, || ask(to)).len(), 2);
        assert_eq!(counted(40, || ask((ip("127.0.0.1"), 30080))).len(), 2);
        assert_eq!(counted(40, || one.ask(to)).len(), 2, "hairpin");
        web.ports[0].endpoints.clear();
        node.network.set_services(vec![web]).unwrap();
        let error = ask_from(&outside, to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_program_that_binds_to_loopback_reaches_services_too() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, _) = servers(&node);
        node.network.set_services(vec![service("web", "10.96.0.10", &endpoints(&[&one]))]).unwrap();
        let script = "import socket; s = socket.socket(); s.settimeout(5); s.bind(('127.0.0.1', 0)); \
            s.connect(('10.96.0.10', 80)); s.send(b'\\n'); print(s.recv(99).decode(), end='')";
        let output = Command::new("python3").args(["-c", script]).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, "one 10.39.0.1\n", "{err}");
    });
}

#[test]
fn an_endpoint_may_be_the_node_itself_or_a_machine_outside() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::new(dir);
        let client = node.pod("client");
        serve_tcp(&outside, 6443, "hub");
        answer_tcp(TcpListener::bind("10.39.0.1:6443").unwrap(), "agent");
        let hub = service("hub", "10.96.0.1", &[(ip("198.18.0.2"), 6443)]);
        let agent = service("agent", "10.96.0.2", &[(ip("10.39.0.1"), 6443)]);
        node.network.set_services(vec![hub, agent]).unwrap();
        assert_eq!(client.ask((ip("10.96.0.1"), 80)).unwrap(), "hub 198.18.0.1");
        assert_eq!(ask((ip("10.96.0.1"), 80)).unwrap(), "hub 198.18.0.1");
        assert_eq!(client.ask((ip("10.96.0.2"), 80)).unwrap(), "agent 10.39.0.2");
        assert_eq!(ask((ip("10.96.0.2"), 80)).unwrap(), "agent 10.39.0.1");
    });
}

#[test]
fn datagrams_of_a_flow_follow_the_endpoints() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two, client) = (node.pod("one"), node.pod("two"), node.pod("client"));
        serve_udp(&one.netns, 8080, "one");
        serve_udp(&two.netns, 8080, "two");
        let mut dns = service("dns", "10.96.0.10", &endpoints(&[&one]));
        dns.ports[0].protocol = Protocol::Udp;
        node.network.set_services(vec![dns.clone()]).unwrap();
        let socket = inside(&client.netns, || UdpSocket::bind("0.0.0.0:4000").unwrap());
        let to = (ip("10.96.0.10"), 80);
        assert_eq!(name_in(&ask_udp(&socket, to).unwrap()), "one");
        dns.ports[0].endpoints = endpoints(&[&one, &two]);
        node.network.set_services(vec![dns.clone()]).unwrap();
        assert_eq!(name_in(&ask_udp(&socket, to).unwrap()), "one", "an endpoint more disturbs no flow");
        dns.ports[0].endpoints = endpoints(&[&two]);
        node.network.set_services(vec![dns.clone()]).unwrap();
        assert_eq!(name_in(&ask_udp(&socket, to).unwrap()), "two");
        node.network.set_services(vec![]).unwrap();
        assert!(!run("conntrack -L -p udp").contains("10.96.0.10"), "a service that was deleted leaves no flow");
    });
}

/// A listing by the stock tool, without the kernel's numbers of objects.
fn listing() -> String {
    run("nft list ruleset")
}

#[test]
fn stock_nft_lists_services_by_their_names() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let mut sticky = service("sticky", "10.96.0.11", &endpoints(&[&one]));
        sticky.affinity_secs = Some(60);
        let mut web = service("web", "10.96.0.10", &endpoints(&[&two, &one, &one]));
        web.ports[0].node_port = Some(30080);
        node.network.set_services(vec![web, sticky]).unwrap();
        let listing = listing();
        for expected in [
            "ip daddr . meta l4proto . th dport vmap @services",
            "fib daddr type local goto local",
            "meta l4proto . th dport vmap @nodeports",
            "10.96.0.10 . tcp . 80 : goto svc-",
            "-default/web/tcp/80",
            "numgen random mod 2 map { 0 : 10.39.0.2 . 8080, 1 : 10.39.0.3 . 8080 }",
            "jhash ip saddr mod 64 seed 0x5e1d map",
            "tcp . 30080 : goto svc-",
            "reject with tcp reset",
            "masquerade fully-random",
        ] {
            assert!(listing.contains(expected), "{expected}: {listing}");
        }
        let json: serde_json::Value = serde_json::from_str(&run("nft -j list ruleset")).unwrap();
        let chains = json["nftables"].as_array().unwrap().iter().filter_map(|object| object["chain"]["name"].as_str());
        assert_eq!(chains.filter(|name| name.starts_with("svc-")).count(), 2);
    });
}

#[test]
fn services_that_are_deleted_or_renumbered_leave_nothing() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        node.network.set_services(vec![]).unwrap();
        let empty = listing();
        let mut web = service("web", "10.96.0.10", &endpoints(&[&one, &two]));
        web.ports[0].node_port = Some(30080);
        let headless = ServiceEntry { cluster_ips: vec![], ..service("headless", "10.96.0.9", &endpoints(&[&one])) };
        node.network.set_services(vec![web.clone(), headless]).unwrap();
        let mut other = service("web", "10.96.0.20", &endpoints(&[&two]));
        other.ports[0].port = 81;
        node.network.set_services(vec![other]).unwrap();
        let client = node.pod("client");
        assert_eq!(client.ask((ip("10.96.0.20"), 81)).unwrap(), "two 10.39.0.4");
        let now = listing();
        assert!(
            !now.contains("10.96.0.10") && !now.contains("30080") && now.matches("chain svc-").count() == 1,
            "{now}"
        );
        node.network.set_services(vec![]).unwrap();
        node.remove(&client);
        assert_eq!(listing(), empty);
    });
}

#[test]
fn a_thousand_ports_and_two_services_with_one_address_are_survived() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let mut wide = service("wide", "10.96.0.30", &[]);
        wide.ports = (1..=1000)
            .map(|port| ServicePort {
                name: format!("p{port}"),
                protocol: Protocol::Tcp,
                port,
                node_port: None,
                endpoints: endpoints(&[&one]),
            })
            .collect();
        let first = service("a", "10.96.0.10", &endpoints(&[&one]));
        let second = service("b", "10.96.0.10", &endpoints(&[&two]));
        node.network.set_services(vec![wide.clone(), second, first]).unwrap();
        assert_eq!(name_in(&ask((ip("10.96.0.30"), 1000)).unwrap()), "one");
        assert_eq!(name_in(&ask((ip("10.96.0.10"), 80)).unwrap()), "one", "the first by name");
        run("nft list ruleset");
        wide.ports.truncate(1);
        node.network.set_services(vec![wide]).unwrap();
        assert_eq!(listing().matches("chain svc-").count(), 1);
    });
}

#[test]
fn connections_outlive_every_change_and_a_restart() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let client = node.pod("client");
        let web = service("web", "10.96.0.10", &endpoints(&[&one]));
        node.network.set_services(vec![web.clone()]).unwrap();
        serve_tcp(&outside, 80, "outside");
        let mut to_service = inside(&client.netns, || TcpStream::connect("10.96.0.10:80").unwrap());
        let mut to_outside = inside(&client.netns, || TcpStream::connect("198.18.0.2:80").unwrap());
        let mut from_node = TcpStream::connect("10.96.0.10:80").unwrap();
        let mut check = |when: &str| {
            assert_eq!(say(&mut to_service).unwrap(), "one 10.39.0.4", "{when}");
            assert_eq!(say(&mut to_outside).unwrap(), "outside 198.18.0.1", "{when}");
            assert_eq!(name_in(&say(&mut from_node).unwrap()), "one", "{when}");
        };
        check("before");
        node.network.set_services(vec![service("web", "10.96.0.10", &endpoints(&[&two]))]).unwrap();
        check("another endpoint");
        node.network.set_services(vec![web.clone()]).unwrap();
        let before = listing() + &run("ip -o address") + &run("ip route") + &run("ip neighbour show nud permanent");
        drop(node);
        // The kernel's counter of changes of tables says whether anything was written.
        let generation = generation();
        let (network, notices) = Network::open(config()).unwrap();
        let pods = [&one, &two, &client].map(Pod::link);
        let found = network.reconcile(&pods).unwrap();
        assert_eq!((found.repaired.len(), found.removed.len(), found.failed.len(), notices.len()), (0, 0, 0, 0));
        network.set_services(vec![web]).unwrap();
        assert_eq!(self::generation(), generation, "a restart changed the table");
        assert_eq!(
            listing() + &run("ip -o address") + &run("ip route") + &run("ip neighbour show nud permanent"),
            before
        );
        check("after a restart");
        // Even with the table lost as a whole, connections live on, and the next update brings it back.
        run("nft delete table ip selvedge");
        network.set_services(vec![service("web", "10.96.0.10", &endpoints(&[&two]))]).unwrap();
        network.reconcile(&pods).unwrap();
        check("after the table was lost");
        // The kernel ends what was masqueraded by an uplink that goes down, and nothing else.
        run("ip link set up0 down");
        assert_eq!(say(&mut to_service).unwrap(), "one 10.39.0.4", "no uplink");
        assert_eq!(name_in(&say(&mut from_node).unwrap()), "one", "no uplink");
        assert_eq!(client.ask((ip("10.96.0.10"), 80)).unwrap(), "two 10.39.0.4");
    });
}

/// How often tables were changed.
fn generation() -> String {
    let script = "import socket, struct; s = socket.socket(16, 3, 12); \
        s.send(struct.pack('=IHHII4s', 20, 0xa10, 1, 1, 0, bytes(4))); r = s.recv(999); print(r[20:28].hex())";
    let output = Command::new("python3").args(["-c", script]).output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(found.trim().len(), 16, "{found}");
    found
}

#[test]
fn a_restart_removes_what_is_no_pod_any_more_and_repairs_what_is_incomplete() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let (lost, unknown) = (node.pod("lost"), node.pod("unknown"));
        drop(node);
        run("ip route del 10.39.0.3");
        let (network, _) = Network::open(config()).unwrap();
        let (remembered, netns) = ([ip("10.39.0.6")], dir.join("none"));
        let dead = PodLink { uid: "dead", netns: &netns, host_ports: &[], addresses: &remembered };
        // Of one pod nothing is known but that it is there.
        let unknown_link = PodLink { netns: &netns, addresses: &[], ..unknown.link() };
        let found = network.reconcile(&[one.link(), two.link(), dead, unknown_link]).unwrap();
        assert_eq!(found.repaired, ["two"]);
        assert_eq!(name_in(&unknown.ask((one.address(), 8080)).unwrap()), "one", "it keeps its link");
        assert!(network.is_pod(&unknown.address()));
        assert!(found.removed.contains(&"lost".to_owned()), "{found:?}");
        assert_eq!(found.failed.iter().map(|(uid, _)| uid.as_str()).collect::<Vec<_>>(), ["dead"]);
        assert_eq!(one.ask((two.address(), 8080)).unwrap(), "two 10.39.0.2");
        let pods = run("nft list set ip selvedge pods");
        assert!(!pods.contains(&lost.address().to_string()), "{pods}");
        // The remembered address of a pod that has no link now is not given to another.
        let node = Node::of(dir, network);
        assert_ne!(node.pod("new").address(), remembered[0]);
    });
}

#[test]
fn other_rules_of_the_fixed_part_leave_services_and_pods_as_they_are() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::new(dir);
        let (one, _) = servers(&node);
        let client = node.pod("client");
        node.network.set_services(vec![service("web", "10.96.0.10", &endpoints(&[&one]))]).unwrap();
        serve_tcp(&outside, 80, "outside");
        drop(node);
        let kept = || run("nft list map ip selvedge services") + &run("nft list set ip selvedge pods");
        let before = kept();
        let changed = NetworkConfig { no_masquerade: vec!["198.18.0.0/24".parse().unwrap()], ..config() };
        let (_network, notices) = Network::open(changed).unwrap();
        assert_eq!(notices, []);
        assert_eq!(kept(), before);
        assert_eq!(client.ask((ip("10.96.0.10"), 80)).unwrap(), "one 10.39.0.4");
        crate::fixture::run_in(&outside, "ip route add 10.39.0.0/16 via 198.18.0.1");
        assert_eq!(client.ask((ip("198.18.0.2"), 80)).unwrap(), "outside 10.39.0.4", "not masqueraded");
    });
}

#[test]
fn a_firewall_that_drops_what_pods_send_is_named() {
    isolated(|_| {
        run("nft add table inet filter");
        run("nft add chain inet filter forward { type filter hook forward priority 0 ; policy drop ; }");
        let (_network, notices) = Network::open(config()).unwrap();
        assert_eq!(notices, [Notice::ForwardDropped { chain: "inet filter forward".to_owned() }]);
    });
}

#[test]
fn what_others_delete_from_nftables_comes_back() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (one, two) = servers(&node);
        let web = node.try_pod("web", &[host_port(9090, 80)]).unwrap();
        serve_tcp(&web.netns, 80, "web");
        let mut service = service("web", "10.96.0.10", &endpoints(&[&one]));
        service.ports[0].node_port = Some(30080);
        node.network.set_services(vec![service.clone()]).unwrap();
        // From here on it is known which pods there are: more than those is too much.
        let ports = [host_port(9090, 80)];
        let pods = [one.link(), two.link(), PodLink { host_ports: &ports, ..web.link() }];
        node.network.reconcile(&pods).unwrap();
        let before = listing();
        // Chains that were written anew are listed behind the others.
        let sorted = |listing: &str| {
            let parts = listing.split("\n\n").map(|part| part.trim_matches(['}', '\t', '\n']).to_owned());
            let mut parts: Vec<String> = parts.collect();
            parts.sort();
            parts
        };
        let check = |when: &str| {
            assert_eq!(sorted(&listing()), sorted(&before), "{when}");
            assert_eq!(name_in(&two.ask((ip("10.96.0.10"), 80)).unwrap()), "one", "{when}");
            assert!(!node.network.repair().unwrap(), "{when}");
        };
        node.network.repair().unwrap();
        let count = generation();
        assert!(!node.network.repair().unwrap());
        let chain = before.lines().find_map(|line| line.trim().strip_prefix("chain svc-")).unwrap();
        let chain = format!("svc-{}", chain.trim_end_matches(" {"));
        for line in [
            "flush ruleset".to_owned(),
            "flush set ip selvedge pods".to_owned(),
            "flush map ip selvedge hostports".to_owned(),
            "flush map ip selvedge services".to_owned(),
            format!("flush chain ip selvedge {chain}"),
            "flush chain ip selvedge postrouting".to_owned(),
            "add element ip selvedge pods { 192.0.2.9 }".to_owned(),
            format!("insert rule ip selvedge {chain} drop"),
        ] {
            run(&format!("nft {line}"));
            assert!(node.network.repair().unwrap(), "{line}");
            check(&line);
        }
        // Without a look in between, the next change notices.
        run("nft flush ruleset");
        node.remove(&web);
        let web = node.try_pod("web", &[host_port(9090, 80)]).unwrap();
        assert_eq!(name_in(&two.ask((ip("10.96.0.10"), 80)).unwrap()), "one");
        serve_tcp(&web.netns, 80, "web");
        assert_eq!(name_in(&ask((ip("127.0.0.1"), 9090)).unwrap()), "web");
        run("nft flush ruleset");
        service.ports[0].endpoints = endpoints(&[&two]);
        node.network.set_services(vec![service]).unwrap();
        assert_eq!(name_in(&one.ask((ip("10.96.0.10"), 80)).unwrap()), "two");
        assert_eq!(name_in(&ask((ip("127.0.0.1"), 9090)).unwrap()), "web");
        // Others' changes that are none of ours are read once and then known.
        run("nft add table ip other");
        assert!(!node.network.repair().unwrap());
        assert_ne!(generation(), count);
    });
}
