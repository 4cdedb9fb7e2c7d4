use std::convert::Infallible;

use futures::StreamExt as _;

use super::*;
use crate::Body;

const KIB: usize = 1024;

/// `count` pieces of `size` bytes, one each `period`, and then none.
fn drip(count: usize, size: usize, period: Duration) -> Body {
    let piece = Bytes::from(vec![b'x'; size]);
    Body::stream(futures::stream::iter(0..count).then(move |_| {
        let piece = piece.clone();
        async move {
            tokio::time::sleep(period).await;
            Ok::<_, Infallible>(piece)
        }
    }))
}

async fn time_of<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    (future.await, started.elapsed())
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit() {
    let pieces = |texts: &[&'static str]| {
        Body::pieces(texts.iter().map(|text| Bytes::from_static(text.as_bytes())).collect::<Vec<_>>())
    };
    assert_eq!(read_body(pieces(&[]), 0).await.unwrap(), "");
    assert_eq!(read_body(pieces(&["abc"]), 3).await.unwrap(), "abc");
    assert_eq!(read_body(pieces(&["a", "", "bc", "d"]), 4).await.unwrap(), "abcd");
    assert!(matches!(read_body(pieces(&["abc", "d"]), 3).await, Err(ReadBodyError::TooLarge { max: 3 })));
    let endless = Body::stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))));
    assert!(matches!(read_body(endless, 100).await, Err(ReadBodyError::TooLarge { max: 100 })));
    let broken = Body::stream(futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("broken"))]));
    assert!(matches!(read_body(broken, 100).await, Err(ReadBodyError::Broken(_))));
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_keep_a_body_alive() {
    let (read, took) = time_of(read_body(drip(100, 1, Duration::from_secs(20)), 3 << 20)).await;
    assert!(matches!(read, Err(ReadBodyError::TooSlow { .. })), "{read:?}");
    assert!(took < Duration::from_secs(31), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_over_a_slow_link_may_take_longer_than_a_small_one() {
    // 20 KiB a second for 150 seconds.
    let (read, took) = time_of(read_body(drip(150, 20 * KIB, Duration::from_secs(1)), 3 << 20)).await;
    assert_eq!(read.unwrap().len(), 150 * 20 * KIB);
    assert_eq!(took, Duration::from_secs(150));
    // 2 KiB a second is not a link, but a way of holding on to us.
    let (read, took) = time_of(read_body(drip(1500, 2 * KIB, Duration::from_secs(1)), 3 << 20)).await;
    assert!(matches!(read, Err(ReadBodyError::TooSlow { .. })), "{read:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_length_beyond_the_limit_is_rejected_before_a_byte_is_read() {
    struct Declared;
    impl hyper::body::Body for Declared {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            panic!("nothing is read");
        }
        fn size_hint(&self) -> hyper::body::SizeHint {
            hyper::body::SizeHint::with_exact(101 + DRAINED_BYTES_MAX as u64)
        }
    }
    assert!(matches!(read_body(Declared, 100).await, Err(ReadBodyError::TooLarge { max: 100 })));
}

#[tokio::test]
async fn of_a_body_that_is_too_large_by_little_the_rest_is_taken_so_that_its_sender_sees_the_answer() {
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = taken.clone();
    let body = Body::stream(futures::stream::iter(0..100).map(move |_| {
        counted.fetch_add(KIB, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, Infallible>(Bytes::from(vec![b'x'; KIB]))
    }));
    assert!(matches!(read_body(body, 10 * KIB).await, Err(ReadBodyError::TooLarge { .. })));
    assert_eq!(taken.load(std::sync::atomic::Ordering::Relaxed), 100 * KIB);
    // One that does not end costs a moment.
    let silent = Body::stream(
        futures::stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b'x'; 2 * KIB]))])
            .chain(futures::stream::pending()),
    );
    let (read, took) = time_of(read_body(silent, KIB)).await;
    assert!(matches!(read, Err(ReadBodyError::TooLarge { .. })));
    assert!(took < Duration::from_secs(10), "{took:?}");
}

fn budget(total: usize, reserved: usize, each: usize) -> BodyBudget {
    let bytes = |kib: usize| (kib * KIB) as u64;
    BodyBudget::new(BudgetLimits {
        bytes_max: bytes(total),
        bytes_reserved: bytes(reserved),
        bytes_per_identity_max: bytes(each),
    })
}

#[tokio::test(start_paused = true)]
async fn five_hundred_slow_bodies_of_one_token_cost_that_tokens_budget_only() {
    let budget = budget(1024, 0, 256);
    let slow: Vec<_> = (0..500)
        .map(|_| {
            let mut permit = budget.permit("token", BodyPriority::Normal);
            tokio::spawn(async move {
                // A piece at once, and then nothing until long after the deadline.
                let first = futures::stream::iter([Ok::<_, Infallible>(Bytes::from(vec![0; 16 * KIB]))]);
                let body = Body::stream(first.chain(futures::stream::pending()));
                read_body_within(body, 3 << 20, &mut permit).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(budget.bytes_held(), 256 * KIB as u64);
    assert_eq!(slow.iter().filter(|task| task.is_finished()).count(), 500 - 16);
    let mut permit = budget.permit("gw-1", BodyPriority::Normal);
    let body = drip(16, 16 * KIB, Duration::from_millis(1));
    assert_eq!(read_body_within(body, 3 << 20, &mut permit).await.unwrap().len(), 256 * KIB);
    drop(permit);
    let mut errors = (0, 0);
    for task in slow {
        match task.await.unwrap() {
            Err(ReadBodyError::OverBudget(OverBudget::Identity)) => errors.0 += 1,
            Err(ReadBodyError::TooSlow { .. }) => errors.1 += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(errors, (484, 16));
    assert_eq!((budget.bytes_held(), budget.identities()), (0, 0));
}

#[test]
fn the_reserve_is_for_those_who_may_use_it() {
    let budget = budget(96, 32, 64);
    let mut permits: Vec<_> = ["a", "b", "c"].map(|user| budget.permit(user, BodyPriority::Normal)).into();
    assert_eq!(permits[0].grow_to(48 * KIB), Ok(()));
    assert_eq!(permits[0].grow_to(65 * KIB), Err(OverBudget::Identity));
    assert_eq!(permits[1].grow_to(16 * KIB), Ok(()));
    assert_eq!(permits[2].grow_to(1), Err(OverBudget::Total));
    let mut admin = budget.permit("admin", BodyPriority::Reserved);
    assert_eq!(admin.grow_to(32 * KIB), Ok(()));
    assert_eq!(admin.grow_to(33 * KIB), Err(OverBudget::Total));
    assert_eq!(admin.bytes(), 32 * KIB as u64, "a step that is not there changes nothing");
    permits.remove(0);
    assert_eq!(permits[1].grow_to(1), Ok(()));
    drop((permits, admin));
    assert_eq!((budget.bytes_held(), budget.identities()), (0, 0));
}

#[test]
fn a_permit_costs_nothing_before_bytes_arrive() {
    let budget = budget(64, 0, 64);
    let permits: Vec<_> = (0..1000).map(|_| budget.permit("a", BodyPriority::Normal)).collect();
    assert_eq!(budget.bytes_held(), 0);
    assert_eq!(permits.iter().map(BodyPermit::bytes).sum::<u64>(), 0);
}
