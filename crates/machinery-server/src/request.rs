//! What a URL asks for: path and query, as plain functions on text.

use std::borrow::Cow;
use std::time::Duration;

use api_kube::names::quoted;
use api_kube::selector::{Operator, Requirement};
pub(crate) use base_http::query::Query;
use base_http::query::decode_segment;
use machinery_kinds::FieldError;
use machinery_store::Revision;
use serde_json::Value;

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
    /// What comes after a subresource that is a way to somewhere else; with its first slash.
    pub(crate) rest: Option<String>,
    /// Whether it is one of the old paths that only watch (`/api/v1/watch/…`).
    pub(crate) is_watch: bool,
}

/// The subresource behind which paths of others begin.
const WAY: &str = "/proxy";

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
        // What comes after a way is somebody else's path: it is kept as it was sent.
        if let Some((before, beyond)) = path.split_once(WAY)
            && (beyond.is_empty() || beyond.starts_with('/'))
            && let Self::Resource(mut found) = Self::parse_own(&format!("{before}{WAY}"))
            && found.subresource.as_deref() == Some(&WAY[1..])
        {
            found.rest = Some(beyond.to_owned());
            return Self::Resource(found);
        }
        Self::parse_own(path)
    }

    fn parse_own(path: &str) -> Self {
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
        let (is_watch, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
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
        if is_watch && subresource.is_some() {
            return Self::Other;
        }
        Self::Resource(ResourcePath {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace,
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
            rest: None,
            is_watch,
        })
    }
}

/// A resource version that is no number, as upstream's storage says it.
pub(crate) fn version_error(text: &str) -> String {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    let detail = format!("strconv.ParseUint: parsing {}: {why}", quoted(text));
    FieldError::invalid("resourceVersion", &text.into(), detail).to_string()
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
    /// The revision, with a message when the text is none: upstream notices that late.
    pub(crate) at: std::result::Result<At, String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
}

impl ListOptions {
    /// Reads and checks the parameters together, as some exclude others.
    ///
    /// # Errors
    /// For the first parameter that cannot be read, in upstream's order; else for all that may not be together.
    pub(crate) fn parse(query: &Query) -> Result<Self> {
        let labels = query.get("labelSelector").unwrap_or_default();
        let labels =
            labels.parse().map_err(|error: crate::ParseSelectorError| ApiError::bad_request(error.to_string()));
        let fields = query.get("fieldSelector").unwrap_or_default();
        let fields =
            fields.parse().map_err(|error: crate::ParseSelectorError| ApiError::bad_request(error.to_string()));
        // Numbers are read before the texts mean anything.
        let timeout = integer(query, "timeoutSeconds")?.filter(|seconds| *seconds > 0);
        let limit = integer(query, "limit")?.filter(|limit| *limit > 0);
        let (labels, fields) = (labels?, fields?);
        let watch = switch(query, "watch").unwrap_or_default();
        let initial_events = switch(query, "sendInitialEvents");
        let bookmarks = switch(query, "allowWatchBookmarks").unwrap_or_default();
        let matching = query.get("resourceVersionMatch");
        let version = query.get("resourceVersion");
        check_versions(watch, initial_events, matching, version, query.get("continue"))?;
        // A watch that begins anywhere begins with what is there.
        let is_legacy = watch && initial_events.is_none() && matching.is_none() && matches!(version, None | Some("0"));
        let initial_events = if is_legacy { Some(true) } else { initial_events };
        let at = match version.map(|text| text.parse::<Revision>().map_err(|_| version_error(text))) {
            None => Ok(At::Latest),
            Some(Err(error)) => Err(error),
            Some(Ok(Revision(0))) => Ok(At::Any),
            Some(Ok(revision)) if matching == Some("Exact") => Ok(At::Exact(revision)),
            // A page of a list at a revision is of that very revision, as it was before the rule could be said.
            Some(Ok(revision)) if matching.is_none() && limit.is_some() && !watch => Ok(At::Exact(revision)),
            Some(Ok(revision)) => Ok(At::NotOlderThan(revision)),
        };
        Ok(Self {
            labels,
            fields,
            // Whatever is at hand is given whole.
            limit: limit
                .filter(|_| version != Some("0") || matching.is_some())
                .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            continue_token: query.get("continue").map(str::to_owned),
            at,
            timeout: timeout.map(|seconds| {
                Duration::from_secs(u64::try_from(seconds).unwrap_or_default().min(u64::from(TIMEOUT_SECONDS_MAX)))
            }),
            bookmarks,
            initial_events,
        })
    }

