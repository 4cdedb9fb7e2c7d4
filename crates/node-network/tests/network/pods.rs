use std::{
    fs::File,
    io,
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
};

use node_network::{
    HostPort, Kind, Network, NetworkConfig, NetworkError, PodLink, PodNamespaces, Protocol, ServiceEntry, ServicePort,
    names,
};

use crate::fixture::{
    ANSWER_WAIT, answer_tcp, ask, ask_from, ask_udp, eventually_without, inside, ip, isolated, name_in, namespace, run,
    run_in, say, serve_tcp, serve_udp,
};

/// A node with pods.
pub struct Node {
    pub network: Network,
    dir: std::path::PathBuf,
}

/// A pod of the node.
pub struct Pod {
    pub uid: String,
    pub netns: std::path::PathBuf,
    pub addresses: Vec<IpAddr>,
    namespaces: PodNamespaces,
}

impl Pod {
    pub fn address(&self) -> IpAddr {
        self.addresses[0]
    }

    pub fn link(&self) -> PodLink<'_> {
        PodLink { uid: &self.uid, netns: &self.netns, host_ports: &[], addresses: &self.addresses }
    }

    pub fn ask(&self, to: (IpAddr, u16)) -> io::Result<String> {
        ask_from(&self.netns, to)
    }
}

impl Node {
    pub fn new(dir: &Path) -> Self {
        Self::with(dir, config())
    }

    pub fn with(dir: &Path, config: NetworkConfig) -> Self {
        let (network, notices) = Network::open(config).unwrap();
        assert_eq!(notices, []);
        Self::of(dir, network)
    }

    pub fn of(dir: &Path, network: Network) -> Self {
        Self { network, dir: dir.to_owned() }
    }

    pub fn pod(&self, uid: &str) -> Pod {
        self.try_pod(uid, &[]).unwrap()
    }

    pub fn try_pod(&self, uid: &str, host_ports: &[HostPort]) -> Result<Pod, NetworkError> {
        let (namespaces, netns) = namespace(&self.dir, uid);
        let link = PodLink { uid, netns: &netns, host_ports, addresses: &[] };
        let addresses = self.network.setup_pod(link)?;
        Ok(Pod { uid: uid.to_owned(), netns, addresses, namespaces })
    }

    pub fn remove(&self, pod: &Pod) {
        self.network.remove_pod(&pod.uid).unwrap();
        pod.namespaces.remove().unwrap();
    }
}

pub fn config() -> NetworkConfig {
    NetworkConfig { service_subnets: vec!["10.96.0.0/12".parse().unwrap()], ..NetworkConfig::default() }
}

pub fn config_of_both_families() -> NetworkConfig {
    let services = ["10.96.0.0/12", "fd00:96::/112"].map(|subnet| subnet.parse().unwrap());
    let subnet6 = Some("fd00:39::/64".parse().unwrap());
    NetworkConfig { subnet6, service_subnets: services.to_vec(), ..NetworkConfig::default() }
}

pub fn host_port(host_port: u16, container_port: u16) -> HostPort {
    HostPort { host_ip: None, host_port, container_port, protocol: Protocol::Tcp }
}

/// A service of one port of TCP, 80.
pub fn service(name: &str, address: &str, endpoints: &[(IpAddr, u16)]) -> ServiceEntry {
    ServiceEntry {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        cluster_ips: vec![ip(address)],
        affinity_secs: None,
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: endpoints.to_vec(),
        }],
    }
}

/// A network beside the node, `198.18.0.0/24` with the node as .1; the default route leads to its machine, .2.
pub fn uplink(dir: &Path) -> std::path::PathBuf {
    let (_namespaces, outside) = namespace(dir, "outside");
    run("ip link add up0 type veth peer name up1");
    run(&format!("ip link set up1 netns {}", outside.display()));
    run("ip address add 198.18.0.1/24 dev up0");
    run("ip link set up0 up");
    run_in(&outside, "ip address add 198.18.0.2/24 dev up1");
    run_in(&outside, "ip link set up1 up");
    run("ip route add default via 198.18.0.2");
    outside
}

