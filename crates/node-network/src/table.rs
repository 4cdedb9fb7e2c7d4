//! The node's table of nftables as plain data, and the changes that lead from what the kernel has to what it should have.
//!
//! ```text
//! prerouting, output (nat)    daddr . proto . dport        → @services    → a chain of the service
//!                             to this machine              → local
//! local                       daddr . proto . dport        → @hostports_at, dnat
//!                             proto . dport                → @nodeports   → a chain of the service
//!                             proto . dport                → @hostports, dnat
//! svc-… (one per port)        numgen or jhash mod n        → { n : endpoint . port }, dnat
//! postrouting (nat)           a pod to outside, a pod to itself by a service, 127.0.0.1 to a pod: masquerade
//! forward (filter)            known connections pass; @policy_in, @policy_out; an address of a service that is left: refuse
//! filter_output (filter)      the same refusal for the node's own packets
//! guard (raw)                 a pod to 127.0.0.0/8 or from an address that is not its own, others to the agent's own addresses: drop
//! no_transit (filter)         neither from nor to a pod: drop; only where the machine did not forward before
//! ```
//!
//! A service without endpoints is in no map, so its address survives translation and is refused where packets are filtered.
//! A changed endpoint is one chain, emptied and filled in one batch; a pod is elements of sets. Connections that exist do not
//! look at any of this: the kernel translates them as it did their first packet.
//!
//! What the kernel has is known from what was written ([`Table::contents`]), and read back at the start: chains carry a hash
//! of their endpoints as a comment, and the fixed part a hash of itself, so a start changes what differs and nothing else.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    Subnet,
    addresses::Subnet as Range,
    links::octets,
    names::{HOST_LINK_PREFIX, SERVICE_CHAIN_PREFIX, TABLE, mixed, stable_hash, stable_hash_from},
    netlink::{NetlinkError, Socket},
    nft::{Batch, Family, Field, Hook, Maps, Value, expr::End, read},
};

const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const NAT_BEFORE: i32 = -100;
const NAT_AFTER: i32 = 100;
const RAW: i32 = -300;
/// Slots of a service with affinity, per endpoint: a client keeps its endpoint unless its slot's endpoint is deleted.
const SLOTS_PER_ENDPOINT: usize = 8;
const SLOTS_MIN: usize = 64;
const SLOTS_MAX: usize = 1024;
const TCP: u8 = 6;
const BASE_COMMENT: &str = "base ";
const LOCAL_CHAIN: &str = "local";
const REFUSAL_CHAIN: &str = "refuse";
/// Exists only where this program made the machine forward; its name is what later versions look for.
pub(crate) const TRANSIT_CHAIN: &str = "no_transit";

/// The sets and maps of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Addresses of pods, and the node's own among them.
    Pods,
    /// Each pod's address twice: it reaches itself.
    Hairpin,
    /// Addresses of services.
    ClusterIps,
    /// Ports of services at their addresses.
    Services,
    /// Ports of services at the node's addresses.
    NodePorts,
    /// Ports of pods at any of the node's addresses.
    HostPorts,
    /// Ports of pods at one of the node's addresses.
    HostPortsAt,
    /// What may reach a pod.
    PolicyIn,
    /// What a pod may reach.
    PolicyOut,
}

const SETS: [Set; 9] = [
    Set::Pods,
    Set::Hairpin,
    Set::ClusterIps,
    Set::Services,
    Set::NodePorts,
    Set::HostPorts,
    Set::HostPortsAt,
    Set::PolicyIn,
    Set::PolicyOut,
];

impl Set {
    /// What it is called in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Hairpin => "hairpin",
            Self::ClusterIps => "cluster_ips",
            Self::Services => "services",
            Self::NodePorts => "nodeports",
            Self::HostPorts => "hostports",
            Self::HostPortsAt => "hostports_at",
            Self::PolicyIn => "policy_in",
            Self::PolicyOut => "policy_out",
        }
    }

    fn shape(self) -> (&'static [Field], Maps) {
        use Field::{Address, Port, Protocol};
        match self {
            Self::Pods | Self::ClusterIps => (&[Address], Maps::Nothing),
            Self::Hairpin => (&[Address, Address], Maps::Nothing),
            Self::Services => (&[Address, Protocol, Port], Maps::Verdict),
            Self::NodePorts => (&[Protocol, Port], Maps::Verdict),
            Self::HostPorts => (&[Protocol, Port], Maps::To(&[Address, Port])),
            Self::HostPortsAt => (&[Address, Protocol, Port], Maps::To(&[Address, Port])),
            Self::PolicyIn | Self::PolicyOut => (&[Address], Maps::Verdict),
        }
    }
}

