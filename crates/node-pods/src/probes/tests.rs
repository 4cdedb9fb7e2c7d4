use super::dial::is_of_the_node;
use super::*;

fn tracker(success: u32, failure: u32) -> Tracker {
    Tracker::new(&Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() })
}

fn check(success: u32, failure: u32, tries: &[(bool, Option<bool>)]) {
    let mut tracker = tracker(success, failure);
    for (position, (ok, expected)) in tries.iter().enumerate() {
        assert_eq!(tracker.note(*ok), *expected, "try {position} of {tries:?}");
    }
}

#[test]
fn a_verdict_needs_its_threshold_in_a_row() {
    check(1, 3, &[(true, Some(true)), (true, None), (false, None), (false, None), (false, Some(false)), (false, None)]);
    check(1, 3, &[(false, None), (false, None), (true, Some(true)), (false, None), (true, None)]);
    check(2, 1, &[(false, Some(false)), (true, None), (true, Some(true))]);
}

#[tokio::test]
async fn a_socket_that_listens_answers_a_tcp_probe() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(connect(None, None, port).await.is_ok());
    drop(listener);
    let Failure::Failed(text) = connect(None, None, port).await.unwrap_err() else { panic!("it was tried") };
    assert!(text.contains("dial 127.0.0.1"), "{text}");
}

#[tokio::test]
async fn a_network_that_is_away_is_no_fault_of_the_program() {
    // No route leads to the addresses that are kept for documentation from a machine without an uplink; with one, nobody answers.
    let unreachable = std::io::Error::from_raw_os_error(rustix::io::Errno::NETUNREACH.raw_os_error());
    assert!(is_of_the_node(&unreachable));
    assert!(!is_of_the_node(&std::io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error())));
    let named = connect(Some("no-such-host.invalid"), None, 80).await;
    assert!(matches!(named, Err(Failure::NotTried(_))), "{named:?}");
}