#[test]
fn pods_reach_each_other_the_node_and_the_world_as_the_node() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::new(dir);
        let (a, b) = (node.pod("a"), node.pod("b"));
        assert_eq!((a.address(), b.address()), (ip("10.39.0.2"), ip("10.39.0.3")));
        serve_tcp(&b.netns, 80, "b");
        serve_tcp(&outside, 80, "outside");
        assert_eq!(a.ask((b.address(), 80)).unwrap(), "b 10.39.0.2");
        assert_eq!(ask((b.address(), 80)).unwrap(), "b 10.39.0.1");
        assert_eq!(a.ask((ip("198.18.0.2"), 80)).unwrap(), "outside 198.18.0.1", "masqueraded");
        answer_tcp(TcpListener::bind("0.0.0.0:81").unwrap(), "node");
        assert_eq!(a.ask((ip("198.18.0.1"), 81)).unwrap(), "node 10.39.0.2");
        assert_eq!(a.ask((ip("10.39.0.1"), 81)).unwrap(), "node 10.39.0.2");
    });
}

#[test]
fn a_pod_reaches_neither_the_nodes_loopback_nor_sends_under_a_false_address() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (a, b) = (node.pod("a"), node.pod("b"));
        let inner = UdpSocket::bind("127.0.0.1:9000").unwrap();
        let server = inside(&b.netns, || UdpSocket::bind("0.0.0.0:9000").unwrap());
        run_in(&a.netns, "ip address add 10.39.9.9/32 dev eth0");
        run_in(&a.netns, "ip address flush dev lo");
        run_in(&a.netns, "ip route add 127.0.0.1 via 169.254.1.1 table 7");
        run_in(&a.netns, "ip rule del table local");
        run_in(&a.netns, "ip rule add to 127.0.0.1 table 7 pref 1");
        run_in(&a.netns, "ip rule add table local pref 2");
        // As systemd sets it: the kernel's own filter lets everything through.
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "2").unwrap();
        inside(&a.netns, || {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            UdpSocket::bind("10.39.0.2:0").unwrap().send_to(b"to loopback", "127.0.0.1:9000").unwrap();
            UdpSocket::bind("10.39.9.9:0").unwrap().send_to(b"forged", "10.39.0.3:9000").unwrap();
            UdpSocket::bind("10.39.0.2:0").unwrap().send_to(b"honest", "10.39.0.3:9000").unwrap();
        });
        server.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
        let mut buffer = [0; 32];
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"honest", "packets of one sender keep their order");
        inner.set_nonblocking(true).unwrap();
        assert_eq!(inner.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let guard = run("nft list chain ip selvedge guard");
        assert!(guard.contains("iifname \"svp*\" ip daddr 127.0.0.0/8 counter packets 1"), "{guard}");
        assert!(guard.contains("iifname \"svp*\" fib saddr . iif oif 0 counter packets 1"), "{guard}");
    });
}

#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::with(dir, NetworkConfig { reserved: vec![ip("169.254.20.10")], ..config() });
        run("ip address add 169.254.20.10/32 dev lo");
        let at = HostPort { host_ip: Some(ip("198.18.0.1")), ..host_port(8081, 81) };
        let web = node.try_pod("web", &[host_port(8080, 80), at]).unwrap();
        let other = node.pod("other");
        serve_tcp(&web.netns, 80, "web");
        serve_tcp(&web.netns, 81, "at");
        let to = (ip("198.18.0.1"), 8080);
        assert_eq!(ask_from(&outside, to).unwrap(), "web 198.18.0.2", "the client's own address");
        assert_eq!(other.ask(to).unwrap(), format!("web {}", other.address()));
        assert_eq!(ask(to).unwrap(), "web 198.18.0.1");
        assert_eq!(ask((ip("127.0.0.1"), 8080)).unwrap(), "web 10.39.0.1");
        assert_eq!(web.ask(to).unwrap(), "web 10.39.0.1", "hairpin");
        assert_eq!(ask_from(&outside, (ip("198.18.0.1"), 8081)).unwrap(), "at 198.18.0.2");
        assert!(ask((ip("127.0.0.1"), 8081)).is_err(), "only at the address that it names");
        answer_tcp(TcpListener::bind("169.254.20.10:8080").unwrap(), "agent");
        assert_eq!(name_in(&other.ask((ip("169.254.20.10"), 8080)).unwrap()), "agent", "a reserved address");
        assert_eq!(name_in(&ask((ip("169.254.20.10"), 8080)).unwrap()), "agent", "from the node");
        crate::fixture::run_in(&outside, "ip route add 169.254.20.10 via 198.18.0.1");
        assert!(ask_from(&outside, (ip("169.254.20.10"), 8080)).is_err(), "what the agent listens on is no outsider's");
        let dropped = run("nft list chain ip selvedge guard");
        assert!(dropped.contains("ip daddr 169.254.20.10 iifname != \"svp*\" iifname != \"lo\""), "{dropped}");

        let error = node.try_pod("second", &[host_port(8080, 80)]).map(|pod| pod.uid).unwrap_err();
        assert_eq!(error.to_string(), "host port 8080/tcp is taken by pod web");
        let one = HostPort { host_ip: Some(ip("198.18.0.1")), ..host_port(8080, 80) };
        node.try_pod("third", &[one]).map(|pod| pod.uid).unwrap_err();
        let udp = HostPort { protocol: Protocol::Udp, ..host_port(8080, 80) };
        node.try_pod("fourth", &[udp]).unwrap();
        // Its programs have ended for good; its address stays while its object does.
        node.network.release_host_ports(&web.uid).unwrap();
        assert!(ask(to).is_err());
        assert_eq!(name_in(&other.ask((web.address(), 80)).unwrap()), "web");
        assert!(node.network.is_pod(&web.address()) && !node.network.is_pod(&ip("198.18.0.2")));
        node.remove(&web);
        assert!(!node.network.is_pod(&web.address()));
        node.try_pod("second", &[host_port(8080, 80)]).unwrap();
    });
}