/// The key `address . protocol . port`; without an address `protocol . port`.
pub fn port_key(address: Option<&IpAddr>, protocol: u8, port: u16) -> Vec<u8> {
    let mut key = address.map(octets).unwrap_or_default();
    key.extend([protocol, 0, 0, 0]);
    key.extend(port.to_be_bytes());
    key.extend([0, 0]);
    key
}

/// The value `address . port`.
pub fn endpoint_value(address: &IpAddr, port: u16) -> Vec<u8> {
    let mut value = octets(address);
    value.extend(port.to_be_bytes());
    value.extend([0, 0]);
    value
}

/// The key of a pod that reaches itself.
pub fn hairpin_key(address: &IpAddr) -> Vec<u8> {
    octets(address).repeat(2)
}

/// Where a chain of a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceChain {
    /// Sorted, without duplicates, at least one.
    pub endpoints: Vec<(IpAddr, u16)>,
    /// Whether a client stays with its endpoint.
    pub has_affinity: bool,
}

impl ServiceChain {
    /// Says whether two are the same, in the kernel as well.
    pub fn fingerprint(&self) -> u64 {
        let start = stable_hash(&[u8::from(self.has_affinity)]);
        let hash = self.endpoints.iter().fold(start, |hash, (address, port)| {
            stable_hash_from(stable_hash_from(hash, &octets(address)), &port.to_be_bytes())
        });
        mixed(hash)
    }

    /// The endpoint of each number that the rule draws.
    fn slots(&self) -> Vec<&(IpAddr, u16)> {
        if !self.has_affinity {
            return self.endpoints.iter().collect();
        }
        let count = self.endpoints.len().saturating_mul(SLOTS_PER_ENDPOINT).next_power_of_two();
        let count = count.clamp(SLOTS_MIN, SLOTS_MAX).max(self.endpoints.len());
        // Each slot ranks all endpoints by a hash of both: one that comes or is deleted moves only its own slots.
        let rank = |slot: usize, (address, port): &(IpAddr, u16)| {
            let hash = stable_hash_from(stable_hash(&octets(address)), &port.to_be_bytes());
            mixed(stable_hash_from(mixed(hash), &(slot as u64).to_be_bytes()))
        };
        let best = |slot| self.endpoints.iter().max_by_key(|endpoint| rank(slot, endpoint));
        (0..count).filter_map(best).collect()
    }

    /// Replaces the rules of its chain, which exists.
    fn write(&self, batch: &mut Batch, name: &str) {
        let slots = self.slots();
        let element = |(slot, (address, port)): (usize, &&(IpAddr, u16))| {
            ((slot as u32).to_ne_bytes().to_vec(), Value::Bytes(endpoint_value(address, *port)))
        };
        let elements: Vec<_> = slots.iter().enumerate().map(element).collect();
        batch.flush_chain(name);
        let map = batch.add_anonymous_map(&[Field::Index], &[Field::Address, Field::Port], &elements);
        let count = slots.len() as u32;
        batch.add_rule(name, &format!("{:016x}", self.fingerprint()), |rule| {
            if self.has_affinity {
                rule.hash_of_client(count);
            } else {
                rule.random(count);
            }
            rule.value_from_anonymous(map).translate_destination();
        });
    }
}

/// What is in the table beside its fixed part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Elements of sets and maps.
    pub elements: BTreeMap<(Set, Vec<u8>), Value>,
    /// Chains of services, by the hash of where they lead.
    pub chains: BTreeMap<String, u64>,
}

