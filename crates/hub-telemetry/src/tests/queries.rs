//! What a query finds, and what it costs.

use super::*;

#[test]
fn the_newest_come_first_when_asked_for_page_by_page() {
    let dir = directory();
    let telemetry = open(dir.path());
    for batch in 0..10 {
        let lines: Vec<String> = (0..4)
            .map(|n| line(if n % 2 == 0 { "even" } else { "odd" }, i64::from(batch * 4 + n), &["count", "noise"]))
            .collect();
        let from = u64::try_from(batch * 4).expect("not negative");
        telemetry.ingest("n", &header(from, from + 4, 4), lines.join("\n").as_bytes()).expect("stored");
    }
    for limit in [1, 3, 7, 1000] {
        let query = ReadingsQuery { order: Order::Newest, limit: Some(limit), ..ReadingsQuery::default() };
        assert_eq!(origins(&telemetry, &query), (0..40).rev().flat_map(|n| [n, n]).collect::<Vec<_>>());
        let query = ReadingsQuery { resource: Some("noise".to_owned()), from: Some(9), ..of("n", "odd") };
        let query = ReadingsQuery { order: Order::Newest, limit: Some(limit), to: Some(16), ..query };
        assert_eq!(origins(&telemetry, &query), [15, 13, 11, 9]);
    }
    // Within an event too: forward and backward are mirror images.
    let newest = ReadingsQuery { order: Order::Newest, limit: Some(1), ..ReadingsQuery::default() };
    let page = telemetry.query(&newest).expect("a readable disk");
    assert_eq!(page.readings[0].reading.resource_name, "noise");
    // A token of one order means nothing in the other.
    let token = page.next.expect("there is more");
    let forward = ReadingsQuery { after: Some(token), ..ReadingsQuery::default() };
    assert!(telemetry.query(&forward).is_err());
    let page = telemetry.query(&ReadingsQuery { limit: Some(1), ..ReadingsQuery::default() }).expect("readable");
    assert!(telemetry.query(&ReadingsQuery { after: page.next, ..newest }).is_err());
}

#[test]
fn the_latest_value_of_each_resource_is_one_answer() {
    let dir = directory();
    let telemetry = open(dir.path());
    for n in 0..50 {
        send(&telemetry, "n", "a", n, n + 1).expect("stored");
        let lines = line("b", n as i64, &["count", "noise"]);
        telemetry.ingest("m", &header(n, n + 1, 1), lines.as_bytes()).expect("stored");
    }
    let latest = |query: ReadingsQuery| {
        let latest = telemetry.latest(&query).expect("a readable disk");
        let series = latest.readings.into_iter().map(|stored| {
            format!(
                "{}/{}/{} {}",
                stored.node, stored.reading.device_name, stored.reading.resource_name, stored.reading.origin
            )
        });
        let mut series = series.collect::<Vec<_>>();
        series.sort();
        (series, latest.complete)
    };
    let all = ["m/b/count 49", "m/b/noise 49", "n/a/count 49"].map(str::to_owned).to_vec();
    assert_eq!(latest(ReadingsQuery::default()), (all, true));
    assert_eq!(latest(ReadingsQuery { resource: Some("noise".to_owned()), ..of("m", "b") }).0, ["m/b/noise 49"]);
    assert_eq!(latest(ReadingsQuery { to: Some(10), ..of("n", "a") }).0, ["n/a/count 9"]);
    assert_eq!(latest(of("n", "no-such-device")), (vec![], true));
    assert!(!latest(ReadingsQuery { limit: Some(1), ..ReadingsQuery::default() }).1);
}

#[test]
fn a_rare_resource_is_found_in_one_page_and_few_blocks() {
    let dir = directory();
    let options = TelemetryOptions { bytes_max: 1 << 28, segment_bytes: 1 << 20, ..TelemetryOptions::default() };
    let telemetry = Telemetry::open(dir.path(), options).expect("a new store");
    let mut from = 0;
    for batch in 0..60 {
        let resource = if batch == 20 { "rare" } else { "count" };
        let lines: Vec<String> =
            (0..200).map(|n| line("a", n, &["count", if n == 7 { resource } else { "noise" }])).collect();
        telemetry.ingest("n", &header(from, from + 200, 200), lines.join("\n").as_bytes()).expect("stored");
        from += 200;
    }
    let rare = |order| ReadingsQuery { resource: Some("rare".to_owned()), order, ..of("n", "a") };
    for order in [Order::Oldest, Order::Newest] {
        let page = telemetry.query(&rare(order)).expect("a readable disk");
        assert_eq!((page.readings.len(), page.next), (1, None));
    }
    let filter = crate::index::Filter { node: None, device: None, resource: Some("rare"), from: None, to: None };
    let finding = lock(&telemetry.inner.tables).index.find(Order::Oldest, 0, &filter, usize::MAX);
    assert_eq!(finding.blocks.len(), 1);
}

