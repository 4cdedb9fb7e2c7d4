//! Answers of the kernel as none gives them: cut short, nested without end, lengths that lie.
//!
//! Input: the bytes of one read. Whatever they are, reading them ends, without a panic, and finds no more pieces than bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    assert!(node_network::netlink::read_any(bytes) <= bytes.len());
});
