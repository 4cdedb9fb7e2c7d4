//! The node's side of the wire: as wide as it may be, frozen, away, counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

/// What is read at once where nothing limits it.
const CHUNK_BYTES: usize = 16 * 1024;
/// On a slow line: as much as a segment on Ethernet holds, so that connections take turns as they would there.
const SEGMENT_BYTES: usize = 1400;
/// What the kernel may hold for each direction of a connection on a slow line; it doubles the number.
const SOCKET_BYTES: usize = 4 * 1024;

/// What may become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Flowing,
    Frozen,
    Reset,
}

/// One direction of the wire.
#[derive(Default)]
struct Direction {
    bytes: AtomicU64,
    /// When the last byte that was taken on will have passed.
    free_at: Mutex<Option<Instant>>,
}

impl Direction {
    /// Takes `bytes` on; the time at which they have passed.
    fn reserve(&self, bytes: usize, per_second: u64) -> Instant {
        let mut free_at = self.free_at.lock();
        let start = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
        let end = start + Duration::from_micros(bytes as u64 * 1_000_000 / per_second);
        *free_at = Some(end);
        end
    }
}

/// All of the wire.
pub(super) struct Line {
    /// 0 is no limit.
    bytes_per_second: AtomicU64,
    is_away: AtomicBool,
    frozen: watch::Sender<bool>,
    connections: Mutex<HashMap<u64, watch::Sender<Flow>>>,
    to_hub: Direction,
    to_node: Direction,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes_per_second: AtomicU64::new(0),
            is_away: AtomicBool::new(false),
            frozen: watch::channel(false).0,
            connections: Mutex::default(),
            to_hub: Direction::default(),
            to_node: Direction::default(),
        }
    }
}

impl Line {
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.to_hub.bytes.load(Ordering::Relaxed), self.to_node.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn set_bandwidth(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
        if is_away {
            self.reset_all();
        }
    }

    pub(super) fn set_frozen(&self, is_frozen: bool) {
        self.frozen.send_replace(is_frozen);
        if !is_frozen {
            for flow in self.connections.lock().values() {
                flow.send_if_modified(|now| {
                    let was_frozen = *now == Flow::Frozen;
                    if was_frozen {
                        *now = Flow::Flowing;
                    }
                    was_frozen
                });
            }
        }
    }

    pub(super) fn reset_all(&self) {
        for flow in self.connections.lock().values() {
            flow.send_replace(Flow::Reset);
        }
    }

    /// What becomes of one connection, if it is still open.
    pub(super) fn set(&self, connection: u64, flow: Flow) {
        if let Some(sender) = self.connections.lock().get(&connection) {
            sender.send_replace(flow);
        }
    }

    pub(super) fn open(&self, connection: u64) -> watch::Receiver<Flow> {
        let (flow, receiver) = watch::channel(Flow::Flowing);
        self.connections.lock().insert(connection, flow);
        receiver
    }

    pub(super) fn close(&self, connection: u64) {
        self.connections.lock().remove(&connection);
    }

    /// On a slow line the kernel holds little: what it took would look to the node as if it had been sent.
    pub(super) fn shrink_buffers(&self, tcp: &TcpStream) {
        if self.bytes_per_second.load(Ordering::Relaxed) > 0 {
            // Where the kernel refuses, the line is slow all the same.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(tcp, SOCKET_BYTES);
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(tcp, SOCKET_BYTES);
        }
    }

    /// Carries bytes between the node and what is behind, until that has ended, the node has left, or the connection is reset.
    pub(super) async fn carry(
        &self,
        tcp: &mut TcpStream,
        inner: impl AsyncRead + AsyncWrite,
        mut flow: watch::Receiver<Flow>,
    ) {
        let (from_node, to_node) = tcp.split();
        let (from_hub, to_hub) = tokio::io::split(inner);
        let up = async {
            self.pump(from_node, to_hub, &self.to_hub, flow.clone()).await;
            // A node that sends nothing more may still read.
            std::future::pending::<()>().await;
        };
        let down = self.pump(from_hub, to_node, &self.to_node, flow.clone());
        let reset = async {
            // The sender lives as long as the connection is in the table, which is longer than this.
            let _ = flow.clone().wait_for(|flow| *flow == Flow::Reset).await;
        };
        tokio::select! {
            () = up => {}
            () = down => {}
            () = reset => {}
        }
        if *flow.borrow_and_update() == Flow::Reset {
            let _ = tcp.set_zero_linger();
        }
    }

    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        direction: &Direction,
        mut flow: watch::Receiver<Flow>,
    ) {
        let mut frozen = self.frozen.subscribe();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let is_slow = self.bytes_per_second.load(Ordering::Relaxed) > 0;
            let chunk = if is_slow { SEGMENT_BYTES } else { CHUNK_BYTES };
            let Ok(count @ 1..) = from.read(&mut buffer[..chunk]).await else { break };
            let per_second = self.bytes_per_second.load(Ordering::Relaxed);
            if per_second > 0 {
                tokio::time::sleep_until(direction.reserve(count, per_second)).await;
            }
            // Both senders live as long as this is polled.
            let _ = frozen.wait_for(|is_frozen| !is_frozen).await;
            let _ = flow.wait_for(|flow| *flow != Flow::Frozen).await;
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            direction.bytes.fetch_add(count as u64, Ordering::Relaxed);
        }
        // Whoever is behind has left, too: nothing is owed to it.
        let _ = to.shutdown().await;
    }
}
