//! Nobody grants what it does not hold: checks on writes of roles and bindings.
//!
//! Upstream has them in the storage of these kinds, after what plug-ins change and before what validation finds. So this is
//! a plug-in that changes nothing and is asked last in the phase of those that do.

use std::sync::Arc;

use machinery_server::{
    Access, Admission, AdmissionError, AdmissionRequest, Authorizer, GROUP_MASTERS, Identity, Operation, Target, Union,
};
use serde_json::Value;

use super::index::{GROUP, Index, MissingRole, RoleRef, unsupported};
use super::rule::{Rule, missing};
use crate::json::{items_at, quoted};

/// Rejects roles with rules that their author does not hold, and bindings to such roles, unless the author may `escalate`
/// the one or `bind` the other.
pub struct Escalation {
    index: Arc<Index>,
    authorizer: Union,
}

impl Escalation {
    /// By the roles in `index`; `authorizer` decides who may escalate and bind all the same.
    pub(crate) fn new(index: Arc<Index>, authorizer: Union) -> Self {
        Self { index, authorizer }
    }

    fn may(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: Option<&str>) -> bool {
        let target = Target::Resource {
            group: GROUP,
            resource,
            subresource: None,
            namespace: Some(request.namespace).filter(|namespace| !namespace.is_empty()),
            name,
            selectors: None,
        };
        let access = Access { identity: request.identity, verb, target, object: None };
        self.authorizer.authorize(&access, request.store).is_allowed()
    }

    /// Whether the caller holds all of these rules; else a sentence that says which it does not.
    fn check_held(&self, request: &AdmissionRequest<'_>, desired: &[Rule]) -> Result<(), AdmissionError> {
        let (held, errors) = self.index.look(request.store).rules_of(request.identity, request.namespace);
        let missing = missing(&held, desired);
        if missing.is_empty() {
            return Ok(());
        }
        let Identity { user, groups, .. } = request.identity;
        let mut why = format!(
            "user {user:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            quoted(groups),
            missing.join("\n")
        );
        if !errors.is_empty() {
            why.push_str(&format!("; resolution errors: {}", crate::json::aggregate(&errors)));
        }
        Err(AdmissionError::Forbidden(why))
    }

    fn check_role(&self, request: &AdmissionRequest<'_>, role: &Value) -> Result<(), AdmissionError> {
        let name = Some(request.name).filter(|name| !name.is_empty() && request.operation == Operation::Update);
        if self.may(request, "escalate", &request.info.plural, name) {
            return Ok(());
        }
        self.check_held(request, &Rule::of_role(role))?;
        let aggregates = |role: &Value| !items_at(role, "/aggregationRule/clusterRoleSelectors").is_empty();
        // What it gathers may become anything, so only whoever may do everything sets it.
        if (aggregates(role) || request.old.is_some_and(aggregates))
            && self.check_held(request, &[Rule::all_resources(), Rule::all_paths()]).is_err()
        {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(AdmissionError::Forbidden(why.to_owned()));
        }
        Ok(())
    }

    fn check_binding(&self, request: &AdmissionRequest<'_>, binding: &Value) -> Result<(), AdmissionError> {
        let role = RoleRef::of_binding(binding);
        let resource = match role.kind.as_str() {
            "ClusterRole" => Some("clusterroles"),
            "Role" => Some("roles"),
            _ => None,
        };
        if resource.is_some_and(|resource| self.may(request, "bind", resource, Some(&role.name))) {
            return Ok(());
        }
        let rules = self.index.look(request.store).rules(&role, request.namespace);
        let rules = rules.map_err(|missing| match missing {
            // Upstream looks for the role with the binding's request at hand, and names its resource.
            MissingRole::NotFound => AdmissionError::NotFound {
                group: GROUP.to_owned(),
                resource: request.info.plural.to_string(),
                name: role.name.clone(),
            },
            MissingRole::Unsupported => AdmissionError::Internal(unsupported(&role)),
        })?;
        self.check_held(request, &rules)
    }
}

impl Admission for Escalation {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        let (group, resource, subresource) = request.target();
        let is_write = matches!(request.operation, Operation::Create | Operation::Update);
        if group != GROUP || subresource.is_some() || !is_write || request.identity.is_in(GROUP_MASTERS) {
            return Ok(false);
        }
        if request.old.is_some_and(|old| changes_only_ties(old, object)) {
            return Ok(false);
        }
        match resource {
            "roles" | "clusterroles" => self.check_role(request, object)?,
            "rolebindings" | "clusterrolebindings" => self.check_binding(request, object)?,
            _ => {}
        }
        Ok(false)
    }
}

/// Whether nothing changes but what a garbage collector changes before it deletes an object.
fn changes_only_ties(old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    rest(old) == rest(new)
}
