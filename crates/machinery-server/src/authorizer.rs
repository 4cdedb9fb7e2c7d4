//! Who may do what: the question, the answer, and the authorizers that every Kubernetes API has.
//!
//! A server asks its authorizers in order; the first that allows or denies decides, and when none has an opinion the
//! request is rejected. Rules about our own kinds, nodes and tokens are policy of whoever embeds the server and are given to it;
//! role-based access control becomes one more entry of the list.
//!
//! **Invariant:** a decision about one object is made on the stored object. A request is decided on twice: when it comes,
//! so that nobody works for a caller who may nothing, and again with the object in hand in the very step that reads,
//! changes or deletes it ([`Access::object`]). Nothing that happens in between can make it another's.

use std::sync::Arc;

use machinery_store::{Object, Store};

use crate::selector::{FieldSelector, LabelSelector};
use crate::{GROUP_AUTHENTICATED, GROUP_MASTERS, Identity};

/// What a caller wants to do.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `impersonate`; for paths the
    /// method in lower case.
    pub verb: &'a str,
    /// To what.
    pub target: Target<'a>,
    /// The stored object that is about to be read, changed or deleted, once it is in hand.
    pub object: Option<&'a Object>,
}

/// What something is done to.
#[derive(Clone, Debug)]
pub enum Target<'a> {
    /// A path that is no resource, such as `/version`.
    Path(&'a str),
    /// A resource, or one object of it.
    Resource {
        /// API group; empty for core.
        group: &'a str,
        /// Plural name.
        resource: &'a str,
        /// `status` and the like.
        subresource: Option<&'a str>,
        /// Namespace, when the request names one.
        namespace: Option<&'a str>,
        /// Name, when the request names one. A create does not.
        name: Option<&'a str>,
        /// Selectors of a list or watch.
        selectors: Option<(&'a LabelSelector, &'a FieldSelector)>,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request may continue; nobody else is asked. The reason, where there is one to give, is shown by access reviews.
    Allow(String),
    /// The request is rejected; nobody else is asked. The reason is added to the message when it is not empty.
    Deny(String),
    /// Others decide. The reason is for the case that nobody allows it.
    NoOpinion(String),
}

impl Decision {
    /// `Allow` without a reason.
    pub const ALLOW: Self = Self::Allow(String::new());

    /// `Allow`, or no opinion for this reason.
    pub fn allow_if(may: bool, reason: impl Into<String>) -> Self {
        if may { Self::ALLOW } else { Self::NoOpinion(reason.into()) }
    }

    /// Whether the request may continue.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// What a caller may do in a namespace, as far as an authorizer can list it: the answer of a SelfSubjectRulesReview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesOf {
    /// Rules about resources.
    pub resources: Vec<ResourceRules>,
    /// Rules about paths: verbs and paths.
    pub paths: Vec<(Vec<String>, Vec<String>)>,
    /// Whether it may do more than is listed.
    pub is_incomplete: bool,
    /// What could not be found out.
    pub errors: Vec<String>,
}

/// One rule about resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceRules {
    /// What may be done.
    pub verbs: Vec<String>,
    /// In which groups.
    pub groups: Vec<String>,
    /// To which resources.
    pub resources: Vec<String>,
    /// To which objects; empty for all.
    pub names: Vec<String>,
}

/// Decides what callers may do.
pub trait Authorizer: Send + Sync {
    /// Decides one request. The store may be read, for what a decision depends on.
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision;

    /// Lists what a caller may do in a namespace; `None` when the authorizer knows nothing of such a caller.
    fn rules_of(&self, identity: &Identity, namespace: &str, store: &Store) -> Option<RulesOf> {
        let _ = (identity, namespace, store);
        None
    }
}

/// Asks several in order: the first that allows or denies decides. Nobody's opinion is [`Decision::NoOpinion`], which
/// a server treats as a rejection.
#[derive(Clone)]
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// The union of these, asked in this order.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

impl Authorizer for Union {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(access, store) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    fn rules_of(&self, identity: &Identity, namespace: &str, store: &Store) -> Option<RulesOf> {
        let known = self.0.iter().filter_map(|authorizer| authorizer.rules_of(identity, namespace, store));
        known.reduce(|mut all, rules| {
            all.resources.extend(rules.resources);
            all.paths.extend(rules.paths);
            all.is_incomplete |= rules.is_incomplete;
            all.errors.extend(rules.errors);
            all
        })
    }
}

/// Allows everything to the group `system:masters`, as every Kubernetes API does.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemMasters;

impl Authorizer for SystemMasters {
    fn authorize(&self, access: &Access<'_>, _: &Store) -> Decision {
        Decision::allow_if(access.identity.is_in(GROUP_MASTERS), "")
    }
}

/// Allows what Kubernetes' roles `system:discovery` and `system:basic-user` allow to everyone who is known: discovery,
/// versions, and questions about oneself.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthenticatedBasics;

impl Authorizer for AuthenticatedBasics {
    fn authorize(&self, access: &Access<'_>, _: &Store) -> Decision {
        if !access.identity.is_in(GROUP_AUTHENTICATED) {
            return Decision::NoOpinion(String::new());
        }
        let may = match &access.target {
            Target::Path(path) => {
                let is_open =
                    ["/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"].iter().any(|prefix| {
                        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                    });
                access.verb == "get" && is_open
            }
            Target::Resource { group, resource, .. } => {
                access.verb == "create"
                    && matches!(
                        (*group, *resource),
                        ("authorization.k8s.io", "selfsubjectaccessreviews")
                            | ("authentication.k8s.io", "selfsubjectreviews")
                    )
            }
        };
        Decision::allow_if(may, "")
    }
}

/// How the request reads in a rejection: `User "x" cannot get resource "pods" in API group "" in the namespace "y"`.
pub(crate) fn describe(access: &Access<'_>) -> String {
    let (user, verb) = (&access.identity.user, access.verb);
    match &access.target {
        Target::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
        Target::Resource { group, resource, subresource, namespace, .. } => {
            let resource = subresource.map_or_else(|| (*resource).to_owned(), |part| format!("{resource}/{part}"));
            let scope = match namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
        }
    }
}

impl<'a> Access<'a> {
    /// Group, resource and name as a rejection shows them.
    pub(crate) fn subject(&self) -> (&'a str, &'a str, &'a str) {
        match self.target {
            Target::Path(_) => ("", "", ""),
            Target::Resource { group, resource, name, .. } => (group, resource, name.unwrap_or_default()),
        }
    }
}

/// The whole text of a rejection.
pub(crate) fn rejection(access: &Access<'_>, reason: &str) -> String {
    if reason.is_empty() { describe(access) } else { format!("{}: {reason}", describe(access)) }
}
