//! What an apply would take from others, in upstream's words.

use std::collections::BTreeMap;
use std::fmt;

use super::{ManagerId, Operation};
use crate::fields::{FieldSet, PathElement, path_text};
use crate::go;

/// One field that the configuration sets to another value than its owner did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner.
    pub manager: ManagerId,
    /// The field.
    pub path: Vec<PathElement>,
}

impl Conflict {
    /// The field as messages name it: `.spec.replicas`.
    pub fn field(&self) -> String {
        path_text(&self.path)
    }

    /// The `message` of its cause in `Status.details`.
    pub fn message(&self) -> String {
        format!("conflict with {}", named(&self.manager))
    }
}

/// All of them, sorted by owner. `Display` is the `message` of the `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts(pub Vec<Conflict>);

impl Conflicts {
    pub(crate) fn of(sets: &BTreeMap<ManagerId, FieldSet>) -> Self {
        let mut conflicts = Vec::new();
        for (manager, set) in sets {
            set.for_each(&mut |path| conflicts.push(Conflict { manager: manager.clone(), path: path.to_vec() }));
        }
        Self(conflicts)
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return write!(f, "Apply failed with 1 conflict: {}: {}", one.message(), one.field());
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut last: Option<&ManagerId> = None;
        for conflict in &self.0 {
            if last != Some(&conflict.manager) {
                let newline = if last.is_some() { "\n" } else { "" };
                write!(f, "{newline}conflicts with {}:", named(&conflict.manager))?;
                last = Some(&conflict.manager);
            }
            write!(f, "\n- {}", conflict.field())?;
        }
        Ok(())
    }
}

impl std::error::Error for Conflicts {}

fn named(id: &ManagerId) -> String {
    let mut text = go::quoted(&id.manager);
    if !id.subresource.is_empty() {
        text.push_str(" with subresource ");
        text.push_str(&go::quoted(&id.subresource));
    }
    if id.operation == Operation::Update {
        text.push_str(" using ");
        text.push_str(&id.api_version);
    }
    text
}
