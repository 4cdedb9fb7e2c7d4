use proptest::prelude::*;

use super::*;

fn finished(build: impl FnOnce(&mut Messages)) -> Vec<u8> {
    let mut requests = Messages::default();
    build(&mut requests);
    let last = requests.parts().len() - 1;
    requests.finish(7, last).to_vec()
}

#[test]
fn a_message_has_its_length_its_number_and_padded_attributes() {
    let bytes = finished(|requests| {
        requests.begin(16, CREATE, &[1, 2, 3, 4], "x").string(3, "lo").number_be(5, 1);
    });
    // Little- and big-endian machines differ in the header only.
    let mut expected = 36_u32.to_ne_bytes().to_vec();
    expected.extend(16_u16.to_ne_bytes());
    expected.extend((1 | ACK | CREATE).to_ne_bytes());
    expected.extend(7_u32.to_ne_bytes());
    expected.extend([0; 4]);
    expected.extend([1, 2, 3, 4]);
    expected.extend(7_u16.to_ne_bytes());
    expected.extend(3_u16.to_ne_bytes());
    expected.extend(*b"lo\0\0");
    expected.extend(8_u16.to_ne_bytes());
    expected.extend(5_u16.to_ne_bytes());
    expected.extend([0, 0, 0, 1]);
    assert_eq!(bytes, expected);
}

#[test]
fn only_the_last_of_several_messages_is_acknowledged() {
    let bytes = finished(|requests| {
        requests.begin(1, 0, &[], "a").begin(2, 0, &[], "b");
    });
    let flags: Vec<(u32, u16)> = messages(&bytes).map(|m| m.unwrap()).map(|m| (m.sequence, m.flags)).collect();
    assert_eq!(flags, [(7, 1), (8, 1 | ACK)]);
}

#[test]
fn a_dump_is_not_acknowledged() {
    let bytes = finished(|requests| {
        requests.begin(18, DUMP, &[0; 16], "list");
    });
    assert_eq!(messages(&bytes).next().unwrap().unwrap().flags, 1 | DUMP);
}

#[test]
fn nested_attributes_are_read_back() {
    let bytes = finished(|requests| {
        requests.begin(1, 0, &[0; 4], "x").nested(2, |outer| {
            outer.nested(1, |inner| {
                inner.string(3, "deep");
            });
        });
    });
    let message = messages(&bytes).next().unwrap().unwrap();
    let outer = attribute(behind(message.payload, 4), 2).unwrap();
    assert_eq!(attribute(attribute(outer, 1).unwrap(), 3).map(string), Some("deep"));
}

#[test]
fn a_list_beyond_64_kib_is_refused_and_not_cut_short() {
    let mut requests = Messages::default();
    requests.begin(1, 0, &[], "x").nested(2, |list| {
        for _ in 0..10_000 {
            list.number(1, 0);
        }
    });
    assert!(!requests.is_sound());
}

fn error_message(code: i32, flags: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = (20 + rest.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(decode::KIND_ERROR.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(code.wrapping_neg().to_ne_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn an_error_carries_the_kernels_own_text() {
    let mut rest = vec![0; 16];
    rest[..4].copy_from_slice(&16_u32.to_ne_bytes());
    rest.extend(10_u16.to_ne_bytes());
    rest.extend(1_u16.to_ne_bytes());
    rest.extend(*b"No me\0\0\0");
    let verdict = |bytes: &[u8]| decode::verdict(&messages(bytes).next().unwrap().unwrap());
    assert_eq!(verdict(&error_message(17, 0x300, &rest)), Some((17, "No me".to_owned())));
    assert_eq!(verdict(&error_message(17, 0, &rest)), Some((17, String::new())));
    assert_eq!(verdict(&error_message(i32::MIN, 0x200, &[0xff; 4])), Some((i32::MAX, String::new())));
    let error =
        NetlinkError::Kernel { act: "set a route".to_owned(), code: 17, text: "Nexthop has gateway".to_owned() };
    assert_eq!(error.to_string(), "failed to set a route: File exists (os error 17): Nexthop has gateway");
}

proptest! {
    #[test]
    fn reading_answers_never_panics_and_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(read_any(&bytes) <= bytes.len());
    }

    #[test]
    fn reading_damaged_answers_never_panics(edits in proptest::collection::vec((0usize..60, any::<u8>()), 0..6)) {
        let mut bytes = finished(|requests| {
            requests.begin(16, 0, &[0; 4], "x").string(1, "selvedge").nested(2, |list| {
                list.number(1, 1).number(2, 2);
            });
        });
        for (at, byte) in edits {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        prop_assert!(read_any(&bytes) <= bytes.len());
    }
}