#[test]
fn order_and_latest_are_asked_for_by_parameters() {
    let dir = directory();
    let telemetry = open(dir.path());
    for n in 0..3 {
        send(&telemetry, "n", "a", n, n + 1).expect("stored");
    }
    let get = |uri: &str| request(&telemetry, Method::GET, uri, "admin", "");
    let newest = get("/telemetry/v1/readings?order=desc&limit=1");
    assert!(newest.contains(r#""origin":2"#) && newest.contains(r#""next":"-"#), "{newest}");
    assert!(get("/telemetry/v1/readings?order=asc&limit=1").contains(r#""origin":0"#));
    assert_eq!(get("/telemetry/v1/readings?order=down"), "BadRequest");
    let latest = get("/telemetry/v1/latest?node=n&device=a&resource=count");
    assert!(latest.contains(r#""origin":2"#) && latest.contains(r#""complete":true"#), "{latest}");
    assert_eq!(get("/telemetry/v1/latest?after=0.0"), "BadRequest");
    assert_eq!(request(&telemetry, Method::GET, "/telemetry/v1/latest", "system:node:n", ""), "Forbidden");
}

/// `cargo test --release -p hub-telemetry -- --ignored --nocapture how_fast_readings` prints seconds and pages.
#[test]
#[ignore = "a measurement"]
fn how_fast_readings_are_found() {
    let dir = directory();
    let options = TelemetryOptions { bytes_max: 4 << 30, ..TelemetryOptions::default() };
    let telemetry = Telemetry::open(dir.path(), options).expect("a new store");
    // A million readings of fifty devices on twenty nodes, and one of a resource that is nowhere else.
    let (batches, events) = (2_000_u64, 500_u64);
    for n in 0..batches {
        let node = format!("n-{}", n % 20);
        let lines: Vec<String> = (0..events)
            .map(|e| {
                let resource = if (n, e) == (batches / 2, 7) { "rare" } else { "count" };
                line(&format!("d-{}", e % 50), (n * events + e) as i64, &[resource])
            })
            .collect();
        let header = header(n / 20 * events, (n / 20 + 1) * events, lines.len());
        telemetry.ingest(&node, &header, lines.join("\n").as_bytes()).expect("stored");
    }
    let all = ReadingsQuery { limit: Some(10_000), ..ReadingsQuery::default() };
    let cases = [
        ("one rare resource", ReadingsQuery { resource: Some("rare".to_owned()), ..all.clone() }),
        ("one device of fifty", ReadingsQuery { device: Some("d-7".to_owned()), ..all.clone() }),
        ("one node, one device", ReadingsQuery { limit: Some(1_000), ..of("n-3", "d-7") }),
        ("a second of time", ReadingsQuery { from: Some(500_000), to: Some(500_100), ..all.clone() }),
        ("the newest of a device", ReadingsQuery { order: Order::Newest, limit: Some(1), ..of("n-3", "d-7") }),
        ("all", all),
    ];
    for (what, mut query) in cases {
        let begun = std::time::Instant::now();
        let (mut pages, mut found) = (0, 0);
        let is_one = query.limit == Some(1);
        loop {
            let page = telemetry.query(&query).expect("a readable disk");
            (pages, found) = (pages + 1, found + page.readings.len());
            query.after = page.next;
            if query.after.is_none() || is_one {
                break;
            }
        }
        println!("{what}: {:.3} s, {pages} pages, {found} readings", begun.elapsed().as_secs_f64());
    }
    let begun = std::time::Instant::now();
    let latest = telemetry.latest(&of("n-3", "d-7")).expect("a readable disk");
    println!("latest of a device: {:.3} s, {} readings", begun.elapsed().as_secs_f64(), latest.readings.len());
    println!("{} bytes of names", telemetry.usage().name_bytes);
}
