use super::*;

#[test]
fn modules_and_components_are_told_apart_by_their_first_bytes() {
    for (bytes, expected) in [
        (b"\0asm\x01\0\0\0".as_slice(), Ok(Format::Module)),
        (b"\0asm\x0d\0\x01\0", Ok(Format::Component)),
        (b"\0asm\x02\0\0\0", Err("version")),
        (b"\x7fELF\0\0\0\0", Err("not WebAssembly")),
    ] {
        match (format_of(bytes), expected) {
            (Ok(format), Ok(expected)) => assert_eq!(format, expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (got, _) => panic!("{bytes:?}: {got:?}"),
        }
    }
}