#[test]
fn a_pod_that_is_set_up_again_keeps_its_connections_and_may_change_its_ports() {
    isolated(|dir| {
        let node = Node::new(dir);
        let (a, b) = (node.pod("a"), node.try_pod("b", &[host_port(8080, 80)]).unwrap());
        serve_tcp(&b.netns, 80, "b");
        let mut stream = inside(&a.netns, || TcpStream::connect((b.address(), 80)).unwrap());
        assert_eq!(name_in(&say(&mut stream).unwrap()), "b");
        let again = PodLink { host_ports: &[host_port(9090, 80)], ..b.link() };
        assert_eq!(node.network.setup_pod(again).unwrap(), b.addresses);
        assert_eq!(name_in(&say(&mut stream).unwrap()), "b");
        assert!(ask((ip("127.0.0.1"), 8080)).is_err());
        assert_eq!(name_in(&ask((ip("127.0.0.1"), 9090)).unwrap()), "b");
    });
}

#[test]
fn both_families_work_and_are_listed() {
    isolated(|dir| {
        let outside = uplink(dir);
        run("ip address add 2001:db8::1/64 dev up0 nodad");
        run_in(&outside, "ip address add 2001:db8::2/64 dev up1 nodad");
        let node = Node::with(dir, config_of_both_families());
        let (a, b) = (node.pod("a"), node.try_pod("b", &[host_port(8080, 80)]).unwrap());
        assert_eq!(b.addresses, [ip("10.39.0.3"), ip("fd00:39::3")]);
        serve_tcp(&b.netns, 80, "b");
        serve_tcp(&outside, 80, "outside");
        let six = b.addresses[1];
        assert_eq!(a.ask((six, 80)).unwrap(), "b fd00:39::2");
        assert_eq!(a.ask((ip("2001:db8::2"), 80)).unwrap(), "outside 2001:db8::1");
        assert_eq!(ask_from(&outside, (ip("2001:db8::1"), 8080)).unwrap(), "b 2001:db8::2");
        let mut web = service("web", "fd00:96::10", &[(b.address(), 80), (six, 80)]);
        web.cluster_ips.push(ip("10.96.0.10"));
        web.affinity_secs = Some(10_800);
        let none = service("none", "fd00:96::11", &[(b.address(), 80)]);
        node.network.set_services(vec![web, none]).unwrap();
        assert_eq!(a.ask((ip("fd00:96::10"), 80)).unwrap(), "b fd00:39::2");
        assert_eq!(a.ask((ip("10.96.0.10"), 80)).unwrap(), "b 10.39.0.2");
        assert_eq!(ask((ip("fd00:96::10"), 80)).unwrap(), "b fd00:39::1");
        assert_eq!(b.ask((ip("fd00:96::10"), 80)).unwrap(), "b fd00:39::1", "hairpin");
        let refused = a.ask((ip("fd00:96::11"), 80)).unwrap_err();
        // For IPv6 the kernel takes a route to `lo` as none before any rule is asked.
        let kinds = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NetworkUnreachable];
        assert!(kinds.contains(&refused.kind()), "endpoints of the other family only: {refused}");
        let listing = run("nft list ruleset");
        for expected in ["table ip6 selvedge", "fd00:39::3 . 80", "jhash ip6 saddr mod 64", "fib saddr . iif oif"] {
            assert!(listing.contains(expected), "{expected}: {listing}");
        }
        let json: serde_json::Value = serde_json::from_str(&run("nft -j list ruleset")).unwrap();
        assert!(json["nftables"].as_array().unwrap().len() > 40);
    });
}

