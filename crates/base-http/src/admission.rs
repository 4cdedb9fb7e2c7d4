//! Which connections get in: budgets for handshakes, for peers without a certificate, and for each identity.
//!
//! A connection begins as a *handshake*. When that is done it is *anonymous* (the listener asks for certificates and the peer
//! showed none), *unaccepted* (it showed one that the handler does not accept) or *known*. All but the known ones have
//! small budgets of their own, so whatever they do, those with a good certificate get in; and where a budget is full the
//! oldest that has not proved anything gives way, so that silence locks nobody out.
//!
//! Handshakes have proved nothing at all, so addresses share their budget: when it is full, whoever comes from an address
//! that has fewer of them takes the place of one of the address that has most, and whoever comes from that one waits
//! ([`Lobby`](crate::lobby::Lobby)). The fleet behind one address is such a crowd, too; its handshakes end, and it comes in
//! one after the other.
//!
//! `accept ─▶ lobby (waiting_max) ─▶ handshake (handshakes_max) ─▶ anonymous (anonymous_max, per address) | unaccepted_max | known (connections_max)`

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::connection::Shared;
use crate::lobby::Source;
use crate::{Close, ConnectionStats, Limits, PeerAddr, RejectReason};

/// Of an address that has to give a place away, a handshake that has lasted so long goes first: it is slow, or more. Otherwise
/// the newest goes, of which the least is lost.
const HANDSHAKE_SLOW: Duration = Duration::from_secs(1);

/// An honest client speaks at once; one behind a slow link is only held against this when the budget is full. Longer than a
/// rush of a whole budget of honest handshakes takes on one core (half a second), which is not to be mistaken for silence.
const HANDSHAKE_SILENCE: Duration = Duration::from_secs(2);

/// Whoever has not finished by then gives way when the budget is full, even if it sends a byte now and then.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// As many tokens at least can have connections without a certificate, however many each of them opens.
const ANONYMOUS_KEYS_MIN: usize = 4;

/// The budgets of one listener.
pub(crate) struct Admission {
    pub(crate) limits: Limits,
    pub(crate) asks_certificates: bool,
    pub(crate) stats: Arc<ConnectionStats>,
    counts: Mutex<Counts>,
    /// Notified when a handshake ends.
    pub(crate) left: Notify,
}

/// Maps by id are in order of age, for ids only go up.
#[derive(Default)]
struct Counts {
    all: BTreeMap<u64, Arc<Shared>>,
    handshakes: BTreeMap<u64, Arc<Shared>>,
    handshakes_of: HashMap<Source, BTreeMap<u64, Arc<Shared>>>,
    anonymous: BTreeMap<u64, Arc<Shared>>,
    unaccepted: BTreeMap<u64, Arc<Shared>>,
    by_address: HashMap<IpAddr, usize>,
    by_key: HashMap<Arc<str>, BTreeMap<u64, Arc<Shared>>>,
    key_of: HashMap<u64, Arc<str>>,
}

impl Counts {
    fn leave_handshakes(&mut self, shared: &Shared) {
        if self.handshakes.remove(&shared.id).is_none() {
            return;
        }
        shared.admission.stats.add_handshaking(-1);
        let source = address_key(shared.addr);
        if let Some(handshakes) = self.handshakes_of.get_mut(&source) {
            handshakes.remove(&shared.id);
            if handshakes.is_empty() {
                self.handshakes_of.remove(&source);
            }
        }
    }

    /// Which handshake gives its place to somebody from `source`.
    fn handshake_that_gives_way(&self, source: Source) -> Option<Arc<Shared>> {
        let own = self.handshakes_of.get(&source).map_or(0, BTreeMap::len);
        let crowd = self.handshakes_of.values().max_by_key(|handshakes| handshakes.len())?;
        if crowd.len() >= own + 2 {
            let (_, oldest) = crowd.first_key_value()?;
            let (_, newest) = crowd.last_key_value()?;
            return Some(if oldest.opened.elapsed() >= HANDSHAKE_SLOW { oldest } else { newest }.clone());
        }
        // All have as few. Then time decides, and it is nobody's of an address that has fewer than the newcomer's.
        let is_silent = |shared: &Arc<Shared>| shared.silence() >= HANDSHAKE_SILENCE;
        let is_due = |shared: &Arc<Shared>| is_silent(shared) || shared.opened.elapsed() >= HANDSHAKE_PATIENCE;
        let has_as_many = |shared: &Arc<Shared>| {
            self.handshakes_of.get(&address_key(shared.addr)).is_some_and(|handshakes| handshakes.len() >= own)
        };
        let old = self.handshakes.values().take_while(|shared| shared.opened.elapsed() >= HANDSHAKE_SILENCE);
        let mut due = old.filter(|shared| is_due(shared) && has_as_many(shared));
        let first = due.next()?;
        Some(if is_silent(first) { first } else { due.find(|shared| is_silent(shared)).unwrap_or(first) }.clone())
    }

