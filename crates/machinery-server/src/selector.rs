//! What a list or watch selects, as conditions on an object's index fields.

use machinery_kinds::INDEX_LABEL_PREFIX as LABEL_FIELD_PREFIX;
use machinery_store::Object;

pub use api_kube::selector::{FieldSelector, LabelSelector, ParseSelectorError};

/// What a list or watch selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    /// The index field of each requirement of `labels`: built once here rather than once per object.
    label_fields: Vec<String>,
}

impl Selection {
    pub(crate) fn new(namespace: Option<String>, labels: LabelSelector, fields: FieldSelector) -> Self {
        let field = |key: &str| format!("{LABEL_FIELD_PREFIX}{key}");
        let label_fields = labels.requirements().iter().map(|requirement| field(requirement.key())).collect();
        Self { namespace, labels, fields, label_fields }
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        let mut requirements = self.labels.requirements().iter().zip(&self.label_fields);
        // Fields first: they are few, and nearly always what an object fails on. Of labels there may be very many, and an
        // object without any passes each `!x`.
        self.namespace.as_deref().is_none_or(|namespace| *object.key.namespace == *namespace)
            && self.fields.matches(|field| match field {
                "metadata.name" => &*object.key.name,
                "metadata.namespace" => &*object.key.namespace,
                field => object.field(field).unwrap_or_default(),
            })
            && requirements.all(|(requirement, field)| requirement.matches(object.field(field)))
    }

    /// Namespace and name of the only object that can be selected, where that is said.
    pub(crate) fn only(&self, is_namespaced: bool) -> Option<(&str, &str)> {
        let name = self.fields.exact("metadata.name").filter(|name| !name.is_empty())?;
        let namespace = match self.namespace.as_deref() {
            Some(namespace) => namespace,
            None if is_namespaced => self.fields.exact("metadata.namespace")?,
            None => "",
        };
        Some((namespace, name))
    }

    /// Whether something besides the namespace is asked for.
    pub(crate) fn has_selectors(&self) -> bool {
        !self.labels.is_everything() || !self.fields.is_everything()
    }

    /// An index field and the value it must have, for a watch that is woken by these objects only; one in which the store
    /// finds values at once, if there is one. Not for namespaces, which are no field.
    pub(crate) fn index_term(&self, is_indexed: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
        let of_field = |term: &&api_kube::selector::FieldTerm| {
            term.is_equal && term.field != "metadata.namespace" && !term.value.is_empty()
        };
        let fields = || self.fields.terms().iter().filter(of_field).map(|term| (&*term.field, &*term.value));
        let labels = || self.labels.requirements().iter().zip(&self.label_fields);
        let labels = || labels().filter_map(|(requirement, field)| Some((field.as_str(), requirement.exact()?)));
        let best = fields().chain(labels()).find(|(field, _)| is_indexed(field));
        best.or_else(|| fields().chain(labels()).next())
    }
}

#[cfg(test)]
mod tests;
