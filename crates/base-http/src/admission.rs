//! Which connections get in: budgets for handshakes, for peers without a certificate, and for each identity.
//!
//! A connection begins as a *handshake*. When that is done it is *anonymous* (the listener asks for certificates and the peer
//! showed none), *unaccepted* (it showed one that the handler does not accept) or *known*. All but the known ones have
//! small budgets of their own, so whatever they do, those with a good certificate get in; and where a budget is full the
//! oldest that has not proved anything gives way, so that silence locks nobody out.
//!
//! `accept ─▶ handshake (handshakes_max) ─▶ anonymous (anonymous_max, per address) | unaccepted_max | known (connections_max)`

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::connection::Shared;
use crate::{Close, ConnectionStats, Limits, PeerAddr, RejectReason};

/// An honest client speaks at once; one behind a slow link is only held against this when the budget is full. Longer than a
/// rush of a whole budget of honest handshakes takes on one core (half a second), which is not to be mistaken for silence.
const HANDSHAKE_SILENCE: Duration = Duration::from_secs(2);

/// Whoever has not finished by then gives way when the budget is full, even if it sends a byte now and then.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a full budget of handshakes is looked at again, when none of them ends.
const HANDSHAKE_LOOK: Duration = Duration::from_millis(50);

/// As many tokens at least can have connections without a certificate, however many each of them opens.
const ANONYMOUS_KEYS_MIN: usize = 4;

/// The budgets of one listener.
pub(crate) struct Admission {
    pub(crate) limits: Limits,
    pub(crate) asks_certificates: bool,
    pub(crate) stats: Arc<ConnectionStats>,
    counts: Mutex<Counts>,
    left: Notify,
}

/// Maps by id are in order of age, for ids only go up.
#[derive(Default)]
struct Counts {
    all: BTreeMap<u64, Arc<Shared>>,
    handshakes: BTreeMap<u64, Arc<Shared>>,
    anonymous: BTreeMap<u64, Arc<Shared>>,
    unaccepted: BTreeMap<u64, Arc<Shared>>,
    by_address: HashMap<IpAddr, usize>,
    by_key: HashMap<Arc<str>, BTreeMap<u64, Arc<Shared>>>,
    key_of: HashMap<u64, Arc<str>>,
}

impl Counts {
    fn leave_handshakes(&mut self, shared: &Shared) {
        if self.handshakes.remove(&shared.id).is_some() {
            shared.admission.stats.add_handshaking(-1);
        }
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
fn address_key(addr: PeerAddr) -> Option<IpAddr> {
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

    /// Waits until another handshake fits the budget; meanwhile new connections queue in the system.
    pub(crate) async fn handshake_fits(&self) {
        loop {
            let left = self.left.notified();
            if self.make_handshake_fit() {
                return;
            }
            // Honest clients in a rush are waited for, silent ones are not.
            let _ = tokio::time::timeout(HANDSHAKE_LOOK, left).await;
        }
    }

    fn make_handshake_fit(&self) -> bool {
        let mut counts = self.counts.lock();
        if counts.handshakes.len() < self.limits.handshakes_max {
            return true;
        }
        let silent = counts.handshakes.values().find(|shared| shared.silence() >= HANDSHAKE_SILENCE);
        let victim = silent.or_else(|| {
            let oldest = counts.handshakes.values().next();
            oldest.filter(|shared| shared.opened.elapsed() >= HANDSHAKE_PATIENCE)
        });
        let Some(victim) = victim.cloned() else { return false };
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
