//! Rows survive the trip, and no bytes from a damaged disk are believed or panic.

use proptest::prelude::*;

use super::*;
use crate::cipher::EnvelopeCipher;

fn any_object() -> impl Strategy<Value = Object> {
    let fields = prop::collection::vec(("[a-z.]{0,12}", ".{0,20}"), 0..4);
    let managed = prop::option::of(prop::collection::vec(any::<u8>(), 0..50).prop_map(Bytes::from));
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    (".{0,20}", ".{0,20}", ".{0,20}", bytes, managed, fields, any::<u64>()).prop_map(
        |(resource, namespace, name, bytes, managed, fields, created)| Object {
            key: Key::new(&resource, &namespace, &name),
            revision: Revision(7),
            created: Revision(created),
            bytes: bytes.into(),
            managed,
            index: fields.into_iter().collect(),
        },
    )
}

proptest! {
    #[test]
    fn a_row_reads_back_as_written(object in any_object(), time_ms: u64, previous in 0_u64.., delete: bool) {
        let kind = if delete { ChangeKind::Delete } else { ChangeKind::Put };
        let previous = Some(Revision(previous)).filter(|revision| revision.0 != 0);
        prop_assert!(fits(&object));
        let row = encode_row(kind, time_ms, previous, &object, None).unwrap();
        prop_assert_eq!(decode_row(Revision(7), &row, None), Ok(Row { kind, time_ms, previous, is_sealed: false, object }));
    }

    #[test]
    fn a_sealed_row_reads_back_at_its_revision_and_with_its_key_only(object in any_object(), time_ms: u64) {
        let cipher = EnvelopeCipher::new(&[7; 32], [&*object.key.resource]);
        cipher.unlock(None).unwrap();
        let cipher: Option<&dyn RowCipher> = Some(&cipher);
        let row = encode_row(ChangeKind::Put, time_ms, None, &object, cipher).unwrap();
        let other = EnvelopeCipher::new(&[7; 32], [&*object.key.resource]);
        other.unlock(None).unwrap();
        prop_assert_eq!(decode_row(Revision(8), &row, cipher), Err(RowError::Cipher(CipherError::NotAuthentic)));
        prop_assert_eq!(decode_row(Revision(7), &row, Some(&other)), Err(RowError::Cipher(CipherError::OtherKey)));
        prop_assert_eq!(decode_row(Revision(7), &row, None), Err(RowError::Sealed));
        let read = decode_row(Revision(7), &row, cipher);
        let expected = Row { kind: ChangeKind::Put, time_ms, previous: None, is_sealed: true, object };
        prop_assert_eq!(read, Ok(expected));
    }

    #[test]
    fn a_damaged_row_is_rejected(object in any_object(), at: prop::sample::Index, flip in 1_u8..) {
        let mut row = encode_row(ChangeKind::Put, 1, None, &object, None).unwrap();
        let at = at.index(row.len());
        row[at] ^= flip;
        prop_assert!(decode_row(Revision(7), &row, None).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut row in prop::collection::vec(any::<u8>(), 0..80)) {
        let crc = crc32fast::hash(&row);
        row.extend_from_slice(&crc.to_le_bytes());
        let _ = decode_row(Revision(7), &row, None);
    }
}
