//! Fields survive the packing, and no bytes from a damaged disk are believed or panic.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn fields_come_out_as_they_went_in(fields in prop::collection::vec((".{0,20}", ".{0,200}"), 0..8)) {
        let packed: IndexFields = fields.iter().map(|(name, value)| (name, value)).collect();
        let seen: Vec<_> = packed.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        prop_assert_eq!(&seen, &fields);
        for (name, value) in &fields {
            prop_assert!(packed.has(name, value));
            let first = fields.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str());
            prop_assert_eq!(packed.get(name), first);
        }
        for (raw, (_, value)) in packed.raw().zip(&fields) {
            prop_assert_eq!(packed.value_at(raw.at), value.as_bytes());
        }
        prop_assert_eq!(IndexFields::from_packed(packed.packed()), Some(packed));
    }

    #[test]
    fn bytes_that_are_no_fields_are_rejected_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Some(fields) = IndexFields::from_packed(&bytes) {
            prop_assert_eq!(fields.packed(), &bytes[..]);
            prop_assert!(fields.iter().count() <= bytes.len());
        }
    }
}
