//! The routed link of a pod: two ends, two routes, two neighbours.
//!
//! ```text
//! pod                                             node
//! eth0 10.39.0.7/32 ───────────────────────────── svp0123456789ab   no address, MAC ee:ee:ee:ee:ee:ee
//! default via 169.254.1.1, which nobody has       10.39.0.7 dev svp0123456789ab
//! 169.254.1.1 is ee:ee:ee:ee:ee:ee, for ever      10.39.0.7 is 0a:58:0a:27:00:07, for ever
//! ```
//!
//! There is no bridge, so every packet of a pod passes the node's `forward` hook whatever modules the kernel has, and no ARP,
//! so nothing is learnt that could be poisoned. The same with IPv6 behind `fe80::1`. The node itself speaks to pods from one
//! address of the subnet, on `lo`: it is there whatever happens to uplinks.
//!
//! Everything here may be repeated: what exists is replaced by its equal, which no packet notices.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd};

use crate::{
    Subnet, names,
    netlink::{
        self, CREATE, DUMP, EXCLUSIVE, Message, Messages, NetlinkError, Protocol, REPLACE, Socket, attribute, behind,
        number, string,
    },
};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No other machine can have the address: it is usable at once.
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const TABLE_MAIN: u8 = 254;
/// Who added a route, in `ip route` as `proto 83`: a number that no routing daemon has.
const ROUTE_PROTOCOL: u8 = 83;
const SCOPE_GLOBAL: u8 = 0;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;
const NUD_PERMANENT: u16 = 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const IFF_UP: u32 = 1;
const LINK_HEADER_BYTES: usize = 16;
const ADDRESS_HEADER_BYTES: usize = 8;
const ROUTE_HEADER_BYTES: usize = 12;

/// Settings of a host end, by the kernel's numbers in `linux/ip.h`. Set through netlink: no file system is needed.
mod devconf {
    pub const FORWARDING: u16 = 1;
    /// A pod is sent no hints to better ways: there are none.
    pub const SEND_REDIRECTS: u16 = 6;
    /// A pod sends from its own address or not at all.
    pub const RP_FILTER: u16 = 8;
    /// Lets what came from 127.0.0.1 on the node leave for a pod; the table drops what a pod sends there.
    pub const ROUTE_LOCALNET: u16 = 26;
}

/// Where pods send what is not for themselves; no machine has these addresses.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 1, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
];
const HOST_MAC: [u8; 6] = [0xee; 6];
/// IPv6 may be switched off at boot.
const NO_IPV6: &[i32] = &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL, libc::ENODEV];

/// A link, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: i32,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub alias: String,
    /// The number of its other end.
    pub peer: Option<i32>,
    /// Bytes of a packet.
    pub mtu: u32,
    /// Whether it was switched on.
    pub is_up: bool,
}

/// A range of addresses that something of this machine uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The addresses.
    pub subnet: Subnet,
    /// The link's name.
    pub link: String,
}

fn link_head(index: i32, flags: u32, change: u32) -> [u8; LINK_HEADER_BYTES] {
    let mut head = [0; LINK_HEADER_BYTES];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&change.to_ne_bytes());
    head
}

fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// An address as the kernel takes it.
pub(crate) fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn to_address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// The MAC of a pod's end: of the local range, from the address, so that it is the same after a restart.
fn pod_mac(addresses: &[IpAddr]) -> [u8; 6] {
    let bytes = addresses.first().map(octets).unwrap_or_default();
    let mut mac = [0x0a, 0x58, 0, 0, 0, 0];
    for (to, from) in mac[2..].iter_mut().rev().zip(bytes.iter().rev()) {
        *to = *from;
    }
    mac
}

fn set_up(messages: &mut Messages, index: i32) {
    messages.begin(RTM_SETLINK, 0, &link_head(index, IFF_UP, IFF_UP), "switch a link on");
}

fn set_address(messages: &mut Messages, index: i32, address: &IpAddr) {
    let mut head = [family(address), host_prefix(address), 0, SCOPE_GLOBAL, 0, 0, 0, 0];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    let bytes = octets(address);
    let act = format!("set the address {address}");
    messages.begin(RTM_NEWADDR, CREATE | REPLACE, &head, act).attribute(IFA_LOCAL, &bytes);
    messages.attribute(IFA_ADDRESS, &bytes);
    if address.is_ipv6() {
        messages.number(IFA_FLAGS, IFA_F_NODAD);
    }
}

