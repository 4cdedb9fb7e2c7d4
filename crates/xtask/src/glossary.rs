//! The words we use, held by `cargo xtask check`: a table of metaphors and the field's words for them.
//!
//! A name is right when an engineer of Kubernetes, EdgeX or eKuiper guesses it before opening the file. The table finds whole
//! words in comments, texts and identifiers (`last_told` and `LastTold` both hold `told`); words that also have an honest
//! meaning (`made`, `answer`, `mark`, `wall` clock, `slot`) are left to reviewers.
//!
//! `glossary/exceptions.txt` lists where a word may still be: a path and a word, or `*` for all words. The list only shrinks:
//! an entry that is no longer needed is a fault, too. A new entry needs a reviewer who agrees.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What is found, and what to write instead. Longer phrases come before the words they hold.
const TABLE: &[(&str, &str)] = &[
    ("in words", "rejected with a message"),
    ("wish", "desired state, spec"),
    ("wishes", "desired state, spec"),
    ("wished", "desired"),
    ("wanted", "desired"),
    ("told", "reported, notified, published"),
    ("tell", "report, notify, say"),
    ("tells", "reports, notifies, says"),
    ("announce", "publish, `emit_event`"),
    ("announces", "publishes"),
    ("announced", "published"),
    ("folder", "directory"),
    ("folders", "directories"),
    ("goes on", "continues, resumes"),
    ("go on", "continue, resume"),
    ("go away", "be removed, be deleted"),
    ("goes away", "is removed, is deleted"),
    ("gone", "deleted, removed, terminated"),
    ("lets go", "releases"),
    ("let go", "release"),
    ("elsewhere", "offset, `OffsetMismatch`"),
    ("stands", "is; offset, acknowledged offset"),
    ("door", "API, trait or entry point"),
    ("doors", "APIs, traits or entry points"),
    ("room", "crate or module; capacity, space"),
    ("rooms", "crates or modules"),
    ("house", "workspace"),
    ("hang up", "close"),
    ("hangs up", "closes"),
    ("hub keeper", "`ConnectionManager`"),
    ("shelf", "reflector store"),
    ("surroundings", "`Context`"),
    ("gather period", "debounce"),
    ("look period", "resync period"),
    ("strangers", "unauthenticated clients; orphaned mirror pods"),
    ("stranger", "unauthenticated client; orphaned mirror pod"),
    ("limping", "degraded"),
    ("limps", "is degraded"),
    ("keep house", "event TTL, garbage collection"),
    ("housekeeping", "event TTL, garbage collection"),
    ("horizon", "compacted revision"),
    ("change window", "watch cache window"),
    ("cut back", "truncate"),
    ("intake", "ingest"),
    ("troubles", "errors"),
    ("condemned", "`kill_requested`"),
];

/// What is looked at: sources and the pages that people read.
const LOOKED_AT: &[&str] =
    &["crates", "tests", "docs", "examples", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];

/// This table and its exceptions hold every word.
const NOT_LOOKED_AT: &[&str] = &["crates/xtask/src/glossary"];

const EXCEPTIONS: &str = include_str!("glossary/exceptions.txt");

/// A word found: where, on which line, and the table's row.
struct Hit {
    path: String,
    line: usize,
    row: usize,
}

