use futures::FutureExt as _;

use super::*;

fn flow(shared_max: usize, per_identity: usize) -> Flow {
    Flow::new(FlowLimits {
        shared_max,
        masters_max: 1,
        leases_max: 2,
        in_flight_per_identity_max: per_identity,
        leases_per_identity_max: 1,
        working_per_identity_max: 1,
        entered_per_identity_max: 8,
        streams_per_identity_max: 2,
        responses_per_identity_max: 8,
    })
}

/// Admits a request that must not have to wait.
fn admit_now(entry: &Entry) -> Place {
    entry.admit().now_or_never().expect("there is a place")
}

#[tokio::test]
async fn one_identity_cannot_fill_all_places() {
    let flow = flow(4, 2);
    let greedy: Vec<Entry> = (0..3).map(|_| flow.enter("gw-1", Lane::Shared).unwrap()).collect();
    let _places = [admit_now(&greedy[0]), admit_now(&greedy[1])];
    assert!(greedy[2].admit().now_or_never().is_none(), "a third request of one identity waits");
    let other = flow.enter("gw-2", Lane::Shared).unwrap();
    admit_now(&other);
}

#[tokio::test]
async fn administrators_and_leases_have_places_that_nobody_else_can_take() {
    let flow = flow(1, 8);
    let node = flow.enter("gw-1", Lane::Shared).unwrap();
    let _held = admit_now(&node);
    let lease = flow.enter("gw-1", Lane::Lease).unwrap();
    let _lease = admit_now(&lease);
    let admin = flow.enter("admin", Lane::Masters).unwrap();
    let _admin = admit_now(&admin);
    assert!(flow.enter("gw-2", Lane::Shared).unwrap().admit().now_or_never().is_none());
}

#[tokio::test]
async fn those_who_wait_take_turns_by_identity() {
    let flow = flow(1, 8);
    let first = flow.enter("gw-0", Lane::Shared).unwrap();
    let place = admit_now(&first);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for identity in ["gw-1", "gw-1", "gw-1", "gw-2", "gw-3"] {
        let entry = flow.enter(identity, Lane::Shared).unwrap();
        let order = order.clone();
        tasks.push(tokio::spawn(async move {
            let _place = entry.admit().await;
            order.lock().push(identity);
        }));
        // Each is in line before the next one comes.
        tokio::task::yield_now().await;
    }
    drop(place);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), ["gw-1", "gw-2", "gw-3", "gw-1", "gw-1"]);
}

#[tokio::test]
async fn what_one_identity_has_on_its_way_is_bounded() {
    let flow = flow(4, 4);
    let entries: Vec<Entry> = (0..8).map(|_| flow.enter("token", Lane::Shared).unwrap()).collect();
    assert!(matches!(flow.enter("token", Lane::Shared), Err(TooMany)));
    assert!(flow.enter("gw-1", Lane::Shared).is_ok());
    drop(entries);
    assert!(flow.enter("token", Lane::Shared).is_ok());
    let _streams = [flow.open_stream("gw-1", Lane::Shared).unwrap(), flow.open_stream("gw-1", Lane::Shared).unwrap()];
    assert!(matches!(flow.open_stream("gw-1", Lane::Shared), Err(TooMany)));
}

#[tokio::test]
async fn a_request_that_left_while_it_waited_holds_nothing() {
    let flow = flow(1, 1);
    let first = flow.enter("gw-1", Lane::Shared).unwrap();
    let place = admit_now(&first);
    let left = flow.enter("gw-2", Lane::Shared).unwrap();
    assert!(left.admit().now_or_never().is_none());
    drop(left);
    let patient = flow.enter("gw-3", Lane::Shared).unwrap();
    let waiting = tokio::spawn(async move { drop(patient.admit().await) });
    tokio::task::yield_now().await;
    drop(place);
    waiting.await.unwrap();
    drop(first);
    assert_eq!(flow.usage(), FlowUsage::default());
    assert!(flow.0.lock().identities.is_empty(), "an idle identity costs nothing");
}

#[tokio::test]
async fn one_identity_cannot_fill_the_places_of_leases() {
    let flow = flow(1, 8);
    let greedy: Vec<Entry> = (0..3).map(|_| flow.enter("gw-1", Lane::Lease).unwrap()).collect();
    let _shared = admit_now(&greedy[0]);
    let own = admit_now(&greedy[1]);
    let mut third = Box::pin(greedy[2].admit());
    assert!(third.as_mut().now_or_never().is_none(), "a second lease of one node waits");
    let other = flow.enter("gw-2", Lane::Lease).unwrap();
    let _other = admit_now(&other);
    drop(own);
    assert!(third.now_or_never().is_some(), "until the first is done");
}

#[tokio::test]
async fn those_who_wait_for_shared_places_have_turns_whatever_their_lane() {
    let flow = flow(1, 8);
    let first = flow.enter("gw-0", Lane::Shared).unwrap();
    let mut place = admit_now(&first);
    let lanes = [Lane::Masters, Lane::Lease, Lane::Shared];
    let names = ["admin", "gw-1", "gw-2"];
    let reserved: Vec<Entry> = vec![
        flow.enter("admin", Lane::Masters).unwrap(),
        flow.enter("gw-1", Lane::Lease).unwrap(),
        flow.enter("gw-3", Lane::Lease).unwrap(),
    ];
    let _reserved: Vec<Place> = reserved.iter().map(admit_now).collect();
    let entries: Vec<Entry> = (0..9).map(|number| flow.enter(names[number % 3], lanes[number % 3]).unwrap()).collect();
    let mut waiting: Vec<_> = entries.iter().map(|entry| Some(Box::pin(entry.admit()))).collect();
    assert!(waiting.iter_mut().flatten().all(|admit| admit.now_or_never().is_none()));
    let mut served = Vec::new();
    while served.len() < 9 {
        drop(place);
        let admitted = waiting.iter_mut().enumerate().find_map(|(number, slot)| {
            let place = slot.as_mut()?.now_or_never()?;
            *slot = None;
            Some((number, place))
        });
        let (number, next) = admitted.expect("somebody has the place");
        served.push(number % 3);
        place = next;
    }
    for three in served.chunks(3) {
        let mut three = three.to_vec();
        three.sort_unstable();
        assert_eq!(three, [0, 1, 2], "{served:?}");
    }
}

#[tokio::test]
async fn a_place_is_passed_on_without_a_look_at_all_who_wait() {
    let flow = flow(1, 8);
    let first = flow.enter("gw-0", Lane::Shared).unwrap();
    let mut place = admit_now(&first);
    let entries: Vec<Entry> =
        (1..=15_000).map(|number| flow.enter(&format!("gw-{number}"), Lane::Shared).unwrap()).collect();
    let mut waiting: Vec<_> = entries.iter().map(|entry| Box::pin(entry.admit())).collect();
    assert!(waiting.iter_mut().all(|admit| admit.now_or_never().is_none()));
    let began = std::time::Instant::now();
    for admit in waiting {
        drop(place);
        place = admit.await;
    }
    // It took many seconds when each looked at all.
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    drop(place);
}