/// Changes that are made all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Elements to add, or to give another value.
    pub put: Vec<((Set, Vec<u8>), Value)>,
    /// Elements to delete.
    pub delete: Vec<(Set, Vec<u8>)>,
    /// Chains to write, new or not.
    pub put_chains: Vec<(String, ServiceChain)>,
    /// Chains to delete.
    pub delete_chains: Vec<String>,
}

impl Change {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.delete.is_empty() && self.put_chains.is_empty() && self.delete_chains.is_empty()
    }
}

/// What the fixed part depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Destinations that pods reach under their own address.
    pub no_masquerade: Vec<Subnet>,
    /// Addresses of this machine whose ports no pod takes.
    pub reserved: Vec<IpAddr>,
    /// Whether packets that are not of pods are kept from crossing this machine: it did not forward before.
    pub is_guarded: bool,
}

/// The table of one family, and what the kernel has of it.
#[derive(Debug)]
pub struct Table {
    family: Family,
    base: Base,
    contents: Contents,
}

impl Table {
    /// Takes over what the kernel has if its fixed part is as it should be; writes an empty table otherwise.
    pub fn open(socket: &mut Socket, family: Family, base: Base) -> Result<Self, NetlinkError> {
        let mut table = Self { family, base, contents: Contents::default() };
        table.reload(socket)?;
        Ok(table)
    }

    /// What the kernel has.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Reads what the kernel has; `None` when that is not a table whose sets are these.
    fn read(&self, socket: &mut Socket) -> Result<Option<Found>, NetlinkError> {
        if !read::has_table(socket, self.family, TABLE)? {
            return Ok(None);
        }
        let mut found = Found::default();
        let chains = read::chains(socket, self.family, TABLE)?;
        let expected = BaseComment::new(self.family, &self.base);
        let is_base = |(name, rules): (&&str, &usize)| {
            let chain = chains.get(*name);
            chain.is_some_and(|chain| chain.rules == *rules && chain.comment == expected.text())
        };
        found.has_rules = expected.counts.iter().all(is_base);
        let sets = chains.values().find_map(|chain| BaseComment::sets_in(&chain.comment));
        if sets != Some(expected.sets) {
            return Ok(None);
        }
        for (name, chain) in chains {
            if name.starts_with(SERVICE_CHAIN_PREFIX) {
                // A chain that is empty or has somebody's own rules is written anew.
                let hash = u64::from_str_radix(&chain.comment, 16).ok().filter(|_| chain.rules == 1);
                found.contents.chains.insert(name, hash.unwrap_or_default());
            } else {
                found.base_chains.push(name);
            }
        }
        for set in SETS {
            // A set that is missing fails here, and so the table is written anew.
            let elements = match read::elements(socket, self.family, TABLE, set.name()) {
                Err(error) if error.is(libc::ENOENT) => return Ok(None),
                elements => elements?,
            };
            found.contents.elements.extend(elements.into_iter().map(|(key, value)| ((set, key), value)));
        }
        Ok(Some(found))
    }

    /// Takes over what was read; rules of the fixed part that are others than they should be are replaced, with whatever is in
    /// sets and chains of services left as it is.
    fn take_over(&mut self, socket: &mut Socket, found: Found) -> Result<(), NetlinkError> {
        if !found.has_rules {
            let mut batch = Batch::new(self.family, TABLE);
            // None can be deleted while another leads to it.
            found.base_chains.iter().for_each(|name| batch.flush_chain(name));
            found.base_chains.iter().for_each(|name| batch.delete_chain(name));
            let comment = BaseComment::new(self.family, &self.base);
            write_rules(&mut batch, &self.base, &comment.text());
            socket.send(batch.finish())?;
        }
        self.contents = found.contents;
        Ok(())
    }

    /// Replaces whatever is there by the fixed part alone, in one step.
    fn replace(&mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(self.family, TABLE);
        // Deleting what does not exist would fail, so it is created first.
        batch.add_table();
        batch.delete_table();
        write_sets(&mut batch);
        write_rules(&mut batch, &self.base, &BaseComment::new(self.family, &self.base).text());
        socket.send(batch.finish())?;
        self.contents = Contents::default();
        Ok(())
    }

