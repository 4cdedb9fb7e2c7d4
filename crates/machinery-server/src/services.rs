//! The books of cluster addresses and node ports: which Service has which, and what is free.
//!
//! ```text
//! begin a write ─▶ Reservation ──stored──▶ confirm: what only the old version had is free
//!                       └────────dropped─▶ what was taken for it is free again
//! ```
//!
//! The stored Services are the truth: the books are made of them when the server starts, and kept in memory by the one
//! process that writes them. What a Service asks for and gets is decided by `machinery-kinds`; here are the numbers.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use machinery_kinds::ResourceInfo;
use machinery_kinds::services::{
    AllocateError, Allocator, BeginError, ServiceNumbers, begin_create, begin_update, service_numbers,
};
use machinery_store::{Durability, Expect, Key, Object, Op, Store};
use serde_json::Value;

use crate::object::name_of;
use crate::status::{ApiError, Result};

/// Where the numbers of Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    /// The network of cluster addresses.
    pub network: Ipv4Addr,
    /// How many bits of an address are the network's.
    pub prefix: u8,
    /// Ports that nodes open.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for ServiceRange {
    /// What kubeadm gives a cluster, and kube-apiserver its nodes.
    fn default() -> Self {
        Self { network: Ipv4Addr::new(10, 96, 0, 0), prefix: 16, node_ports: 30_000..=32_767 }
    }
}

impl ServiceRange {
    /// `10.96.0.0/16`.
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.network, self.prefix)
    }

    /// The address of the API itself, in every cluster the first.
    pub fn first_address(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits().saturating_add(1))
    }

    /// How many addresses the network has, its own and the last included.
    fn size(&self) -> u32 {
        1_u32.checked_shl(32 - u32::from(self.prefix.clamp(1, 32))).unwrap_or(u32::MAX)
    }

    fn holds(&self, address: Ipv4Addr) -> bool {
        address.to_bits().checked_sub(self.network.to_bits()).is_some_and(|offset| offset < self.size())
    }
}

/// The lower part of a range is left to those who ask for a number of their own: so much of it at most.
const STATIC_ADDRESSES_MAX: u32 = 256;
const STATIC_PORTS_MAX: u32 = 128;

/// Addresses and ports that Services have.
pub(crate) struct ServiceBooks {
    range: ServiceRange,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

impl ServiceBooks {
    /// The books as the stored Services have them.
    pub(crate) fn open(range: ServiceRange, store: &Store) -> Self {
        let books = Self { range, taken: Mutex::default() };
        let mut taken = books.lock();
        for object in store.snapshot(SERVICES).iter(None, None) {
            if let Ok(service) = serde_json::from_slice::<Value>(&object.bytes) {
                let numbers = service_numbers(&service);
                taken.addresses.extend(numbers.addresses);
                taken.ports.extend(numbers.ports);
            }
        }
        drop(taken);
        books
    }

    /// Where the numbers come from.
    pub(crate) fn range(&self) -> &ServiceRange {
        &self.range
    }

    /// Fills in what a new Service gets.
    pub(crate) fn begin_create(&self, info: &ResourceInfo, service: &mut Value) -> Result<Reservation<'_>> {
        let mut reservation = Reservation { books: self, taken: ServiceNumbers::default() };
        begin_create(service, &mut reservation).map_err(|error| rejection(info, service, error))?;
        Ok(reservation)
    }

    /// Fills in what a new version keeps and gets.
    pub(crate) fn begin_update(&self, info: &ResourceInfo, new: &mut Value, old: &Value) -> Result<Reservation<'_>> {
        let mut reservation = Reservation { books: self, taken: ServiceNumbers::default() };
        begin_update(new, old, &mut reservation).map_err(|error| rejection(info, new, error))?;
        Ok(reservation)
    }

    /// What a deleted Service had is free.
    pub(crate) fn release(&self, service: &Value) {
        self.release_numbers(&service_numbers(service));
    }

    fn release_numbers(&self, numbers: &ServiceNumbers) {
        if numbers.addresses.is_empty() && numbers.ports.is_empty() {
            return;
        }
        let mut taken = self.lock();
        taken.addresses.retain(|address| !numbers.addresses.contains(address));
        taken.ports.retain(|port| !numbers.ports.contains(port));
    }

    /// A panic between two entries leaves a number that is taken and unused at worst, until the next start.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store's name of Services.
const SERVICES: &str = "/services";

/// Whether the resource is that of Services.
pub(crate) fn are_services(info: &ResourceInfo) -> bool {
    &*info.storage_key == SERVICES
}