    fn leave_anonymous(&mut self, shared: &Shared) {
        if self.anonymous.remove(&shared.id).is_none() {
            return;
        }
        shared.admission.stats.add_anonymous(-1);
        let Some(address) = address_key(shared.addr) else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    fn leave_key(&mut self, id: u64) {
        let Some(key) = self.key_of.remove(&id) else { return };
        if let Some(connections) = self.by_key.get_mut(&key) {
            connections.remove(&id);
            if connections.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    /// Closes the oldest anonymous connection that has not authenticated, of this address if one is given.
    fn evict_anonymous(&mut self, address: Option<IpAddr>) -> bool {
        let victim = self.anonymous.values().find(|shared| {
            !shared.is_authenticated() && address.is_none_or(|address| address_key(shared.addr) == Some(address))
        });
        let Some(victim) = victim.cloned() else { return false };
        victim.close(Close::AtOnce);
        // It has left the budget by this; its task ends as soon as it is polled.
        self.leave_anonymous(&victim);
        true
    }

    /// The same among those whose certificate is not accepted. One that has authenticated since then, by a token, stays.
    fn evict_unaccepted(&mut self) -> bool {
        let victim = self.unaccepted.values().find(|shared| !shared.is_authenticated());
        let Some(victim) = victim.cloned() else { return false };
        victim.close(Close::AtOnce);
        self.unaccepted.remove(&victim.id);
        true
    }
}

/// What addresses are counted by: one client may use a whole /64 of IPv6.
pub(crate) fn address_key(addr: PeerAddr) -> Source {
    let PeerAddr::Tcp(addr) = addr else { return None };
    Some(match addr.ip().to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << 64))),
    })
}

/// Proxies and tools of the machine itself call from there, for many users.
fn is_loopback(addr: PeerAddr) -> bool {
    matches!(addr, PeerAddr::Tcp(addr) if addr.ip().to_canonical().is_loopback())
}

impl Admission {
    pub(crate) fn new(limits: Limits, asks_certificates: bool, stats: Arc<ConnectionStats>) -> Self {
        Self { limits, asks_certificates, stats, counts: Mutex::default(), left: Notify::new() }
    }

    /// Connections that may still be opened.
    pub(crate) fn free(&self) -> usize {
        self.limits.connections_max.saturating_sub(self.counts.lock().all.len())
    }

    /// Whether there is a place for a handshake that nobody has to give away.
    pub(crate) fn has_place(&self) -> bool {
        self.counts.lock().handshakes.len() < self.limits.handshakes_max
    }

    /// Whether there is a place for the handshake of somebody from `source`; another may have to give it away.
    pub(crate) fn make_place(&self, source: Source) -> bool {
        let mut counts = self.counts.lock();
        if counts.handshakes.len() < self.limits.handshakes_max {
            return true;
        }
        let Some(victim) = counts.handshake_that_gives_way(source) else { return false };
        counts.leave_handshakes(&victim);
        self.stats.reject(RejectReason::Handshakes);
        victim.close(Close::AtOnce);
        true
    }

    /// A new connection takes its place among the handshakes, if there is any left at all.
    pub(crate) fn enter(self: &Arc<Self>, addr: PeerAddr) -> Result<Seat, RejectReason> {
        let shared = Arc::new(Shared::new(addr, self.clone()));
        let mut counts = self.counts.lock();
        if counts.all.len() >= self.limits.connections_max {
            self.stats.reject(RejectReason::Total);
            return Err(RejectReason::Total);
        }
        counts.all.insert(shared.id, shared.clone());
        counts.handshakes.insert(shared.id, shared.clone());
        counts.handshakes_of.entry(address_key(addr)).or_default().insert(shared.id, shared.clone());
        self.stats.add_handshaking(1);
        self.stats.opened();
        Ok(Seat { shared })
    }

    /// Closes every connection that is open now.
    pub(crate) fn close_all(&self, how: Close) {
        let all: Vec<_> = self.counts.lock().all.values().cloned().collect();
        all.iter().for_each(|shared| shared.close(how));
    }

