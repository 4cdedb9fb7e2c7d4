use futures::FutureExt as _;

use super::*;

fn flow(shared_max: usize, per_identity: usize) -> Flow {
    Flow::new(FlowLimits {
        shared_max,
        masters_max: 1,
        leases_max: 1,
        in_flight_per_identity_max: per_identity,
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
