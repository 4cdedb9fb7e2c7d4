//! Which pod has which address.
//!
//! Addresses are handed out in order, round robin: one that was freed comes back only after all others had their turn, since
//! caches, connections and names of others still point to it. And it does not come back while the link of its last pod
//! exists, for links end later than their pods ([`crate::links`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use crate::{Notice, links::InUse};

/// Where a subnet moves to when the desired one is in use, in this order: other ranges of the same size, which routers of
/// homes and factories hardly ever have.
const SECOND_OCTETS: std::ops::RangeInclusive<u8> = 40..=119;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// An address in it; for the range as such its first.
    pub address: IpAddr,
    /// How many of the bits are common.
    pub prefix: u8,
}

impl Subnet {
    /// `None` when there are not that many bits.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, prefix })
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (number(address) & self.mask()) == (number(&self.address) & self.mask())
    }

    /// Whether they have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(&other.address) || other.contains(&self.address)
    }

    /// The mask, as numbers of addresses have it.
    pub(crate) fn mask(&self) -> u128 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        let host_bits = bits - u32::from(self.prefix);
        let all = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
        all & u128::MAX.checked_shl(host_bits).unwrap_or(0)
    }

    fn first(&self) -> u128 {
        number(&self.address) & self.mask()
    }

    /// How many addresses there are beside the first.
    fn last_offset(&self) -> u128 {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        1_u128.checked_shl(bits - u32::from(self.prefix)).map_or(u128::MAX, |count| count - 1)
    }

    /// The address at an offset from the first.
    fn at(&self, offset: u128) -> IpAddr {
        let number = self.first() | offset;
        match self.address {
            IpAddr::V4(_) => IpAddr::V4((number as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        }
    }

    /// The address from which the node speaks to its pods: the first after the range's own.
    pub fn node_address(&self) -> IpAddr {
        self.at(1.min(self.last_offset()))
    }
}

fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(*address).into(),
        IpAddr::V6(address) => u128::from(*address),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A text is not ADDRESS/PREFIX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form 10.39.0.0/16")]
pub struct ParseSubnetError(String);

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let subnet = Self::new(address.parse().ok()?, prefix.parse().ok()?)?;
            Some(Self { address: subnet.at(0), ..subnet })
        };
        parse().ok_or_else(|| ParseSubnetError(text.to_owned()))
    }
}

/// The desired subnet, or another one when an uplink uses addresses of it. An IPv6 range is not moved: nobody can guess which
/// prefix would be right.
pub fn choose_subnet(desired: Subnet, in_use: &[InUse]) -> (Subnet, Option<Notice>) {
    let collision = |subnet: &Subnet| in_use.iter().find(|used| used.subnet.overlaps(subnet));
    let Some(used) = collision(&desired) else { return (desired, None) };
    let (link, addresses) = (used.link.clone(), used.subnet);
    let others = SECOND_OCTETS.filter(|_| desired.is_ipv4() && desired.prefix >= 16).map(|octet| {
        let IpAddr::V4(address) = desired.at(0) else { return desired };
        let [_, _, third, fourth] = address.octets();
        Subnet { address: IpAddr::from([10, octet, third, fourth]), prefix: desired.prefix }
    });
    match others.into_iter().find(|other| collision(other).is_none()) {
        Some(chosen) => (chosen, Some(Notice::SubnetMoved { desired, chosen, link, addresses })),
        None => (desired, Some(Notice::SubnetCollides { desired, link, addresses })),
    }
}

/// Every address of a range is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address of {subnet} is free: {used} are in use")]
pub struct Exhausted {
    /// The range.
    pub subnet: Subnet,
    /// How many pods have one.
    pub used: usize,
}

/// One range that addresses are taken from.
#[derive(Debug)]
struct Pool {
    subnet: Subnet,
    /// Offset of the address handed out last.
    cursor: u128,
}

impl Pool {
    /// The next address that `is_taken` says nothing about.
    fn next(&mut self, used: usize, is_taken: impl Fn(&IpAddr) -> bool) -> Result<IpAddr, Exhausted> {
        // The range's own address and the node's are not for pods, nor is IPv4's last, which some programs take for broadcast.
        let first = 2;
        let last = self.subnet.last_offset().saturating_sub(u128::from(self.subnet.is_ipv4()));
        let exhausted = Exhausted { subnet: self.subnet, used };
        if last < first {
            return Err(exhausted);
        }
        let count = last - first + 1;
        // Among one more than are taken there is a free one.
        for _ in 0..count.min(used as u128 + 1) {
            self.cursor = if self.cursor >= last || self.cursor < first { first } else { self.cursor + 1 };
            let address = self.subnet.at(self.cursor);
            if !is_taken(&address) {
                return Ok(address);
            }
        }
        Err(exhausted)
    }
}

/// The addresses of all pods.
#[derive(Debug)]
pub struct Addresses {
    pools: Vec<Pool>,
    by_uid: BTreeMap<String, Vec<IpAddr>>,
    taken: BTreeSet<IpAddr>,
    /// Freed, while the link of the pod that had it may exist.
    lingering: BTreeMap<IpAddr, String>,
}

