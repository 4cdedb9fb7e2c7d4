//! Expressions of admission policies: what is in them, and what they give.
//!
//! An object can be of any kind, so its fields are not known; what is checked are the names, the functions, and the type of
//! the result.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ast::{Issue, show_issues},
    check, parse,
    types::{Decl, DeclKind, ObjectType, Type},
};

/// The functions by which an expression asks what a caller may do. They are known here by name alone.
const AUTHORIZER: [&str; 13] = [
    "path",
    "group",
    "serviceAccount",
    "resource",
    "subresource",
    "namespace",
    "name",
    "fieldSelector",
    "labelSelector",
    "check",
    "allowed",
    "reason",
    "errored",
];

/// The type of an expression.
#[derive(Clone, Debug)]
pub struct PolicyType(Type);

impl PolicyType {
    /// A type that is found out when the expression runs.
    pub const ANY: Self = Self(Type::Dyn);

    /// As messages name it: `bool`, `string`, `null_type`.
    pub fn name(&self) -> String {
        match &self.0 {
            Type::Null => "null_type".to_owned(),
            Type::Duration => "google.protobuf.Duration".to_owned(),
            Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
            other => other.to_string(),
        }
    }
}

/// What an expression may name besides `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Debug, Default)]
pub struct PolicyScope {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// Fields of `variables`, where there is one.
    pub variables: Option<Vec<(String, PolicyType)>>,
}

/// Checks an expression and gives its type.
///
/// # Errors
/// What is wrong with it, as a kube-apiserver says it.
pub fn check_policy(expression: &str, scope: &PolicyScope) -> Result<PolicyType, String> {
    let mut names: Vec<(String, Type)> =
        ["object", "oldObject", "request", "namespaceObject"].map(|name| (name.to_owned(), Type::Dyn)).into();
    if scope.params {
        names.push(("params".to_owned(), Type::Dyn));
    }
    if scope.authorizer {
        names.push(("authorizer".to_owned(), Type::Named("kubernetes.authorization.Authorizer")));
    }
    if let Some(variables) = &scope.variables {
        let field =
            |of: &PolicyType| Arc::new(Decl { kind: DeclKind::Plain(of.0.clone()), elements_max: 0, bytes_min: 0 });
        let fields: BTreeMap<String, Arc<Decl>> =
            variables.iter().map(|(name, of)| (name.clone(), field(of))).collect();
        let object = Decl { kind: DeclKind::Object(fields), elements_max: 0, bytes_min: 0 };
        names.push(("variables".to_owned(), Type::Object(ObjectType(Arc::new(object)))));
    }
    let source: Vec<char> = expression.chars().collect();
    match parse::parse(&source).and_then(|ast| check::check_in(ast, names)) {
        Ok(checked) => Ok(PolicyType(checked.types[checked.ast.root].clone())),
        Err(issues) if scope.authorizer && issues.iter().all(is_of_authorizer) => Ok(PolicyType(Type::Error)),
        Err(mut issues) => Err(format!("compilation failed: {}", show_issues(&source, &mut issues))),
    }
}

/// Whether nothing is wrong but that a function of the authorizer is not known here.
fn is_of_authorizer(issue: &Issue) -> bool {
    AUTHORIZER.iter().any(|name| issue.text.starts_with(&format!("undeclared reference to '{name}' ")))
}

impl PolicyType {
    /// Whether nothing is known of the type, because the expression calls what is not known here.
    pub fn is_unknown(&self) -> bool {
        self.0 == Type::Error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, scope: &PolicyScope, expected: Result<&str, &str>) {
        let found = check_policy(expression, scope).map(|of| of.name());
        assert_eq!(found.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn expressions_name_what_their_policy_has() {
        let plain = PolicyScope { authorizer: true, ..PolicyScope::default() };
        check("object.spec.replicas > 1 && request.operation == 'CREATE'", &plain, Ok("bool"));
        check("1", &plain, Ok("int"));
        check("null", &plain, Ok("null_type"));
        check("object.x", &plain, Ok("dyn"));
        check(
            "params.x == 1",
            &plain,
            Err(
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x == 1\n | ^",
            ),
        );
        check(
            "authorizer.nothing()",
            &plain,
            Err(
                "compilation failed: ERROR: <input>:1:19: undeclared reference to 'nothing' (in container '')\n | authorizer.nothing()\n | ..................^",
            ),
        );
        let asked = check_policy("authorizer.group('').resource('pods').check('get').allowed()", &plain);
        assert!(asked.is_ok_and(|of| of.is_unknown()));
        let variables = PolicyScope { variables: Some(vec![("x".to_owned(), PolicyType(Type::Int))]), ..plain };
        check("variables.x + 1", &variables, Ok("int"));
        check(
            "variables.y",
            &variables,
            Err("compilation failed: ERROR: <input>:1:10: undefined field 'y'\n | variables.y\n | .........^"),
        );
    }
}
