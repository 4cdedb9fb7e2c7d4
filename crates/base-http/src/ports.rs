//! `DATA_DIR/ports.json`: where every listener of a role is, for people, tests and `selvedge status`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::Address;

/// The only version of the file so far; `api_edge::ports` names the keys.
const FORMAT_VERSION: u32 = 1;

/// Several roles in one process write the same file.
static WRITER: Mutex<()> = Mutex::new(());

/// The addresses of all listeners, as in `ports.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Format version; 1.
    pub version: u32,
    /// Listener name → `ip:port` or `unix:/path`.
    pub listeners: BTreeMap<String, String>,
}

/// Why `ports.json` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// It is there and cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what this version writes.
    #[error("failed to read {}: version {version} is not known; it was written by a newer selvedge", path.display())]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It cannot be written.
    #[error("failed to record the ports")]
    Write(#[source] base_pki::WriteFileError),
}

impl Default for Ports {
    fn default() -> Self {
        Self { version: FORMAT_VERSION, listeners: BTreeMap::new() }
    }
}

impl Ports {
    /// Path of the file in a data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("ports.json")
    }

    /// Reads the file. One that is missing, or was cut by a crash of something else, counts as empty: it only holds
    /// what the running process would record again.
    pub fn read(data_dir: &Path) -> Result<Self, PortsError> {
        let path = Self::path(data_dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(PortsError::Read { path, source }),
        };
        let ports: Self = serde_json::from_slice(&bytes).unwrap_or_default();
        if ports.version != FORMAT_VERSION {
            return Err(PortsError::NewerVersion { path, version: ports.version });
        }
        Ok(ports)
    }

    /// Adds one listener to the file, atomically; the others stay.
    pub fn record(data_dir: &Path, name: &str, address: &Address) -> Result<(), PortsError> {
        Self::change(data_dir, |listeners| {
            listeners.insert(name.to_owned(), address.to_string());
        })
    }

    /// Takes listeners out of the file, at a role's start: what a killed process left would mislead.
    pub fn forget(data_dir: &Path, names: &[&str]) -> Result<(), PortsError> {
        Self::change(data_dir, |listeners| listeners.retain(|name, _| !names.contains(&name.as_str())))
    }

    fn change(data_dir: &Path, change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<(), PortsError> {
        let _guard = WRITER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut ports = Self::read(data_dir)?;
        let before = ports.listeners.clone();
        change(&mut ports.listeners);
        let path = Self::path(data_dir);
        if ports.listeners == before && path.exists() {
            return Ok(());
        }
        let mut text = serde_json::to_string_pretty(&ports).expect("strings and a number always serialise");
        text.push('\n');
        base_pki::write_public(&path, text.as_bytes()).map_err(PortsError::Write)
    }
}
