//! What a URL asks for: path and query, as plain functions on text.

use std::borrow::Cow;
use std::time::Duration;

use api_kube::selector::{Operator, Requirement};
pub(crate) use base_http::query::Query;
use base_http::query::decode_segment;
use machinery_kinds::FieldError;
use machinery_store::Revision;

use crate::Target;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, Result};

/// A client that wants a longer watch, or list, asks again after an hour; numbers from a wire go no further than this.
const TIMEOUT_SECONDS_MAX: u32 = 3600;

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources { group: String, version: String },
    /// A resource, one of its objects, or a part of one.
    Resource(ResourcePath),
    /// Everything else.
    Other,
}

/// `/api/v1/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE` and its shorter forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl ResourcePath {
    /// What a request to the path is about, for authorizers. A namespace is in itself, and a list of the one object that a
    /// field selector names is about that object, as in Kubernetes.
    pub(crate) fn target<'a>(&'a self, selectors: Option<(&'a LabelSelector, &'a FieldSelector)>) -> Target<'a> {
        let itself = || self.name.as_deref().filter(|_| self.group.is_empty() && self.plural == "namespaces");
        let selected = || selectors.and_then(|(_, fields)| fields.exact("metadata.name"));
        Target::Resource {
            group: &self.group,
            resource: &self.plural,
            subresource: self.subresource.as_deref(),
            namespace: self.namespace.as_deref().or_else(itself),
            name: self.name.as_deref().or_else(|| selected().filter(|name| !name.is_empty() && !name.contains('/'))),
            selectors,
        }
    }
}

impl Route {
    /// Reads a path. Segments are percent-decoded; a segment that is no UTF-8 or holds a slash leads nowhere.
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Option<Vec<Cow<'_, str>>> = path.trim_matches('/').split('/').map(decode_segment).collect();
        let Some(segments) = segments else { return Self::Other };
        if segments.iter().any(|segment| segment.contains('/')) {
            return Self::Other;
        }
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api"] => return Self::CoreVersions,
            ["apis"] => return Self::Groups,
            ["apis", group] => return Self::Group((*group).to_owned()),
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Self::Other,
        };
        if rest.iter().any(|segment| segment.is_empty()) {
            return Self::Other;
        }
        let (namespace, rest) = match rest {
            [] => return Self::Resources { group: group.to_owned(), version: version.to_owned() },
            // A namespace's own subresources; everything else below a namespace is a resource in it.
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
            _ => return Self::Other,
        };
        Self::Resource(ResourcePath {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace,
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }
}

/// At which revision a list or watch should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Now.
    Latest,
    /// Whatever is at hand, which here is now as well.
    Any,
    /// This one or a later one.
    NotOlderThan(Revision),
    /// Exactly this one.
    Exact(Revision),
}

/// Conditions in the selectors of one request, each value of a set for itself. Every object that is looked at costs them all,
/// and no kubelet or controller sets more than a few.
const CONDITIONS_MAX: usize = 64;

/// What a list or watch asks for.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: Option<String>,
    pub(crate) at: At,
    pub(crate) timeout: Option<Duration>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the parameters together, as some exclude others.
    pub(crate) fn parse(query: &Query) -> Result<Self> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let labels = labels.parse().map_err(|error| selector_error("label", labels, &error))?;
        let fields = query.get("fieldSelector").unwrap_or_default();
        let fields = fields.parse().map_err(|error| selector_error("field", fields, &error))?;
        let watch = query.flag("watch");
        let initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let bookmarks = query.flag("allowWatchBookmarks");
        let matching = query.get("resourceVersionMatch");
        let version = query.get("resourceVersion");
        check_versions(watch, initial_events, bookmarks, matching, version, query.get("continue"))?;
        let revision = match version {
            None => None,
            Some(text) => Some(text.parse::<Revision>().map_err(|_| {
                ApiError::bad_request(format!("invalid resource version {text:?}: it must be a whole number"))
            })?),
        };
        let at = match (revision, matching) {
            (None, _) => At::Latest,
            (Some(Revision(0)), _) => At::Any,
            (Some(revision), Some("Exact")) => At::Exact(revision),
            (Some(revision), _) => At::NotOlderThan(revision),
        };
        let limit = query.number::<u64>("limit")?.filter(|limit| *limit > 0);
        Ok(Self {
            labels,
            fields,
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            continue_token: query.get("continue").map(str::to_owned),
            at,
            timeout: query.seconds("timeoutSeconds", TIMEOUT_SECONDS_MAX)?,
            bookmarks,
            initial_events,
        })
    }
}