    pub(crate) fn count_under(&self, shared: &Arc<Shared>, key: &str, max: usize) {
        let mut counts = self.counts.lock();
        let counts = &mut *counts;
        counts.leave_key(shared.id);
        let max = match counts.anonymous.contains_key(&shared.id) {
            true => max.min(self.limits.anonymous_max / ANONYMOUS_KEYS_MIN),
            false => max,
        };
        let max = max.max(1);
        let key: Arc<str> = match counts.by_key.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => key.into(),
        };
        let connections = counts.by_key.entry(key.clone()).or_default();
        let mut staying: Vec<_> = connections.values().filter(|one| !one.is_closing()).cloned().collect();
        let mut cut = Vec::new();
        while staying.len() >= max {
            let idle = staying.iter().position(|one| !one.is_in_use());
            let victim = staying.remove(idle.unwrap_or(0));
            self.stats.reject(RejectReason::Identity);
            // One that is in use stays counted, for it may be in use until its grace is over.
            match idle {
                Some(_) => cut.push(victim),
                None => victim.close_soon(),
            }
        }
        // Whoever opens connections faster than their grace ends has no more of them for that.
        let closing = connections.values().filter(|one| one.is_closing()).cloned();
        let excess = (connections.len() - cut.len() + 1).saturating_sub(max.saturating_mul(2));
        cut.extend(closing.take(excess));
        for victim in cut {
            connections.remove(&victim.id);
            counts.key_of.remove(&victim.id);
            victim.close(Close::AtOnce);
        }
        connections.insert(shared.id, shared.clone());
        counts.key_of.insert(shared.id, key);
    }
}

/// What is known of a peer when its handshake is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its certificate is accepted, or none is asked for.
    Known,
    /// It shows no certificate.
    Anonymous,
    /// It shows one that the handler does not accept.
    Unaccepted,
}

/// A connection's place in the budgets; left when dropped.
pub(crate) struct Seat {
    pub(crate) shared: Arc<Shared>,
}

impl Seat {
    /// The handshake is done: the connection moves on, to those of its standing.
    pub(crate) fn settle(&self, standing: Standing) -> Result<(), RejectReason> {
        let admission = &self.shared.admission;
        let mut counts = admission.counts.lock();
        counts.leave_handshakes(&self.shared);
        admission.left.notify_one();
        match standing {
            Standing::Known => Ok(()),
            Standing::Anonymous => self.settle_anonymous(&mut counts),
            Standing::Unaccepted => self.settle_unaccepted(&mut counts),
        }
    }

    fn settle_unaccepted(&self, counts: &mut Counts) -> Result<(), RejectReason> {
        let admission = &self.shared.admission;
        if counts.unaccepted.len() >= admission.limits.unaccepted_max {
            admission.stats.reject(RejectReason::Unaccepted);
            if !counts.evict_unaccepted() {
                return Err(RejectReason::Unaccepted);
            }
        }
        counts.unaccepted.insert(self.shared.id, self.shared.clone());
        Ok(())
    }

