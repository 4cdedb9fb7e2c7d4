//! Names that many objects share, kept once: resources and namespaces.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this many it is not worth looking for those that nobody uses.
const SWEEP_MIN: usize = 1024;

/// A name is kept as long as an object has it: the table is swept when it has doubled.
#[derive(Default)]
pub(crate) struct Names {
    held: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Names {
    /// The shared form of a name.
    pub fn share(&mut self, name: &mut Arc<str>) {
        if let Some(held) = self.held.get(&**name) {
            *name = held.clone();
            return;
        }
        if self.held.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.sweep_at = self.held.len() * 2;
        }
        self.held.insert(name.clone());
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shared_and_those_that_nobody_uses_are_dropped() {
        let mut names = Names::default();
        let mut first: Arc<str> = "default".into();
        let mut second: Arc<str> = "default".into();
        names.share(&mut first);
        names.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
        for number in 0..100_000 {
            names.share(&mut format!("short-lived-{number}").into());
        }
        assert!(names.len() <= SWEEP_MIN + 1, "{} names are kept", names.len());
        let mut third: Arc<str> = "default".into();
        names.share(&mut third);
        assert!(Arc::ptr_eq(&first, &third), "a name in use outlives the sweeps");
    }
}