#[test]
fn addresses_run_out_with_a_clear_error_and_come_back_when_the_link_is_deleted() {
    isolated(|dir| {
        let node = Node::with(dir, NetworkConfig { subnet: "10.39.0.0/29".parse().unwrap(), ..config() });
        let pods: Vec<Pod> = ["a", "b", "c", "d", "e"].map(|uid| node.pod(uid)).into();
        let error = node.try_pod("f", &[]).map(|pod| pod.uid).unwrap_err();
        assert_eq!(error.to_string(), "pod f gets no address");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "no address of 10.39.0.0/29 is free: 5 are in use");
        // Somebody holds the namespace: the link stays, and so does the address.
        let holder = File::open(&pods[1].netns).unwrap();
        node.remove(&pods[1]);
        node.try_pod("f", &[]).map(|pod| pod.uid).unwrap_err();
        drop(holder);
        let host = names::host_link("b");
        eventually_without(&host);
        assert_eq!(node.pod("f").address(), pods[1].address());
    });
}

#[test]
fn a_subnet_in_use_moves_at_the_start_and_later_for_new_pods() {
    isolated(|dir| {
        uplink(dir);
        run("ip route add 10.39.0.0/24 via 198.18.0.2");
        let (network, notices) = Network::open(config()).unwrap();
        let text = "pods get addresses of 10.40.0.0/16 instead of 10.39.0.0/16, because up0 uses 10.39.0.0/24";
        assert_eq!(notices.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
        let node = Node::of(dir, network);
        let a = node.pod("a");
        assert_eq!(a.address(), ip("10.40.0.2"));
        assert_eq!(node.network.check_uplinks().unwrap(), []);
        run("ip address add 10.40.3.4/8 dev up0");
        run("ip route add 10.39.1.0/24 dev up0");
        let notices = node.network.check_uplinks().unwrap();
        assert_eq!(notices.len(), 1, "everything in 10/8 is taken now: {notices:?}");
        assert_eq!(node.network.check_uplinks().unwrap(), [], "it was said");
        run("ip address del 10.40.3.4/8 dev up0");
        run("ip address add 10.40.3.4/16 dev up0");
        node.network.check_uplinks().unwrap();
        let b = node.pod("b");
        assert_eq!(b.address(), ip("10.41.0.2"));
        serve_tcp(&a.netns, 80, "a");
        serve_tcp(&b.netns, 80, "b");
        assert_eq!(b.ask((a.address(), 80)).unwrap(), "a 10.41.0.2");
        assert_eq!(a.ask((b.address(), 80)).unwrap(), "b 10.40.0.2");
        assert_eq!(ask((b.address(), 80)).unwrap(), "b 10.41.0.1");
    });
}

#[test]
fn datagrams_follow_a_host_port_to_the_next_pod() {
    isolated(|dir| {
        let outside = uplink(dir);
        let node = Node::new(dir);
        let port = HostPort { protocol: Protocol::Udp, ..host_port(5000, 53) };
        let client = inside(&outside, || UdpSocket::bind("198.18.0.2:4000").unwrap());
        let to = (ip("198.18.0.1"), 5000);
        let first = node.try_pod("first", &[port]).unwrap();
        serve_udp(&first.netns, 53, "first");
        assert_eq!(ask_udp(&client, to).unwrap(), "first 198.18.0.2");
        node.remove(&first);
        let second = node.try_pod("second", &[port]).unwrap();
        serve_udp(&second.netns, 53, "second");
        assert_eq!(ask_udp(&client, to).unwrap(), "second 198.18.0.2", "the same flow, another pod");
        assert!(run("conntrack -L -p udp").contains(&second.address().to_string()));
    });
}

#[test]
fn disabling_leaves_nothing_of_ours_and_all_of_others() {
    isolated(|dir| {
        uplink(dir);
        run("nft add table ip other");
        run("ip link set lo up");
        let others =
            || run("ip -br link") + &run("ip address") + &run("ip route show table all") + &run("nft list ruleset");
        let before = others();
        let node = Node::with(dir, config_of_both_families());
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "1\n");
        let a = node.pod("a");
        node.network.set_services(vec![service("web", "10.96.0.10", &[(a.address(), 80)])]).unwrap();
        Network::disable(&config_of_both_families()).unwrap();
        assert_eq!(others(), before);
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
        Network::disable(&config_of_both_families()).unwrap();
    });
}