    /// Deletes it from the kernel.
    pub fn delete(socket: &mut Socket, family: Family) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(family, TABLE);
        batch.add_table();
        batch.delete_table();
        socket.send(batch.finish())
    }

    /// Makes the changes, all or none.
    pub fn apply(&mut self, socket: &mut Socket, change: Change) -> Result<(), NetlinkError> {
        if change.is_empty() {
            return Ok(());
        }
        socket.send(self.encode(&change).finish())?;
        for key in &change.delete {
            self.contents.elements.remove(key);
        }
        self.contents.elements.extend(change.put);
        for name in &change.delete_chains {
            self.contents.chains.remove(name);
        }
        let hashes = change.put_chains.into_iter().map(|(name, chain)| (name, chain.fingerprint()));
        self.contents.chains.extend(hashes);
        Ok(())
    }

    /// Forgets what was written and looks at what is there. Returns whether the fixed part was as it should be; where it was not,
    /// it is now.
    pub fn reload(&mut self, socket: &mut Socket) -> Result<bool, NetlinkError> {
        match self.read(socket)? {
            Some(found) => {
                let is_whole = found.has_rules;
                self.take_over(socket, found)?;
                Ok(is_whole)
            }
            None => {
                self.replace(socket)?;
                Ok(false)
            }
        }
    }

    fn encode(&self, change: &Change) -> Batch {
        let mut batch = Batch::new(self.family, TABLE);
        for (name, chain) in &change.put_chains {
            if !self.contents.chains.contains_key(name) {
                batch.add_chain(name);
            }
            chain.write(&mut batch, name);
        }
        for set in SETS {
            let deleted = change.delete.iter().filter(|(of, _)| *of == set).map(|(_, key)| &**key);
            // An element with another value is deleted first: the kernel does not change values.
            let replaced = change.put.iter().map(|(key, _)| key);
            let replaced = replaced.filter(|key| key.0 == set && self.contents.elements.contains_key(*key));
            batch.delete_elements(set.name(), deleted.chain(replaced.map(|(_, key)| &**key)));
            let put = change.put.iter().filter(|((of, _), _)| *of == set).map(|((_, key), value)| (&**key, value));
            batch.add_elements(set.name(), put);
        }
        for name in &change.delete_chains {
            batch.delete_chain(name);
        }
        batch
    }
}

/// What has to change in some of the sets, so that they contain exactly this.
pub fn difference(contents: &Contents, sets: &[Set], desired: BTreeMap<(Set, Vec<u8>), Value>) -> Change {
    let delete = contents.elements.keys().filter(|key| sets.contains(&key.0) && !desired.contains_key(*key));
    let delete = delete.cloned().collect();
    let is_new = |(key, value): &((Set, Vec<u8>), Value)| contents.elements.get(key) != Some(value);
    Change { put: desired.into_iter().filter(is_new).collect(), delete, ..Change::default() }
}

/// What a table is found to be.
#[derive(Debug, Default)]
struct Found {
    contents: Contents,
    /// Chains that are none of a service.
    base_chains: Vec<String>,
    /// Whether the rules of the fixed part are as they should be.
    has_rules: bool,
}

/// What the first rule of each chain of the fixed part carries: a hash of what would be sent for the sets, and one of what would
/// be sent for the rules.
struct BaseComment {
    sets: u64,
    rules: u64,
    /// How many rules each chain has.
    counts: BTreeMap<&'static str, usize>,
}

impl BaseComment {
    fn new(family: Family, base: &Base) -> Self {
        let mut sets = Batch::new(family, TABLE);
        write_sets(&mut sets);
        let mut rules = Batch::new(family, TABLE);
        let counts = write_rules(&mut rules, base, "");
        let hash = |batch: Batch| mixed(stable_hash(batch.finish().bytes()));
        Self { sets: hash(sets), rules: hash(rules), counts }
    }

    fn text(&self) -> String {
        format!("{BASE_COMMENT}{:016x} {:016x}", self.sets, self.rules)
    }

