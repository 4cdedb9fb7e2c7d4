//! One rule of a role: what it allows, what it covers, how it reads in messages.

use std::collections::BTreeMap;

use machinery_server::Target;
use serde_json::Value;

use crate::json::{quoted, texts};

const ALL: &str = "*";

/// A rule of a Role or ClusterRole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What may be done; `*` for everything.
    pub verbs: Vec<String>,
    /// In which API groups.
    pub groups: Vec<String>,
    /// To which resources, as `pods`, `pods/status`, `*/scale`.
    pub resources: Vec<String>,
    /// To which objects; empty for all.
    pub names: Vec<String>,
    /// To which paths, for a rule that is not about resources.
    pub paths: Vec<String>,
}

impl Rule {
    /// Reads the rules of a role.
    pub fn of_role(role: &Value) -> Vec<Self> {
        crate::json::items(role, "rules").iter().map(Self::from_value).collect()
    }

    /// Reads one rule.
    pub fn from_value(rule: &Value) -> Self {
        Self {
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            names: texts(rule, "resourceNames"),
            paths: texts(rule, "nonResourceURLs"),
        }
    }

    /// Everything that may be done to resources.
    pub(crate) fn all_resources() -> Self {
        let all = || vec![ALL.to_owned()];
        Self { verbs: all(), groups: all(), resources: all(), ..Self::default() }
    }

    /// Everything that may be done to paths.
    pub(crate) fn all_paths() -> Self {
        let all = || vec![ALL.to_owned()];
        Self { verbs: all(), paths: all(), ..Self::default() }
    }

    /// Whether it allows a request.
    pub fn allows(&self, verb: &str, target: &Target<'_>) -> bool {
        if !has_or_all(&self.verbs, verb) {
            return false;
        }
        match target {
            Target::Path(path) => self.paths.iter().any(|allowed| path_covers(allowed, path)),
            Target::Resource { group, resource, subresource, name, .. } => {
                has_or_all(&self.groups, group)
                    && self.resources.iter().any(|allowed| matches_resource(allowed, resource, *subresource))
                    && (self.names.is_empty() || has(&self.names, name.unwrap_or_default()))
            }
        }
    }

    /// The rule as rules with one verb, one resource and one name each.
    fn broken_down(&self) -> Vec<Self> {
        let mut rules = Vec::new();
        let one = |value: &String| vec![value.clone()];
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let rule =
                        Self { verbs: one(verb), groups: one(group), resources: one(resource), ..Self::default() };
                    if self.names.is_empty() {
                        rules.push(rule);
                    } else {
                        rules.extend(self.names.iter().map(|name| Self { names: one(name), ..rule.clone() }));
                    }
                }
            }
        }
        for path in &self.paths {
            rules.extend(self.verbs.iter().map(|verb| Self { verbs: one(verb), paths: one(path), ..Self::default() }));
        }
        rules
    }

    /// Whether it allows all that another does, which has one verb, one resource and one name at most.
    fn covers(&self, other: &Self) -> bool {
        let names = self.names.is_empty() || (!other.names.is_empty() && has_all(&self.names, &other.names));
        (has(&self.verbs, ALL) || has_all(&self.verbs, &other.verbs))
            && (has(&self.groups, ALL) || has_all(&self.groups, &other.groups))
            && other.resources.iter().all(|resource| self.covers_resource(resource))
            && names
            && other.paths.iter().all(|path| self.paths.iter().any(|own| own == path || is_prefix(own, path)))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        let any = || resource.split_once('/').is_some_and(|(_, part)| has(&self.resources, &format!("*/{part}")));
        has(&self.resources, ALL) || has(&self.resources, resource) || any()
    }

    /// As messages of rejected escalations show it.
    fn describe(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let given = parts.iter().filter(|(_, values)| !values.is_empty());
        let shown: Vec<String> = given.map(|(name, values)| format!("{name}:{}", quoted(values))).collect();
        format!("{{{}}}", shown.join(", "))
    }
}

