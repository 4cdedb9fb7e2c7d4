//! A full disk drops the chatty node's readings, not the quiet one's.

use super::*;

/// A ring of 256 KiB in segments of 16 KiB.
fn small() -> TelemetryOptions {
    TelemetryOptions { bytes_max: 256 * 1024, segment_bytes: 16 * 1024, ..TelemetryOptions::default() }
}

/// Sends readings of `node` from `from` on, ten in a batch, until it has sent `bytes`; answers where it ended.
fn send_bytes(telemetry: &Telemetry, node: &str, mut from: u64, bytes: usize) -> u64 {
    let mut sent = 0;
    while sent < bytes {
        let lines: Vec<String> = (from..from + 10).map(|n| line("a", n as i64, &["count"])).collect();
        let lines = lines.join("\n");
        telemetry.ingest(node, &header(from, from + 10, 10), lines.as_bytes()).expect("stored");
        sent += lines.len();
        from += 10;
    }
    from
}

fn all(order: Order) -> ReadingsQuery {
    ReadingsQuery { order, ..ReadingsQuery::default() }
}

/// Node and origin of every reading, in the order of the answer.
fn everything(telemetry: &Telemetry, order: Order, limit: usize) -> Vec<(String, i64)> {
    let mut query = ReadingsQuery { limit: Some(limit), ..all(order) };
    let mut found = Vec::new();
    loop {
        let page = telemetry.query(&query).expect("a readable disk");
        found.extend(page.readings.into_iter().map(|stored| (stored.node, stored.reading.origin)));
        query.after = page.next;
        if query.after.is_none() {
            return found;
        }
    }
}

#[test]
fn a_chatty_node_does_not_displace_a_quiet_one() {
    let dir = directory();
    let telemetry = Telemetry::open(dir.path(), small()).expect("a new store");
    send_bytes(&telemetry, "gw-1", 0, 20_000);
    send(&telemetry, "gw-2", "a", 0, 10).expect("stored");
    let end = send_bytes(&telemetry, "gw-1", telemetry_next(&telemetry, "gw-1"), 2_000_000);
    for telemetry in [telemetry.clone(), telemetry] {
        assert_eq!(origins(&telemetry, &of("gw-2", "a")), (0..10).collect::<Vec<_>>());
        let kept = origins(&telemetry, &of("gw-1", "a"));
        assert!(kept.is_sorted() && kept.last() == Some(&(end as i64 - 1)), "{:?}", kept.last());
        // The disk is used, and not by more than was allowed but for one segment.
        let bytes = telemetry.usage().bytes;
        assert!((160 * 1024..=(256 + 16) * 1024).contains(&bytes), "{bytes}");
    }
}

fn telemetry_next(telemetry: &Telemetry, node: &str) -> u64 {
    origins(telemetry, &of(node, "a")).last().map_or(0, |last| *last as u64 + 1)
}

#[test]
fn what_moved_keeps_its_place_in_answers_and_survives_a_restart() {
    let dir = directory();
    let mut telemetry = Telemetry::open(dir.path(), small()).expect("a new store");
    let mut chatty = 0;
    let mut quiet = 0;
    // Several turns of the ring, with quiet nodes in between, and restarts with and without a checkpoint.
    for round in 0..12 {
        chatty = send_bytes(&telemetry, "chatty", chatty, 150_000);
        for node in ["q-1", "q-2", "q-3"] {
            send(&telemetry, node, "a", quiet, quiet + 3).expect("stored");
        }
        quiet += 3;
        if round % 3 == 1 {
            if round % 2 == 1 {
                telemetry.checkpoint().expect("space");
            }
            let usage = telemetry.usage();
            drop(telemetry);
            telemetry = Telemetry::open(dir.path(), small()).expect("a sound store");
            assert_eq!(telemetry.usage(), usage);
        }
        for node in ["q-1", "q-2", "q-3"] {
            assert_eq!(origins(&telemetry, &of(node, "a")), (0..quiet as i64).collect::<Vec<_>>(), "round {round}");
        }
        let forward = everything(&telemetry, Order::Oldest, 7);
        let mut backward = everything(&telemetry, Order::Newest, 5);
        backward.reverse();
        assert_eq!(forward, backward);
        let chatty_kept: Vec<i64> = forward.iter().filter(|(node, _)| node == "chatty").map(|(_, n)| *n).collect();
        assert!(
            chatty_kept.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "no hole in what is kept of the chatty node"
        );
    }
}

#[test]
fn a_node_within_its_share_keeps_all_of_it_and_one_beyond_keeps_its_share() {
    let dir = directory();
    let telemetry = Telemetry::open(dir.path(), small()).expect("a new store");
    // Four nodes: a share is 32 KiB.
    let sizes = [("n-1", 10_000), ("n-2", 25_000), ("n-3", 60_000)];
    let ends = sizes.map(|(node, bytes)| (node, bytes, send_bytes(&telemetry, node, 0, bytes)));
    send_bytes(&telemetry, "chatty", 0, 3_000_000);
    for (node, bytes, end) in ends {
        let kept = origins(&telemetry, &of(node, "a"));
        if bytes < 30_000 {
            assert_eq!(kept, (0..end as i64).collect::<Vec<_>>(), "{node}");
        } else {
            let kept_bytes = kept.len() * line("a", 100, &["count"]).len();
            assert!(kept_bytes >= 25_000, "{node} has {kept_bytes} bytes of its share of 32 KiB");
            assert_eq!(kept.last(), Some(&(end as i64 - 1)), "the newest are kept");
        }
    }
}

#[test]
fn nodes_that_send_alike_are_not_copied() {
    let dir = directory();
    let telemetry = Telemetry::open(dir.path(), small()).expect("a new store");
    let mut from = 0;
    for _ in 0..40 {
        for node in ["a-1", "a-2", "a-3", "a-4"] {
            send_bytes(&telemetry, node, from, 5_000);
        }
        from = telemetry_next(&telemetry, "a-4");
    }
    // Every record is a batch: each number that was given is one of theirs.
    assert_eq!(telemetry.inner.journal.next(), 4 * from / 10);
}

#[test]
fn a_crash_between_the_packs_and_the_drop_leaves_nothing_twice() {
    let dir = directory();
    let telemetry = Telemetry::open(dir.path(), small()).expect("a new store");
    // What moves lies in the middle of a segment and of a block.
    let begun = send_bytes(&telemetry, "chatty", 0, 5_000);
    send(&telemetry, "quiet", "a", 0, 10).expect("stored");
    send_bytes(&telemetry, "chatty", begun, 150_000);
    telemetry.checkpoint().expect("space");
    let before = everything(&telemetry, Order::Oldest, 1_000);
    assert_eq!(before.iter().position(|(node, _)| node == "quiet"), Some(begun as usize));
    // The copy has what the disk has at the worst moment: packs and the old segment.
    let copy = directory();
    telemetry.inner.move_oldest_without_drop().expect("space");
    copy_dir(dir.path(), copy.path());
    drop(telemetry);
    let telemetry = Telemetry::open(copy.path(), small()).expect("a sound store");
    let after = everything(&telemetry, Order::Oldest, 1_000);
    assert!(after[..10].iter().all(|(node, _)| node == "quiet"), "what came before it is dropped");
    assert_eq!(after.iter().filter(|(node, _)| node == "quiet").count(), 10);
    assert!(before.ends_with(&after[10..]), "what is kept of the chatty node is its end, once");
    assert_eq!(send(&telemetry, "quiet", "a", 0, 10).expect("known").next, 10);
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).expect("a directory");
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