    /// Narrows them to one object, which the path has named.
    ///
    /// # Errors
    /// When the field selector asks for another.
    pub(crate) fn only(&mut self, name: &str) -> Result<()> {
        if !self.fields.is_everything() && self.fields.exact("metadata.name") != Some(name) {
            return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        if self.fields.is_everything() {
            self.fields = FieldSelector::name(name);
        }
        Ok(())
    }

    /// The revision that is asked for.
    ///
    /// # Errors
    /// When the text is none.
    pub(crate) fn at(&self) -> Result<At> {
        self.at.clone().map_err(|error| ApiError::bad_request(format!("invalid resource version: {error}")))
    }
}

/// A whole number, as Go reads one.
fn integer(query: &Query, key: &str) -> Result<Option<i64>> {
    let Some(text) = query.iter().find(|(found, _)| *found == key).map(|(_, value)| value) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ApiError::bad_number("ParseInt", text))
}

/// A flag, which is on unless it is said to be off.
pub(crate) fn switch(query: &Query, key: &str) -> Option<bool> {
    let text = query.iter().find(|(found, _)| *found == key)?.1;
    Some(text != "0" && !text.eq_ignore_ascii_case("false"))
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

fn check_versions(
    watch: bool,
    initial_events: Option<bool>,
    matching: Option<&str>,
    version: Option<&str>,
    continue_token: Option<&str>,
) -> Result<()> {
    let mut errors = Vec::new();
    let mut forbid = |field: &str, why: &str| errors.push(FieldError::forbidden(field, why));
    let continued = "resourceVersionMatch is forbidden when continue is provided";
    if watch {
        if initial_events.is_some() && matching != Some("NotOlderThan") {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            forbid("resourceVersionMatch", why);
        }
        if let Some(matching) = matching {
            if initial_events.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                forbid("resourceVersionMatch", why);
            }
            if matching != "NotOlderThan" {
                let error = FieldError::not_supported("resourceVersionMatch", &matching.into(), &["NotOlderThan"]);
                errors.push(error);
            }
            if continue_token.is_some() {
                errors.push(FieldError::forbidden("resourceVersionMatch", continued));
            }
        }
    } else {
        if let Some(matching) = matching {
            if version.is_none() {
                forbid("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if continue_token.is_some() {
                forbid("resourceVersionMatch", continued);
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                let supported = ["Exact", "NotOlderThan", ""];
                errors.push(FieldError::not_supported("resourceVersionMatch", &matching.into(), &supported));
            }
            if matching == "Exact" && version == Some("0") {
                errors.push(FieldError::forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if initial_events.is_some() {
            errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
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
        let mut errors = Vec::new();
        let manager = query.get("fieldManager").unwrap_or_default();
        if kind != "DeleteOptions" {
            check_manager(manager, &mut errors);
        }
        let dry_run: Vec<&str> = query.iter().filter(|(key, _)| *key == "dryRun").map(|(_, value)| value).collect();
        errors.extend(check_dry_run(&dry_run));
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(_) if kind == "DeleteOptions" => FieldValidation::Warn,
            Some(other) => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported("fieldValidation", &other.into(), &supported));
                FieldValidation::Warn
            }
        };
        if errors.is_empty() {
            Ok(Self { dry_run: !dry_run.is_empty(), field_validation })
        } else {
            Err(ApiError::invalid_kind("meta.k8s.io", kind, "", &errors))
        }
    }
}

/// What is wrong with the stages that a dry run should have.
pub(crate) fn check_dry_run(stages: &[&str]) -> Option<FieldError> {
    let is_wrong = stages.iter().any(|stage| *stage != "All");
    is_wrong.then(|| FieldError::not_supported("dryRun", &Value::from(stages), &["All"]))
}

/// More than any field manager's name has.
const MANAGER_BYTES_MAX: usize = 128;

fn check_manager(manager: &str, errors: &mut Vec<FieldError>) {
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long("fieldManager", MANAGER_BYTES_MAX));
    }
    for (at, character) in manager.char_indices().filter(|(_, character)| !is_printable(*character)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(character));
        errors.push(FieldError::invalid("fieldManager", &manager.into(), why));
    }
}

fn is_printable(character: char) -> bool {
    let text = character.to_string();
    character == '"' || character == '\\' || quoted(&text).len() == text.len() + 2
}

#[cfg(test)]
mod tests;
