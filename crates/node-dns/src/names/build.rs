//! From pods and Services to prepared answers.
//!
//! Names are first claimed, by rank, and the winner's records are encoded then: see the parent module for who wins. Names that are
//! none (a label over 63 bytes, a domain over 255) are left out and counted; the other names of that pod or Service stay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::table::{Entry, POINTER, Set, Table, address_record, record_head};
use super::{EndpointNames, NameRecords, NamesConfig, Network, PodNames, PortName, SCHEMA_VERSION, ServiceNames};
use crate::message::{WireName, kind};

/// Bytes of one name's records of one type: more do not fit into a message.
const SET_BYTES_MAX: usize = 60_000;
/// Bytes that a name takes beside its records, about.
const ENTRY_OVERHEAD: usize = 120;
/// SRV records in a table: a headless Service has its ports times its endpoints, each with a long name.
const SRV_RECORDS_MAX: usize = 16_384;
/// Labels below the domain that are not for pods to have.
const RESERVED: [&str; 4] = ["svc", "pod", "ns", "dns-version"];

/// What does not change between two tables.
pub(super) struct Context {
    domain: String,
    zone: WireName,
    pod_zone: WireName,
    server_addresses: Vec<IpAddr>,
    networks: Vec<Network>,
    table_bytes_max: usize,
}

impl Context {
    /// `None` when the domain is none.
    pub(super) fn new(config: &NamesConfig) -> Option<Self> {
        let domain = config.domain.trim_end_matches('.').to_ascii_lowercase();
        let zone = WireName::parse(&domain).filter(|zone| zone.labels().next().is_some())?;
        Some(Self {
            pod_zone: WireName::parse(&format!("pod.{domain}"))?,
            domain,
            zone,
            server_addresses: config.server_addresses.clone(),
            networks: config.networks.clone(),
            table_bytes_max: config.table_bytes_max,
        })
    }
}

/// Who has a name: the least wins, equals share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    by: By,
    is_other_namespace: bool,
    namespace: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Service,
    PodName,
    Hostname,
    NameLabel,
    AppLabel,
}

impl<'a> Rank<'a> {
    fn new(by: By, namespace: &'a str) -> Self {
        Self { by, is_other_namespace: namespace != "default", namespace }
    }
}

/// What a name leads to.
#[derive(Default)]
struct Draft {
    ready: Vec<IpAddr>,
    waiting: Vec<IpAddr>,
    alias: Option<WireName>,
}

/// A port at a name, for SRV.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    port: u16,
    name: String,
}

/// The table of these records.
pub(super) fn build(context: &Context, records: &NameRecords, generation: u64) -> Table {
    let mut builder = Builder {
        context,
        claims: HashMap::new(),
        srv: BTreeMap::new(),
        srv_count: 0,
        left_out: 0,
        reverse: BTreeMap::new(),
    };
    let mut namespaces = BTreeSet::new();
    for service in &records.services {
        namespaces.insert(service.namespace.as_str());
        builder.service(service);
    }
    for pod in &records.pods {
        namespaces.insert(pod.namespace.as_str());
        builder.pod(pod, &records.node_addresses);
    }
    builder.claim("ns.dns", Rank::new(By::Service, ""), |draft| draft.ready.extend(&context.server_addresses));
    builder.encode(&namespaces, generation)
}

struct Builder<'a> {
    context: &'a Context,
    /// By name, without the last dot.
    claims: HashMap<String, (Rank<'a>, Draft)>,
    srv: BTreeMap<String, BTreeSet<Target>>,
    srv_count: usize,
    left_out: usize,
    /// Names by address, with who gave them.
    reverse: BTreeMap<IpAddr, (By, BTreeSet<String>)>,
}

/// One label as host names have them: a dotted name would answer for somebody's domain.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.eq_ignore_ascii_case("localhost")
}

