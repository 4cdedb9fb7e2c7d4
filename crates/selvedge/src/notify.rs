//! What a service manager is notified of: that a role has started, that it stops, and that it is alive.
//!
//! The protocol is sd_notify(3): datagrams of `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names. Where it names none, as in
//! a terminal or a container, nothing is sent. A role never fails for a manager that does not listen: what it does matters more
//! than who knows.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::warn;

/// Where the manager listens: a path, or `@` and a name in the abstract namespace.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long the manager waits for a sign of life, and of which process.
const WATCHDOG_PERIOD: &str = "WATCHDOG_USEC";
const WATCHDOG_PROCESS: &str = "WATCHDOG_PID";

/// Reports that everything has started; from now on the manager also hears that the runtime makes progress, when it asked to.
///
/// The sign of life is a task like any other: a runtime whose threads are all stuck sends none, and is started again.
pub fn ready() {
    notify("READY=1");
    if let Some(period) = watchdog_period(|name| std::env::var(name).ok(), std::process::id()) {
        base_observe::spawn_detached("watchdog", async move {
            let mut signs = tokio::time::interval(period);
            loop {
                signs.tick().await;
                notify("WATCHDOG=1");
            }
        });
    }
}

/// Reports that a stop was asked for: what takes long now is no failed start.
pub fn stopping() {
    notify("STOPPING=1");
}

fn notify(state: &str) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        warn!(%error, state, socket = %socket.display(), "Failed to notify the service manager.");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read must not hold a role up.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(|_| ())
}

/// How often a sign of life is sent: twice as often as it is waited for, so that one late tick is no restart.
fn watchdog_period(variable: impl Fn(&str) -> Option<String>, process: u32) -> Option<Duration> {
    let waits: u64 = variable(WATCHDOG_PERIOD)?.parse().ok()?;
    // A variable that a parent has left is about the parent.
    let is_ours = variable(WATCHDOG_PROCESS).is_none_or(|id| id == process.to_string());
    (is_ours && waits >= 2).then(|| Duration::from_micros(waits / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let name = format!("selvedge-notify-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).expect("a short name");
        let cases = [
            (UnixDatagram::bind(&path), path.into_os_string()),
            (UnixDatagram::bind_addr(&by_name), format!("@{name}").into()),
        ];
        for (manager, socket) in cases {
            let manager = manager.expect("a free address");
            send(&socket, "READY=1").expect("somebody listens");
            let mut received = [0; 32];
            let length = manager.recv(&mut received).expect("it was sent");
            assert_eq!(&received[..length], b"READY=1", "{}", socket.display());
        }
        send(OsStr::new("/nowhere/at/all"), "READY=1").expect_err("nobody listens");
    }

    #[test]
    fn signs_of_life_are_twice_as_frequent_as_they_are_waited_for() {
        let period = |period: &'static str, process: Option<&'static str>| {
            let variable = move |name: &str| match name {
                WATCHDOG_PERIOD => Some(period.to_owned()).filter(|value| !value.is_empty()),
                _ => process.map(str::to_owned),
            };
            watchdog_period(variable, 7)
        };
        assert_eq!(period("120000000", Some("7")), Some(Duration::from_secs(60)));
        assert_eq!(period("120000000", None), Some(Duration::from_secs(60)));
        for (micros, process) in
            [("120000000", Some("8")), ("", Some("7")), ("0", None), ("1", None), ("soon", None), ("-1", None)]
        {
            assert_eq!(period(micros, process), None, "{micros} {process:?}");
        }
    }
}
