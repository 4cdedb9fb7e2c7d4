//! What the parser takes, what it refuses, and that it survives everything.

use proptest::prelude::*;

use super::*;
use crate::names::tests::query;

fn name(text: &str) -> WireName {
    WireName::parse(text).expect("a name")
}

#[test]
fn names_are_read_as_they_are_written() {
    assert_eq!(name("Web.default").as_bytes(), b"\x03web\x07default\0");
    assert_eq!(name("web.").as_bytes(), b"\x03web\0");
    assert_eq!(name(".").as_bytes(), b"\0");
    assert_eq!(format!("{:?}", name("a.b")), "a.b.");
    for none in ["a..b", ".a", &"x".repeat(64), &vec!["x".repeat(63); 4].join("."), "a.."] {
        assert!(WireName::parse(none).is_none(), "{none}");
    }
    // 255 bytes on the wire, exactly.
    let longest = [&"x".repeat(63), &"x".repeat(63), &"x".repeat(63), &"x".repeat(61)].map(String::as_str).join(".");
    assert_eq!(name(&longest).as_bytes().len(), NAME_LEN_MAX);
    assert!(WireName::parse(&format!("{longest}x")).is_none());
}

#[test]
fn a_name_is_within_its_parents_only() {
    for (inside, zone) in [("a.b.c", "c"), ("a.b.c", "a.b.c"), ("a", "")] {
        assert!(name(inside).is_within(&name(zone)), "{inside} {zone}");
    }
    for (outside, zone) in [("ab.c", "b.c"), ("c", "a.c"), ("a.b", "a")] {
        assert!(!name(outside).is_within(&name(zone)), "{outside} {zone}");
    }
    // The bytes of one label may look like another's beginning.
    assert!(!name("x\u{1}b").is_within(&name("b")));
}

#[test]
fn pointers_lead_backwards_or_nowhere() {
    let mut read = WireName::ROOT;
    let message = b"\x01a\x00\x01b\xc0\x00\xc0\x03\xc0\x09\xc0\x0b";
    assert_eq!(read.read(message, 3), Some(7));
    assert_eq!(read.as_bytes(), b"\x01b\x01a\0");
    assert_eq!(read.read(message, 7), Some(9));
    assert_eq!(read.as_bytes(), b"\x01b\x01a\0");
    // To itself; forwards.
    assert_eq!(read.read(message, 9), None);
    assert_eq!(read.read(b"\xc0\x02\xc0\x00", 0), None);
    assert_eq!(read.read(b"\x01a\xc0\x00", 0), None);
    assert_eq!(read.read(b"\x01a\xc0", 0), None);
    assert_eq!(read.read(b"", 0), None);
}

#[test]
fn the_least_ttl_counts_and_an_absence_has_the_one_of_its_soa() {
    let mut answer = query(1, "a.example", kind::A, None);
    answer[2] = 0x81;
    let record = |kind: u8, ttl: u32, data: &[u8]| {
        let mut bytes = vec![0xc0, 12, 0, kind, 0, 1];
        bytes.extend_from_slice(&ttl.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    };
    let with = |counts: [u8; 3], records: &[Vec<u8>]| {
        let mut bytes = answer.clone();
        (bytes[7], bytes[9], bytes[11]) = (counts[0], counts[1], counts[2]);
        bytes.extend(records.concat());
        Answer::parse(&bytes)
    };
    let a = |ttl| record(1, ttl, &[192, 0, 2, 1]);
    let soa = record(6, 900, &[&[0; 18][..], &60_u32.to_be_bytes()].concat());
    let ttl = |counts, records: &[Vec<u8>]| with(counts, records).and_then(|answer| answer.ttl);
    assert_eq!(ttl([2, 0, 0], &[a(30), a(20)]), Some(20));
    assert_eq!(ttl([1, 0, 0], &[a(u32::MAX)]), Some(0));
    assert_eq!(ttl([0, 1, 0], std::slice::from_ref(&soa)), Some(60));
    assert_eq!(ttl([0, 0, 0], &[]), None);
    // An OPT is not kept, nor what is behind it.
    let opt = vec![0, 0, 41, 4, 208, 1, 0, 0, 0, 0, 0];
    let kept = with([1, 0, 3], &[a(30), a(10), opt.clone(), a(1)]).expect("an answer");
    assert_eq!((kept.counts, kept.ttl_offsets.len(), kept.rcode, kept.ttl), ([1, 0, 1], 2, 16, Some(10)));
    // A record that ends beyond the message.
    assert!(with([2, 0, 0], &[a(30)]).is_none());
}

proptest! {
    #[test]
    fn any_bytes_are_a_query_or_are_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut name = WireName::ROOT;
        let mut out = [0; 600];
        match parse_query(&bytes, &mut name) {
            Ok(query) => prop_assert!(query.question.len() >= 5),
            Err(rejected) => {
                if let Some(len) = write_rejection(&bytes, rejected, &mut out) {
                    prop_assert!(out[2] & QR != 0 && len >= HEADER_LEN);
                }
            }
        }
        let _ = Answer::parse(&bytes);
    }

    #[test]
    fn a_damaged_answer_is_read_or_refused(
        place in 0_usize..200,
        value in any::<u8>(),
        cut in 0_usize..200,
    ) {
        let mut bytes = query(1, "www.example.com", kind::A, None);
        bytes[2] = 0x81;
        bytes[7] = 3;
        for _ in 0..3 {
            bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        }
        if let Some(byte) = bytes.get_mut(place) {
            *byte = value;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Some(answer) = Answer::parse(&bytes) {
            prop_assert!(answer.end <= bytes.len());
            for offset in &answer.ttl_offsets {
                prop_assert!(usize::from(*offset) + 4 <= answer.end);
            }
        }
    }

    #[test]
    fn a_query_that_another_implementation_writes_is_read(labels in prop::collection::vec("[a-zA-Z0-9][a-zA-Z0-9_]{0,19}", 1..6), kind in 1_u16..40) {
        use hickory_proto::{op, rr};
        let text = labels.join(".");
        let mut message = op::Message::query();
        message.add_query(op::Query::query(rr::Name::from_ascii(&text).expect("a name"), rr::RecordType::from(kind)));
        message.set_edns(op::Edns::new());
        let bytes = message.to_vec().expect("a message");
        let mut found = WireName::ROOT;
        let query = parse_query(&bytes, &mut found).expect("a query");
        prop_assert_eq!(query.kind, kind);
        prop_assert_eq!(query.id, message.metadata.id);
        prop_assert!(query.edns.is_some());
        let expected = name(&text);
        prop_assert_eq!(query.name.as_bytes(), expected.as_bytes());
    }
}
