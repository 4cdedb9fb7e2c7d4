use std::time::Duration;

use super::*;

fn message(device: &str, source: &str) -> Message {
    let event = Event {
        api_version: "v3".into(),
        id: "id".into(),
        device_name: device.into(),
        profile_name: "p".into(),
        source_name: source.into(),
        origin: 1,
        readings: vec![],
        tags: Default::default(),
    };
    Message { event: Arc::new(event), maker: Maker::Device("host".into()) }
}

fn filter(devices: &[&str], sources: &[&str]) -> Filter {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Filter { devices: set(devices), sources: set(sources) }
}

async fn check_filter(filter: Filter, expected: &[(&str, &str)]) {
    let bus = Bus::new();
    let mut subscriber = bus.subscribe("test", 16, Delivery::Lossless, filter);
    for (device, source) in [("a", "x"), ("a", "y"), ("b", "x")] {
        bus.publish(message(device, source)).await;
    }
    let mut seen = Vec::new();
    for _ in expected {
        let got = subscriber.recv().await;
        seen.push((got.event.device_name.clone(), got.event.source_name.clone()));
    }
    let seen: Vec<(&str, &str)> = seen.iter().map(|(device, source)| (device.as_str(), source.as_str())).collect();
    assert_eq!(seen, expected);
    assert_eq!(subscriber.report().queued, 0);
}

#[tokio::test]
async fn a_subscriber_gets_what_its_filter_wants_in_order() {
    check_filter(Filter::all(), &[("a", "x"), ("a", "y"), ("b", "x")]).await;
    check_filter(filter(&["a"], &[]), &[("a", "x"), ("a", "y")]).await;
    check_filter(filter(&[], &["x"]), &[("a", "x"), ("b", "x")]).await;
    check_filter(filter(&["b"], &["y"]), &[]).await;
}

#[tokio::test]
async fn a_lossy_subscriber_counts_what_it_missed_and_holds_nobody_up() {
    let bus = Bus::new();
    let mut slow = bus.subscribe("slow", 2, Delivery::Lossy, Filter::all());
    for _ in 0..5 {
        bus.publish(message("a", "x")).await;
    }
    assert_eq!(slow.report(), SubscriptionReport { name: "slow".into(), delivered: 2, dropped: 3, queued: 2 });
    let mut got = Vec::new();
    assert_eq!(slow.recv_many(&mut got, 10).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lossless_subscriber_makes_the_publisher_wait() {
    let bus = Bus::new();
    let mut journal = bus.subscribe("journal", 1, Delivery::Lossless, Filter::all());
    bus.publish(message("a", "1")).await;
    let second = bus.publish(message("a", "2"));
    tokio::pin!(second);
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut second).await.is_err());
    assert_eq!(journal.recv().await.event.source_name, "1");
    second.await;
    assert_eq!(journal.recv().await.event.source_name, "2");
    assert_eq!(journal.report().dropped, 0);
}

#[tokio::test]
async fn a_subscriber_that_left_is_forgotten() {
    let bus = Bus::new();
    let gone = bus.subscribe("gone", 1, Delivery::Lossless, Filter::all());
    let mut stays = bus.subscribe("stays", 4, Delivery::Lossless, Filter::all());
    drop(gone);
    for _ in 0..3 {
        bus.publish(message("a", "x")).await;
    }
    assert_eq!(bus.report().iter().map(|report| report.name.as_str()).collect::<Vec<_>>(), ["stays"]);
    stays.recv().await;
}