impl ListOptions {
    /// Refuses selectors that cost too much for anybody but an administrator.
    pub(crate) fn check_conditions(&self) -> Result<()> {
        let of_label = |requirement: &Requirement| match requirement.operator() {
            Operator::In(values) | Operator::NotIn(values) => values.len().max(1),
            Operator::Exists | Operator::Absent | Operator::Greater(_) | Operator::Less(_) => 1,
        };
        let count = self.labels.requirements().iter().map(of_label).sum::<usize>() + self.fields.terms().len();
        if count <= CONDITIONS_MAX {
            return Ok(());
        }
        Err(ApiError::bad_request(format!(
            "the selectors have {count} conditions; at most {CONDITIONS_MAX} are allowed"
        )))
    }
}

fn selector_error(what: &str, text: &str, error: &crate::ParseSelectorError) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement of {what} selector {text:?}: {error}"))
}

fn check_versions(
    watch: bool,
    initial_events: Option<bool>,
    bookmarks: bool,
    matching: Option<&str>,
    version: Option<&str>,
    continue_token: Option<&str>,
) -> Result<()> {
    let mut errors = Vec::new();
    let forbid = |field: &str, why: &str| FieldError::forbidden(field, why);
    if let Some(matching) = matching {
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let supported = ["Exact", "NotOlderThan"];
            errors.push(FieldError::not_supported("resourceVersionMatch", &matching.into(), &supported));
        }
        if watch && initial_events.is_none() {
            errors.push(forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if !watch && version.is_none() {
            errors.push(forbid(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if continue_token.is_some() {
            errors.push(forbid("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"));
        }
        if matching == "Exact" && (version == Some("0") || watch) {
            errors.push(forbid(
                "resourceVersionMatch",
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\" and for watch",
            ));
        }
    }
    if initial_events.is_some() && !watch {
        errors.push(forbid("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if initial_events == Some(true) {
        if matching != Some("NotOlderThan") {
            errors.push(forbid(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !bookmarks {
            errors.push(forbid("allowWatchBookmarks", "sendInitialEvents requires allowWatchBookmarks"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// What every write may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

/// What becomes of fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// The request is refused.
    Strict,
    /// They are dropped, with a warning.
    Warn,
    /// They are dropped.
    Ignore,
}

impl WriteOptions {
    /// Reads the parameters of a create, update, patch or delete.
    ///
    /// `kind` is what the options are called in messages, such as `PatchOptions`.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self> {
        let mut dry_run = false;
        for (_, value) in query.iter().filter(|(key, value)| *key == "dryRun" && !value.is_empty()) {
            if value != "All" {
                let error = FieldError::not_supported("dryRun", &value.into(), &["All"]);
                return Err(ApiError::invalid_kind("meta.k8s.io", kind, "", &[error]));
            }
            dry_run = true;
        }
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                let supported = ["Ignore", "Warn", "Strict"];
                let error = FieldError::not_supported("fieldValidation", &other.into(), &supported);
                return Err(ApiError::invalid_kind("meta.k8s.io", kind, "", &[error]));
            }
        };
        Ok(Self { dry_run, field_validation })
    }
}

#[cfg(test)]
mod tests;
