//! Role-based access control: Roles, ClusterRoles and their bindings, as the store holds them.
//!
//! [`Rbac`] is the authorizer. [`Escalation`] keeps whoever may write roles from granting what it does not hold itself.
//! `bootstrap` writes the roles that every cluster has, `aggregation` fills those that are made of others.

mod aggregation;
mod bootstrap;
mod escalation;
mod index;
mod rule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use machinery_server::{Access, Authorizer, Decision, Identity, ResourceRules, RulesOf, Target};
use machinery_store::Store;

pub(crate) use aggregation::aggregate_roles;
pub(crate) use bootstrap::{Reconciled, default_policy, reconciled};
pub use escalation::Escalation;
#[cfg(test)]
use index::GROUP;
use index::{Index, Look};
pub use rule::Rule;

use crate::json::aggregate;

/// Decides by the roles that are bound to a caller.
#[derive(Clone, Default)]
pub struct Rbac(Arc<Index>);

impl Rbac {
    pub(crate) fn index(&self) -> Arc<Index> {
        self.0.clone()
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, access: &Access<'_>, store: &Store) -> Decision {
        let namespace = match &access.target {
            Target::Resource { namespace, .. } => namespace.unwrap_or_default(),
            Target::Path(_) => "",
        };
        let mut allowed = None;
        let errors = self.0.look(store).visit(access.identity, namespace, |binding, rule| {
            if rule.allows(access.verb, &access.target) {
                allowed = Some(Look::describe(binding, access.identity));
            }
            allowed.is_none()
        });
        match (allowed, errors.as_slice()) {
            (Some(binding), _) => Decision::Allow(format!("RBAC: allowed by {binding}")),
            (None, []) => Decision::NoOpinion(String::new()),
            (None, errors) => Decision::NoOpinion(format!("RBAC: {}", aggregate(errors))),
        }
    }

    fn rules_of(&self, identity: &Identity, namespace: &str, store: &Store) -> Option<RulesOf> {
        let (rules, errors) = self.0.look(store).rules_of(identity, namespace);
        let mut listed = RulesOf { errors, ..RulesOf::default() };
        for rule in rules {
            if !rule.paths.is_empty() {
                listed.paths.push((rule.verbs.clone(), rule.paths));
            }
            if !rule.resources.is_empty() {
                let Rule { verbs, groups, resources, names, .. } = rule;
                listed.resources.push(ResourceRules { verbs, groups, resources, names });
            }
        }
        // Upstream's order is that of a hash table; this one is always the same.
        listed.paths.sort_by(|one, other| other.1.cmp(&one.1));
        Some(listed)
    }
}
