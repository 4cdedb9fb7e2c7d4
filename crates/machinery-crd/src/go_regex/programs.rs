//! Compiled patterns, shared by all schemas and rules.
//!
//! A program takes up to a thousand times the memory of its pattern, and one definition may bring two thousand patterns. If
//! each schema kept its own, whoever may write definitions would decide how much memory the server takes. So they are
//! kept here, for as long as they are used and the bytes of all of them allow: the pattern that has waited longest for a
//! text goes first, and is compiled again when it is met again. Whoever meets it pays for that ([`compile_steps`]).

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use regex::Regex;

use super::{COMPILED_BYTES_MAX, compile};

/// Some three hundred patterns as definitions have them, or two of the largest. What threads need while they match comes on
/// top, by at most [`PROGRAM_BYTES`] each.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
const _: () = assert!(COMPILED_BYTES_MAX as u64 <= BYTES_MAX / 2, "a program must have space beside another");

/// What each program takes beside its parts: its pattern, and what a thread remembers while it matches.
const PROGRAM_BYTES: u64 = 48 * 1024;

/// A program, or why there is none.
pub(crate) type Program = Result<Regex, Arc<str>>;

static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Programs {
    entries: HashMap<Box<str>, Entry>,
    bytes: u64,
    /// Counts uses.
    now: u64,
}

#[derive(Debug)]
struct Entry {
    program: Program,
    bytes: u64,
    used: u64,
}

/// What it costs to compile a pattern of this weight: four milliseconds per megabyte, and some microseconds for each.
pub(crate) fn compile_steps(bytes: u32) -> usize {
    500 + usize::try_from(bytes / 8).unwrap_or(usize::MAX)
}

/// Whether a pattern is compiled already.
pub(crate) fn is_compiled(pattern: &str) -> bool {
    programs().entries.contains_key(pattern)
}

/// The program of a pattern that was read and takes so many bytes ([`super::weigh`]).
pub(crate) fn program(pattern: &str, bytes: u32) -> Program {
    if let Some(program) = programs().find(pattern) {
        return program;
    }
    // Not under the lock: others match meanwhile. Two who meet it at once compile it twice, which harms nobody.
    let program = compile(pattern).map_err(Arc::from);
    programs().keep(pattern, &program, bytes);
    program
}

fn programs() -> MutexGuard<'static, Programs> {
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Programs {
    fn find(&mut self, pattern: &str) -> Option<Program> {
        self.now += 1;
        let entry = self.entries.get_mut(pattern)?;
        entry.used = self.now;
        Some(entry.program.clone())
    }

    fn keep(&mut self, pattern: &str, program: &Program, bytes: u32) {
        let bytes = PROGRAM_BYTES + u64::from(bytes);
        if let Some(before) = self.entries.remove(pattern) {
            self.bytes -= before.bytes;
        }
        while self.bytes + bytes > BYTES_MAX && !self.entries.is_empty() {
            // There are some hundreds at most, and to compile one takes longer than to look at all of them.
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(pattern, _)| pattern.clone());
            let removed = oldest.and_then(|oldest| self.entries.remove(&oldest));
            self.bytes -= removed.map_or(self.bytes, |entry| entry.bytes);
        }
        let entry = Entry { program: program.clone(), bytes, used: self.now };
        self.bytes += bytes;
        self.entries.insert(pattern.into(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_take_a_bounded_number_of_bytes_and_the_one_used_last_stays() {
        let mut programs = Programs::default();
        let program = compile("^a$").map_err(Arc::from);
        for number in 0..10_000 {
            programs.keep(&format!("^a{number}$"), &program, 10_000);
            assert!(programs.find("^a0$").is_some(), "it was used a moment ago");
            assert!(programs.bytes <= BYTES_MAX);
        }
        let counted: u64 = programs.entries.values().map(|entry| entry.bytes).sum();
        assert_eq!(programs.bytes, counted);
        assert!(programs.entries.len() > 200 && programs.find("^a1$").is_none());
        programs.keep("large", &program, COMPILED_BYTES_MAX);
        programs.keep("large", &program, COMPILED_BYTES_MAX);
        assert!(programs.bytes <= BYTES_MAX && programs.find("^a0$").is_some());
    }
}
