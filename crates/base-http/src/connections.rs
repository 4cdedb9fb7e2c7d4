//! The live connections of a listener with what its handler keeps about each, for revocation and metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{Close, ConnectionHandle, ConnectionStats};

/// The live connections of the listeners that are served with it ([`crate::serve_with`]), each with its session. Clones share
/// everything.
///
/// ```
/// # use base_http::{Close, Connections};
/// struct Session {
///     user: String,
/// }
/// fn revoke(connections: &Connections<Session>, user: &str) -> usize {
///     connections.close_where(Close::AtOnce, |_, session| session.user == user)
/// }
/// ```
pub struct Connections<S>(Arc<Inner<S>>);

struct Inner<S> {
    live: Mutex<HashMap<u64, (ConnectionHandle, Arc<S>)>>,
    /// Raised by each [`Connections::close_where`], so that a session that was being made meanwhile is noticed.
    sweeps: AtomicU64,
    stats: Arc<ConnectionStats>,
}

impl<S> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Default for Connections<S> {
    fn default() -> Self {
        Self(Arc::new(Inner { live: Mutex::default(), sweeps: AtomicU64::new(0), stats: Arc::default() }))
    }
}

impl<S> std::fmt::Debug for Connections<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Connections({} live)", self.len())
    }
}

impl<S> Connections<S> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections that have a session.
    pub fn len(&self) -> usize {
        self.0.live.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happened to connections so far, also to those that never got a session.
    pub fn stats(&self) -> &Arc<ConnectionStats> {
        &self.0.stats
    }

    /// All of them, as they are now.
    pub fn list(&self) -> Vec<(ConnectionHandle, Arc<S>)> {
        self.0.live.lock().values().cloned().collect()
    }

    /// Closes those that are chosen, and returns how many. For a connection whose session was being made meanwhile,
    /// [`Handler::on_connect`](crate::Handler::on_connect) is called once more: what the session was made from may have been
    /// what just changed. Change that first, then call this, and nobody slips through.
    pub fn close_where(&self, how: Close, mut choose: impl FnMut(&ConnectionHandle, &S) -> bool) -> usize {
        self.0.sweeps.fetch_add(1, Ordering::SeqCst);
        // Chosen outside of the lock: the choice may take long, and may look at the registry itself.
        let chosen = self.list().into_iter().filter(|(handle, session)| choose(handle, session));
        chosen.map(|(handle, _)| handle.close(how)).count()
    }

    /// To be handed to [`Connections::add`] by whoever makes a session from now on.
    pub(crate) fn sweeps(&self) -> u64 {
        self.0.sweeps.load(Ordering::SeqCst)
    }

    /// Adds a connection, unless some were [closed](Self::close_where) since `sweeps` was read: its session may be of before.
    pub(crate) fn add(&self, handle: &ConnectionHandle, session: &Arc<S>, sweeps: u64) -> Option<Registered<S>> {
        let id = handle.id();
        self.0.live.lock().insert(id, (handle.clone(), session.clone()));
        let registered = Registered { connections: self.clone(), id };
        // Looked at after it was added: whoever closes connections from now on finds this one.
        (self.sweeps() == sweeps).then_some(registered)
    }
}

/// A connection's entry; it leaves when dropped.
pub(crate) struct Registered<S> {
    connections: Connections<S>,
    id: u64,
}

impl<S> Drop for Registered<S> {
    fn drop(&mut self) {
        // The session is dropped outside of the lock: it may be the last clone, and whatever it does then is not ours.
        let ended = self.connections.0.live.lock().remove(&self.id);
        drop(ended);
    }
}
