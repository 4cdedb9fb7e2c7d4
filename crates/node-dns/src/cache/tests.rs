//! How long answers are kept, how many, and what becomes of them on their way to a client.

use super::*;
use crate::message::kind;
use crate::names::tests::query;

fn message(name: &str, count: u8, ttl: u8) -> Vec<u8> {
    let mut bytes = query(1, name, kind::A, None);
    bytes[2] = 0x81;
    bytes[3] = 0xa0;
    bytes[7] = count;
    for last in 0..count {
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 192, 0, 2, last]);
    }
    bytes
}

fn stored(name: &str, count: u8, ttl: u8) -> (Arc<Stored>, Option<u32>) {
    let bytes = message(name, count, ttl);
    let answer = Answer::parse(&bytes).expect("an answer");
    (Arc::new(Stored::new(&bytes, &answer).expect("it is whole")), answer.ttl)
}

fn insert(cache: &mut Cache, key: &str, ttl: u8, now: Instant) {
    let (stored, ttl) = stored("www.example", 1, ttl);
    cache.insert(key.as_bytes(), &stored, ttl, now);
}

/// What a key is at a time: the age, "stale", or nothing.
fn state(cache: &mut Cache, key: &str, now: Instant) -> String {
    match cache.get(key.as_bytes(), now) {
        Lookup::Miss => "miss".into(),
        Lookup::Fresh(_, ttl) => format!("{ttl:?}"),
        Lookup::Expired { is_final, .. } => format!("expired, final {is_final}"),
    }
}

#[test]
fn an_answer_is_fresh_for_its_ttl_and_better_than_none_for_a_day() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut cache = Cache::new(1 << 20);
    insert(&mut cache, "a", 60, start);
    assert_eq!(state(&mut cache, "a", at(0)), "Aged(0)");
    assert_eq!(state(&mut cache, "a", at(59)), "Aged(59)");
    assert_eq!(state(&mut cache, "a", at(60)), "expired, final false");
    cache.defer_retry(b"a", at(90));
    assert_eq!(state(&mut cache, "a", at(89)), "expired, final true");
    assert_eq!(state(&mut cache, "a", at(90)), "expired, final false");
    assert_eq!(state(&mut cache, "a", at(86_459)), "expired, final false");
    assert_eq!(state(&mut cache, "a", at(86_460)), "miss");
    insert(&mut cache, "b", 0, start);
    assert_eq!(state(&mut cache, "b", at(0)), "miss");
}

#[test]
fn an_absence_is_not_believed_for_longer_than_a_quarter_of_an_hour() {
    let start = Instant::now();
    let mut cache = Cache::new(1 << 20);
    let (absence, _) = stored("www.example", 0, 0);
    cache.insert(b"a", &absence, Some(86_400), start);
    assert_eq!(state(&mut cache, "a", start + Duration::from_secs(899)), "Aged(899)");
    assert_eq!(state(&mut cache, "a", start + Duration::from_secs(900)), "expired, final false");
    // Without an SOA nobody said how long: not at all.
    cache.insert(b"b", &absence, None, start);
    assert_eq!(state(&mut cache, "b", start), "miss");
}

#[test]
fn the_cache_is_bounded_in_bytes_and_keeps_what_is_used() {
    let now = Instant::now();
    let mut cache = Cache::new(64 << 10);
    insert(&mut cache, "used", 60, now);
    for index in 0..10_000 {
        insert(&mut cache, &format!("key-{index}"), 60, now);
        assert_eq!(state(&mut cache, "used", now), "Aged(0)");
        assert!(cache.bytes() <= 64 << 10);
        assert_eq!(cache.order.len(), cache.entries.len());
    }
    assert!(cache.entries.len() > 100);
    // Again and again the same keeps its one place.
    let before = cache.bytes();
    insert(&mut cache, "used", 60, now);
    assert_eq!(cache.bytes(), before);
    let sum: usize = cache.entries.iter().map(|(key, entry)| entry_bytes(key, &entry.stored)).sum();
    assert_eq!(cache.bytes(), sum);
    // One that would take an eighth of it is not kept.
    let (large, ttl) = stored("www.example", 255, 60);
    let mut small = Cache::new(16 << 10);
    small.insert(b"large", &large, ttl, now);
    assert_eq!(state(&mut small, "large", now), "miss");
}

#[test]
fn a_client_gets_its_id_its_letters_and_what_is_left_of_the_ttl() {
    let (stored, _) = stored("www.example", 2, 60);
    let asked = query(0xabcd, "WWW.example", kind::A, None);
    let head = Head { id: 0xabcd, flags: [1, 0], question: &asked[12..], is_dnssec_ok: None };
    let mut out = [0; 512];
    let len = stored.write(&head, Ttl::Aged(15), &mut out).expect("it fits");
    assert_eq!(out[..2], [0xab, 0xcd]);
    assert_eq!(out[12..asked.len()], asked[12..]);
    let answer = Answer::parse(&out[..len]).expect("an answer");
    assert_eq!((answer.ttl, answer.counts), (Some(45), [2, 0, 0]));
    // The verdict on signatures is for who asks for it.
    assert_eq!(out[3] & AD, 0);
    let len = stored.write(&Head { is_dnssec_ok: Some(true), ..head }, Ttl::Stale, &mut out).expect("it fits");
    assert_eq!(out[3] & AD, AD);
    let answer = Answer::parse(&out[..len]).expect("an answer");
    assert_eq!((answer.ttl, answer.end), (Some(30), len - 11));
    // Another name of the same length would be an answer to something else; one of another length breaks pointers.
    let other = query(1, "ww.example", kind::A, None);
    assert!(stored.write(&Head { question: &other[12..], ..head }, Ttl::Stale, &mut out).is_none());
}

#[test]
fn what_does_not_fit_is_left_out_in_whole_records() {
    let (stored, _) = stored("www.example", 40, 60);
    let asked = query(1, "www.example", kind::A, None);
    for limit in [60_usize, 100, 512] {
        for is_dnssec_ok in [None, Some(false)] {
            let head = Head { id: 1, flags: [1, 0], question: &asked[12..], is_dnssec_ok };
            let mut out = vec![0; limit];
            let len = stored.write(&head, Ttl::Aged(0), &mut out).expect("a question fits");
            let answer = Answer::parse(&out[..len]).expect("an answer");
            let opt_len = if is_dnssec_ok.is_some() { 11 } else { 0 };
            assert_eq!(usize::from(answer.counts[0]), (limit - asked.len() - opt_len) / 16);
            assert!(answer.is_truncated());
        }
    }
}