    /// The hash of the sets in a comment.
    fn sets_in(comment: &str) -> Option<u64> {
        let (sets, _) = comment.strip_prefix(BASE_COMMENT)?.split_once(' ')?;
        u64::from_str_radix(sets, 16).ok()
    }
}

/// Writes the table and its sets, empty.
fn write_sets(batch: &mut Batch) {
    batch.add_table();
    for set in SETS {
        let (key, maps) = set.shape();
        batch.add_set(set.name(), key, maps);
    }
}

/// Writes the chains of the fixed part, the first rule of each with a comment; returns how many rules each has.
fn write_rules(batch: &mut Batch, base: &Base, comment: &str) -> BTreeMap<&'static str, usize> {
    let mut rules = Rules { batch, comment, counts: BTreeMap::new() };
    rules.write_local(&base.reserved);
    rules.write_refusal();
    for (name, number) in [("prerouting", 0), ("output", OUTPUT)] {
        rules.hooked_chain(name, Hook { kind: "nat", number, priority: NAT_BEFORE });
        rules.write_translation(name);
    }
    rules.hooked_chain("postrouting", Hook { kind: "nat", number: POSTROUTING, priority: NAT_AFTER });
    rules.write_masquerade("postrouting", &base.no_masquerade);
    rules.hooked_chain("forward", Hook { kind: "filter", number: FORWARD, priority: 0 });
    rules.write_forward("forward");
    rules.hooked_chain("filter_output", Hook { kind: "filter", number: OUTPUT, priority: 0 });
    rules.refuse_services("filter_output");
    rules.hooked_chain("guard", Hook { kind: "filter", number: 0, priority: RAW });
    rules.write_guard("guard", &base.reserved);
    if base.is_guarded {
        rules.hooked_chain(TRANSIT_CHAIN, Hook { kind: "filter", number: FORWARD, priority: 0 });
        rules.rule(TRANSIT_CHAIN, |rule| {
            let rule = rule.came_by(HOST_LINK_PREFIX, false).leaves_by(HOST_LINK_PREFIX, false);
            rule.count().drop_packet();
        });
    }
    rules.counts
}

struct Rules<'a> {
    batch: &'a mut Batch,
    comment: &'a str,
    counts: BTreeMap<&'static str, usize>,
}

