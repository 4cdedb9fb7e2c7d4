//! Kinds of the group `rbac.authorization.k8s.io`: roles and who has them.
//!
//! The names of these objects are the freest of all: whatever fits into a URL, such as `system:node`. What a role may grant,
//! and whom, is checked in other places (a caller gives away nothing that it does not have); here are the shapes.

use serde_json::Value;

use crate::{
    checks::{self, SelectorOptions, go_struct},
    kit::{Errors, Path, Read, Write},
    metadata::{NameRule, OnUpdate},
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "Role" => &ROLE,
        "ClusterRole" => &CLUSTER_ROLE,
        "RoleBinding" => &ROLE_BINDING,
        "ClusterRoleBinding" => &CLUSTER_ROLE_BINDING,
        _ => return None,
    })
}

/// What all four have in common.
const COMMON: Strategy = Strategy {
    name_rule: NameRule::Own(|name, _| checks::path_segment_name(name)),
    metadata_on_update: OnUpdate::WholeAndChanges,
    create_on_update: true,
    ..Strategy::PLAIN
};

static ROLE: Strategy = Strategy {
    validate: |role, errors| validate_rules(role, true, errors),
    printer: &crate::table::printers::CREATED,
    ..COMMON
};

static CLUSTER_ROLE: Strategy = Strategy {
    validate: |role, errors| validate_cluster_role(role, SelectorOptions::default(), errors),
    validate_update: Some(|new, old, errors| {
        // Upstream asks whether anything is wrong with the old selectors, and then looks away from values alone.
        let mut before = Errors::default();
        for selector in old.part("aggregationRule").items("clusterRoleSelectors") {
            checks::label_selector(selector, SelectorOptions::default(), &Path::ROOT, &mut before);
        }
        let options = SelectorOptions { any_value: !before.is_empty(), any_operator: false };
        validate_cluster_role(new, options, errors);
    }),
    printer: &crate::table::printers::CREATED,
    ..COMMON
};

static ROLE_BINDING: Strategy = Strategy {
    defaults: default_binding,
    validate: |binding, errors| validate_binding(binding, &["Role", "ClusterRole"], errors),
    validate_update: Some(|new, old, errors| {
        validate_binding(new, &["Role", "ClusterRole"], errors);
        validate_same_role(new, old, errors);
    }),
    printer: &Printer { columns: columns::ROLE_BINDING, cells: binding_cells },
    ..COMMON
};

static CLUSTER_ROLE_BINDING: Strategy = Strategy {
    defaults: default_binding,
    validate: |binding, errors| validate_binding(binding, &["ClusterRole"], errors),
    validate_update: Some(|new, old, errors| {
        validate_binding(new, &["ClusterRole"], errors);
        validate_same_role(new, old, errors);
    }),
    printer: &Printer { columns: columns::CLUSTER_ROLE_BINDING, cells: binding_cells },
    ..COMMON
};

fn default_binding(binding: &mut Value) {
    binding.make("roleRef").default_text("apiGroup", GROUP);
    for subject in binding.items_mut("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.default_text("apiGroup", GROUP);
        }
    }
}

fn validate_rules(role: &Value, namespaced: bool, errors: &mut Errors) {
    let path = Path::at("rules");
    for (number, rule) in role.items("rules").iter().enumerate() {
        validate_rule(rule, namespaced, &path.index(number), errors);
    }
}

fn validate_rule(rule: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    if rule.items("verbs").is_empty() {
        errors.required(&path.field("verbs"), "verbs must contain at least one value");
    }
    let urls = rule.part("nonResourceURLs");
    if !rule.items("nonResourceURLs").is_empty() {
        let at = path.field("nonResourceURLs");
        if namespaced {
            errors.invalid(&at, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|key| !rule.items(key).is_empty()) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&at, urls.clone(), detail);
        }
        return;
    }
    if rule.items("apiGroups").is_empty() {
        errors.required(&path.field("apiGroups"), "resource rules must supply at least one api group");
    }
    if rule.items("resources").is_empty() {
        errors.required(&path.field("resources"), "resource rules must supply at least one resource");
    }
}

fn validate_cluster_role(role: &Value, options: SelectorOptions, errors: &mut Errors) {
    validate_rules(role, false, errors);
    let Some(aggregation) = role.some("aggregationRule") else { return };
    let path = Path::at("aggregationRule");
    let at = path.field("clusterRoleSelectors");
    let selectors = aggregation.items("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.required(&at, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (number, selector) in selectors.iter().enumerate() {
        let at = at.index(number);
        checks::label_selector(selector, options, &at, errors);
        if !checks::is_usable_selector(selector) {
            // The variable is the selector that could not be made.
            errors.invalid(&at, Value::Null, "invalid label selector.");
        }
    }
}

fn validate_binding(binding: &Value, kinds: &[&str], errors: &mut Errors) {
    let (path, role) = (Path::at("roleRef"), binding.part("roleRef"));
    if role.text("apiGroup") != GROUP {
        errors.not_supported(&path.field("apiGroup"), role.text("apiGroup"), &[GROUP]);
    }
    if !kinds.contains(&role.text("kind")) {
        errors.not_supported(&path.field("kind"), role.text("kind"), kinds);
    }
    match role.text("name") {
        "" => errors.required(&path.field("name"), ""),
        name => errors.invalid_each(&path.field("name"), name, checks::path_segment_name(name)),
    }
    let namespaced = kinds.len() == 2;
    let path = Path::at("subjects");
    for (number, subject) in binding.items("subjects").iter().enumerate() {
        validate_subject(subject, namespaced, &path.index(number), errors);
    }
}

fn validate_subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&path.field("name"), name, checks::dns_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.field("apiGroup"), group, &[""]);
            }
            if !namespaced && subject.text("namespace").is_empty() {
                errors.required(&path.field("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.not_supported(&path.field("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        other => errors.not_supported(&path.field("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

fn validate_same_role(new: &Value, old: &Value, errors: &mut Errors) {
    let (now, before) = (new.part("roleRef"), old.part("roleRef"));
    if ["apiGroup", "kind", "name"].iter().any(|key| now.text(key) != before.text(key)) {
        let shown = go_struct(&[
            ("APIGroup", &now.text("apiGroup").into()),
            ("Kind", &now.text("kind").into()),
            ("Name", &now.text("name").into()),
        ]);
        errors.invalid_as(&Path::at("roleRef"), &shown, "cannot change roleRef");
    }
}

fn binding_cells(binding: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let role = binding.part("roleRef");
    let of_kind = |kind: &str| -> Value {
        let subjects = binding.items("subjects").iter().filter(|subject| subject.text("kind") == kind);
        let names = subjects.map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", subject.text("namespace"), subject.text("name")),
            _ => subject.text("name").to_owned(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![
        name(binding),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        age_of(binding, now),
        of_kind("User"),
        of_kind("Group"),
        of_kind("ServiceAccount"),
    ]
}
