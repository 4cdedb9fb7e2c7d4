use proptest::prelude::*;

use super::{expr::End, *};
use crate::netlink::{attribute, attributes, behind, messages};

/// The attributes of each message of a batch that is of a kind.
fn sent(batch: Batch, kind: u16) -> Vec<Vec<u8>> {
    let bytes = batch.finish().into_bytes();
    let of_kind = messages(&bytes).map(|message| message.unwrap()).filter(|message| message.kind == kind);
    of_kind.map(|message| behind(message.payload, 4).to_vec()).collect()
}

#[test]
fn a_rule_is_what_nft_makes_of_it() {
    let mut batch = Batch::new(Family::Ip, "t");
    batch.add_rule("c", "why", |rule| {
        rule.address(End::Destination, 0).is_member("pods", false);
    });
    let rule = &sent(batch, NEWRULE)[0];
    // nft --debug=netlink: [ payload load 4b @ network header + 16 => reg 1 ] [ lookup reg 1 set pods 0x1 ]
    let expressions = attribute(rule, RULE_EXPRESSIONS).unwrap();
    let hex: String = expressions.iter().map(|byte| format!("{byte:02x}")).collect();
    let item = if cfg!(target_endian = "little") {
        // list item { "payload", { dreg 8, base 1, offset 16, len 4 } }
        "3400018 0c000100 7061796c6f616400 24000280 08000100 00000008 08000200 00000001 08000300 00000010 08000400 00000004"
    } else {
        return;
    };
    let item = item.replacen("3400018 ", "34000180", 1).replace(' ', "");
    assert!(hex.starts_with(&item), "{hex}");
    assert!(hex.ends_with("08000200000000080800050000000001"), "{hex}");
    assert_eq!(attribute(rule, RULE_USERDATA).unwrap(), b"\0\x04why\0");
}

#[test]
fn keys_are_described_as_nft_knows_them() {
    let mut batch = Batch::new(Family::Ip6, "t");
    batch.add_set("services", &[Field::Address, Field::Protocol, Field::Port], Maps::Verdict);
    let set = &sent(batch, NEWSET)[0];
    let number = |kind| attribute(set, kind).and_then(crate::netlink::number_be);
    assert_eq!(number(SET_KEY_TYPE), Some(8 << 12 | 12 << 6 | 13));
    assert_eq!(number(SET_KEY_LEN), Some(24));
    assert_eq!((number(SET_DATA_TYPE), number(SET_DATA_LEN)), (Some(TYPE_VERDICT), None));
}

#[test]
fn long_lists_of_elements_are_split_over_messages() {
    let elements: Vec<(Vec<u8>, Value)> =
        (0_u32..10_000).map(|n| (n.to_be_bytes().to_vec(), Value::Bytes(vec![7; 8]))).collect();
    let mut batch = Batch::new(Family::Ip, "t");
    batch.add_elements("s", elements.iter().map(|(key, value)| (&**key, value)));
    let parts = sent(batch, NEWSETELEM);
    assert!(parts.len() > 1);
    let read: Vec<(Vec<u8>, Value)> = parts.iter().flat_map(|part| read::parse_elements(part)).collect();
    assert_eq!(read, elements);
    let mut batch = Batch::new(Family::Ip, "t");
    batch.add_elements("s", []);
    assert!(batch.is_empty());
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        "[a-z/-]{1,40}".prop_map(Value::Goto),
        proptest::collection::vec(any::<u8>(), 1..24).prop_map(Value::Bytes),
    ]
}

proptest! {
    #[test]
    fn elements_are_read_back_as_they_were_written(
        elements in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 4..24), value()), 0..40)
    ) {
        let mut batch = Batch::new(Family::Ip, "t");
        batch.add_elements("s", elements.iter().map(|(key, value)| (&**key, value)));
        let read: Vec<_> = sent(batch, NEWSETELEM).iter().flat_map(|part| read::parse_elements(part)).collect();
        prop_assert_eq!(read, elements);
    }

    #[test]
    fn reading_elements_and_comments_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read::parse_elements(&bytes).len() <= bytes.len());
        read::comment(&bytes);
        attributes(&bytes).count();
    }
}