/// What of `desired` the rules of `held` do not cover, described; empty when all of it is covered.
pub(crate) fn missing(held: &[Rule], desired: &[Rule]) -> Vec<String> {
    let parts = desired.iter().flat_map(Rule::broken_down);
    let missing = parts.filter(|part| !held.iter().any(|rule| rule.covers(part)));
    // Rules that differ in nothing but the verb are shown as one.
    let mut compact: BTreeMap<_, Rule> = BTreeMap::new();
    let mut shown: Vec<String> = Vec::new();
    for part in missing {
        if !part.paths.is_empty() {
            shown.push(part.describe());
            continue;
        }
        let place = (part.groups.clone(), part.resources.clone(), part.names.clone());
        match compact.get_mut(&place) {
            Some(rule) => rule.verbs.extend(part.verbs),
            None => drop(compact.insert(place, part)),
        }
    }
    shown.extend(compact.values().map(Rule::describe));
    shown.sort();
    shown.dedup();
    shown
}

fn has(values: &[String], value: &str) -> bool {
    values.iter().any(|one| one == value)
}

fn has_or_all(values: &[String], value: &str) -> bool {
    values.iter().any(|one| one == ALL || one == value)
}

fn has_all(values: &[String], others: &[String]) -> bool {
    others.iter().all(|value| has(values, value))
}

fn matches_resource(allowed: &str, resource: &str, subresource: Option<&str>) -> bool {
    match subresource {
        _ if allowed == ALL => true,
        None => allowed == resource,
        Some(part) => allowed.split_once('/').is_some_and(|(of, own)| own == part && (of == resource || of == ALL)),
    }
}

fn path_covers(allowed: &str, path: &str) -> bool {
    allowed == ALL || allowed == path || is_prefix(allowed, path)
}

/// Whether a path with a star at its end covers another.
fn is_prefix(allowed: &str, path: &str) -> bool {
    allowed.ends_with('*') && path.starts_with(allowed.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(value: Value) -> Rule {
        Rule::from_value(&value)
    }

    fn check_resource(rule_value: Value, verb: &str, path: &str, name: Option<&str>, expected: bool) {
        let (resource, subresource) = path.split_once('/').map_or((path, None), |(of, part)| (of, Some(part)));
        let target = Target::Resource { group: "", resource, subresource, namespace: None, name, selectors: None };
        assert_eq!(rule(rule_value.clone()).allows(verb, &target), expected, "{verb} {path} {name:?} by {rule_value}");
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let of = |resources: Value| json!({"verbs": ["get"], "apiGroups": [""], "resources": resources});
        check_resource(of(json!(["pods"])), "get", "pods", None, true);
        check_resource(of(json!(["pods"])), "list", "pods", None, false);
        check_resource(of(json!(["pods"])), "get", "pods/log", None, false);
        check_resource(of(json!(["pods/log"])), "get", "pods/log", None, true);
        check_resource(of(json!(["pods/log"])), "get", "pods", None, false);
        check_resource(of(json!(["*/scale"])), "get", "deployments/scale", None, true);
        check_resource(of(json!(["*/scale"])), "get", "deployments", None, false);
        check_resource(of(json!(["*"])), "get", "deployments/scale", None, true);
        let named = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["pods"], "resourceNames": ["a"]});
        check_resource(named.clone(), "get", "pods", Some("a"), true);
        check_resource(named.clone(), "get", "pods", Some("b"), false);
        check_resource(named, "list", "pods", None, false);
    }

    #[test]
    fn a_path_is_allowed_by_itself_or_by_its_beginning() {
        for (allowed, path, expected) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", false),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz*", "/healthzz", true),
            ("*", "/anything", true),
        ] {
            let rule = rule(json!({"verbs": ["get"], "nonResourceURLs": [allowed]}));
            assert_eq!(rule.allows("get", &Target::Path(path)), expected, "{allowed} {path}");
        }
    }

    fn check_missing(held: Value, desired: Value, expected: &[&str]) {
        assert_eq!(missing(&[rule(held)], &[rule(desired)]), expected);
    }

    #[test]
    fn what_is_not_held_is_named_part_by_part() {
        let config_maps = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["configmaps"]});
        check_missing(config_maps.clone(), config_maps.clone(), &[]);
        check_missing(
            config_maps.clone(),
            json!({"verbs": ["get", "watch", "delete"], "apiGroups": [""], "resources": ["configmaps"]}),
            &[r#"{APIGroups:[""], Resources:["configmaps"], Verbs:["watch" "delete"]}"#],
        );
        check_missing(
            config_maps.clone(),
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["x"]}),
            &[],
        );
        check_missing(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a", "b"]}),
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a", "c"]}),
            &[r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["c"], Verbs:["get"]}"#],
        );
        check_missing(
            config_maps,
            json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}),
            &[r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#],
        );
        check_missing(
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}),
            json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale", "deployments"]}),
            &[r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}"#],
        );
    }
}