fn host_prefix(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

struct Route<'a> {
    to: Option<(&'a IpAddr, u8)>,
    via: Option<&'a IpAddr>,
    source: Option<&'a IpAddr>,
    link: i32,
}

impl Route<'_> {
    fn head(&self, family: u8) -> [u8; ROUTE_HEADER_BYTES] {
        let scope = if self.via.is_some() || family == libc::AF_INET6 as u8 { SCOPE_GLOBAL } else { SCOPE_LINK };
        let prefix = self.to.map_or(0, |(_, prefix)| prefix);
        [family, prefix, 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, scope, UNICAST, 0, 0, 0, 0]
    }

    fn write(&self, messages: &mut Messages, kind: u16, flags: u16) {
        let Some(any) = self.to.map(|(to, _)| to).or(self.via) else { return };
        let act = match (self.to, kind) {
            (Some((to, prefix)), RTM_DELROUTE) => format!("delete the route to {to}/{prefix}"),
            (Some((to, prefix)), _) => format!("set the route to {to}/{prefix}"),
            (None, _) => "set the default route of a pod".to_owned(),
        };
        messages.begin(kind, flags, &self.head(family(any)), act);
        if let Some((to, _)) = self.to {
            messages.attribute(RTA_DST, &octets(to));
        }
        if let Some(via) = self.via {
            messages.attribute(RTA_GATEWAY, &octets(via));
        }
        if let Some(source) = self.source {
            messages.attribute(RTA_PREFSRC, &octets(source));
        }
        messages.number(RTA_OIF, self.link as u32);
    }
}

fn set_neighbour(messages: &mut Messages, link: i32, address: &IpAddr, mac: [u8; 6]) {
    let mut head = [family(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, UNICAST];
    head[4..8].copy_from_slice(&link.to_ne_bytes());
    head[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    let act = format!("set the neighbour {address}");
    messages.begin(RTM_NEWNEIGH, CREATE | REPLACE, &head, act).attribute(NDA_DST, &octets(address));
    messages.attribute(NDA_LLADDR, &mac);
}

/// Settings of an end before it is switched on.
fn prepare(messages: &mut Messages, index: i32, settings: &[(u16, u32)]) {
    if !settings.is_empty() {
        let head = link_head(index, 0, 0);
        messages.begin(RTM_SETLINK, 0, &head, "set how a link forwards").nested(IFLA_AF_SPEC, |spec| {
            spec.nested(libc::AF_INET as u16, |inet| {
                inet.nested(IFLA_INET_CONF, |conf| {
                    for (kind, value) in settings {
                        conf.number(*kind, *value);
                    }
                });
            });
        });
    }
    // No link-local addresses: no detection of duplicates, no multicast, nothing that a pod without IPv6 would show.
    let head = link_head(index, 0, 0);
    messages.begin(RTM_SETLINK, 0, &head, "set how a link gets addresses").tolerate(NO_IPV6).nested(
        IFLA_AF_SPEC,
        |spec| {
            spec.nested(libc::AF_INET6 as u16, |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]);
            });
        },
    );
}

fn parse_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let attributes = behind(message.payload, LINK_HEADER_BYTES);
    Some(Link {
        index: number(message.payload, 4)? as i32,
        name: string(attribute(attributes, IFLA_IFNAME)?).to_owned(),
        alias: attribute(attributes, IFLA_IFALIAS).map(string).unwrap_or_default().to_owned(),
        peer: attribute(attributes, IFLA_LINK).and_then(|value| number(value, 0)).map(|index| index as i32),
        mtu: attribute(attributes, IFLA_MTU).and_then(|value| number(value, 0)).unwrap_or_default(),
        is_up: number(message.payload, 8)? & IFF_UP != 0,
    })
}

/// A link by its name.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut request = Messages::default();
    let act = format!("find the link {name}");
    request.begin(RTM_GETLINK, 0, &link_head(0, 0, 0), act).tolerate(&[libc::ENODEV]).string(IFLA_IFNAME, name);
    let mut found = None;
    socket.request(request, |message| found = parse_link(message).or(found.take()))?;
    Ok(found)
}

