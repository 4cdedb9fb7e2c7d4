//! The machine is switched off. The other side is a logind of the test's own: on a socket of its own, and on a real bus.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use node_kubelet::{Kubelet, KubeletConfig, MachineShutdown};
use serde_json::json;

use super::support::{FakeHub, eventually};
use super::{Node, is_ready, pod, runs, status_of};

/// A logind: gives away the ends of pipes, and sees when they are closed.
struct Logind {
    bus: PathBuf,
    state: Arc<Mutex<State>>,
    daemon: Option<Child>,
    _dir: tempfile::TempDir,
}

#[derive(Default)]
struct State {
    connection: Option<UnixStream>,
    inhibitors: Vec<UnixStream>,
}

impl Drop for Logind {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}

impl Logind {
    /// On a socket of its own: there is nobody between it and the kubelet.
    fn alone() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = dir.path().join("bus");
        let listener = UnixListener::bind(&bus).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for (expected, answer) in
                [("\0AUTH EXTERNAL ", "OK 1234\r\n"), ("NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD\r\n"), ("BEGIN", "")]
            {
                let line = read_line(&mut stream);
                assert!(line.starts_with(expected), "{line:?}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
            shared.lock().unwrap().connection = Some(stream.try_clone().unwrap());
            serve(stream, &shared);
        });
        Self { bus, state, daemon: None, _dir: dir }
    }

    /// On Debian's bus, where there is one.
    fn on_a_bus() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let bus = dir.path().join("bus");
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/></policy></busconfig>",
            bus.display()
        );
        std::fs::write(&config, text).unwrap();
        let spawned = Command::new("dbus-daemon")
            .args(["--nofork", "--nosyslog", "--config-file"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn();
        let daemon = match spawned {
            Ok(daemon) => daemon,
            Err(error) => {
                testkit::skip(&format!("there is no dbus-daemon here: {error}"));
                return None;
            }
        };
        let logind = Self { bus, state: Arc::default(), daemon: Some(daemon), _dir: dir };
        let mut stream = connected(&logind.bus);
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n").as_bytes()).unwrap();
        assert!(read_line(&mut stream).starts_with("OK ") && read_line(&mut stream).starts_with("AGREE_UNIX_FD"));
        let of_bus = [(1, 'o', "/org/freedesktop/DBus"), (6, 's', "org.freedesktop.DBus")];
        stream.write_all(&message(1, 1, &[&of_bus[..], &[(3, 's', "Hello")]].concat(), None, "", &[])).unwrap();
        let mut name = text_body("org.freedesktop.login1");
        name.extend(4_u32.to_le_bytes());
        stream
            .write_all(&message(1, 2, &[&of_bus[..], &[(3, 's', "RequestName")]].concat(), None, "su", &name))
            .unwrap();
        logind.state.lock().unwrap().connection = Some(stream.try_clone().unwrap());
        let shared = logind.state.clone();
        std::thread::spawn(move || serve(stream, &shared));
        Some(logind)
    }

    /// Files that were given away and are still open.
    fn held(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.inhibitors.retain_mut(|end| {
            end.set_nonblocking(true).unwrap();
            // The end of a stream is the other side's close.
            end.read(&mut [0]).is_err()
        });
        state.inhibitors.len()
    }

    async fn is_held(&self, count: usize) {
        eventually(&format!("{count} wait"), || match self.held() {
            held if held == count => Ok(()),
            held => Err(held.to_string()),
        })
        .await;
    }

    fn prepare_for_shutdown(&self, begins: bool) {
        let fields = [
            (1, 'o', "/org/freedesktop/login1"),
            (2, 's', "org.freedesktop.login1.Manager"),
            (3, 's', "PrepareForShutdown"),
        ];
        let signal = message(4, 9, &fields, None, "b", &u32::from(begins).to_le_bytes());
        self.state.lock().unwrap().connection.as_mut().unwrap().write_all(&signal).unwrap();
    }
}