#[test]
fn a_machine_that_did_not_forward_does_not_become_a_router_between_its_uplinks() {
    isolated(|dir| {
        let outside = uplink(dir);
        let (_second, other) = namespace(dir, "other");
        run("ip link add lan0 type veth peer name lan1");
        run(&format!("ip link set lan1 netns {}", other.display()));
        run("ip address add 198.19.0.1/24 dev lan0");
        run("ip link set lan0 up");
        run_in(&other, "ip address add 198.19.0.2/24 dev lan1");
        run_in(&other, "ip link set lan1 up");
        run_in(&other, "ip route add default via 198.19.0.1");
        run_in(&outside, "ip route add default via 198.18.0.1");
        let client = inside(&other, || UdpSocket::bind("198.19.0.2:0").unwrap());
        let server = inside(&outside, || UdpSocket::bind("198.18.0.2:9000").unwrap());
        let node = Node::new(dir);
        let pod = node.pod("a");
        // What it is sent first is dropped, and what follows on another way has come.
        client.send_to(b"crossing", "198.18.0.2:9000").unwrap();
        inside(&pod.netns, || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"pod", "198.18.0.2:9000").unwrap());
        server.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(server.recv(&mut buffer).unwrap(), 3);
        let forward = run("nft list chain ip selvedge no_transit");
        assert!(forward.contains("iifname != \"svp*\" oifname != \"svp*\" counter packets 1"), "{forward}");
        // After a restart the guard is still there, although the machine forwards now.
        drop(Network::open(config()).unwrap());
        assert_eq!(run("nft list chain ip selvedge no_transit"), forward);
    });
}

#[test]
fn a_namespace_without_its_pod_is_an_error_that_names_it() {
    isolated(|dir| {
        let node = Node::new(dir);
        let link = PodLink { uid: "a", netns: &dir.join("none"), host_ports: &[], addresses: &[] };
        let error = node.network.setup_pod(link).unwrap_err();
        assert_eq!(error.to_string(), "failed to open the network namespace of pod a");
        std::fs::write(dir.join("none"), "").unwrap();
        let error = node.network.setup_pod(link).unwrap_err();
        assert_eq!(error.to_string(), "failed to connect pod a");
        let namespaces = PodNamespaces::create(&dir.join("ipc"), &[Kind::Ipc], "a").unwrap();
        let ipc = namespaces.path(Kind::Ipc).unwrap();
        node.network.setup_pod(PodLink { netns: &ipc, ..link }).unwrap_err();
        assert!(!run("ip -br link").contains("svp"), "nothing is left");
        // The addresses of failed attempts do not pile up.
        assert_eq!(node.pod("b").address(), ip("10.39.0.4"));
    });
}

#[test]
fn a_machine_without_ipv6_serves_ipv4_and_says_so() {
    isolated(|dir| {
        run("ip link set lo up");
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let (network, notices) = Network::open(config_of_both_families()).unwrap();
        let [notice] = &notices[..] else { panic!("{notices:?}") };
        assert!(notice.to_string().starts_with("pods get no IPv6 addresses: "), "{notice}");
        let node = Node::of(dir, network);
        let (a, b) = (node.pod("a"), node.pod("b"));
        assert_eq!(a.addresses, [ip("10.39.0.2")]);
        serve_tcp(&b.netns, 80, "b");
        assert_eq!(a.ask((b.address(), 80)).unwrap(), "b 10.39.0.2");
    });
}
