//! Acting as somebody else: the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-KEY`, as kubectl's `--as` and
//! proxies that log people in send them.
//!
//! There are several ways to be allowed to, each with permissions of its own, asked in turn until one suffices. The
//! constrained ones, which Kubernetes has since 1.35, need two: to act as somebody of this kind (`impersonate:MODE`), and to
//! do just this in another's name (`impersonate-on:MODE:VERB`). The old one needs the verb `impersonate` on every value, on
//! `users`, `serviceaccounts`, `groups`, `uids` or `userextras/KEY`, and then allows all. A rejection names what the first
//! of the ways lacks. What follows is judged, shown and audited as the other one's.
//!
//! **Invariant:** no header `Impersonate-*` is ever ignored. A request with one is carried out as the one it names or
//! not at all: a proxy's users must never become the proxy.

use std::collections::BTreeMap;

use base_http::query::decode_segment;
use http::HeaderMap;
use http::request::Parts;

use crate::auth::split_service_account;
use crate::authorizer::Authorizer as _;
use crate::dispatch::verb_of;
use crate::request::{Query, Route};
use crate::server::Inner;
use crate::status::{ApiError, Result};
use crate::{
    Access, Decision, GROUP_AUTHENTICATED, GROUP_MASTERS, GROUP_NODES, GROUP_UNAUTHENTICATED, Identity, Target,
    USER_ANONYMOUS, USER_NODE_PREFIX,
};

/// What all of the headers begin with, in the lower case in which `http` keeps names.
const PREFIX: &str = "impersonate-";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Each value costs one authorisation; nobody is in so many groups.
const VALUES_MAX: usize = 256;

const AUTHENTICATION: &str = "authentication.k8s.io";

/// Extra of a service account's token that is bound to a pod: the node that the pod runs on.
const EXTRA_NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// From so many values on it is asked first whether all of them are allowed.
const MANY: usize = 4;

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claimed {
    user: Option<String>,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// A way of being allowed to act as somebody else, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pod's service account acts as the node on which the pod runs.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Everybody who is neither a node nor a service account.
    UserInfo,
    /// As it was before there were modes.
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        }
    }

    /// Whether the mode is about such a user at all.
    fn applies(self, claimed: &Claimed, caller: &Identity) -> bool {
        let is_only_name = claimed.uid.is_none() && claimed.groups.is_empty() && claimed.extra.is_empty();
        match self {
            Self::AssociatedNode => {
                let associated = caller.extra.get(EXTRA_NODE_NAME).map(Vec::as_slice);
                is_only_name
                    && caller.service_account().is_some()
                    && claimed.node().is_some_and(|node| matches!(associated, Some([name]) if name == node))
            }
            Self::ArbitraryNode => is_only_name && claimed.node().is_some(),
            Self::ServiceAccount => is_only_name && claimed.service_account().is_some(),
            Self::UserInfo => claimed.node().is_none() && claimed.service_account().is_none(),
            Self::Legacy => true,
        }
    }
}

