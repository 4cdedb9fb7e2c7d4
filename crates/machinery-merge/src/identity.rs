//! What makes two list items the same: a value that can be looked up in a hash map.

use std::{
    borrow::Cow,
    hash::{Hash, Hasher},
};

use serde_json::Value;

/// A merge key's value, or a plain item of a set. The hash is seeded per map, so nobody can choose values that collide.
#[derive(Clone, Debug)]
pub(crate) struct Identity<'v>(Cow<'v, Value>);

impl<'v> Identity<'v> {
    pub fn of(value: &'v Value) -> Self {
        Self(Cow::Borrowed(value))
    }

    /// One that outlives the list, which is about to change.
    pub fn owned(value: &Value) -> Identity<'static> {
        Identity(Cow::Owned(value.clone()))
    }
}

impl PartialEq for Identity<'_> {
    fn eq(&self, other: &Self) -> bool {
        #[cfg(test)]
        comparisons::count();
        self.0 == other.0
    }
}

impl Eq for Identity<'_> {}

impl Hash for Identity<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Counts comparisons, so that tests can hold what a merge costs without a clock.
#[cfg(test)]
pub(crate) mod comparisons {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        COUNT.set(COUNT.get() + 1);
    }

    /// How many identities are compared during `act`.
    pub(crate) fn during(act: impl FnOnce()) -> usize {
        let before = COUNT.get();
        act();
        COUNT.get() - before
    }
}
