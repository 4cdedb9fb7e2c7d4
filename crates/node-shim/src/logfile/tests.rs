use proptest::prelude::*;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn check_lines(pieces: &[&str], expected: &[&str]) {
    let mut lines = Lines::new(Stream::Stdout);
    let mut out = Vec::new();
    for piece in pieces {
        lines.push(piece.as_bytes(), now(), &mut out);
    }
    lines.finish(now(), &mut out);
    let text = String::from_utf8(out).unwrap();
    let expected: Vec<String> =
        expected.iter().map(|line| format!("2026-01-01T00:00:00.000000000Z stdout {line}")).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn lines_are_written_as_cri_has_them() {
    check_lines(&["a\nb\n"], &["F a", "F b"]);
    check_lines(&["a", "b\n", "\n"], &["F ab", "F "]);
    check_lines(&["a\nno newline"], &["F a", "P no newline"]);
    check_lines(&[], &[]);
    let long = "x".repeat(PART_BYTES_MAX);
    check_lines(&[&long, "\n"], &[&format!("F {long}")]);
    check_lines(&[&long, "y\n"], &[&format!("P {long}"), "F y"]);
}

proptest! {
    #[test]
    fn no_byte_is_lost_however_the_pipe_cuts_them(text in "[ab\n]{0,200}", cut in 1usize..50) {
        let mut lines = Lines::new(Stream::Stderr);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            lines.push(piece, now(), &mut out);
        }
        lines.finish(now(), &mut out);
        let mut back = String::new();
        for line in String::from_utf8(out).unwrap().lines() {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            back.push_str(parts[3]);
            if parts[2] == "F" {
                back.push('\n');
            }
        }
        prop_assert_eq!(back, text);
    }
}

#[test]
fn full_files_are_put_aside_and_their_number_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logs/0.log");
    let mut log = LogFile::open(&path, 10, 3).unwrap();
    for line in ["11111\n", "22222\n", "33333\n", "44444\n"] {
        log.write(line.as_bytes(), now());
    }
    let read = |name: &str| fs::read_to_string(directory.path().join("logs").join(name)).unwrap();
    assert_eq!(
        (read("0.log"), read("0.log.1"), read("0.log.2")),
        ("44444\n".into(), "33333\n".into(), "22222\n".into())
    );
    assert_eq!(fs::read_dir(directory.path().join("logs")).unwrap().count(), 3);
}

#[test]
fn what_is_read_at_once_is_spread_over_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    let mut log = LogFile::open(&path, 10, 4).unwrap();
    log.write(b"1\n2\n", now());
    log.write(b"33333\n4444444444444444\n5\n666666\n7\n", now());
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(read("0.log.3"), "1\n2\n33333\n");
    assert_eq!(
        [read("0.log"), read("0.log.1"), read("0.log.2")],
        ["7\n".to_owned(), "5\n666666\n".to_owned(), "4444444444444444\n".to_owned()],
    );
}

#[test]
fn whoever_opens_a_log_that_is_turned_over_finds_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    let mut log = LogFile::open(&path, 64, 3).unwrap();
    log.write(b"first\n", now());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..20_000).for_each(|_| log.write(b"a line of some length\n", now())));
        while !writer.is_finished() {
            assert!(!fs::read(&path).unwrap().is_empty());
        }
    });
}

#[test]
fn a_log_is_continued_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    for line in ["a\n", "b\n"] {
        LogFile::open(&path, 100, 3).unwrap().write(line.as_bytes(), now());
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
}

#[test]
fn a_refusing_disk_is_noted_when_there_is_space_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    let mut log = LogFile::open(&path, 1000, 3).unwrap();
    log.file = File::open("/dev/null").unwrap();
    log.write(b"lost\n", now());
    log.file = append(&path).unwrap();
    log.write(b"kept\n", now());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("5 bytes of this log were lost") && text.ends_with("kept\n"), "{text}");
}

#[test]
fn the_end_of_a_log_is_its_last_lines_without_their_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut log = LogFile::open(&path, 1024 * 1024, 1).unwrap();
    assert_eq!(log.tail(80, 2048), "");
    let mut write = |text: &str| {
        let (mut lines, mut out) = (Lines::new(Stream::Stdout), Vec::new());
        lines.push(text.as_bytes(), now(), &mut out);
        lines.finish(now(), &mut out);
        log.write(&out, now());
        log.tail(3, 20)
    };
    assert_eq!(write("a b\nc\n"), "a b\nc\n");
    assert_eq!(write("d\nno newline"), "c\nd\nno newline");
    assert_eq!(write(&"0123456789".repeat(4000)), "0123456789".repeat(2));
    assert_eq!(write("x\ny\nz\nlast of them\n"), "y\nz\nlast of them\n");
}