impl Addresses {
    /// Takes addresses from these ranges, of each pod one from each; `last` were handed out last before.
    pub fn new(subnets: &[Subnet], last: &[IpAddr]) -> Self {
        let pools = subnets.iter().map(|subnet| {
            let last = last.iter().find(|last| subnet.contains(last));
            Pool { subnet: *subnet, cursor: last.map_or(0, |last| number(last) - subnet.first()) }
        });
        Self { pools: pools.collect(), by_uid: BTreeMap::new(), taken: BTreeSet::new(), lingering: BTreeMap::new() }
    }

    /// Notes what a pod has, as remembered by the caller or found in the kernel. Addresses that another pod has are left out;
    /// those of a range that is no longer used are kept.
    pub fn adopt(&mut self, uid: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let entry = self.by_uid.entry(uid.to_owned()).or_default();
        for address in addresses {
            if self.taken.insert(*address) {
                self.lingering.remove(address);
                entry.push(*address);
                for pool in self.pools.iter_mut().filter(|pool| pool.subnet.contains(address)) {
                    // Without a better hint the next is one beyond those that exist.
                    pool.cursor = pool.cursor.max(number(address) - pool.subnet.first());
                }
            }
        }
        entry.clone()
    }

    /// The addresses of a pod: those that it has, completed by new ones. `is_link_there` says whether the link of a pod still
    /// exists.
    pub fn allocate(&mut self, uid: &str, is_link_there: impl Fn(&str) -> bool) -> Result<Vec<IpAddr>, Exhausted> {
        let mut addresses = self.by_uid.get(uid).cloned().unwrap_or_default();
        for pool in &mut self.pools {
            if addresses.iter().any(|address| address.is_ipv4() == pool.subnet.is_ipv4()) {
                continue;
            }
            let (taken, lingering) = (&self.taken, &self.lingering);
            let used = taken.len() + lingering.len();
            let address = pool.next(used, |address| {
                taken.contains(address) || lingering.get(address).is_some_and(|owner| is_link_there(owner))
            });
            addresses.push(address?);
        }
        for address in &addresses {
            self.lingering.remove(address);
            self.taken.insert(*address);
        }
        self.by_uid.insert(uid.to_owned(), addresses.clone());
        Ok(addresses)
    }

    /// Frees the addresses of a pod, and returns them.
    pub fn release(&mut self, uid: &str) -> Vec<IpAddr> {
        let addresses = self.by_uid.remove(uid).unwrap_or_default();
        for address in &addresses {
            self.taken.remove(address);
            self.lingering.insert(*address, uid.to_owned());
        }
        addresses
    }

    /// Forgets who had an address before, as far as the link does not exist any more: what is remembered stays small.
    pub fn settle(&mut self, is_link_there: impl Fn(&str) -> bool) {
        self.lingering.retain(|_, owner| is_link_there(owner));
    }

    /// How many freed addresses are still remembered.
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// The addresses of a pod.
    pub fn of(&self, uid: &str) -> &[IpAddr] {
        self.by_uid.get(uid).map(Vec::as_slice).unwrap_or_default()
    }