/// Takes the headers out of a request; answers whom it is to be carried out as, `None` when as the caller itself.
pub(crate) fn take(server: &Inner, parts: &mut Parts, caller: Option<&Identity>) -> Result<Option<Identity>> {
    let headers = &parts.headers;
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(None);
    }
    let caller = caller.ok_or_else(ApiError::unauthorized)?;
    let claimed = Claimed::parse(headers)?;
    let route = Route::parse(parts.uri.path());
    let (verb, target) = match &route {
        Route::Resource(path) => {
            let query = Query::parse(parts.uri.query()).unwrap_or_default();
            (verb_of(&parts.method, path, &query).to_owned(), path.target(None))
        }
        _ => (parts.method.as_str().to_ascii_lowercase(), Target::Path(parts.uri.path())),
    };
    let act = Access { identity: caller, verb: &verb, target, object: None };
    let mut first = None;
    let mut allowed = None;
    for mode in MODES.into_iter().filter(|mode| mode.applies(&claimed, caller)) {
        match claimed.authorize(server, mode, &act) {
            Ok(()) => {
                allowed = Some(mode);
                break;
            }
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    let Some(mode) = allowed else {
        return Err(first.expect("the last of the modes applies to everybody"));
    };
    // What is passed on, to a kubelet or an extension, must not impersonate a second time.
    let names: Vec<_> = parts.headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in names {
        parts.headers.remove(name);
    }
    Ok(Some(claimed.identity(mode)))
}

impl Claimed {
    fn parse(headers: &HeaderMap) -> Result<Self> {
        let mut claimed = Self::default();
        for (count, (name, value)) in headers.iter().filter(|(name, _)| name.as_str().starts_with(PREFIX)).enumerate() {
            let name = name.as_str();
            let value = std::str::from_utf8(value.as_bytes())
                .map_err(|_| ApiError::bad_request(format!("the header {name} is not UTF-8")))?
                .to_owned();
            if count >= VALUES_MAX {
                return Err(ApiError::bad_request(format!("more than {VALUES_MAX} Impersonate-* headers")));
            }
            let one = |slot: &mut Option<String>, value: String| match slot {
                Some(_) => Err(ApiError::bad_request(format!("the header {name} may be given once only"))),
                None if value.is_empty() => Err(ApiError::bad_request(format!("the header {name} is empty"))),
                None => {
                    *slot = Some(value);
                    Ok(())
                }
            };
            match name {
                "impersonate-user" => one(&mut claimed.user, value)?,
                "impersonate-uid" => one(&mut claimed.uid, value)?,
                "impersonate-group" => claimed.groups.push(value),
                _ => match name.strip_prefix(EXTRA_PREFIX) {
                    Some(key) if !key.is_empty() => {
                        // A key may hold what a header's name may not, percent-encoded; one that is no encoding is taken
                        // as it is, as upstream does.
                        let key = decode_segment(key).map_or_else(|| key.to_owned(), std::borrow::Cow::into_owned);
                        claimed.extra.entry(key).or_default().push(value);
                    }
                    _ => return Err(ApiError::bad_request(format!("the header {name} is not known"))),
                },
            }
        }
        if claimed.user.is_none() {
            return Err(ApiError::bad_request(format!(
                "requested {} without impersonating a user name",
                claimed.in_go()
            )));
        }
        Ok(claimed)
    }

    /// As Go prints its structures, which upstream's message does.
    fn in_go(&self) -> String {
        let list = |values: &[String]| {
            let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
            format!("[]string{{{}}}", values.join(", "))
        };
        let groups = if self.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&self.groups) };
        let extra = if self.extra.is_empty() {
            "map[string][]string(nil)".to_owned()
        } else {
            let extra: Vec<String> =
                self.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
            format!("map[string][]string{{{}}}", extra.join(", "))
        };
        let uid = self.uid.as_deref().unwrap_or_default();
        format!("&user.DefaultInfo{{Name:\"\", UID:{uid:?}, Groups:{groups}, Extra:{extra}}}")
    }

    /// The user as namespace and name, when it is a service account.
    fn service_account(&self) -> Option<(&str, &str)> {
        split_service_account(self.user.as_deref()?)
    }

    /// The name of the node, when the user is one.
    fn node(&self) -> Option<&str> {
        let name = self.user.as_deref()?.strip_prefix(USER_NODE_PREFIX)?;
        machinery_kinds::is_dns_subdomain(name).then_some(name)
    }

    /// Whether the caller of `act` may do it in this name, as a mode sees it.
    fn authorize(&self, server: &Inner, mode: Mode, act: &Access<'_>) -> Result<()> {
        let check = |access: &Access<'_>| match server.authorizer.authorize(access, &server.store) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(ApiError::forbidden_access(access, &reason)),
        };
        let is_constrained = mode != Mode::Legacy;
        if is_constrained {
            let verb = format!("impersonate-on:{}:{}", mode.name(), act.verb);
            check(&Access { verb: &verb, ..act.clone() })?;
        }
        let verb = mode.verb();
        let access = |group, resource, subresource, namespace, name| {
            let target = Target::Resource { group, resource, subresource, namespace, name, selectors: None };
            Access { identity: act.identity, verb: &verb, target, object: None }
        };
        let names_group = if is_constrained { AUTHENTICATION } else { "" };
        let user = self.user.as_deref().expect("parse rejects headers without a user");
        match (self.service_account(), self.node().filter(|_| is_constrained)) {
            (Some((namespace, name)), _) => {
                check(&access(names_group, "serviceaccounts", None, Some(namespace), Some(name)))?;
            }
            // Who may act as its own node may do so on whichever node it runs.
            (_, Some(_)) if mode == Mode::AssociatedNode => {
                check(&access(names_group, "nodes", None, None, Some("*")))?;
            }
            (_, Some(node)) => check(&access(names_group, "nodes", None, None, Some(node)))?,
            (None, None) => check(&access(names_group, "users", None, None, Some(user)))?,
        }
        if let Some(uid) = &self.uid {
            check(&access(AUTHENTICATION, "uids", None, None, Some(uid)))?;
        }
        self.authorize_groups(is_constrained, |name| access(names_group, "groups", None, None, name), check)?;
        self.authorize_extra(is_constrained, |key, value| access(AUTHENTICATION, "userextras", key, None, value), check)
    }

    fn authorize_groups<'a>(
        &'a self,
        is_constrained: bool,
        access: impl Fn(Option<&'a str>) -> Access<'a>,
        check: impl Fn(&Access<'_>) -> Result<()>,
    ) -> Result<()> {
        if is_constrained {
            let forbid = |name, why| Err(ApiError::forbidden_access(&access(name), why));
            if self.groups.iter().any(String::is_empty) {
                return forbid(None, "impersonating the empty string group is not allowed");
            }
            if self.groups.iter().any(|group| group == GROUP_MASTERS) {
                return forbid(Some(GROUP_MASTERS), "impersonating the system:masters group is not allowed");
            }
            if self.groups.len() >= MANY && check(&access(Some("*"))).is_ok() {
                return Ok(());
            }
        }
        self.groups.iter().try_for_each(|group| check(&access(Some(group))))
    }

    fn authorize_extra<'a>(
        &'a self,
        is_constrained: bool,
        access: impl Fn(Option<&'a str>, Option<&'a str>) -> Access<'a>,
        check: impl Fn(&Access<'_>) -> Result<()>,
    ) -> Result<()> {
        if is_constrained {
            let values: Vec<&String> = self.extra.values().flatten().collect();
            if values.iter().any(|value| value.is_empty()) {
                let why = "impersonating the empty string value in extra is not allowed";
                return Err(ApiError::forbidden_access(&access(None, None), why));
            }
            if values.len() >= MANY && check(&access(Some("*"), Some("*"))).is_ok() {
                return Ok(());
            }
        }
        let values = self.extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        values.into_iter().try_for_each(|(key, value)| check(&access(Some(key), Some(value))))
    }

    fn identity(self, mode: Mode) -> Identity {
        let mut groups = self.groups.clone();
        if mode != Mode::Legacy && self.node().is_some() {
            groups = vec![GROUP_NODES.to_owned()];
        } else if groups.is_empty()
            && let Some((namespace, _)) = self.service_account()
        {
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        let user = self.user.unwrap_or_default();
        let has = |groups: &[String], group: &str| groups.iter().any(|one| one == group);
        let everyone = if user == USER_ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
        if !has(&groups, GROUP_UNAUTHENTICATED) && !has(&groups, everyone) {
            groups.push(everyone.to_owned());
        }
        let uid = self.uid.unwrap_or_default();
        Identity { user, uid, groups, extra: self.extra, audiences: Vec::new() }
    }
}