/// The label of an endpoint or pod that has no hostname: its address.
fn dashed(address: IpAddr) -> String {
    let text = address.to_string().replace(['.', ':'], "-");
    // A label neither begins nor ends with a dash (`::1`).
    let front = if text.starts_with('-') { "0" } else { "" };
    let back = if text.ends_with('-') { "0" } else { "" };
    format!("{front}{text}{back}")
}

impl<'a> Builder<'a> {
    /// A name below the domain.
    fn claim(&mut self, below: &str, rank: Rank<'a>, fill: impl FnOnce(&mut Draft)) {
        let name = format!("{below}.{}", self.context.domain);
        self.claim_whole(name, rank, fill);
    }

    fn claim_whole(&mut self, mut name: String, rank: Rank<'a>, fill: impl FnOnce(&mut Draft)) {
        name.make_ascii_lowercase();
        let (holder, draft) = self.claims.entry(name).or_insert_with(|| (rank.clone(), Draft::default()));
        if rank < *holder {
            (*holder, *draft) = (rank, Draft::default());
        } else if rank > *holder {
            return;
        }
        fill(draft);
    }

    /// All names of a thing that is called `name` in its namespace.
    fn claim_all(&mut self, name: &str, rank: &Rank<'a>, fill: impl Fn(&mut Draft)) {
        let namespace = rank.namespace;
        self.claim(&format!("{name}.{namespace}.svc"), rank.clone(), &fill);
        if !is_label(name) {
            return;
        }
        self.claim_whole(format!("{name}.{namespace}"), rank.clone(), &fill);
        self.claim_whole(name.to_owned(), rank.clone(), &fill);
        self.claim(&format!("{name}.svc"), rank.clone(), &fill);
        if !RESERVED.contains(&name) {
            self.claim(name, rank.clone(), &fill);
        }
    }

    fn service(&mut self, service: &'a ServiceNames) {
        let rank = Rank::new(By::Service, &service.namespace);
        if let Some(target) = &service.external_name {
            if let Some(target) = WireName::parse(target) {
                self.claim_all(&service.name, &rank, |draft| draft.alias = Some(target));
            }
            return;
        }
        let full = format!("{}.{}.svc.{}", service.name, service.namespace, self.context.domain);
        let endpoints: Vec<&EndpointNames> =
            service.endpoints.iter().filter(|endpoint| endpoint.is_ready || service.publish_not_ready).collect();
        let is_headless = service.cluster_ips.is_empty();
        for endpoint in &endpoints {
            self.endpoint(service, &full, endpoint, &rank, is_headless);
        }
        if is_headless {
            // Without a ready endpoint there is no name: that is the specification's.
            if !endpoints.is_empty() {
                self.claim_all(&service.name, &rank, |draft| {
                    draft.ready.extend(endpoints.iter().map(|endpoint| endpoint.address));
                });
            }
            return;
        }
        self.claim_all(&service.name, &rank, |draft| draft.ready.extend(&service.cluster_ips));
        for port in &service.ports {
            self.srv(&full, port, port.port, full.clone());
        }
        for address in &service.cluster_ips {
            self.reverse(*address, By::Service, full.clone());
        }
    }

