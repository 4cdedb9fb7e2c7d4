//! Which servers are asked, in which order.

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn upstreams(list: &[&str], own: &[&str]) -> Upstreams {
    let list = list.iter().map(|text| address(text)).collect();
    let own = own.iter().map(|text| address(text)).collect();
    let mut upstreams = Upstreams::new(UpstreamSource::List(list), own);
    upstreams.refresh(&mut Random::new(), Instant::now());
    upstreams
}

fn order(upstreams: &mut Upstreams, now: Instant) -> Vec<String> {
    let order = upstreams.order(now);
    order.iter().filter_map(|index| upstreams.address(*index)).map(|address| address.to_string()).collect()
}

#[test]
fn ourselves_and_what_is_there_twice_are_left_out() {
    let now = Instant::now();
    let mut some = upstreams(&["127.0.0.1:5353", "127.0.0.1:53", "192.0.2.1:53", "192.0.2.1:53"], &["127.0.0.1:53"]);
    assert_eq!(order(&mut some, now), ["127.0.0.1:5353", "192.0.2.1:53"]);
    let mut any = upstreams(&["127.0.0.7:53", "192.0.2.1:53"], &["0.0.0.0:53"]);
    assert_eq!(order(&mut any, now), ["192.0.2.1:53"]);
}

#[test]
fn who_answered_comes_first_for_a_minute() {
    let now = Instant::now();
    let mut three = upstreams(&["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"], &[]);
    three.prefer(address("192.0.2.2:53"), now);
    assert_eq!(order(&mut three, now), ["192.0.2.2:53", "192.0.2.3:53", "192.0.2.1:53"]);
    assert_eq!(order(&mut three, now + PREFERENCE_PERIOD), ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"]);
}

#[test]
fn a_server_whose_question_comes_round_is_left_out() {
    let now = Instant::now();
    // A server of this machine: a bound socket, so that nothing says it is not there.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let local = socket.local_addr().expect("it is bound").to_string();
    let mut two = upstreams(&[&local, "192.0.2.1:53"], &[]);
    let mut question = [0; 512];
    socket.recv(&mut question).expect("the probe");
    let mut name = WireName::ROOT;
    name.read(&question, 12).expect("a name");
    assert!(!two.close_loop(&WireName::parse("www.example").expect("a name")));
    assert_eq!(order(&mut two, now).len(), 2);
    assert!(two.close_loop(&name));
    assert_eq!(order(&mut two, now), ["192.0.2.1:53"]);
}

#[test]
fn edns_is_tried_again_after_a_while() {
    let now = Instant::now();
    let mut one = upstreams(&["192.0.2.1:53"], &[]);
    assert!(!one.is_plain(0, now));
    one.spare_edns(address("192.0.2.1:53"), now);
    assert!(one.is_plain(0, now));
    assert!(!one.is_plain(0, now + PLAIN_PERIOD));
}