/// Every link.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut request = Messages::default();
    request.begin(RTM_GETLINK, DUMP, &link_head(0, 0, 0), "list links");
    socket.dump(&request, parse_link)
}

/// Removes a link and waits until the kernel has: tens of milliseconds. One that does not exist is fine.
pub fn delete(socket: &mut Socket, name: &str) -> Result<(), NetlinkError> {
    let mut request = Messages::default();
    let act = format!("delete the link {name}");
    request.begin(RTM_DELLINK, 0, &link_head(0, 0, 0), act).tolerate(&[libc::ENODEV]).string(IFLA_IFNAME, name);
    socket.send(request)
}

/// Switches `lo` on in the namespace of the socket.
pub fn loopback_up(socket: &mut Socket) -> Result<(), NetlinkError> {
    let mut request = Messages::default();
    request.begin(RTM_NEWLINK, 0, &link_head(0, IFF_UP, IFF_UP), "switch lo on").string(IFLA_IFNAME, "lo");
    socket.send(request)
}

/// What the link of a pod should be.
#[derive(Debug)]
pub struct PodEnds<'a> {
    /// The pod.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a File,
    /// Its addresses, IPv4 first.
    pub addresses: &'a [IpAddr],
    /// The node's own addresses, from which it speaks to pods.
    pub node: &'a [IpAddr],
    /// Bytes of a packet.
    pub mtu: u32,
}

impl PodEnds<'_> {
    /// Sets the link up, or completes what there is of it.
    pub fn ensure(&self, socket: &mut Socket) -> Result<(), EnsureError> {
        let name = names::host_link(self.uid);
        let namespace = self.namespace;
        let mut host = self.find_own(socket, &name)?;
        let mac = pod_mac(self.addresses);
        if host.is_none() {
            // Fails if a link has come to be under this name meanwhile, whoever's it is.
            host = Some(self.create(socket, &name, mac)?);
        }
        let Some(host) = host else { return Err(EnsureError::Vanished) };
        let mut messages = Messages::default();
        for address in self.addresses {
            let source = self.node.iter().find(|node| node.is_ipv4() == address.is_ipv4());
            let to = Some((address, host_prefix(address)));
            Route { to, via: None, source, link: host.index }.write(&mut messages, RTM_NEWROUTE, CREATE | REPLACE);
            set_neighbour(&mut messages, host.index, address, mac);
        }
        // The pod's side last: a program that finds a route out must be reachable itself.
        socket.send(messages)?;
        netlink::in_namespace(namespace, || self.ensure_pod_end())??;
        Ok(())
    }

    /// The host end that exists already and leads into this namespace. One that leads to another place is of a namespace
    /// that has died, and is deleted.
    fn find_own(&self, socket: &mut Socket, name: &str) -> Result<Option<Link>, EnsureError> {
        let Some(link) = find(socket, name)? else { return Ok(None) };
        if let Some(other) = names::uid_of(&link.alias).filter(|other| *other != self.uid) {
            return Err(EnsureError::NameTaken { name: name.to_owned(), owner: other.to_owned() });
        }
        let own =
            netlink::in_namespace(self.namespace, || find(&mut Socket::open(Protocol::Route)?, names::POD_LINK))??;
        let is_pair = own.is_some_and(|own| own.peer == Some(link.index) && link.peer == Some(own.index));
        if is_pair {
            return Ok(Some(link));
        }
        delete(socket, name)?;
        Ok(None)
    }

    fn create(&self, socket: &mut Socket, name: &str, mac: [u8; 6]) -> Result<Link, EnsureError> {
        let mut messages = Messages::default();
        let act = format!("create the link {name}");
        messages.begin(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_head(0, 0, 0), act).string(IFLA_IFNAME, name);
        messages.number(IFLA_MTU, self.mtu).attribute(IFLA_ADDRESS, &HOST_MAC).nested(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    // Not switched on: the kernel would open it before it has its other end.
                    peer.raw(&link_head(0, 0, 0)).string(IFLA_IFNAME, names::POD_LINK).attribute(IFLA_ADDRESS, &mac);
                    peer.number(IFLA_MTU, self.mtu).number(IFLA_NET_NS_FD, self.namespace.as_raw_fd() as u32);
                });
            });
        });
        socket.send(messages)?;
        let link = find(socket, name)?.ok_or(EnsureError::Vanished)?;
        let mut messages = Messages::default();
        messages.begin(RTM_SETLINK, 0, &link_head(link.index, 0, 0), "name the owner of a link");
        messages.string(IFLA_IFALIAS, &names::alias(self.uid));
        let settings = [
            (devconf::FORWARDING, 1),
            (devconf::SEND_REDIRECTS, 0),
            (devconf::RP_FILTER, 1),
            (devconf::ROUTE_LOCALNET, 1),
        ];
        prepare(&mut messages, link.index, &settings);
        set_up(&mut messages, link.index);
        socket.send(messages)?;
        Ok(link)
    }

    /// Runs in the pod's namespace.
    fn ensure_pod_end(&self) -> Result<(), EnsureError> {
        let mut socket = Socket::open(Protocol::Route)?;
        let link = find(&mut socket, names::POD_LINK)?.ok_or(EnsureError::Vanished)?;
        let mut messages = Messages::default();
        messages.begin(RTM_NEWLINK, 0, &link_head(0, IFF_UP, IFF_UP), "switch lo on").string(IFLA_IFNAME, "lo");
        if !link.is_up {
            prepare(&mut messages, link.index, &[]);
            set_up(&mut messages, link.index);
        }
        for address in self.addresses {
            set_address(&mut messages, link.index, address);
        }
        for gateway in &GATEWAYS {
            if self.addresses.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
                set_neighbour(&mut messages, link.index, gateway, HOST_MAC);
                let to = Some((gateway, host_prefix(gateway)));
                let flags = CREATE | REPLACE;
                Route { to, via: None, source: None, link: link.index }.write(&mut messages, RTM_NEWROUTE, flags);
                let via = Some(gateway);
                Route { to: None, via, source: None, link: link.index }.write(&mut messages, RTM_NEWROUTE, flags);
            }
        }
        Ok(socket.send(messages)?)
    }
}