    fn endpoint(
        &mut self,
        service: &'a ServiceNames,
        full: &str,
        endpoint: &'a EndpointNames,
        rank: &Rank<'a>,
        is_headless: bool,
    ) {
        if !is_headless && endpoint.hostname.is_none() {
            return;
        }
        let hostname = endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address));
        let name = format!("{hostname}.{full}");
        self.claim_whole(name.clone(), rank.clone(), |draft| {
            draft.ready.push(endpoint.address);
        });
        if !is_headless {
            return;
        }
        for port in if endpoint.ports.is_empty() { &service.ports } else { &endpoint.ports } {
            self.srv(full, port, port.port, name.clone());
        }
        if endpoint.hostname.is_some() {
            self.reverse(endpoint.address, By::Hostname, name);
        }
    }

    fn srv(&mut self, service: &str, port: &PortName, number: u16, target: String) {
        if port.name.is_empty() {
            return;
        }
        if self.srv_count >= SRV_RECORDS_MAX {
            self.left_out += 1;
            return;
        }
        self.srv_count += 1;
        let name = format!("_{}.{}.{service}", port.name, port.protocol.label()).to_ascii_lowercase();
        self.srv.entry(name).or_default().insert(Target { port: number, name: target });
    }

    fn reverse(&mut self, address: IpAddr, by: By, name: String) {
        let (holder, names) = self.reverse.entry(address).or_insert_with(|| (by, BTreeSet::new()));
        if by < *holder {
            (*holder, *names) = (by, BTreeSet::new());
        }
        if by == *holder {
            names.insert(name);
        }
    }

    fn pod(&mut self, pod: &'a PodNames, node_addresses: &[IpAddr]) {
        let addresses =
            if pod.is_host_network && !node_addresses.is_empty() { node_addresses } else { pod.addresses.as_slice() };
        if addresses.is_empty() {
            return;
        }
        let hostname = pod.hostname.as_ref().filter(|hostname| is_label(hostname));
        // The hostname of a pod in the host's network is the node's, which is not the pod's name.
        let hostname = hostname.filter(|_| !pod.is_host_network);
        for (by, name) in [
            (By::PodName, Some(&pod.name)),
            (By::Hostname, hostname),
            (By::NameLabel, pod.name_label.as_ref().filter(|label| is_label(label))),
            (By::AppLabel, pod.app_label.as_ref().filter(|label| is_label(label))),
        ] {
            let Some(name) = name else { continue };
            self.claim_all(name, &Rank::new(by, &pod.namespace), |draft| {
                if pod.is_ready { &mut draft.ready } else { &mut draft.waiting }.extend(addresses);
            });
        }
        let mut reverse_name = None;
        if let Some(subdomain) = pod.subdomain.as_ref().filter(|subdomain| is_label(subdomain)) {
            let hostname = pod.hostname.as_deref().unwrap_or(&pod.name);
            let name = format!("{hostname}.{subdomain}.{}.svc", pod.namespace);
            self.claim(&name, Rank::new(By::PodName, &pod.namespace), |draft| draft.ready.extend(addresses));
            reverse_name = Some(format!("{name}.{}", self.context.domain));
        }
        if pod.is_host_network {
            return;
        }
        for address in addresses {
            let by_address = || format!("{}.{}.pod.{}", dashed(*address), pod.namespace, self.context.domain);
            let (by, name) =
                reverse_name.clone().map_or_else(|| (By::AppLabel, by_address()), |name| (By::NameLabel, name));
            self.reverse(*address, by, name);
        }
    }

    fn encode(self, namespaces: &BTreeSet<&str>, generation: u64) -> Table {
        let context = self.context;
        let domain = &context.domain;
        let mut sink =
            Sink { entries: HashMap::new(), left_out: self.left_out, bytes: 0, bytes_max: context.table_bytes_max };
        let serial = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + generation;
        // A serial wraps by its definition (RFC 1982).
        let serial = (serial & u64::from(u32::MAX)) as u32;
        sink.add(domain, apex(context, serial));
        sink.add(&format!("dns-version.{domain}"), vec![text(SCHEMA_VERSION)]);
        for zone in ["svc", "pod"] {
            sink.add(&format!("{zone}.{domain}"), Vec::new());
            for namespace in namespaces {
                sink.add(&format!("{namespace}.{zone}.{domain}"), Vec::new());
            }
        }
        sink.add("localhost", addresses(&["127.0.0.1", "::1"].map(|text| text.parse().expect("an address"))));
        // Services first: should the table be full, they are what it is for.
        let mut claims: Vec<_> = self.claims.iter().collect();
        claims.sort_unstable_by(|(left, (left_rank, _)), (right, (right_rank, _))| {
            (left_rank.by, left).cmp(&(right_rank.by, right))
        });
        for (name, (_, draft)) in claims {
            sink.add(name, draft.sets());
        }
        for (name, targets) in &self.srv {
            sink.add(name, srv(targets, &self.claims));
        }
        for (address, (_, names)) in &self.reverse {
            sink.add(&reverse_name(*address), vec![pointers(names)]);
        }
        sink.add_parents(&context.zone);
        Table {
            entries: sink.entries,
            zone: context.zone,
            pod_zone: context.pod_zone,
            networks: context.networks.clone(),
            left_out: sink.left_out,
            serial,
        }
    }
}

