use proptest::prelude::*;

use super::*;

const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
                   2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n2026-01-01T00:00:04Z stdout F four\n";

fn query(text: &str) -> LogQuery {
    LogQuery::parse(Some(text), "2026-01-01T00:00:10Z".parse().unwrap()).unwrap()
}

async fn read(log: &str, query: &LogQuery) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(&path, log).unwrap();
    let mut reader = LogReader::open(&path, query).await.unwrap();
    let mut text = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_reader_gets_what_it_asked_for() {
    for (asked, expected) in [
        ("", "one\ntwo\nthree\nfour\n"),
        ("tailLines=1", "four\n"),
        ("tailLines=0", ""),
        ("tailLines=99", "one\ntwo\nthree\nfour\n"),
        ("sinceTime=2026-01-01T00:00:02Z", "two\nthree\nfour\n"),
        ("sinceTime=2026-01-01T00%3A00%3A04Z", "four\n"),
        ("sinceSeconds=7", "three\nfour\n"),
        ("limitBytes=6", "one\ntw"),
        ("tailLines=1&timestamps=true", "2026-01-01T00:00:04Z four\n"),
        ("sinceSeconds=7&timestamps=true", "2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z four\n"),
    ] {
        assert_eq!(read(LOG, &query(asked)).await, expected, "{asked}");
    }
}

#[tokio::test]
async fn a_torn_line_is_shown_and_not_lost() {
    assert_eq!(read("garbage\n2026-01-01T00:00:01Z stdout F ok\n2026-01-", &query("")).await, "garbage\nok\n");
}

#[tokio::test]
async fn a_rotated_log_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    std::fs::write(&path, "2026-01-01T00:00:01Z stdout F one\n").unwrap();
    let mut reader = LogReader::open(&path, &LogQuery::default()).await.unwrap();
    assert_eq!(reader.next().await.unwrap().as_deref(), Some(&b"one\n"[..]));
    assert_eq!(reader.next().await.unwrap(), None);
    std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
    std::fs::write(&path, "2026-01-01T00:00:02Z stdout F two\n").unwrap();
    assert_eq!(reader.next().await.unwrap().as_deref(), Some(&b"two\n"[..]));
}

#[test]
fn a_query_that_makes_no_sense_is_refused() {
    let now = "2026-01-01T00:00:10Z".parse().unwrap();
    for bad in ["tailLines=-1", "tailLines=x", "sinceTime=yesterday", "limitBytes=%"] {
        assert!(LogQuery::parse(Some(bad), now).is_err(), "{bad}");
    }
    assert!(LogQuery::parse(Some("follow=true&unknown=1"), now).unwrap().follow);
}

#[tokio::test]
async fn tails_match_a_plain_count_of_lines() {
    for lines in [0_usize, 1, 2, 5, 999] {
        let log: String = (0..1500).map(|n| format!("2026-01-01T00:00:01Z stdout F line number {n}\n")).collect();
        let expected: String = (1500 - lines..1500).map(|n| format!("line number {n}\n")).collect();
        assert_eq!(read(&log, &query(&format!("tailLines={lines}"))).await, expected);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_formatter_panic_or_exceed_its_limit(
        lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..20), limit in 0_u64..200,
    ) {
        let query = LogQuery { limit_bytes: Some(limit), timestamps: true, ..LogQuery::default() };
        let (mut formatter, mut out) = (Formatter::new(&query), Vec::new());
        for line in lines {
            formatter.line(&line, &mut out);
        }
        prop_assert!(out.len() as u64 <= limit);
    }

    #[test]
    fn no_query_panics(text in "\\PC*") {
        let _ = LogQuery::parse(Some(&text), Timestamp::UNIX_EPOCH);
    }
}

#[test]
fn old_attempts_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a/0.log", "a/1.log", "a/1.log.1", "a/1.log.2", "a/2.log", "a/2.log.1", "a/notes.log", "b/0.log"];
    let messages = [".termination/a-1", ".termination/a-2", ".termination/a-1-0", ".termination/b-0"];
    for name in names.iter().chain(&messages) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    remove_until(dir.path(), "a", 1).unwrap();
    let left: Vec<&str> =
        names.iter().chain(&messages).copied().filter(|name| dir.path().join(name).exists()).collect();
    let expected = [
        "a/2.log",
        "a/2.log.1",
        "a/notes.log",
        "b/0.log",
        ".termination/a-2",
        ".termination/a-1-0",
        ".termination/b-0",
    ];
    assert_eq!(left, expected);
    remove_until(dir.path(), "never-started", 1).unwrap();
}
