use std::fs;

use crate::{
    fixture::{eventually_without, ip, isolated, run},
    pods::{Node, host_port, service},
};

const CYCLES: u32 = 1000;

/// What this process and the kernel hold for the network.
fn held() -> (usize, usize, String) {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
    (descriptors, mounts, run("nft list ruleset") + &run("ip route show table all") + &run("ip neighbour"))
}

#[test]
fn a_thousand_pods_that_came_and_were_deleted_leave_nothing() {
    isolated(|dir| {
        let node = Node::new(dir);
        node.network.set_services(vec![service("web", "10.96.0.10", &[(ip("10.39.0.2"), 80)])]).unwrap();
        node.remove(&node.pod("warm-up"));
        eventually_without("svp");
        let before = held();
        let mut last = None;
        for number in 0..CYCLES {
            let pod = node.try_pod(&format!("pod-{number}"), &[host_port(20_000, 80)]).unwrap();
            assert_ne!(last, Some(pod.address()), "an address comes back last");
            last = Some(pod.address());
            node.remove(&pod);
        }
        eventually_without("svp");
        let after = held();
        assert_eq!((after.1, after.2), (before.1, before.2));
        // Other tests of this process have some of their own.
        assert!(after.0 < before.0 + 100, "{} descriptors, before {}", after.0, before.0);
    });
}