impl Rules<'_> {
    fn hooked_chain(&mut self, name: &'static str, hook: Hook) {
        self.batch.add_hooked_chain(name, hook);
        self.counts.insert(name, 0);
    }

    fn chain(&mut self, name: &'static str) {
        self.batch.add_chain(name);
        self.counts.insert(name, 0);
    }

    fn rule(&mut self, chain: &'static str, write: impl FnOnce(&mut crate::nft::expr::Rule<'_>)) {
        let count = self.counts.entry(chain).or_default();
        let comment = if *count == 0 { self.comment } else { "" };
        self.batch.add_rule(chain, comment, write);
        *count += 1;
    }

    /// Destinations that are addresses of services or of this machine.
    fn write_translation(&mut self, chain: &'static str) {
        let address_bytes = self.batch.family().address_bytes();
        self.rule(chain, |rule| {
            let rule = rule.address(End::Destination, 0).protocol(address_bytes).port(address_bytes + 4);
            rule.verdict_from(Set::Services.name());
        });
        self.rule(chain, |rule| {
            rule.is_local().goto(LOCAL_CHAIN);
        });
    }

    /// Ports of this machine that lead to pods.
    fn write_local(&mut self, reserved: &[IpAddr]) {
        let family = self.batch.family();
        let address_bytes = family.address_bytes();
        self.chain(LOCAL_CHAIN);
        for address in reserved.iter().filter(|address| family.has(address)) {
            self.rule(LOCAL_CHAIN, |rule| {
                rule.is_in(End::Destination, &octets(address), &vec![0xff; address_bytes as usize]).end_chain();
            });
        }
        self.rule(LOCAL_CHAIN, |rule| {
            let rule = rule.address(End::Destination, 0).protocol(address_bytes).port(address_bytes + 4);
            rule.value_from(Set::HostPortsAt.name()).translate_destination();
        });
        self.rule(LOCAL_CHAIN, |rule| {
            rule.protocol(0).port(4).verdict_from(Set::NodePorts.name());
        });
        self.rule(LOCAL_CHAIN, |rule| {
            rule.protocol(0).port(4).value_from(Set::HostPorts.name()).translate_destination();
        });
    }

    /// Pods leave the node under its address; among pods nobody's address is hidden but that of a pod which reaches itself.
    fn write_masquerade(&mut self, chain: &'static str, no_masquerade: &[Subnet]) {
        let family = self.batch.family();
        for subnet in no_masquerade.iter().filter(|subnet| family.has(&subnet.address)) {
            let (first, mask) = range_bytes(subnet);
            self.rule(chain, |rule| {
                rule.is_in(End::Destination, &first, &mask).end_chain();
            });
        }
        self.rule(chain, |rule| {
            let rule = rule.address(End::Source, 0).is_member(Set::Pods.name(), true);
            rule.address(End::Destination, 0).is_member(Set::Pods.name(), false).masquerade();
        });
        self.rule(chain, |rule| {
            let rule = rule.address(End::Source, 0).address(End::Destination, family.address_bytes());
            rule.is_member(Set::Hairpin.name(), true).masquerade();
        });
        if family == Family::Ip {
            self.rule(chain, |rule| {
                let rule = rule.is_in(End::Source, &[127, 0, 0, 0], &[255, 0, 0, 0]);
                rule.leaves_by(HOST_LINK_PREFIX, true).masquerade();
            });
        }
    }

    fn write_forward(&mut self, chain: &'static str) {
        self.rule(chain, |rule| {
            rule.is_known().accept();
        });
        self.rule(chain, |rule| {
            rule.address(End::Destination, 0).verdict_from(Set::PolicyIn.name());
        });
        self.rule(chain, |rule| {
            rule.address(End::Source, 0).verdict_from(Set::PolicyOut.name());
        });
        self.refuse_services(chain);
    }

    /// A service's address that is still there: no such port, or nobody behind it.
    fn refuse_services(&mut self, chain: &'static str) {
        self.rule(chain, |rule| {
            rule.address(End::Destination, 0).is_member(Set::ClusterIps.name(), true).goto(REFUSAL_CHAIN);
        });
    }

    fn write_refusal(&mut self) {
        self.chain(REFUSAL_CHAIN);
        self.rule(REFUSAL_CHAIN, |rule| {
            rule.is_protocol(TCP).reset();
        });
        self.rule(REFUSAL_CHAIN, |rule| {
            rule.reject();
        });
    }

    /// Pods' links lead to 127.0.0.1 with IPv4, which is the machine's alone. IPv4's own filter for senders (`rp_filter`) is the more
    /// generous of the link's and of all links', and many systems set that for all to 2: so senders are looked at here. What the agent
    /// itself listens on is for pods and this machine: the kernel would take packets for any of its addresses from any of its links.
    fn write_guard(&mut self, chain: &'static str, reserved: &[IpAddr]) {
        let family = self.batch.family();
        if family == Family::Ip {
            self.rule(chain, |rule| {
                let rule = rule.came_by(HOST_LINK_PREFIX, true);
                rule.is_in(End::Destination, &[127, 0, 0, 0], &[255, 0, 0, 0]).count().drop_packet();
            });
        }
        self.rule(chain, |rule| {
            rule.came_by(HOST_LINK_PREFIX, true).is_spoofed().count().drop_packet();
        });
        for address in reserved.iter().filter(|address| family.has(address)) {
            self.rule(chain, |rule| {
                rule.is_in(End::Destination, &octets(address), &vec![0xff; family.address_bytes() as usize]);
                rule.came_by(HOST_LINK_PREFIX, false).came_by_link("lo", false).count().drop_packet();
            });
        }
    }
}

/// First address and mask of a range.
fn range_bytes(subnet: &Range) -> (Vec<u8>, Vec<u8>) {
    let mask = match subnet.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(subnet.mask() as u32)),
        IpAddr::V6(_) => IpAddr::V6(subnet.mask().into()),
    };
    let mask = octets(&mask);
    let first = octets(&subnet.address).iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
    (first, mask)
}
