//! A Modbus TCP device played by pymodbus, which keeps a log of every value it gave away.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// The device; dropping it ends its process.
pub struct ModbusDevice {
    child: Child,
    log: PathBuf,
    /// TCP port on 127.0.0.1.
    pub port: u16,
}

/// One answered read of holding registers, from the server's own log.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Answered {
    /// When, in nanoseconds since 1970.
    pub time_ns: i64,
    /// First register.
    pub address: u16,
    /// The values.
    pub registers: Vec<u16>,
}

impl ModbusDevice {
    /// Starts it on a free port; `None` after a printed reason where pymodbus is not installed.
    pub fn start(dir: &Path, script: &Path) -> Result<Option<Self>> {
        let Some(python) = std::env::var_os("SELVEDGE_PYTHON") else {
            crate::skip("no pymodbus; `cargo xtask test` installs it unless --no-install is given");
            return Ok(None);
        };
        let log = dir.join("modbus-server.log");
        let mut child = Command::new(python)
            .arg(script)
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start pymodbus")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output is a pipe")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().strip_prefix("listening ").and_then(|port| port.parse().ok());
        match port {
            Some(port) => Ok(Some(Self { child, log, port })),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                anyhow::bail!("pymodbus said `{}` instead of its port", line.trim())
            }
        }
    }

    /// Every answer so far.
    pub fn answered(&self) -> Result<Vec<Answered>> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).context("a line of the server's log")).collect()
    }
}

impl Drop for ModbusDevice {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
