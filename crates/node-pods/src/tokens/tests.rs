use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn of(pod: &str) -> TokenRef {
    TokenRef {
        pod_uid: format!("uid-{pod}"),
        namespace: "d".into(),
        pod: pod.into(),
        account: "default".into(),
        audience: String::new(),
        seconds: 3600,
    }
}

fn kept(of: &TokenRef, obtained_at: Timestamp, life_seconds: i64) -> KeptToken {
    KeptToken {
        account: of.account.clone(),
        audience: of.audience.clone(),
        seconds: of.seconds,
        token: "t".into(),
        obtained_at,
        life_seconds,
    }
}

/// A moment this long after `now` by both clocks.
fn later(now: Now, by: Duration) -> Now {
    let signed = SignedDuration::try_from(by).unwrap();
    Now { clock: now.clock + by, wall: now.wall + signed }
}

/// A queue that looks after one token which was obtained at `now`.
fn with_token(now: Now, life_seconds: i64) -> (Queue, TokenRef) {
    let mut queue = Queue::default();
    let of = of("p");
    queue.set_desired(&BTreeSet::from([of.clone()]), |_| None, now);
    assert_eq!(queue.take_due(now), Some(of.clone()));
    queue.obtained(&of, &kept(&of, now.wall, life_seconds), now);
    (queue, of)
}

#[test]
fn a_token_is_renewed_when_four_fifths_of_its_life_or_a_day_are_over() {
    for (life, renewed_at) in [(3600, 2880), (600, 480), (7 * 24 * 3600, 24 * 3600)] {
        let now = Now::read();
        let (mut queue, of) = with_token(now, life);
        let before = Duration::from_secs(renewed_at) - JITTER_MAX - Duration::from_secs(1);
        assert_eq!(queue.take_due(later(now, before)), None, "{life}");
        assert_eq!(queue.take_due(later(now, Duration::from_secs(renewed_at))), Some(of.clone()), "{life}");
        assert_eq!(queue.take_due(later(now, HOUR * 1000)), None, "one request at a time");
    }
}

#[test]
fn either_clock_is_enough() {
    let now = Now::read();
    let (mut queue, of) = with_token(now, 3600);
    // The wall clock was set back by years while the token grew old.
    let back = Now { clock: now.clock + HOUR, wall: now.wall - SignedDuration::from_hours(24 * 400) };
    assert_eq!(queue.take_due(back), Some(of));
    // The machine slept, and its monotonic clock with it.
    let (mut queue, of) = with_token(now, 3600);
    assert_eq!(queue.take_due(Now { clock: now.clock, wall: now.wall + SignedDuration::from_hours(1) }), Some(of));
}

#[test]
fn a_token_of_the_disk_is_renewed_by_its_age() {
    let now = Now::read();
    for (age_seconds, is_due) in [(60, false), (2890, true), (100_000, true), (-100, true)] {
        let obtained_at = now.wall - SignedDuration::from_secs(age_seconds);
        let mut queue = Queue::default();
        queue.set_desired(&BTreeSet::from([of("p")]), |of| Some(kept(of, obtained_at, 3600)), now);
        assert_eq!(queue.take_due(now).is_some(), is_due, "{age_seconds}");
    }
}

#[test]
fn a_missing_token_goes_first_and_what_nobody_names_is_dropped() {
    let now = Now::read();
    let mut queue = Queue::default();
    let old = now.wall - SignedDuration::from_hours(2);
    let known = |token: &TokenRef| (token.pod == "a").then(|| kept(token, old, 3600));
    queue.set_desired(&BTreeSet::from([of("a"), of("b")]), known, now);
    assert_eq!(queue.take_due(now), Some(of("b")));
    queue.set_desired(&BTreeSet::from([of("b")]), known, now);
    assert_eq!(queue.take_due(now), None);
    assert_eq!(queue.next_look(now), None, "nothing waits");
    queue.failed(&of("a"), false, now);
}

