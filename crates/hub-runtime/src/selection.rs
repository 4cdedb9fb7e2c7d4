//! Which controllers run.

use std::collections::BTreeSet;

use parking_lot::Mutex;

/// Which controllers run, as `--controllers` of kube-controller-manager says it: `*` all, `-NAME` not this one, `NAME` this one.
#[derive(Debug)]
pub struct Selection {
    entries: Vec<String>,
    known: Mutex<BTreeSet<&'static str>>,
}

impl Default for Selection {
    /// All of them.
    fn default() -> Self {
        Self::new(vec!["*".to_owned()])
    }
}

impl Selection {
    /// Of a list of entries; a name goes before `*`, wherever it is in the list.
    pub fn new(entries: Vec<String>) -> Self {
        Self { entries, known: Mutex::default() }
    }

    /// Whether a controller runs. It is known by its name from then on.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        self.known.lock().insert(name);
        let named = self.entries.iter().find_map(|entry| match entry.strip_prefix('-') {
            Some(excluded) => (excluded == name).then_some(false),
            None => (entry == name).then_some(true),
        });
        named.unwrap_or_else(|| self.entries.iter().any(|entry| entry == "*"))
    }

    /// What is wrong with the list, once every controller was asked for: an entry that names none.
    pub(crate) fn check(&self) -> Result<(), UnknownController> {
        let known = self.known.lock();
        let name = |entry: &str| entry.strip_prefix('-').unwrap_or(entry).to_owned();
        let is_unknown = |name: &String| name != "*" && !known.contains(&**name);
        match self.entries.iter().map(|entry| name(entry)).find(is_unknown) {
            None => Ok(()),
            Some(name) => {
                let known = known.iter().copied().collect::<Vec<_>>().join(", ");
                Err(UnknownController { name, known })
            }
        }
    }
}

/// A name that no controller has.
#[derive(Debug, thiserror::Error)]
#[error("no controller is called {name:?}; there are {known}")]
pub struct UnknownController {
    name: String,
    known: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_the_star() {
        let check = |entries: &[&str], expected: [bool; 2]| {
            let selection = Selection::new(entries.iter().map(|entry| (*entry).to_owned()).collect());
            assert_eq!([selection.has("jobs"), selection.has("scheduler")], expected, "{entries:?}");
        };
        check(&["*"], [true, true]);
        check(&["*", "-jobs"], [false, true]);
        check(&["-jobs", "*"], [false, true]);
        check(&["jobs"], [true, false]);
        check(&[], [false, false]);
    }

    #[test]
    fn a_name_that_nobody_has_is_named() {
        let selection = Selection::new(vec!["*".to_owned(), "-job".to_owned()]);
        selection.has("jobs");
        let error = selection.check().unwrap_err().to_string();
        assert_eq!(error, r#"no controller is called "job"; there are jobs"#);
        Selection::default().check().unwrap();
    }
}
