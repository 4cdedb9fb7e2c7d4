//! Files that are mapped into this process, and what of them need not be there.

use std::fs;
use std::io;

use rustix::mm::{Advice, madvise};

/// Drops the pages of each mapping of a file that nothing has written to or can write to: the program's code, its constants, its
/// libraries. What runs next is mapped again from the page cache, at the cost of a minor fault for each 64 KiB. Returns the
/// bytes that were mapped.
///
/// # Errors
/// When `/proc` cannot be read, or the kernel rejects the advice; nothing but memory is lost.
pub fn unmap_untouched_files() -> io::Result<usize> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for mapping in Mapping::read_all(&smaps).filter(Mapping::is_untouched_file) {
        // SAFETY: no page of this private mapping is a copy of its own and none can become one, since it is not writable: each
        // holds what the file holds, and the next access reads that again. The program's file is not changed while it runs
        // (the kernel rejects writes to it); a library's is replaced by package managers, not rewritten.
        unsafe { madvise(mapping.start as *mut _, mapping.length, Advice::LinuxDontNeed) }?;
        bytes += mapping.resident_kib * 1024;
    }
    Ok(bytes)
}

/// What `/proc/self/smaps` says of one mapping.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mapping {
    start: usize,
    length: usize,
    is_writable: bool,
    is_private: bool,
    is_file: bool,
    resident_kib: usize,
    /// Pages that are copies of the process's own: written to, or relocated.
    own_kib: usize,
    locked_kib: usize,
}

impl Mapping {
    fn read_all(smaps: &str) -> impl Iterator<Item = Self> + '_ {
        let mut lines = smaps.lines().peekable();
        std::iter::from_fn(move || {
            let mut mapping = loop {
                if let Some(mapping) = Self::read_head(lines.next()?) {
                    break mapping;
                }
            };
            while let Some(line) = lines.peek()
                && Self::read_head(line).is_none()
            {
                if let Some((field, value)) = line.split_once(':') {
                    let kib = || value.trim().trim_end_matches(" kB").parse().unwrap_or(usize::MAX);
                    match field {
                        "Rss" => mapping.resident_kib = kib(),
                        "Anonymous" => mapping.own_kib = kib(),
                        "Locked" => mapping.locked_kib = kib(),
                        _ => {}
                    }
                }
                lines.next();
            }
            Some(mapping)
        })
    }

    /// `55e0465f5000-55e047cb5000 r-xp 00a69000 fe:00 5492348   /usr/bin/selvedge`; `None` for any other line.
    fn read_head(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let permissions = words.next()?.as_bytes();
        let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
        Some(Self {
            start,
            length: end.checked_sub(start)?,
            is_writable: permissions.contains(&b'w'),
            is_private: permissions.contains(&b'p'),
            is_file,
            ..Self::default()
        })
    }

    fn is_untouched_file(&self) -> bool {
        self.is_file && self.is_private && !self.is_writable && self.own_kib == 0 && self.locked_kib == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55e0465f5000-55e047cb5000 r-xp 00a69000 fe:00 5492348                    /opt/a program
Size:              23296 kB
Rss:               11668 kB
Anonymous:             0 kB
Locked:                0 kB
VmFlags: rd ex mr mw me
55e047cb5000-55e047e37000 r--p 02128000 fe:00 5492348                    /opt/a program
Rss:                1544 kB
Anonymous:          1544 kB
Locked:                0 kB
7fad4c000000-7fad4c09f000 r--p 00000000 00:00 0
Rss:                 572 kB
7fad4d000000-7fad4d001000 rw-p 00000000 fe:00 5492348                    /opt/a program
Rss:                   4 kB
Anonymous:             0 kB
";

    #[test]
    fn only_files_that_hold_nothing_of_our_own_are_unmapped() {
        let all: Vec<Mapping> = Mapping::read_all(SMAPS).collect();
        assert_eq!(all.len(), 4);
        let untouched: Vec<&Mapping> = all.iter().filter(|mapping| mapping.is_untouched_file()).collect();
        assert_eq!(untouched.len(), 1);
        assert_eq!((untouched[0].start, untouched[0].resident_kib), (0x55e0_465f_5000, 11668));
    }

    #[test]
    fn the_program_runs_on_afterwards_with_less_mapped() {
        let resident = || -> usize {
            let smaps = fs::read_to_string("/proc/self/smaps").expect("Linux");
            Mapping::read_all(&smaps).filter(Mapping::is_untouched_file).map(|mapping| mapping.resident_kib).sum()
        };
        let before = resident();
        let given_back = unmap_untouched_files().expect("Linux");
        let after = resident();
        assert!(given_back > 0 && after < before, "{before} KiB, {given_back} bytes given back, then {after} KiB");
    }
}
