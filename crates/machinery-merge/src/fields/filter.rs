//! Fields that a write does not own, whatever it says of them: its strategy puts them back.

use super::{FieldSet, Node, PathElement};

/// What is left of a set of fields for a subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldFilter {
    /// All but these and what is below them.
    Except(FieldSet),
    /// Only what leads to one of these places or is below it.
    Only(Vec<Pattern>),
}

/// A place of which some steps are any: `None` is for each field and each item.
pub type Pattern = Vec<Option<PathElement>>;

impl FieldFilter {
    /// All but these fields, named as `status` or `metadata.labels`.
    pub fn except(paths: &[&str]) -> Self {
        Self::Except(FieldSet::of_fields(paths))
    }

    /// Only what leads to one of these places or is below it; `*` is any step, as in `spec.containers.*.resources`.
    ///
    /// ```
    /// use machinery_merge::{FieldFilter, FieldSet};
    /// let filter = FieldFilter::only(&["spec.*.size"]);
    /// let set = FieldSet::of_fields(&["metadata.labels", "spec.a.size", "spec.a.name"]);
    /// assert_eq!(filter.apply(&set), FieldSet::of_fields(&["spec.a.size"]));
    /// ```
    pub fn only(paths: &[&str]) -> Self {
        let step = |step: &str| (step != "*").then(|| PathElement::field(step));
        Self::Only(paths.iter().map(|path| path.split('.').map(step).collect()).collect())
    }

    /// What is left of a set.
    #[must_use]
    pub fn apply(&self, set: &FieldSet) -> FieldSet {
        match self {
            Self::Except(fields) => set.recursive_difference(fields),
            Self::Only(patterns) => {
                let patterns: Vec<&[Option<PathElement>]> = patterns.iter().map(Vec::as_slice).collect();
                only(set, &patterns)
            }
        }
    }
}

fn only(set: &FieldSet, patterns: &[&[Option<PathElement>]]) -> FieldSet {
    if patterns.iter().any(|pattern| pattern.is_empty()) {
        return set.clone();
    }
    let nodes = set.nodes().iter().filter_map(|node| {
        let fits = |first: &Option<PathElement>| first.as_ref().is_none_or(|first| *first == node.element);
        let below: Vec<&[Option<PathElement>]> = patterns
            .iter()
            .filter_map(|pattern| pattern.split_first())
            .filter(|(first, _)| fits(first))
            .map(|(_, rest)| rest)
            .collect();
        if below.is_empty() {
            return None;
        }
        let children = only(&node.children, &below);
        Some(Node { element: node.element.clone(), is_member: node.is_member, children })
    });
    FieldSet::from_nodes(nodes.collect())
}
