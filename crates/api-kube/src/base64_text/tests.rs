use proptest::prelude::*;

use super::*;

fn check_canonical(text: &str, expected: &str) {
    assert_eq!(canonical(text).as_deref(), Ok(expected), "{text:?}");
    assert_eq!(decode(text), decode(expected), "{text:?}");
}

fn check_rejected(text: &str, at: usize) {
    assert_eq!(canonical(text), Err(Base64Error { at }), "{text:?}");
    assert_eq!(decode(text), Err(Base64Error { at }), "{text:?}");
}

#[test]
fn line_ends_and_loose_bits_do_not_matter() {
    check_canonical("QUJD\nREVG\n", "QUJDREVG");
    check_canonical("QU\r\nJD", "QUJD");
    check_canonical("eA=\n=", "eA==");
    check_canonical("eHkA\n\n", "eHkA");
    check_canonical("eB==", "eA==");
    check_canonical("eP==", "eA==");
    check_canonical("eHl=", "eHk=");
    check_canonical("\n", "");
}

#[test]
fn what_go_rejects_is_rejected_at_the_same_byte() {
    for (text, at) in [
        ("A", 0),
        ("QQ", 0),
        ("AAECA", 4),
        ("A=", 1),
        ("A=\n=", 1),
        ("AA=", 3),
        ("eA==x", 4),
        ("\neA", 1),
        (" QQ==", 0),
        ("Q Q==", 1),
        ("*", 0),
    ] {
        check_rejected(text, at);
    }
}

proptest! {
    #[test]
    fn canonical_text_is_left_alone_and_wrapped_text_comes_back_to_it(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        width in 1_usize..80,
    ) {
        let text = encode(&bytes);
        prop_assert!(matches!(canonical(&text), Ok(Cow::Borrowed(_))));
        let lines: Vec<&str> = text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).expect("digits")).collect();
        let wrapped = lines.join("\r\n");
        prop_assert_eq!(canonical(&wrapped).map(Cow::into_owned), Ok(text));
        prop_assert_eq!(decode(&wrapped), Ok(bytes));
    }

    #[test]
    fn what_can_be_decoded_has_a_canonical_text(text in "[A-Z=\r\n ]{0,9}") {
        prop_assert_eq!(canonical(&text).is_ok(), decode(&text).is_ok());
    }
}
