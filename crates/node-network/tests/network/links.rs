use std::{fs::File, net::IpAddr, path::Path};

use node_network::{
    links::{self, EnsureError, PodEnds},
    names,
    netlink::{Protocol, Socket},
};

use crate::fixture::{ask, ask_from, ip, isolated, namespace, run, run_in, serve_tcp};

fn ensure(socket: &mut Socket, uid: &str, netns: &Path, addresses: &[IpAddr]) -> Result<(), EnsureError> {
    let node = [ip("10.39.0.1"), ip("fd00:39::1")];
    let file = File::open(netns).unwrap();
    PodEnds { uid, namespace: &file, addresses, node: &node, mtu: 1400 }.ensure(socket)
}

fn node() -> Socket {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let services = ["10.96.0.0/12".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    links::ensure_node(&mut socket, &[ip("10.39.0.1"), ip("fd00:39::1")], &services).unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    socket
}

#[test]
fn a_pod_has_a_routed_link_as_the_stock_tool_lists_it() {
    isolated(|dir| {
        let mut socket = node();
        let (_namespaces, pod) = namespace(dir, "a");
        ensure(&mut socket, "a", &pod, &[ip("10.39.0.7"), ip("fd00:39::7")]).unwrap();
        let host = names::host_link("a");
        let link = run(&format!("ip -d link show {host}"));
        for expected in ["mtu 1400", "state UP", "ee:ee:ee:ee:ee:ee", "alias selvedge pod a", "addrgenmode none"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
        assert_eq!(
            run(&format!("ip -br address show {host}")).split_whitespace().count(),
            2,
            "no address on the host end"
        );
        let routes = run(&format!("ip route show dev {host}"));
        assert_eq!(routes.trim(), "10.39.0.7 proto 83 scope link src 10.39.0.1");
        assert!(run(&format!("ip -6 route show dev {host}")).contains("fd00:39::7 proto 83 src fd00:39::1"));
        let neighbours = run(&format!("ip neighbour show dev {host}"));
        assert!(neighbours.contains("10.39.0.7 lladdr 0a:58:0a:27:00:07 PERMANENT"), "{neighbours}");

        let inside = run_in(&pod, "ip -o address show dev eth0");
        assert!(inside.contains("10.39.0.7/32") && inside.contains("fd00:39::7/128"), "{inside}");
        assert!(!inside.contains("fe80") && !inside.contains("tentative"), "{inside}");
        let routes = run_in(&pod, "ip route");
        assert_eq!(routes.lines().next().unwrap().trim(), "default via 169.254.1.1 dev eth0 proto 83");
        assert!(run_in(&pod, "ip -6 route").contains("default via fe80::1 dev eth0"));
        assert!(run_in(&pod, "ip neighbour").contains("169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"));
        assert!(run_in(&pod, "ip link show lo").contains("LOOPBACK,UP"));
        for (setting, value) in
            [("rp_filter", "1"), ("route_localnet", "1"), ("forwarding", "1"), ("send_redirects", "0")]
        {
            let path = format!("/proc/sys/net/ipv4/conf/{host}/{setting}");
            assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), value, "{path}");
        }
    });
}

#[test]
fn pods_and_the_node_reach_each_other_without_any_uplink() {
    isolated(|dir| {
        let mut socket = node();
        let (_one, a) = namespace(dir, "a");
        let (_two, b) = namespace(dir, "b");
        ensure(&mut socket, "a", &a, &[ip("10.39.0.7"), ip("fd00:39::7")]).unwrap();
        ensure(&mut socket, "b", &b, &[ip("10.39.0.8"), ip("fd00:39::8")]).unwrap();
        serve_tcp(&b, 80, "b");
        assert_eq!(ask_from(&a, (ip("10.39.0.8"), 80)).unwrap(), "b 10.39.0.7");
        assert_eq!(ask((ip("10.39.0.8"), 80)).unwrap(), "b 10.39.0.1");
        assert_eq!(ask_from(&a, (ip("fd00:39::8"), 80)).unwrap(), "b fd00:39::7");
        assert_eq!(ask((ip("fd00:39::8"), 80)).unwrap(), "b fd00:39::1");
    });
}