/// Why a pod has no link.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace cannot be entered.
    #[error("failed to enter the pod's network namespace")]
    Enter(#[from] std::io::Error),
    /// Something removed it while it was set up.
    #[error("the link was deleted while it was set up")]
    Vanished,
    /// Two uids with one hash.
    #[error("the link {name} belongs to pod {owner}")]
    NameTaken {
        /// The link.
        name: String,
        /// Its pod.
        owner: String,
    },
}

/// Gives the node its addresses, on `lo`, and makes the host's own packets to `services` find an address to come from.
pub fn ensure_node(socket: &mut Socket, node: &[IpAddr], services: &[Subnet]) -> Result<(), NetlinkError> {
    loopback_up(socket)?;
    let Some(lo) = find(socket, "lo")? else { return Ok(()) };
    let mut messages = Messages::default();
    for address in node {
        set_address(&mut messages, lo.index, address);
    }
    for subnet in services {
        let source = node.iter().find(|node| node.is_ipv4() == subnet.is_ipv4());
        let to = Some((&subnet.address, subnet.prefix));
        // A destination on `lo` that no rule translates is dropped by the kernel, not sent around in circles.
        Route { to, via: None, source, link: lo.index }.write(&mut messages, RTM_NEWROUTE, CREATE | REPLACE);
    }
    socket.send(messages)
}

/// Takes the node's addresses and routes back.
pub fn remove_node(socket: &mut Socket, node: &[IpAddr], services: &[Subnet]) -> Result<(), NetlinkError> {
    let Some(lo) = find(socket, "lo")? else { return Ok(()) };
    let mut messages = Messages::default();
    for subnet in services {
        let to = Some((&subnet.address, subnet.prefix));
        Route { to, via: None, source: None, link: lo.index }.write(&mut messages, RTM_DELROUTE, 0);
        messages.tolerate(&[libc::ESRCH, libc::ENOENT]);
    }
    for address in node {
        let mut head = [family(address), host_prefix(address), 0, 0, 0, 0, 0, 0];
        head[4..8].copy_from_slice(&lo.index.to_ne_bytes());
        messages.begin(RTM_DELADDR, 0, &head, format!("delete the address {address}"));
        messages.tolerate(&[libc::EADDRNOTAVAIL]).attribute(IFA_LOCAL, &octets(address));
    }
    socket.send(messages)
}

