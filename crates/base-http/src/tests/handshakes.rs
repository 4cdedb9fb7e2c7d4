//! Handshakes when there are more of them than places.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use super::hostile::Running;
use super::*;
use crate::RejectReason;

/// Connects from an address of loopback that is not the one of the other clients.
async fn connect_from(source: &str, addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0))?;
    socket.connect(addr).await
}

/// Clients that send a byte of a handshake now and then, and come again as soon as they are closed.
struct Tricklers {
    tasks: Vec<JoinHandle<()>>,
    connected: Arc<AtomicUsize>,
}

impl Tricklers {
    fn start(count: usize, source: &'static str, addr: SocketAddr) -> Self {
        let connected = Arc::new(AtomicUsize::new(0));
        let trickle = |connected: Arc<AtomicUsize>| async move {
            loop {
                let Ok(mut stream) = connect_from(source, addr).await else { continue };
                connected.fetch_add(1, Ordering::SeqCst);
                // A record that holds a ClientHello, which never becomes whole.
                for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(7)) {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    // Waits for its next byte, or for being closed.
                    if tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await.is_ok() {
                        break;
                    }
                }
            }
        };
        let tasks = (0..count).map(|_| tokio::spawn(trickle(connected.clone()))).collect();
        Self { tasks, connected }
    }
}

impl Drop for Tricklers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn an_address_that_trickles_handshakes_keeps_no_other_out() {
    let running = Running::start(Limits { handshakes_max: 50, ..Limits::default() });
    let tricklers = Tricklers::start(300, "127.0.0.2", running.addr);
    eventually("all of them have come", || tricklers.connected.load(Ordering::SeqCst) >= 300).await;
    eventually("they have all places", || running.connections.stats().handshaking() == 50).await;
    let all = async {
        for _ in 0..20 {
            running.serves_those_it_knows().await;
        }
    };
    // Half of the time that a handshake may take when all places are taken.
    tokio::time::timeout(Duration::from_millis(2500), all).await.expect("the others are served at once");
    assert!(running.rejected(RejectReason::Handshakes) > 0);
    drop(tricklers);
    running.stop().await;
}

#[tokio::test]
async fn a_fleet_behind_one_address_gets_in_beside_others() {
    let running = Arc::new(Running::start(Limits { handshakes_max: 4, ..Limits::default() }));
    let client = |source: &'static str| {
        let running = running.clone();
        tokio::spawn(async move {
            // As every client does: one that had to give way comes again.
            loop {
                let stream = connect_from(source, running.addr).await.unwrap();
                let Ok(stream) = running.site.tls_over(stream, Some(&running.site.client), "h2").await else {
                    continue;
                };
                let Ok((mut client, connection)) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
                else {
                    continue;
                };
                tokio::spawn(connection);
                if let Ok(answer) = client.send_request(get("/")).await {
                    break assert_eq!(text(answer).await, "ok");
                }
            }
        })
    };
    let clients: Vec<_> =
        (0..100).map(|number| client(if number % 10 == 9 { "127.0.0.3" } else { "127.0.0.2" })).collect();
    for client in clients {
        soon("everybody gets in", client).await.unwrap();
    }
    let gave_way = running.rejected(RejectReason::Handshakes);
    assert!(gave_way <= 10, "{gave_way} gave way, which are more than those who came from other addresses");
    Arc::into_inner(running).unwrap().stop().await;
}