    fn settle_anonymous(&self, counts: &mut Counts) -> Result<(), RejectReason> {
        let admission = &self.shared.admission;
        let limits = &admission.limits;
        let address = address_key(self.shared.addr);
        if let Some(address) = address {
            let max = if is_loopback(self.shared.addr) {
                limits.anonymous_loopback_max
            } else {
                limits.anonymous_per_address_max
            };
            if counts.by_address.get(&address).copied().unwrap_or(0) >= max {
                admission.stats.reject(RejectReason::Address);
                if !counts.evict_anonymous(Some(address)) {
                    return Err(RejectReason::Address);
                }
            }
        }
        if counts.anonymous.len() >= limits.anonymous_max {
            admission.stats.reject(RejectReason::Anonymous);
            if !counts.evict_anonymous(None) {
                return Err(RejectReason::Anonymous);
            }
        }
        counts.anonymous.insert(self.shared.id, self.shared.clone());
        admission.stats.add_anonymous(1);
        if let Some(address) = address {
            *counts.by_address.entry(address).or_default() += 1;
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let admission = &self.shared.admission;
        let mut counts = admission.counts.lock();
        counts.all.remove(&self.shared.id);
        counts.leave_handshakes(&self.shared);
        counts.leave_anonymous(&self.shared);
        counts.unaccepted.remove(&self.shared.id);
        counts.leave_key(self.shared.id);
        drop(counts);
        admission.stats.closed();
        admission.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener where eight handshakes may be at a time, and those that are.
    struct Arrivals {
        admission: Arc<Admission>,
        seats: Vec<(u8, Seat)>,
    }

    impl Arrivals {
        fn new() -> Self {
            let limits = Limits { handshakes_max: 8, ..Limits::default() };
            Self { admission: Arc::new(Admission::new(limits, true, Arc::default())), seats: Vec::new() }
        }

        fn addr(source: u8) -> PeerAddr {
            PeerAddr::Tcp(([10, 0, 0, source], 1).into())
        }

        /// Whether somebody from there gets a place.
        fn come(&mut self, source: u8) -> bool {
            let is_let_in = self.admission.make_place(address_key(Self::addr(source)));
            if is_let_in {
                self.seats.push((source, self.admission.enter(Self::addr(source)).unwrap_or_else(|_| unreachable!())));
            }
            is_let_in
        }

        /// The handshakes in the order in which they came, by their source.
        fn sources(&self) -> Vec<u8> {
            let counts = self.admission.counts.lock();
            let of_each = counts.handshakes_of.values().map(BTreeMap::len).sum::<usize>();
            assert_eq!(counts.handshakes.len(), of_each);
            assert_eq!(self.admission.stats.handshaking(), of_each as u64);
            let seats = self.seats.iter().filter(|(_, seat)| counts.handshakes.contains_key(&seat.shared.id));
            seats.map(|(source, _)| *source).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_share_the_places_for_handshakes() {
        let mut arrivals = Arrivals::new();
        let came: Vec<_> = (0..20).map(|_| arrivals.come(1)).collect();
        assert_eq!(came.iter().filter(|came| **came).count(), 8, "a crowd has all places that nobody else wants");
        for _ in 0..3 {
            assert!(arrivals.come(2));
            assert!(!arrivals.come(1), "and none for which another would have to give way");
        }
        assert_eq!(arrivals.sources(), [1, 1, 1, 1, 1, 2, 2, 2]);
        assert!(arrivals.come(2) && !arrivals.come(2), "others get as much, and no more");
        assert!(arrivals.come(3) && arrivals.come(3));
        let mut sources = arrivals.sources();
        sources.sort_unstable();
        assert_eq!(sources, [1, 1, 1, 2, 2, 2, 3, 3]);
        arrivals.seats.clear();
        assert!(arrivals.sources().is_empty());
        assert!(arrivals.admission.counts.lock().handshakes_of.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_crowd_a_slow_handshake_gives_way_rather_than_a_new_one() {
        let mut arrivals = Arrivals::new();
        assert!(arrivals.come(1));
        tokio::time::advance(HANDSHAKE_SLOW / 2).await;
        assert!((0..7).all(|_| arrivals.come(1)));
        let (slow, newest) = (arrivals.seats[0].1.shared.clone(), arrivals.seats[7].1.shared.clone());
        assert!(arrivals.come(2));
        assert!(newest.is_closing() && !slow.is_closing());
        tokio::time::advance(HANDSHAKE_SLOW / 2).await;
        assert!(arrivals.come(2));
        assert!(slow.is_closing());
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_have_as_few_the_silent_and_then_the_slow_give_way() {
        let mut arrivals = Arrivals::new();
        for source in 1..=8 {
            assert!(arrivals.come(source));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!(!arrivals.come(9), "they are given time");
        tokio::time::advance(HANDSHAKE_SILENCE - Duration::from_millis(800)).await;
        assert!(arrivals.come(9) && !arrivals.come(10), "the first has said nothing");
        assert_eq!(arrivals.sources(), [2, 3, 4, 5, 6, 7, 8, 9]);
        // They say something now and then.
        let speak = |arrivals: &Arrivals| arrivals.seats.iter().for_each(|(_, seat)| seat.shared.note_received(1));
        for _ in 0..2 {
            speak(&arrivals);
            tokio::time::advance(HANDSHAKE_SILENCE - Duration::from_millis(500)).await;
            assert!(!arrivals.come(10));
        }
        speak(&arrivals);
        tokio::time::advance(Duration::from_millis(150)).await;
        assert!(arrivals.come(10) && !arrivals.come(11), "the next has lasted five seconds");
        assert_eq!(arrivals.sources(), [3, 4, 5, 6, 7, 8, 9, 10]);
    }

    #[test]
    fn addresses_count_by_the_network_that_one_client_has() {
        let key = |text: &str| address_key(PeerAddr::Tcp(text.parse().unwrap()));
        assert_eq!(key("10.0.0.1:1"), key("10.0.0.1:2"));
        assert_ne!(key("10.0.0.1:1"), key("10.0.0.2:1"));
        assert_eq!(key("[::ffff:10.0.0.1]:1"), key("10.0.0.1:1"));
        assert_eq!(key("[2001:db8::1]:1"), key("[2001:db8::ffff:1]:1"));
        assert_ne!(key("[2001:db8::1]:1"), key("[2001:db8:0:1::1]:1"));
        for (text, expected) in
            [("[::1]:1", true), ("127.0.0.9:1", true), ("[::ffff:127.0.0.1]:1", true), ("10.0.0.1:1", false)]
        {
            assert_eq!(is_loopback(PeerAddr::Tcp(text.parse().unwrap())), expected, "{text}");
        }
    }
}
