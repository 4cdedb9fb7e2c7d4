//! Headers and extensions at their limits; whole archives are compared with GNU tar's in `unpack`.

use proptest::prelude::*;

use super::{Entry, Kind, Reader, TarError, Writer, header, skip_by_reading};

fn entries(archive: &[u8]) -> Result<Vec<Entry>, TarError> {
    let mut reader = Reader::new(archive);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next(skip_by_reading)? {
        entries.push(entry);
    }
    Ok(entries)
}

#[test]
fn numbers_are_octal_or_in_base_256() {
    for (field, expected) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"   644 \0", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"        ", Some(0)),
        (b"77777777", Some(0o7777_7777)),
        (b"\x80\0\0\0\0\x01\0\0", Some(65_536)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        (b"\x80\0\0\0\x02\0\0\0\0\0\0\0", Some(1 << 57)),
        (b"0000648\0", None),
        (b"-000001\0", None),
        (b"6 4     ", Some(6)),
    ] {
        assert_eq!(header::number(field).ok(), expected, "{field:?}");
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let path = prop::collection::vec(1..255u8, 1..300)
        .prop_filter("no directory by its name", |path| path.last() != Some(&b'/'));
    let kind = prop::sample::select(vec![
        Kind::HardLink,
        Kind::Symlink,
        Kind::Character,
        Kind::Block,
        Kind::Directory,
        Kind::Fifo,
        Kind::File,
    ]);
    let link = prop::collection::vec(1..255u8, 1..300);
    let xattrs = prop::collection::btree_map("user\\.[a-z]{1,200}", prop::collection::vec(any::<u8>(), 1..2000), 0..3);
    let times = (any::<i32>().prop_map(i64::from), 0..1_000_000_000u32);
    let owners = (0..u32::MAX, 0..u32::MAX);
    ((path, kind, link, 0..0o10000u32), owners, times, (any::<u16>(), any::<u16>()), xattrs).prop_map(
        |((path, kind, link, mode), (uid, gid), mtime, (major, minor), xattrs)| {
            let is_link = matches!(kind, Kind::HardLink | Kind::Symlink);
            let is_device = matches!(kind, Kind::Character | Kind::Block);
            let size = if kind == Kind::File { u64::from(mode) } else { 0 };
            Entry {
                path,
                link: if is_link { link } else { Vec::new() },
                uid,
                gid,
                mtime,
                device: if is_device { (major.into(), minor.into()) } else { (0, 0) },
                size,
                xattrs: xattrs.into_iter().collect(),
                ..Entry::plain(kind, mode)
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(written in prop::collection::vec(entry(), 0..6)) {
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        for entry in &written {
            writer.add(entry, &mut std::io::repeat(7)).unwrap();
        }
        writer.finish().unwrap();
        prop_assert_eq!(entries(&archive).unwrap(), written);
    }

    #[test]
    fn no_archive_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = entries(&bytes);
    }
}

#[test]
fn extensions_that_are_broken_are_rejected() {
    for records in [
        &b"5 a=b"[..],
        b"999 path=x\n",
        b"0 path=x\n",
        b"x path=x\n",
        b"7 path\n",
        b"10 uid=-1\n",
        b"18 uid=4294967295\n",
        b"11 mtime=x\n",
        b"20 GNU.sparse.map=1\n",
        b"99999999999999999999 path=x\n",
    ] {
        let extension = testkit::image::Entry { kind: b'x', ..testkit::image::Entry::file("x", records) };
        let archive = testkit::image::archive(&[extension, testkit::image::Entry::file("f", "")]);
        let text = String::from_utf8_lossy(records);
        assert!(matches!(entries(&archive), Err(TarError::Format(_))), "{text:?}: {:?}", entries(&archive));
    }
    let alone = testkit::image::Entry { kind: b'x', ..testkit::image::Entry::file("x", b"10 path=x\n") };
    assert!(matches!(entries(&testkit::image::archive(&[alone])), Err(TarError::Format(_))), "of no entry");
}

#[test]
fn maps_of_sparse_files_that_make_no_sense_are_rejected() {
    let check = |map: &str, size: &str, stored: usize| {
        let mut records = Vec::new();
        for (key, value) in [("GNU.sparse.map", map), ("GNU.sparse.size", size)] {
            let rest = key.len() + value.len() + 3;
            records.extend_from_slice(format!("{} {key}={value}\n", rest + 2).as_bytes());
        }
        let extension = testkit::image::Entry { kind: b'x', ..testkit::image::Entry::file("x", records) };
        entries(&testkit::image::archive(&[extension, testkit::image::Entry::file("f", vec![1; stored])])).is_ok()
    };
    assert!(check("0,1,5,2", "10", 3));
    for (map, size, stored) in [
        ("0,1,5,2", "10", 4),
        ("0,1,5,2", "6", 3),
        ("5,2,0,1", "10", 3),
        ("0,3,2,1", "10", 4),
        ("0,18446744073709551615", "10", 1),
        ("1,18446744073709551615", "10", 1),
        ("0,1", "9223372036854775808", 1),
    ] {
        assert!(!check(map, size, stored), "{map} of {size}");
    }
}
