//! What is asked of systemd-logind.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::bus::{Bus, BusError, Call, Received};

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SHUTDOWN: &str = "PrepareForShutdown";

pub(crate) struct Logind {
    bus: Bus,
}

impl Logind {
    /// Connects, and has the signals of shutdowns sent.
    pub async fn connect(path: &Path) -> Result<Self, BusError> {
        let mut bus = Bus::connect(path).await?;
        let rule = format!("type='signal',sender='{NAME}',interface='{MANAGER}',member='{SHUTDOWN}',path='{PATH}'");
        bus.call(&Call::of_bus("AddMatch", &[&rule])).await?;
        Ok(Self { bus })
    }

    /// How long logind waits for whoever asked it to.
    pub async fn delay_max(&mut self) -> Result<Duration, BusError> {
        let call = Call {
            destination: NAME,
            path: PATH,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            texts: &[MANAGER, "InhibitDelayMaxUSec"],
        };
        let reply = self.bus.call(&call).await?;
        Ok(Duration::from_micros(reply.variant_u64()?))
    }

    /// The file that makes logind wait until it is closed.
    pub async fn inhibit(&mut self) -> Result<OwnedFd, BusError> {
        let texts = ["shutdown", "selvedge", "Selvedge ends the pods of this node", "delay"];
        let call = Call { destination: NAME, path: PATH, interface: MANAGER, member: "Inhibit", texts: &texts };
        let reply = self.bus.call(&call).await?;
        reply.into_fd()
    }

    /// Waits until a shutdown begins, or one that has begun is cancelled.
    pub async fn prepare_for_shutdown(&mut self) -> Result<bool, BusError> {
        loop {
            let signal: Received = self.bus.signal().await?;
            if signal.is(PATH, MANAGER, SHUTDOWN) {
                return signal.bool();
            }
        }
    }
}