/// Takes the Endpoints of a deleted Service away: whoever made them, nobody needs them any more.
pub(crate) async fn delete_endpoints(store: &Store, service: &Object) {
    let key = Key::new("/endpoints", &service.key.namespace, &service.key.name);
    let Some(endpoints) = store.get(&key) else { return };
    let last = endpoints.bytes.clone();
    let delete = Op::Delete {
        key,
        expect: Expect::Present,
        final_bytes: Box::new(move |revision| crate::object::with_revision(&last, revision)),
    };
    // Somebody else may delete them in this moment, and what cannot be deleted now is found by nobody and harms nobody.
    let _ = store.commit(vec![delete], Durability::Group).await;
}

fn rejection(info: &ResourceInfo, service: &Value, error: BeginError) -> ApiError {
    match error {
        BeginError::Invalid(errors) => ApiError::invalid(info, name_of(service), &errors),
        BeginError::Internal(message) => ApiError::internal(message),
    }
}

/// Numbers that were taken for a write that is not stored yet.
pub(crate) struct Reservation<'b> {
    books: &'b ServiceBooks,
    taken: ServiceNumbers,
}

impl Reservation<'_> {
    /// The write is stored; `old` is what the version before had, and `new` what this one has.
    pub(crate) fn confirm(mut self, old: &ServiceNumbers, new: &ServiceNumbers) {
        self.taken = ServiceNumbers::default();
        let released = ServiceNumbers {
            addresses: old.addresses.iter().filter(|address| !new.addresses.contains(address)).copied().collect(),
            ports: old.ports.iter().filter(|port| !new.ports.contains(port)).copied().collect(),
        };
        self.books.release_numbers(&released);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.books.release_numbers(&self.taken);
    }
}

impl Allocator for Reservation<'_> {
    fn take_address(&mut self, address: Ipv4Addr) -> std::result::Result<(), AllocateError> {
        let range = &self.books.range;
        if !range.holds(address) {
            return Err(AllocateError::OtherNetwork);
        }
        let offset = address.to_bits() - range.network.to_bits();
        if offset == 0 || offset == range.size() - 1 {
            return Err(AllocateError::AddressNotInRange { address, range: range.cidr() });
        }
        if !self.books.lock().addresses.insert(address) {
            return Err(AllocateError::AddressTaken);
        }
        self.taken.addresses.push(address);
        Ok(())
    }

    fn next_address(&mut self) -> std::result::Result<Ipv4Addr, AllocateError> {
        let (first, size) = (self.books.range.network.to_bits(), self.books.range.size());
        let reserved = (size / 16).clamp(16.min(size / 2), STATIC_ADDRESSES_MAX);
        let mut taken = self.books.lock();
        let free = probe(1, reserved, size - 1, |offset| {
            let address = Ipv4Addr::from_bits(first + offset);
            taken.addresses.insert(address).then_some(address)
        });
        drop(taken);
        let address = free.ok_or(AllocateError::Full)?;
        self.taken.addresses.push(address);
        Ok(address)
    }

    fn take_port(&mut self, port: u16) -> std::result::Result<(), AllocateError> {
        let ports = &self.books.range.node_ports;
        if !ports.contains(&port) {
            return Err(AllocateError::PortNotInRange { range: format!("{}-{}", ports.start(), ports.end()) });
        }
        if !self.books.lock().ports.insert(port) {
            return Err(AllocateError::PortTaken);
        }
        self.taken.ports.push(port);
        Ok(())
    }

    fn next_port(&mut self) -> std::result::Result<u16, AllocateError> {
        let ports = &self.books.range.node_ports;
        let (first, size) = (u32::from(*ports.start()), u32::try_from(ports.len()).unwrap_or(0));
        let reserved = (size / 32).clamp(16.min(size / 2), STATIC_PORTS_MAX);
        let mut taken = self.books.lock();
        let free = probe(0, reserved, size, |offset| {
            let port = u16::try_from(first + offset).ok()?;
            taken.ports.insert(port).then_some(port)
        });
        drop(taken);
        let port = free.ok_or(AllocateError::Full)?;
        self.taken.ports.push(port);
        Ok(port)
    }
}

/// Tries each number of a range once, from a random one of its upper part on; the lower part comes last.
fn probe<T>(start: u32, reserved: u32, end: u32, mut take: impl FnMut(u32) -> Option<T>) -> Option<T> {
    let upper = end.saturating_sub(reserved.max(start));
    let random = uuid::Uuid::new_v4().as_u128() % u128::from(upper.max(1));
    let random = u32::try_from(random).expect("less than a number of 32 bits");
    let in_upper = (0..upper).map(|step| reserved.max(start) + (random + step) % upper);
    in_upper.chain(start..reserved.max(start)).find_map(&mut take)
}

#[cfg(test)]
mod tests;
