//! A name of the cluster, or its absence, is answered without a single allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use node_dns::fuzzing::TableOnly;
use node_dns::message::{WireName, kind};
use node_dns::{EndpointNames, NameRecords, Names, NamesConfig, Network, PortName, PortProtocol, ServiceNames};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system's; the counter is the thread's own and needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    bytes.extend_from_slice(WireName::parse(name).expect("a name").as_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[test]
fn a_name_of_the_cluster_is_answered_without_an_allocation() {
    let networks = vec![Network { address: [10, 39, 0, 0].into(), prefix_len: 16 }];
    let names = Names::new(&NamesConfig { networks, ..NamesConfig::default() }).expect("a domain");
    let port = PortName { name: "http".into(), protocol: PortProtocol::Tcp, port: 80 };
    let service =
        |name: &str| ServiceNames { namespace: "default".into(), name: name.into(), ..ServiceNames::default() };
    let endpoints = (0..200)
        .map(|last| EndpointNames {
            hostname: None,
            address: [10, 39, 0, last].into(),
            ports: Vec::new(),
            is_ready: true,
        })
        .collect();
    names.replace(NameRecords {
        services: vec![
            ServiceNames { cluster_ips: vec![[10, 96, 0, 1].into()], ports: vec![port], ..service("web") },
            ServiceNames { endpoints, ..service("many") },
        ],
        ..NameRecords::default()
    });
    let table = TableOnly::new(&names);
    let mut out = [0; 1_232];
    for (name, kind) in [
        ("web.default.svc.cluster.local", kind::A),
        ("web.default.svc.cluster.local", kind::AAAA),
        ("many.default.svc.cluster.local", kind::A),
        ("_http._tcp.web.default.svc.cluster.local", kind::SRV),
        ("www.example.com.default.svc.cluster.local", kind::A),
        ("www.example.com.cluster.local", kind::AAAA),
        ("1.0.96.10.in-addr.arpa", kind::PTR),
        ("9.9.39.10.in-addr.arpa", kind::PTR),
        ("10-39-0-1.other.pod.cluster.local", kind::A),
    ] {
        let query = query(name, kind);
        let before = COUNT.get();
        let len = table.answer(&query, &mut out);
        assert_eq!(COUNT.get(), before, "{name} {kind}");
        assert!(len.is_some_and(|len| len > query.len()), "{name} {kind}");
    }
    let before = COUNT.get();
    drop(query("web", kind::A));
    assert!(COUNT.get() > before, "the counter counts");
}