impl Draft {
    /// In order, each once.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut all = if self.ready.is_empty() { &self.waiting } else { &self.ready }.clone();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn sets(&self) -> Vec<Set> {
        match &self.alias {
            Some(target) => {
                let mut set = plain(kind::CNAME, |out| named(kind::CNAME, &[], target, out));
                set.alias = Some(Box::new(*target));
                vec![set]
            }
            None => addresses(&self.addresses()),
        }
    }
}

/// Where names and their records are collected, within the table's bytes.
struct Sink {
    entries: HashMap<Box<[u8]>, Entry>,
    left_out: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Sink {
    fn add(&mut self, name: &str, sets: Vec<Set>) {
        let Some(name) = WireName::parse(name) else {
            self.left_out += 1;
            return;
        };
        let records: usize = sets.iter().map(|set| set.bytes.len() + set.extra.len() + size_of::<Set>()).sum();
        let bytes = name.as_bytes().len() + records + ENTRY_OVERHEAD;
        if self.bytes + bytes > self.bytes_max {
            self.left_out += 1;
            return;
        }
        self.bytes += bytes;
        let slot = self.entries.entry(name.as_bytes().into()).or_default();
        // A namespace may have the name of a pod: the name exists either way, and keeps what it has.
        if !sets.is_empty() {
            let former = std::mem::take(slot).into_vec();
            let mut kept: Vec<Set> =
                former.into_iter().filter(|set| sets.iter().all(|new| new.kind != set.kind)).collect();
            kept.extend(sets);
            *slot = kept.into();
        }
    }

    /// What has names below it exists.
    fn add_parents(&mut self, zone: &WireName) {
        let mut parents: BTreeSet<Box<[u8]>> = BTreeSet::new();
        for name in self.entries.keys().filter(|name| name.ends_with(zone.as_bytes())) {
            let mut rest: &[u8] = name;
            while rest.len() > zone.as_bytes().len() {
                rest = &rest[1 + usize::from(rest[0])..];
                if !self.entries.contains_key(rest) {
                    parents.insert(rest.into());
                }
            }
        }
        for name in parents {
            self.entries.insert(name, Entry::default());
        }
    }
}

fn plain(kind: u16, fill: impl FnOnce(&mut Vec<u8>)) -> Set {
    let mut bytes = POINTER.to_vec();
    fill(&mut bytes);
    Set { kind, count: 1, bytes: bytes.into(), extra: Box::default(), extra_count: 0, alias: None }
}

/// A record whose data are some bytes and a name.
fn named(kind: u16, front: &[u8], target: &WireName, out: &mut Vec<u8>) {
    let length = front.len() + target.as_bytes().len();
    record_head(kind, u16::try_from(length).expect("a name has at most 255 bytes"), out);
    out.extend_from_slice(front);
    out.extend_from_slice(target.as_bytes());
}

fn text(value: &str) -> Set {
    plain(kind::TXT, |out| {
        let length = u8::try_from(value.len()).expect("a version is short");
        record_head(kind::TXT, u16::from(length) + 1, out);
        out.push(length);
        out.extend_from_slice(value.as_bytes());
    })
}

/// SOA and NS of the domain.
fn apex(context: &Context, serial: u32) -> Vec<Set> {
    let name = |label: &str| WireName::parse(&format!("{label}.{}", context.domain)).unwrap_or(context.zone);
    let server = name("ns.dns");
    let soa = plain(kind::SOA, |out| {
        let data = [server.as_bytes(), name("hostmaster").as_bytes(), &soa_numbers(serial)].concat();
        record_head(kind::SOA, u16::try_from(data.len()).expect("two names and five numbers"), out);
        out.extend_from_slice(&data);
    });
    vec![soa, plain(kind::NS, |out| named(kind::NS, &[], &server, out))]
}

/// Serial, refresh, retry, expire, minimum: CoreDNS's but for the last, which is how long an absence may be remembered.
pub(crate) fn soa_numbers(serial: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (space, number) in bytes.chunks_exact_mut(4).zip([serial, 7_200, 1_800, 86_400, super::TTL_SECONDS]) {
        space.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn addresses(all: &[IpAddr]) -> Vec<Set> {
    let mut sets = Vec::new();
    for (kind, is_kind) in [(kind::A, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (kind::AAAA, IpAddr::is_ipv6)] {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for address in all.iter().filter(|address| is_kind(address)) {
            if bytes.len() < SET_BYTES_MAX {
                bytes.extend_from_slice(&POINTER);
                address_record(*address, &mut bytes);
                count += 1;
            }
        }
        if count > 0 {
            sets.push(Set { kind, count, bytes: bytes.into(), extra: Box::default(), extra_count: 0, alias: None });
        }
    }
    sets
}

/// SRV records, with the addresses of their targets beside them.
fn srv(targets: &BTreeSet<Target>, claims: &HashMap<String, (Rank<'_>, Draft)>) -> Vec<Set> {
    // As CoreDNS: the whole weight is 100, and each has its part.
    let weight = u16::try_from(100 / targets.len().clamp(1, 100)).expect("at most 100");
    let mut set =
        Set { kind: kind::SRV, count: 0, bytes: Box::default(), extra: Box::default(), extra_count: 0, alias: None };
    let (mut bytes, mut extra) = (Vec::new(), Vec::new());
    let mut known = BTreeSet::new();
    for target in targets {
        let Some(name) = WireName::parse(&target.name) else { continue };
        if bytes.len() < SET_BYTES_MAX {
            bytes.extend_from_slice(&POINTER);
            let [[w0, w1], [p0, p1]] = [weight.to_be_bytes(), target.port.to_be_bytes()];
            named(kind::SRV, &[0, 0, w0, w1, p0, p1], &name, &mut bytes);
            set.count += 1;
        }
        let draft = claims.get(&target.name.to_ascii_lowercase()).filter(|_| known.insert(&target.name));
        for address in draft.map(|(_, draft)| draft.addresses()).unwrap_or_default() {
            if extra.len() < SET_BYTES_MAX {
                extra.extend_from_slice(name.as_bytes());
                address_record(address, &mut extra);
                set.extra_count += 1;
            }
        }
    }
    (set.bytes, set.extra) = (bytes.into(), extra.into());
    vec![set]
}

fn pointers(names: &BTreeSet<String>) -> Set {
    let (mut bytes, mut count) = (Vec::new(), 0);
    for name in names.iter().filter_map(|name| WireName::parse(name)) {
        if bytes.len() < SET_BYTES_MAX {
            bytes.extend_from_slice(&POINTER);
            named(kind::PTR, &[], &name, &mut bytes);
            count += 1;
        }
    }
    Set { kind: kind::PTR, count, bytes: bytes.into(), extra: Box::default(), extra_count: 0, alias: None }
}

/// The name under which an address is looked up.
pub(super) fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let mut name = String::with_capacity(72);
            for byte in v6.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", byte & 15, byte >> 4));
            }
            name + "ip6.arpa"
        }
    }
}