    /// The pods that have addresses.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.by_uid.keys().map(String::as_str)
    }

    /// The ranges.
    pub fn subnets(&self) -> impl Iterator<Item = Subnet> {
        self.pools.iter().map(|pool| pool.subnet)
    }

    /// The address of each range that was handed out last; for [`Self::new`] after a restart.
    pub fn last(&self) -> Vec<IpAddr> {
        self.pools.iter().filter(|pool| pool.cursor > 1).map(|pool| pool.subnet.at(pool.cursor)).collect()
    }

    /// Takes new addresses from behind these from now on; of a range without one nothing changes.
    pub fn resume(&mut self, last: &[IpAddr]) {
        for pool in &mut self.pools {
            if let Some(last) = last.iter().find(|last| pool.subnet.contains(last)) {
                pool.cursor = number(last) - pool.subnet.first();
            }
        }
    }

    /// Whether a pod has an address.
    pub fn is_taken(&self, address: &IpAddr) -> bool {
        self.taken.contains(address)
    }

    /// Takes new addresses from another range from now on; those handed out stay.
    pub fn move_to(&mut self, subnets: &[Subnet]) {
        for (pool, subnet) in self.pools.iter_mut().zip(subnets) {
            if pool.subnet != *subnet {
                *pool = Pool { subnet: *subnet, cursor: 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const NO_LINK: fn(&str) -> bool = |_| false;

    #[test]
    fn a_subnet_is_read_and_written() {
        assert_eq!(subnet("10.39.7.9/16").to_string(), "10.39.0.0/16");
        assert_eq!(subnet("fd00:39::/64").node_address(), ip("fd00:39::1"));
        for text in ["10.39.0.0", "10.39.0.0/33", "x/8", "fd00::/129", "10.0.0.0/-1", "/", ""] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        assert!(subnet("0.0.0.0/0").contains(&ip("255.255.255.255")));
        assert!(subnet("::/0").contains(&ip("ffff::")));
        assert!(!subnet("::/0").contains(&ip("1.2.3.4")));
        assert!(subnet("10.0.0.0/8").overlaps(&subnet("10.39.4.0/24")));
        assert!(!subnet("10.38.0.0/16").overlaps(&subnet("10.39.0.0/16")));
    }

    #[test]
    fn an_address_comes_back_only_after_all_others_had_their_turn() {
        let mut addresses = Addresses::new(&[subnet("10.39.0.0/29")], &[]);
        // .0 is the range, .1 the node, .7 the broadcast address.
        assert_eq!(addresses.allocate("a", NO_LINK).unwrap(), [ip("10.39.0.2")]);
        assert_eq!(addresses.allocate("a", NO_LINK).unwrap(), [ip("10.39.0.2")], "the same when asked again");
        addresses.release("a");
        for expected in ["10.39.0.3", "10.39.0.4", "10.39.0.5", "10.39.0.6", "10.39.0.2"] {
            assert_eq!(addresses.allocate(expected, NO_LINK).unwrap(), [ip(expected)]);
        }
        let error = addresses.allocate("late", NO_LINK).unwrap_err();
        assert_eq!(error.to_string(), "no address of 10.39.0.0/29 is free: 5 are in use");
    }

    #[test]
    fn an_address_does_not_come_back_before_its_link_is_deleted() {
        let mut addresses = Addresses::new(&[subnet("10.39.0.0/30")], &[]);
        assert_eq!(addresses.allocate("a", NO_LINK).unwrap(), [ip("10.39.0.2")]);
        addresses.release("a");
        addresses.allocate("b", |owner| owner == "a").unwrap_err();
        addresses.settle(|owner| owner == "a");
        assert_eq!(addresses.lingering(), 1);
        addresses.settle(NO_LINK);
        assert_eq!((addresses.lingering(), addresses.allocate("b", NO_LINK).unwrap()), (0, vec![ip("10.39.0.2")]));
    }

    #[test]
    fn a_range_too_small_for_a_pod_is_exhausted_from_the_start() {
        for text in ["10.39.0.0/31", "10.39.0.0/32", "fd00::/128", "fd00::/127"] {
            Addresses::new(&[subnet(text)], &[]).allocate("a", NO_LINK).unwrap_err();
        }
        assert_eq!(Addresses::new(&[subnet("fd00::/126")], &[]).allocate("a", NO_LINK).unwrap(), [ip("fd00::2")]);
        assert_eq!(Addresses::new(&[subnet("::/0")], &[]).allocate("a", NO_LINK).unwrap(), [ip("::2")]);
    }

    #[test]
    fn remembered_addresses_are_adopted_and_two_pods_never_share_one() {
        let both = [subnet("10.39.0.0/16"), subnet("fd00::/64")];
        let mut addresses = Addresses::new(&both, &[ip("10.39.0.200")]);
        assert_eq!(addresses.adopt("a", &[ip("10.39.0.7"), ip("10.77.0.9")]), [ip("10.39.0.7"), ip("10.77.0.9")]);
        assert!(addresses.adopt("b", &[ip("10.39.0.7")]).is_empty());
        assert_eq!(addresses.allocate("a", NO_LINK).unwrap(), [ip("10.39.0.7"), ip("10.77.0.9"), ip("fd00::2")]);
        assert_eq!(addresses.allocate("b", NO_LINK).unwrap(), [ip("10.39.0.201"), ip("fd00::3")]);
        assert_eq!(addresses.last(), [ip("10.39.0.201"), ip("fd00::3")]);
    }

    #[test]
    fn the_address_after_the_last_one_is_next_whatever_was_adopted() {
        let mut addresses = Addresses::new(&[subnet("10.39.0.0/16")], &[]);
        addresses.adopt("a", &[ip("10.39.0.200")]);
        addresses.resume(&[ip("10.39.0.7"), ip("10.77.0.9")]);
        assert_eq!(addresses.allocate("b", NO_LINK).unwrap(), [ip("10.39.0.8")]);
        assert!(addresses.is_taken(&ip("10.39.0.200")) && !addresses.is_taken(&ip("10.39.0.7")));
        addresses.resume(&[]);
        assert_eq!(addresses.allocate("c", NO_LINK).unwrap(), [ip("10.39.0.9")]);
    }

    #[test]
    fn a_subnet_moves_out_of_the_way_of_an_uplink_and_says_so() {
        let used = |text: &str| InUse { subnet: subnet(text), link: "eth0".to_owned() };
        let desired = subnet("10.39.0.0/16");
        assert_eq!(choose_subnet(desired, &[used("192.168.1.0/24")]), (desired, None));
        let (chosen, notice) = choose_subnet(desired, &[used("10.39.5.0/24"), used("10.40.0.0/15")]);
        assert_eq!(chosen, subnet("10.42.0.0/16"));
        assert_eq!(
            notice.unwrap().to_string(),
            "pods get addresses of 10.42.0.0/16 instead of 10.39.0.0/16, because eth0 uses 10.39.5.0/24"
        );
        let (chosen, notice) = choose_subnet(desired, &[used("10.0.0.0/8")]);
        assert_eq!((chosen, notice.is_some()), (desired, true), "all of 10/8: nowhere to move");
    }
}