#[test]
fn a_hub_that_is_back_is_asked_at_once_for_what_is_missing_and_not_for_all_at_once() {
    let now = Now::read();
    let mut queue = Queue::default();
    let old = now.wall - SignedDuration::from_hours(2);
    let names: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    let desired = names.iter().map(|name| of(name)).chain([of("new")]).collect();
    queue.set_desired(&desired, |token| (token.pod != "new").then(|| kept(token, old, 3600)), now);
    queue.take_due(now);
    for _ in 0..10 {
        queue.failed(&of("new"), true, now);
    }
    assert!(queue.entries[&of("new")].due.clock > now.clock + Duration::from_secs(10));
    queue.restored(now);
    let due_in = |queue: &mut Queue, pause: Duration| {
        std::iter::from_fn(|| queue.take_due(later(now, pause))).collect::<Vec<_>>()
    };
    assert_eq!(queue.take_due(now), Some(of("new")));
    let early = due_in(&mut queue, CATCH_UP_MAX / 3).len();
    assert!((5..70).contains(&early), "{early}");
    assert_eq!(due_in(&mut queue, CATCH_UP_MAX).len(), 100 - early);
}

#[test]
fn only_a_rejection_that_lasts_is_reported_and_once() {
    let now = Now::read();
    let mut queue = Queue::default();
    queue.set_desired(&BTreeSet::from([of("p")]), |_| None, now);
    let reported: Vec<bool> = [false, true, false, false, false]
        .into_iter()
        .map(|is_outage| queue.failed(&of("p"), is_outage, now))
        .collect();
    assert_eq!(reported, [false, false, true, false, false]);
    let due = queue.entries[&of("p")].due;
    assert!(!due.has_come(now) && due.has_come(later(now, RETRY.max)), "it is tried again");
}

#[test]
fn an_answer_is_bounded_before_it_is_believed() {
    let read = |answer: Value| KeptToken::read(&of("p"), &answer, Timestamp::UNIX_EPOCH);
    let good = read(json!({"spec": {"expirationSeconds": 7200}, "status": {"token": "a.b.c"}})).unwrap();
    assert_eq!((good.token.as_str(), good.life_seconds), ("a.b.c", 7200));
    assert_eq!(read(json!({"status": {"token": "a"}})).unwrap().life_seconds, 3600);
    assert_eq!(
        read(json!({"spec": {"expirationSeconds": i64::MAX}, "status": {"token": "a"}})).unwrap().life_seconds,
        1 << 32
    );
    assert_eq!(read(json!({"spec": {"expirationSeconds": -1}, "status": {"token": "a"}})).unwrap().life_seconds, 600);
    for bad in [
        json!({}),
        json!({"status": {"token": ""}}),
        json!({"status": {"token": "a\nb"}}),
        json!({"status": {"token": "x".repeat(TOKEN_BYTES_MAX + 1)}}),
    ] {
        assert!(read(bad.clone()).is_err(), "{}", bad.to_string().len());
    }
}

#[test]
fn a_request_is_bound_to_the_pod() {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"serviceAccountName": "sa", "containers": [], "volumes": [
            {"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}},
            ]}},
        ]},
    });
    let pod = Pod::from_json(pod.to_string().as_bytes()).unwrap();
    let tokens: Vec<TokenRef> = TokenRef::all_of(&pod).into_iter().collect();
    assert_eq!(tokens[0].path(), "/api/v1/namespaces/d/serviceaccounts/sa/token");
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let specs: Vec<Value> = tokens.iter().map(|token| token.request()["spec"].clone()).collect();
    assert_eq!(
        specs,
        [
            json!({"boundObjectRef": bound, "expirationSeconds": 3607}),
            json!({"boundObjectRef": bound, "expirationSeconds": 600, "audiences": ["vault"]}),
        ]
    );
    let mut fixed = pod;
    fixed.metadata.annotations.insert("kubernetes.io/config.source".into(), "file".into());
    assert!(TokenRef::all_of(&fixed).is_empty(), "the hub does not know a static pod");
}