/// Addresses of this machine, each with the number of its link.
pub fn addresses(socket: &mut Socket) -> Result<Vec<(Subnet, i32)>, NetlinkError> {
    let mut request = Messages::default();
    request.begin(RTM_GETADDR, DUMP, &[0; ADDRESS_HEADER_BYTES], "list addresses");
    socket.dump(&request, parse_address)
}

fn parse_address(message: &Message<'_>) -> Option<(Subnet, i32)> {
    let attributes = behind(message.payload, ADDRESS_HEADER_BYTES);
    let local = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let subnet = Subnet::new(to_address(local)?, *message.payload.get(1)?)?;
    Some((subnet, number(message.payload, 4)? as i32))
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// Where it leads; `None` for a default route.
    pub to: Option<Subnet>,
    /// Through which link.
    pub link: i32,
    /// Whether it is of this program.
    pub is_own: bool,
}

/// The routes of the main table.
pub fn routes(socket: &mut Socket) -> Result<Vec<FoundRoute>, NetlinkError> {
    let mut request = Messages::default();
    request.begin(RTM_GETROUTE, DUMP, &[0; ROUTE_HEADER_BYTES], "list routes");
    socket.dump(&request, parse_route)
}

fn parse_route(message: &Message<'_>) -> Option<FoundRoute> {
    let [_, prefix, _, _, table, protocol, _, kind, ..] = *message.payload else { return None };
    let attributes = behind(message.payload, ROUTE_HEADER_BYTES);
    let table = attribute(attributes, RTA_TABLE).and_then(|value| number(value, 0)).unwrap_or(table.into());
    if table != u32::from(TABLE_MAIN) || kind != UNICAST {
        return None;
    }
    let to = match attribute(attributes, RTA_DST) {
        Some(to) => Some(Subnet::new(to_address(to)?, prefix)?),
        None => None,
    };
    let link = attribute(attributes, RTA_OIF).and_then(|value| number(value, 0))? as i32;
    Some(FoundRoute { to, link, is_own: protocol == ROUTE_PROTOCOL })
}

/// Reads a message as each kind that is ever asked for; for fuzzing.
pub(crate) fn read_any(message: &Message<'_>) {
    parse_link(message);
    parse_address(message);
    parse_route(message);
}

/// Addresses that links other than ours use, directly or by a route.
pub fn in_use(socket: &mut Socket) -> Result<Vec<InUse>, NetlinkError> {
    let links = list(socket)?;
    let name = |index: i32| {
        let link = links.iter().find(|link| link.index == index)?;
        let is_own = link.name == "lo" || link.name.starts_with(names::HOST_LINK_PREFIX);
        (!is_own).then(|| link.name.clone())
    };
    let mut found = Vec::new();
    for (subnet, index) in addresses(socket)? {
        found.extend(name(index).map(|link| InUse { subnet, link }));
    }
    for route in routes(socket)?.iter().filter(|route| !route.is_own) {
        let Some(subnet) = route.to else { continue };
        found.extend(name(route.link).map(|link| InUse { subnet, link }));
    }
    Ok(found)
}

/// The size of packets on the way out; `None` while there is no way out.
pub fn uplink_mtu(socket: &mut Socket) -> Result<Option<u32>, NetlinkError> {
    // One question to the kernel's own choice of a route costs the same with a thousand links. Nobody has this address.
    let anywhere = [192, 0, 2, 1];
    let head = [libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut request = Messages::default();
    request.begin(RTM_GETROUTE, 0, &head, "find the way out").attribute(RTA_DST, &anywhere);
    request.tolerate(&[libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL]);
    let mut index = None;
    socket.request(request, |message| {
        let attributes = behind(message.payload, ROUTE_HEADER_BYTES);
        index = attribute(attributes, RTA_OIF).and_then(|value| number(value, 0)).or(index);
    })?;
    let Some(index) = index else { return Ok(None) };
    let mut request = Messages::default();
    request.begin(RTM_GETLINK, 0, &link_head(index as i32, 0, 0), "find the uplink").tolerate(&[libc::ENODEV]);
    let mut found = None;
    socket.request(request, |message| found = parse_link(message).or(found.take()))?;
    Ok(found.map(|link| link.mtu).filter(|mtu| *mtu > 0))
}
