//! DNS queries of pods, and answers of upstreams.
//!
//! Input: a byte that is the query's length, the query, the answer. The query is answered from a small table, and where it asks for what
//! an upstream knows, with that answer. What is sent must be an answer that the other side of the parser reads.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use node_dns::message::Answer;
use node_dns::{EndpointNames, NameRecords, Names, NamesConfig, Network, PortName, PortProtocol, ServiceNames};

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let networks = vec![Network { address: [10, 39, 0, 0].into(), prefix_len: 16 }];
    let names = Names::new(&NamesConfig { networks, ..NamesConfig::default() }).expect("a domain");
    let port = PortName { name: "a".into(), protocol: PortProtocol::Tcp, port: 80 };
    let service = |name: &str| ServiceNames { namespace: "n".into(), name: name.into(), ..ServiceNames::default() };
    let endpoints = (0..100)
        .map(|last| EndpointNames {
            hostname: Some(format!("h{last}")),
            address: [10, 39, 0, last].into(),
            ports: Vec::new(),
            is_ready: true,
        })
        .collect();
    names.replace(NameRecords {
        pods: Vec::new(),
        services: vec![
            ServiceNames { cluster_ips: vec![[10, 96, 0, 1].into()], ports: vec![port.clone()], ..service("s") },
            ServiceNames { endpoints, ports: vec![port], ..service("h") },
            ServiceNames { external_name: Some("e.x".into()), ..service("e") },
        ],
        node_addresses: Vec::new(),
    });
    names
});

fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first() else { return };
    let (query, upstream) = rest.split_at(usize::from(*length).min(rest.len()));
    if let Some(answer) = node_dns::fuzzing::respond(&NAMES, query, upstream) {
        // A rejection may have no question; all others are read.
        assert!(answer[5] == 0 || Answer::parse(&answer).is_some() || answer[2] & 0x78 != 0);
    }
});
