//! What a URL asks for: path and query, as plain functions on text.

use std::time::Duration;

use machinery_schema::FieldError;
use machinery_store::Revision;

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

impl Route {
    /// Reads a path. Segments are percent-decoded; a segment that is no UTF-8 or holds a slash leads nowhere.
    pub(crate) fn parse(path: &str) -> Self {
        let segments: Option<Vec<String>> =
            path.trim_matches('/').split('/').map(|segment| percent_decode(segment, false)).collect();
        let Some(segments) = segments else { return Self::Other };
        if segments.iter().any(|segment| segment.contains('/')) {
            return Self::Other;
        }
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
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

/// Decodes `%xx`, and `+` as a space in queries; `None` when the result is no UTF-8.
pub(crate) fn percent_decode(text: &str, is_query: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |index: usize| bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte"));
                at += 2;
            }
            (b'%', ..) => return None,
            (b'+', ..) if is_query => decoded.push(b' '),
            (byte, ..) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8(decoded).ok()
}

/// The parameters of a query, decoded, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query. Parameters that cannot be decoded are an error rather than ignored: they might restrict.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self> {
        let mut parameters = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (percent_decode(key, true), percent_decode(value, true)) {
                (Some(key), Some(value)) => parameters.push((key, value)),
                _ => return Err(ApiError::bad_request(format!("invalid query parameter {pair:?}"))),
            }
        }
        Ok(Self(parameters))
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether the parameter is there, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(found, _)| found == key)
    }

    /// A flag: `true`, `1`, or present without a value.
    pub(crate) fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            Some(value) => matches!(value, "true" | "1" | "True" | "TRUE" | "t" | "T"),
            None => self.has(key),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>> {
        let parse = |value: &str| {
            value.parse().map_err(|_| ApiError::bad_request(format!("invalid value {value:?} for parameter {key}")))
        };
        self.get(key).map(parse).transpose()
    }

    /// A whole number of seconds, at most `max`; nothing and 0 are none.
    pub(crate) fn seconds(&self, key: &str, max: u32) -> Result<Option<Duration>> {
        let seconds = self.number(key)?.filter(|seconds| *seconds > 0);
        Ok(seconds.map(|seconds| Duration::from_secs(seconds.min(u64::from(max)))))
    }

    /// All parameters.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
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
        let limit = query.number("limit")?.filter(|limit| *limit > 0);
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
    /// They are dropped, and the client is told.
    Warn,
    /// They are dropped.
    Ignore,
}

impl WriteOptions {
    /// Reads the parameters of a create, update, patch or delete.
    pub(crate) fn parse(query: &Query) -> Result<Self> {
        let mut dry_run = false;
        for (_, value) in query.iter().filter(|(key, value)| *key == "dryRun" && !value.is_empty()) {
            if value != "All" {
                let error = FieldError::not_supported("dryRun", &value.into(), &["All"]);
                return Err(ApiError::invalid_kind("meta.k8s.io", "CreateOptions", "", &[error]));
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
                return Err(ApiError::invalid_kind("meta.k8s.io", "CreateOptions", "", &[error]));
            }
        };
        Ok(Self { dry_run, field_validation })
    }
}

#[cfg(test)]
mod tests;