fn connected(path: &Path) -> UnixStream {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(std::time::Instant::now() < deadline, "no bus after 30 s: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A byte at a time: what follows is another protocol.
fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn text_body(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A message with fields that are texts, the serial that it answers with the number of files, and a body.
fn message(
    kind: u8,
    serial: u32,
    texts: &[(u8, char, &str)],
    reply: Option<(u32, u32)>,
    form: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, kind, text) in texts {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([*code, 1, *kind as u8, 0]);
        fields.extend((text.len() as u32).to_le_bytes());
        fields.extend(text.as_bytes());
        fields.push(0);
    }
    let numbers = reply.map(|(to, files)| [(5, to), (9, files)]);
    for (code, number) in numbers.into_iter().flatten().filter(|(code, number)| *code == 5 || *number > 0) {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([code, 1, b'u', 0]);
        fields.extend(number.to_le_bytes());
    }
    if !form.is_empty() {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([8, 1, b'g', 0, form.len() as u8]);
        fields.extend(form.as_bytes());
        fields.push(0);
    }
    let mut bytes = vec![b'l', kind, 0, 1];
    for number in [body.len() as u32, serial, fields.len() as u32] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(fields);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body);
    bytes
}

/// Answers calls until the other side has closed.
fn serve(mut stream: UnixStream, state: &Mutex<State>) {
    loop {
        let mut fixed = [0; 16];
        if stream.read_exact(&mut fixed).is_err() {
            return;
        }
        let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap());
        let (body, serial, fields) = (number(4) as usize, number(8), number(12) as usize);
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        stream.read_exact(&mut rest).unwrap();
        if fixed[1] != 1 {
            continue;
        }
        let text = String::from_utf8_lossy(&rest).into_owned();
        let sender = text.find(":1.").map(|at| text[at..].split('\0').next().unwrap().to_owned());
        let to: Vec<(u8, char, &str)> = sender.iter().map(|sender| (6, 's', sender.as_str())).collect();
        let answer = |form: &str, body: &[u8], files| message(2, 50, &to, Some((serial, files)), form, body);
        if text.contains("InhibitDelayMaxUSec") {
            let mut value = vec![1, b't', 0, 0, 0, 0, 0, 0];
            value.extend(30_000_000_u64.to_le_bytes());
            stream.write_all(&answer("v", &value, 0)).unwrap();
        } else if text.contains("Inhibit") {
            assert!(text.contains("shutdown") && text.contains("delay"), "{text}");
            let (ours, theirs) = UnixStream::pair().unwrap();
            state.lock().unwrap().inhibitors.push(ours);
            send_with(&stream, &answer("h", &0_u32.to_le_bytes(), 1), OwnedFd::from(theirs));
        } else {
            stream.write_all(&answer("s", &text_body(":1.0"), 0)).unwrap();
        }
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], file: OwnedFd) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&files)));
    let parts = [std::io::IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream, &parts, &mut ancillary, rustix::net::SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

async fn start(node: &mut Node, hub: &FakeHub, logind: &Logind) {
    let config = KubeletConfig {
        machine_shutdown: Some(MachineShutdown {
            groups: MachineShutdown::of_two(Duration::from_secs(20), Duration::from_secs(5)),
            bus: logind.bus.clone(),
        }),
        ..node.config(Some(hub))
    };
    node.kubelet = Some(Kubelet::start(config, vec![node.runtime.clone()], node.shutdown.clone()).await.unwrap());
}

fn ready_of(hub: &FakeHub) -> String {
    let node = hub.object("/api/v1/nodes/n");
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
    format!("{} {}", ready["status"].as_str().unwrap_or_default(), ready["message"].as_str().unwrap_or_default())
}

async fn ends_in_order(logind: Logind) {
    let hub = FakeHub::start().await;
    let mut critical = pod("critical", json!({}));
    critical["spec"]["priority"] = 2_000_001_000.into();
    hub.put_pod(critical);
    hub.put_pod(pod("ordinary", json!({})));
    let mut node = Node::new();
    start(&mut node, &hub, &logind).await;
    is_ready(&hub, "critical").await;
    is_ready(&hub, "ordinary").await;
    logind.is_held(1).await;

    node.runtime.hold_stops(true);
    logind.prepare_for_shutdown(true);
    eventually("the ordinary pod is stopped", || match node.runtime.acts() {
        acts if acts.iter().any(|act| act == "stop uid-ordinary_a_0") => Ok(()),
        acts => Err(format!("{acts:?}")),
    })
    .await;
    eventually("the node is not ready", || match ready_of(&hub) {
        ready if ready == "False node is shutting down" => Ok(()),
        ready => Err(ready),
    })
    .await;
    hub.put_pod(pod("late", json!({})));
    eventually("no pod is taken any more", || {
        let status = status_of(&hub, "late");
        let is_rejected = status["reason"] == "NodeShutdown"
            && status["message"] == "Pod was rejected: Pod was rejected as the node is shutting down.";
        if is_rejected { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    // Its turn comes when the others have ended; the machine waits.
    assert!(!node.runtime.acts().iter().any(|act| act == "stop uid-critical_a_0"));
    assert_eq!(logind.held(), 1);
    node.runtime.hold_stops(false);
    runs(&node, &[]).await;
    logind.is_held(0).await;
    for name in ["ordinary", "critical"] {
        eventually("the hub knows", || {
            let status = status_of(&hub, name);
            let is_said = status["phase"] == "Failed"
                && status["reason"] == "Terminated"
                && status["message"] == "Pod was terminated in response to imminent node shutdown.";
            if is_said { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }

    // Somebody has thought better of it.
    logind.prepare_for_shutdown(false);
    logind.is_held(1).await;
    hub.put_pod(pod("next", json!({})));
    is_ready(&hub, "next").await;
    eventually("the node is ready", || match ready_of(&hub) {
        ready if ready.starts_with("True ") => Ok(()),
        ready => Err(ready),
    })
    .await;
    node.kill().await;
    logind.is_held(0).await;
}

#[tokio::test]
async fn pods_end_in_their_order_before_the_machine_does() {
    ends_in_order(Logind::alone()).await;
}

#[tokio::test]
async fn a_real_bus_carries_it_as_well() {
    if let Some(logind) = Logind::on_a_bus() {
        ends_in_order(logind).await;
    }
}

#[tokio::test]
async fn what_ended_with_the_machine_runs_again_after_it_where_no_hub_has_heard_of_it() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let (mut node, logind) = (Node::new(), Logind::alone());
    start(&mut node, &hub, &logind).await;
    is_ready(&hub, "web").await;
    logind.is_held(1).await;
    hub.refuse_keys(true);
    logind.prepare_for_shutdown(true);
    runs(&node, &[]).await;
    logind.is_held(0).await;
    node.kill().await;
    node.start(None).await;
    runs(&node, &["uid-web_a_1"]).await;
    node.kill().await;
}