#[test]
fn setting_a_link_up_again_changes_nothing_and_a_lost_part_comes_back() {
    isolated(|dir| {
        let mut socket = node();
        let (_namespaces, pod) = namespace(dir, "a");
        let addresses = [ip("10.39.0.7"), ip("fd00:39::7")];
        ensure(&mut socket, "a", &pod, &addresses).unwrap();
        let listing = || {
            let host = ["ip -o address", "ip route", "ip -6 route", "ip neighbour"];
            host.iter().map(|line| run(line) + &run_in(&pod, line)).collect::<String>()
        };
        let before = listing();
        ensure(&mut socket, "a", &pod, &addresses).unwrap();
        assert_eq!(listing(), before);
        run("ip route del 10.39.0.7");
        run_in(&pod, "ip route del default");
        ensure(&mut socket, "a", &pod, &addresses).unwrap();
        assert_eq!(listing(), before);
    });
}

#[test]
fn the_link_of_a_namespace_that_died_is_replaced() {
    isolated(|dir| {
        let mut socket = node();
        let (old, pod) = namespace(dir, "a");
        // Something still holds the old namespace open, so the old link lives on.
        let _holder = File::open(&pod).unwrap();
        ensure(&mut socket, "a", &pod, &[ip("10.39.0.7")]).unwrap();
        old.remove().unwrap();
        let (_new, pod) = namespace(dir, "a");
        ensure(&mut socket, "a", &pod, &[ip("10.39.0.7")]).unwrap();
        serve_tcp(&pod, 80, "a");
        assert_eq!(ask((ip("10.39.0.7"), 80)).unwrap(), "a 10.39.0.1");
    });
}

#[test]
fn a_link_of_another_pod_under_the_same_name_is_left_alone() {
    isolated(|dir| {
        let mut socket = node();
        let (_namespaces, pod) = namespace(dir, "a");
        let host = names::host_link("a");
        run(&format!("ip link add {host} type veth peer name other"));
        std::process::Command::new("ip").args(["link", "set", &host, "alias", "selvedge pod z"]).status().unwrap();
        let error = ensure(&mut socket, "a", &pod, &[ip("10.39.0.7")]).unwrap_err();
        assert_eq!(error.to_string(), format!("the link {host} belongs to pod z"));
    });
}

#[test]
fn uplinks_are_found_and_pods_are_none() {
    isolated(|dir| {
        let mut socket = node();
        let (_namespaces, pod) = namespace(dir, "a");
        ensure(&mut socket, "a", &pod, &[ip("10.39.0.7")]).unwrap();
        assert_eq!(links::uplink_mtu(&mut socket).unwrap(), None);
        run("ip link add up0 mtu 1380 type veth peer name up1");
        run("ip address add 198.18.0.1/24 dev up0");
        run("ip link set up0 up");
        run("ip link set up1 up");
        run("ip route add default via 198.18.0.2");
        run("ip route add 10.41.0.0/16 via 198.18.0.3");
        assert_eq!(links::uplink_mtu(&mut socket).unwrap(), Some(1380));
        let mut used: Vec<String> = links::in_use(&mut socket)
            .unwrap()
            .into_iter()
            .filter(|used| used.subnet.is_ipv4())
            .map(|used| format!("{} {}", used.link, used.subnet))
            .collect();
        used.sort();
        assert_eq!(used, ["up0 10.41.0.0/16", "up0 198.18.0.0/24", "up0 198.18.0.1/24"]);
    });
}

#[test]
fn an_error_carries_the_kernels_own_words() {
    isolated(|_| {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let error =
            links::ensure_node(&mut socket, &[], &["10.96.0.1/8".parse().unwrap(), "224.0.0.0/4".parse().unwrap()]);
        // Both are fine with the kernel; what is not is a prefix with host bits.
        error.unwrap();
        let mut requests = node_network::netlink::Messages::default();
        let head = [2, 8, 0, 0, 254, 83, 253, 1, 0, 0, 0, 0];
        requests.begin(24, 0x400, &head, "set a route").attribute(1, &[10, 96, 0, 1]).number(4, 1);
        let error = socket.send(requests).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to set a route: Invalid argument (os error 22): Invalid prefix for given prefix length"
        );
    });
}
