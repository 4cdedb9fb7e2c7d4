use std::fs;

use node_network::{Kind, PodNamespaces};

use crate::fixture::{isolated, run, run_in};

const ALL: [Kind; 3] = [Kind::Net, Kind::Ipc, Kind::Uts];

#[test]
fn namespaces_live_without_a_process_and_are_taken_over_by_their_files() {
    isolated(|dir| {
        let dir = dir.join("pod");
        let namespaces = PodNamespaces::create(&dir, &ALL, "web-0").unwrap();
        let uts = namespaces.path(Kind::Uts).unwrap();
        let name = run(&format!("nsenter --uts={} hostname", uts.display()));
        assert_eq!(name, "web-0\n");
        let net = namespaces.path(Kind::Net).unwrap();
        let links = run_in(&net, "ip -br link");
        assert!(links.starts_with("lo") && links.contains("LOOPBACK,UP") && links.lines().count() == 1, "{links}");
        assert!(!run("ip -br link").contains("UP,LOWER_UP"), "the node's own lo is as it was");

        assert_eq!(PodNamespaces::take_over(&dir, &ALL), Some(namespaces.clone()));
        assert_eq!(PodNamespaces::take_over(&dir.join("other"), &ALL), None);
        namespaces.remove().unwrap();
        assert_eq!(PodNamespaces::take_over(&dir, &ALL), None);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        namespaces.remove().unwrap();
    });
}

#[test]
fn what_a_crash_left_in_the_way_is_replaced() {
    isolated(|dir| {
        let dir = dir.join("pod");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("net"), "").unwrap();
        assert_eq!(PodNamespaces::take_over(&dir, &[Kind::Net]), None, "a file alone is no namespace");
        let first = PodNamespaces::create(&dir, &[Kind::Net], "a").unwrap();
        let id = run("readlink -v /proc/self/ns/net");
        let of =
            |namespaces: &PodNamespaces| run_in(&namespaces.path(Kind::Net).unwrap(), "readlink /proc/self/ns/net");
        let before = of(&first);
        // A second mount over the first, as two crashes leave it.
        run(&format!("mount --bind /proc/self/ns/net {}", dir.join("net").display()));
        assert_eq!(of(&first), id);
        let second = PodNamespaces::create(&dir, &[Kind::Net], "a").unwrap();
        assert!(of(&second) != before && of(&second) != id);
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(mounts.lines().filter(|line| line.contains(dir.to_str().unwrap())).count(), 1, "{mounts}");
        second.remove().unwrap();
    });
}

#[test]
fn a_namespace_of_another_kind_is_not_taken_over() {
    isolated(|dir| {
        let dir = dir.join("pod");
        let namespaces = PodNamespaces::create(&dir, &[Kind::Ipc], "a").unwrap();
        fs::write(dir.join("uts"), "").unwrap();
        run(&format!("mount --bind {} {}", dir.join("ipc").display(), dir.join("uts").display()));
        assert_eq!(PodNamespaces::take_over(&dir, &[Kind::Uts]), None);
        assert!(PodNamespaces::take_over(&dir, &[Kind::Ipc]).is_some());
        namespaces.remove().unwrap();
        assert!(!dir.join("uts").exists(), "all kinds are released");
    });
}
