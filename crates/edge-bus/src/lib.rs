//! Carries events from those who make them to those who want them, inside one process.
//!
//! There is no broker: an event is decoded once and then shared ([`Arc`]) by every subscriber. Each subscriber has a
//! name, a bounded queue and one of two promises ([`Delivery`]):
//!
//! - *lossless*: the publisher waits until there is room, so a slow reader slows its source down instead of losing data;
//! - *lossy*: the event is left out and counted, so that somebody who only looks on never holds anyone up.
//!
//! `devices, rules ──▶ intake ──▶ journal, then Bus::publish ──▶ [queue] rules · [queue] watchers`
//!
//! The one publisher of the edge plane is the intake of `edge-core`, so events of a device keep their order.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use api_edge::edgex::Event;
use tokio::sync::mpsc;

/// One event on its way, with what EdgeX's topic says beside the event itself.
#[derive(Clone, Debug)]
pub struct Message {
    /// The event.
    pub event: Arc<Event>,
    /// Who made it.
    pub maker: Maker,
}

/// An event that was just made, on its way to the journal and then the bus.
#[derive(Clone, Debug)]
pub struct Made {
    /// The event.
    pub event: Event,
    /// Who made it.
    pub maker: Maker,
}

/// Who made an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maker {
    /// A driver, by its service name (`host`, `modbus`).
    Device(Arc<str>),
    /// A rule, `namespace/name`; it never reads its own events.
    Rule(Arc<str>),
}

/// What a full queue of a subscriber means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The publisher waits.
    Lossless,
    /// The event is left out for this subscriber, and counted.
    Lossy,
}

/// Which events a subscriber wants. An empty set wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Names of devices.
    pub devices: BTreeSet<String>,
    /// Names of sources: resources or commands.
    pub sources: BTreeSet<String>,
}

impl Filter {
    /// Wants everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether the event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        (self.devices.is_empty() || self.devices.contains(&event.device_name))
            && (self.sources.is_empty() || self.sources.contains(&event.source_name))
    }
}

/// How a subscription fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionReport {
    /// Name given to [`Bus::subscribe`].
    pub name: String,
    /// Events put into the queue so far.
    pub delivered: u64,
    /// Events left out because the queue was full. Always 0 for [`Delivery::Lossless`].
    pub dropped: u64,
    /// Events waiting in the queue now.
    pub queued: usize,
}

/// The fan-out. Clones share the same subscribers.
#[derive(Clone, Default)]
pub struct Bus {
    subscribers: Arc<RwLock<Arc<Vec<Arc<Slot>>>>>,
}

/// One subscriber as the bus sees it.
struct Slot {
    name: String,
    delivery: Delivery,
    filter: Filter,
    queue: mpsc::Sender<Message>,
    delivered: AtomicU64,
    dropped: AtomicU64,
    /// Set once the receiving end is gone; the slot is then removed by the next subscription or publication.
    closed: AtomicBool,
}

impl Bus {
    /// A bus without subscribers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscriber with a queue of `capacity` events (at least one). It is removed when it is dropped.
    pub fn subscribe(&self, name: &str, capacity: usize, delivery: Delivery, filter: Filter) -> Subscriber {
        let (queue, messages) = mpsc::channel(capacity.max(1));
        let slot = Arc::new(Slot {
            name: name.to_owned(),
            delivery,
            filter,
            queue,
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        self.change(|slots| slots.push(slot.clone()));
        Subscriber { messages, slot }
    }

    /// Hands the event to every subscriber that wants it; waits for room in the queues of lossless ones.
    pub async fn publish(&self, message: Message) {
        let slots = self.subscribers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut someone_left = false;
        for slot in slots.iter().filter(|slot| slot.filter.wants(&message.event)) {
            let is_delivered = match slot.delivery {
                Delivery::Lossless => slot.queue.send(message.clone()).await.is_ok(),
                Delivery::Lossy => match slot.queue.try_send(message.clone()) {
                    Ok(()) => true,
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        slot.dropped.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => false,
                },
            };
            if is_delivered {
                slot.delivered.fetch_add(1, Ordering::Relaxed);
            } else {
                slot.closed.store(true, Ordering::Relaxed);
                someone_left = true;
            }
        }
        if someone_left {
            self.change(|_| ());
        }
    }

    /// How each subscription fares, in the order in which they were made.
    pub fn report(&self) -> Vec<SubscriptionReport> {
        let slots = self.subscribers.read().unwrap_or_else(PoisonError::into_inner).clone();
        slots.iter().filter(|slot| !slot.is_gone()).map(|slot| slot.report()).collect()
    }

    /// Copies the list, as publishers may be walking the old one, and leaves out those who are gone.
    fn change(&self, act: impl FnOnce(&mut Vec<Arc<Slot>>)) {
        let mut list = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        let mut slots: Vec<Arc<Slot>> = list.iter().filter(|slot| !slot.is_gone()).cloned().collect();
        act(&mut slots);
        *list = Arc::new(slots);
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("subscribers", &self.report()).finish()
    }
}

impl Slot {
    fn is_gone(&self) -> bool {
        self.closed.load(Ordering::Relaxed) || self.queue.is_closed()
    }

    fn report(&self) -> SubscriptionReport {
        SubscriptionReport {
            name: self.name.clone(),
            delivered: self.delivered.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            queued: self.queue.max_capacity() - self.queue.capacity(),
        }
    }
}

/// The receiving end of a subscription.
pub struct Subscriber {
    messages: mpsc::Receiver<Message>,
    slot: Arc<Slot>,
}

impl Subscriber {
    /// The next event, in the order of publication.
    pub async fn recv(&mut self) -> Message {
        // The slot holds a sender of its own, so the channel cannot end while `self` lives.
        self.messages.recv().await.expect("a subscriber keeps its own queue open")
    }

    /// Appends the events that are waiting, at most `limit`, and waits for the first of them.
    pub async fn recv_many(&mut self, into: &mut Vec<Message>, limit: usize) -> usize {
        self.messages.recv_many(into, limit).await
    }

    /// How this subscription fares.
    pub fn report(&self) -> SubscriptionReport {
        self.slot.report()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.slot.closed.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").field("report", &self.report()).finish()
    }
}

#[cfg(test)]
mod tests;
