use proptest::prelude::*;

use crate::quantity::{Format, ParseQuantityError, Quantity};

#[track_caller]
fn quantity(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn check_canonical(cases: &[(&str, &str)]) {
    for (text, canonical) in cases {
        assert_eq!(quantity(text).to_string(), *canonical, "{text}");
        assert_eq!(quantity(canonical).to_string(), *canonical, "canonical text is stable");
        assert_eq!(quantity(canonical), quantity(text), "canonical text means the same");
    }
}

#[test]
fn text_becomes_canonical_as_kubernetes_has_it() {
    check_canonical(&[
        ("0", "0"),
        ("0n", "0"),
        ("-0", "0"),
        ("0Ki", "0"),
        ("1", "1"),
        ("+1", "1"),
        ("-1", "-1"),
        ("001", "1"),
        ("1.", "1"),
        (".5", "500m"),
        ("0.5", "500m"),
        ("1.5", "1500m"),
        ("1000m", "1"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("1000000", "1M"),
        ("0.001", "1m"),
        ("0.0005", "500u"),
        ("12.345M", "12345k"),
        ("1n", "1n"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1Ki", "1Ki"),
        ("1023", "1023"),
        ("0.5Ki", "512"),
        ("1.5Ki", "1536"),
        ("0.1Ki", "102400m"),
        ("100Ki", "100Ki"),
        ("0.000000001Ki", "1024n"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("1.5e3", "1500"),
        ("1E3", "1e3"),
        ("1e-3", "1e-3"),
        ("1E", "1E"),
        ("100E", "100E"),
        ("1000E", "1000E"),
        ("7Ei", "7Ei"),
        ("-5Mi", "-5Mi"),
    ]);
}

#[test]
fn what_is_smaller_than_a_billionth_is_rounded_away_from_zero() {
    check_canonical(&[
        ("0.5n", "1n"),
        ("-0.5n", "-1n"),
        ("1.2n", "2n"),
        ("1e-30", "1e-9"),
        ("0.00000000000001Ki", "1n"),
    ]);
}

#[test]
fn what_is_too_large_is_the_largest_amount() {
    check_canonical(&[
        ("8Ei", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775807"),
        ("99999999999999999999999", "9223372036854775807"),
        ("-99999999999999999999999", "-9223372036854775807"),
    ]);
    let long = format!("1{}", "0".repeat(60));
    assert_eq!(quantity(&long).value(), i64::MAX);
    assert_eq!(quantity(&format!("0.{}1", "0".repeat(60))).to_string(), "1n");
    for huge in ["1e100", "1e1000"] {
        assert_eq!(quantity(huge).value(), i64::MAX, "{huge}");
        assert_eq!(quantity(huge), quantity(&quantity(huge).to_string()), "{huge}");
    }
    assert!(quantity("0e1000").is_zero());
    assert_eq!(quantity("1e-1000").to_string(), "1e-9");
    assert_eq!(serde_json::from_str::<Quantity>("1e300").expect("a number").value(), i64::MAX);
}

#[test]
fn what_clients_do_not_end_to_read_is_rejected() {
    let zeros = "0".repeat(5000);
    for text in [format!("1{zeros}"), format!("0.{zeros}1"), format!("1e{}", "9".repeat(63))] {
        assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityError::TooLong), "{text}");
    }
    for text in ["1e2147483647", "1e2147483648", "1e999999999999999999999999999999", "1e-1000000", "1e1001", "0e99999"]
    {
        assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityError::Suffix), "{text}");
    }
}

#[test]
fn other_texts_are_rejected() {
    for text in ["", ".", "-", "+", "a", "1 ", " 1", "1..0", "1.1.1", "--1", "1_000", "0x10", "1,5", "١"] {
        assert_eq!(text.parse::<Quantity>(), Err(ParseQuantityError::Format), "{text}");
    }
    for text in ["1i", "1K", "1mi", "1ki", "1kk", "1e", "1E+", "1e1.5", "1Mi5", "1MiB", "1ee3", "-3.01i"] {
        assert!(text.parse::<Quantity>().is_err(), "{text}");
    }
}

#[test]
fn values_are_rounded_up() {
    for (text, value, millis) in [
        ("0", 0, 0),
        ("1n", 1, 1),
        ("500m", 1, 500),
        ("1500m", 2, 1500),
        ("-1500m", -2, -1500),
        ("0.0001", 1, 1),
        ("1Ki", 1024, 1_024_000),
        ("9E", 9_000_000_000_000_000_000, i64::MAX),
        ("-100E", i64::MIN, i64::MIN),
    ] {
        assert_eq!((quantity(text).value(), quantity(text).milli_value()), (value, millis), "{text}");
    }
}

#[test]
fn amounts_compare_by_value_and_add_exactly() {
    assert_eq!(quantity("1Ki"), quantity("1024"));
    assert!(quantity("1M") < quantity("1Mi"));
    assert!(quantity("-1") < Quantity::ZERO);
    let tenth = quantity("0.1");
    let sum = (0..10).fold(Quantity::ZERO, |sum, _| sum.saturating_add(tenth));
    assert_eq!((sum, sum.to_string().as_str()), (quantity("1"), "1"));
    assert_eq!(quantity("1Gi").saturating_sub(quantity("512Mi")).to_string(), "512Mi");
    assert_eq!(Quantity::ZERO.saturating_add(quantity("1Mi")).format(), Format::BinarySi);
    let largest = quantity("1e1000");
    assert_eq!(largest.saturating_add(largest), largest);
    assert_eq!(Quantity::from_bytes(1 << 31).to_string(), "2Gi");
    assert_eq!(Quantity::from_millis(250).to_string(), "250m");
    assert_eq!(Quantity::from_units(-4).to_string(), "-4");
}

#[test]
fn json_numbers_are_amounts_too() {
    for (json, canonical) in [("2", "2"), ("0.1", "100m"), ("\"1.0\"", "1"), ("-3", "-3"), ("1e3", "1k")] {
        let quantity: Quantity = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(serde_json::to_string(&quantity).unwrap(), format!("\"{canonical}\""), "{json}");
    }
    for json in ["true", "null", "{}", "\"1x\""] {
        assert!(serde_json::from_str::<Quantity>(json).is_err(), "{json}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_rejected(text in "[-+]?[0-9.]{0,40}[a-zA-Z]{0,2}[-+]?[0-9]{0,12}") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let canonical = quantity.to_string();
            prop_assert_eq!(canonical.parse::<Quantity>().unwrap(), quantity);
            prop_assert_eq!(canonical.parse::<Quantity>().unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn reading_agrees_with_whole_arithmetic(whole in 0u64..1_000_000_000, fraction in 0u32..1000, power in 0u32..4) {
        let suffix = ["", "Ki", "Mi", "Gi"][power as usize];
        let quantity = format!("{whole}.{fraction:03}{suffix}").parse::<Quantity>().unwrap();
        let thousandths = (u128::from(whole) * 1000 + u128::from(fraction)) << (10 * power);
        prop_assert_eq!(u128::try_from(quantity.value()).unwrap(), thousandths.div_ceil(1000));
    }

    #[test]
    fn order_and_sum_are_those_of_numbers(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
        let (x, y) = (Quantity::from_millis(a), Quantity::from_millis(b));
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        prop_assert_eq!(x.saturating_add(y).milli_value(), a + b);
        prop_assert_eq!(x.saturating_sub(y).milli_value(), a - b);
    }
}
