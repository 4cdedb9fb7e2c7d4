//! Acting as somebody else: the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-KEY`, as kubectl's `--as` and
//! proxies that log people in send them.
//!
//! Every value needs its own permission, the verb `impersonate` on `users`, `serviceaccounts`, `groups`, `uids` or
//! `userextras/KEY`. What follows is then judged, shown and audited as the other one's.
//!
//! **Invariant:** no header `Impersonate-*` is ever ignored. A request with one is carried out as the one it names or
//! not at all: a proxy's users must never become the proxy.

use std::collections::BTreeMap;

use base_http::query::decode_segment;
use http::HeaderMap;

use crate::authorizer::{Authorizer as _, rejection};
use crate::server::Inner;
use crate::status::{ApiError, Result};
use crate::{Access, Decision, GROUP_AUTHENTICATED, Identity, Target};

/// What all of the headers begin with, in the lower case in which `http` keeps names.
const PREFIX: &str = "impersonate-";
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Each value costs one authorisation; nobody is in so many groups.
const VALUES_MAX: usize = 256;

const AUTHENTICATION: &str = "authentication.k8s.io";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
const USER_ANONYMOUS: &str = "system:anonymous";
const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claimed {
    user: Option<String>,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// Takes the headers out of a request; answers whom it is to be carried out as, `None` when as the caller itself.
pub(crate) fn take(server: &Inner, headers: &mut HeaderMap, caller: Option<&Identity>) -> Result<Option<Identity>> {
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(None);
    }
    let caller = caller.ok_or_else(ApiError::unauthorized)?;
    let claimed = Claimed::parse(headers)?;
    claimed.authorize(server, caller)?;
    // What is passed on, to a kubelet or an extension, must not impersonate a second time.
    let names: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    Ok(Some(claimed.identity()))
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
            return Err(ApiError::bad_request("requested groups, uid or extra without impersonating a user"));
        }
        Ok(claimed)
    }

    /// The user as namespace and name, when it is a service account.
    fn service_account(&self) -> Option<(&str, &str)> {
        let rest = self.user.as_deref()?.strip_prefix(SERVICE_ACCOUNT_PREFIX)?;
        rest.split_once(':')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
    }

    fn authorize(&self, server: &Inner, caller: &Identity) -> Result<()> {
        let check = |group: &str, resource: &str, subresource: Option<&str>, namespace: Option<&str>, name: &str| {
            let target =
                Target::Resource { group, resource, subresource, namespace, name: Some(name), selectors: None };
            let access = Access { identity: caller, verb: "impersonate", target, object: None };
            match server.authorizer.authorize(&access, &server.store) {
                Decision::Allow => Ok(()),
                Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                    let why = format!("{resource} {name:?} is forbidden: {}", rejection(&access, &reason));
                    Err(ApiError::forbidden_path(name, &why))
                }
            }
        };
        match (self.service_account(), &self.user) {
            (Some((namespace, name)), _) => check("", "serviceaccounts", None, Some(namespace), name)?,
            (None, Some(user)) => check("", "users", None, None, user)?,
            (None, None) => unreachable!("parse rejects headers without a user"),
        }
        for group in &self.groups {
            check("", "groups", None, None, group)?;
        }
        for (key, values) in &self.extra {
            for value in values {
                check(AUTHENTICATION, "userextras", Some(key), None, value)?;
            }
        }
        self.uid.as_ref().map_or(Ok(()), |uid| check(AUTHENTICATION, "uids", None, None, uid))
    }

    fn identity(self) -> Identity {
        let mut groups = self.groups.clone();
        if groups.is_empty()
            && let Some((namespace, _)) = self.service_account()
        {
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        let user = self.user.unwrap_or_default();
        let everyone = if user == USER_ANONYMOUS { GROUP_UNAUTHENTICATED } else { GROUP_AUTHENTICATED };
        if !groups.iter().any(|group| group == GROUP_AUTHENTICATED || group == GROUP_UNAUTHENTICATED) {
            groups.push(everyone.to_owned());
        }
        Identity { user, uid: self.uid.unwrap_or_default(), groups, extra: self.extra }
    }
}
