//! The responder's steps without sockets, for the fuzzer and tests: a query answered from a table, and an upstream's answer passed on.

use std::sync::Arc;

use crate::answer::{Local, answer, udp_limit};
use crate::cache::{Stored, Ttl};
use crate::message::{Answer, PAYLOAD_EDNS, WireName, parse_query, write_rejection};
use crate::names::Names;
use crate::waiter::{Alias, Client, Waiter, head_of, write};

/// Answers a query from the table; `upstream` is what an upstream would say to it. Returns the answer.
///
/// # Panics
/// When an answer breaks what every answer keeps: its size, its id, its question.
pub fn respond(names: &Names, bytes: &[u8], upstream: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; usize::from(PAYLOAD_EDNS)];
    let mut name = WireName::ROOT;
    let query = match parse_query(bytes, &mut name) {
        Ok(query) => query,
        Err(rejected) => {
            let len = write_rejection(bytes, rejected, &mut out)?;
            out.truncate(len);
            return Some(out);
        }
    };
    out.truncate(udp_limit(&query));
    let table = Arc::clone(names.reader().table());
    let len = match answer(&table, &query, &mut out) {
        Local::Written(len) => len,
        Local::Alias { records, count, .. } => {
            let read = Answer::parse(upstream)?;
            let stored = Stored::new(upstream, &read)?;
            write(&head_of(&query), Some(&Alias { records, count }), &stored, Ttl::Aged(1), &mut out)?
        }
        Local::Forward => {
            let read = Answer::parse(upstream)?;
            let stored = Stored::new(upstream, &read)?;
            let client = Client::Tcp { index: 0, generation: 0, address: [127, 0, 0, 1].into() };
            Waiter::new(client, &query, out.len(), None).write(&stored, Ttl::Stale, &mut out)?
        }
    };
    assert!(len <= udp_limit(&query), "an answer is no longer than its client takes");
    assert_eq!(out[..2], bytes[..2], "an answer has its query's id");
    assert_eq!(&out[12..12 + query.question.len()], query.question, "an answer has its query's question");
    out.truncate(len);
    Some(out)
}

/// Answers from a table and nothing else, as the responder's thread does it.
pub struct TableOnly(Arc<crate::names::Table>);

impl TableOnly {
    /// Of the names as they are now.
    pub fn new(names: &Names) -> Self {
        Self(Arc::clone(names.reader().table()))
    }

    /// Answers a query; `None` where the table does not.
    pub fn answer(&self, bytes: &[u8], out: &mut [u8]) -> Option<usize> {
        let mut name = WireName::ROOT;
        let query = parse_query(bytes, &mut name).ok()?;
        match answer(&self.0, &query, out) {
            Local::Written(len) => Some(len),
            Local::Alias { .. } | Local::Forward => None,
        }
    }
}