/// Looks at every source and page; returns what is wrong.
pub fn faults(root: &Path) -> Result<Vec<String>> {
    let mut hits = Vec::new();
    for path in LOOKED_AT.iter().flat_map(|top| files(&root.join(top))) {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if NOT_LOOKED_AT.iter().any(|skipped| shown.starts_with(skipped)) {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {shown}"))?;
        hits.extend(find(&text).into_iter().map(|(line, row)| Hit { path: shown.clone(), line, row }));
    }
    Ok(judge(&hits, EXCEPTIONS))
}

/// Which hits no exception covers, and which exceptions cover nothing.
fn judge(hits: &[Hit], exceptions: &str) -> Vec<String> {
    let is_entry = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let exceptions: Vec<(&str, &str)> =
        exceptions.lines().map(str::trim).filter(is_entry).filter_map(|line| line.split_once(' ')).collect();
    let mut used = BTreeSet::new();
    let mut faults = Vec::new();
    for hit in hits {
        let (word, instead) = TABLE[hit.row];
        let covers = |(path, excepted): &(&str, &str)| is_below(&hit.path, path) && [word, "*"].contains(excepted);
        match exceptions.iter().position(covers) {
            Some(exception) => {
                used.insert(exception);
            }
            None => faults.push(format!("{}:{}: `{word}`: write {instead}", hit.path, hit.line)),
        }
    }
    for (number, (path, word)) in exceptions.iter().enumerate().filter(|(number, _)| !used.contains(number)) {
        faults.push(format!(
            "crates/xtask/src/glossary/exceptions.txt: entry {} `{path} {word}` is no longer needed: remove it",
            number + 1
        ));
    }
    faults
}

fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Lines (from 1) and rows of the table that a text holds; of each row once a line.
fn find(text: &str) -> Vec<(usize, usize)> {
    let words = words(text);
    let mut found = BTreeSet::new();
    for (at, (line, _)) in words.iter().enumerate() {
        for (row, (phrase, _)) in TABLE.iter().enumerate() {
            let mut parts = phrase.split(' ');
            let mut here = words[at..].iter();
            if parts.all(|part| here.next().is_some_and(|(_, word)| word == part)) {
                found.insert((*line, row));
            }
        }
    }
    found.into_iter().collect()
}

/// The words of a text in lower case with their lines; identifiers fall apart at `_` and at capitals.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut before = ' ';
        for character in line.chars() {
            if character.is_ascii_alphabetic() {
                let begins = !before.is_ascii_alphabetic() || character.is_uppercase() && before.is_lowercase();
                if begins {
                    words.push((number, String::new()));
                }
                let word = &mut words.last_mut().expect("a first letter begins a word").1;
                word.push(character.to_ascii_lowercase());
            }
            before = character;
        }
    }
    words
}

fn files(top: &Path) -> Vec<PathBuf> {
    if top.is_file() {
        return vec![top.to_owned()];
    }
    let mut found = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // Recorded data and other people's files keep their words.
            let is_data = path.ends_with("data") || path.ends_with("definitions") || path.ends_with("target");
            if path.is_dir() && !is_data {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::{Hit, TABLE, find, judge};

    fn check(text: &str, expected: &[(usize, &str)]) {
        let found: Vec<_> = find(text).into_iter().map(|(line, row)| (line, TABLE[row].0)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn whole_words_are_found_in_prose_and_identifiers() {
        check("// It is told.\nlet last_told = LastTold;", &[(1, "told"), (2, "told")]);
        check("Folder FOLDERS a folder", &[(1, "folder"), (1, "folders")]);
        check("it goes on; GoesOn; goes\non", &[(1, "goes on")]);
        check("outdoors, bedroom, a tellurium stool, unfolder, wishbone", &[]);
    }

    #[test]
    fn an_exception_covers_its_path_and_word_and_must_be_needed() {
        let row = TABLE.iter().position(|(word, _)| *word == "door").expect("in the table");
        let hits = [Hit { path: "crates/a/src/lib.rs".to_owned(), line: 3, row }];
        assert_eq!(judge(&hits, "").len(), 1);
        for exception in ["crates/a door", "# reason\n\ncrates/a *", "crates/a/src/lib.rs door"] {
            assert_eq!(judge(&hits, exception), Vec::<String>::new(), "{exception}");
        }
        // The fault stays, and the exception is not needed.
        for exception in ["crates/a room", "crates door", "crates/ab door", "crates/a/src/lib door"] {
            let expected = if exception == "crates door" { 0 } else { 2 };
            assert_eq!(judge(&hits, exception).len(), expected, "{exception}");
        }
    }
}
