//! Rules of `x-kubernetes-validations`, in CEL.
//!
//! ```text
//! text ── lex, parse ──▶ tree ── check (types, functions) ──▶ checked tree ──┬── cost ──▶ is the rule accepted?
//!                                                                            └── eval (value, library) ──▶ true, false, error
//! ```
//!
//! The words of syntax and type errors, the estimates of costs and the costs of runs are those of cel-go with the libraries
//! of Kubernetes 1.36: a definition is accepted or not because of them. What is in an object is read where it is
//! ([`value`]); nothing is converted before an expression asks for it.
//!
//! Everything is bounded: the length of an expression, the depth of its tree, the cost of a run, and that of all the rules
//! for one object ([`rules::Validator`]).

mod ast;
mod check;
mod cost;
mod eval;
mod functions;
mod lex;
mod library;
mod parse;
mod policy;
mod rules;
#[cfg(test)]
mod tests;
mod types;
mod value;

use std::sync::Arc;

pub use policy::{PolicyScope, PolicyType, check_policy};
pub(crate) use rules::Validator;
pub use types::is_reserved;
pub(crate) use types::{Decl, declare};

use crate::schema::{Rule, Schema};
use ast::{Expr, show_issues};
use check::Checked;
use types::Type;
use value::Lit;

/// A rule that was read.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub rule: Checked,
    pub cost_max: u64,
    /// The expression that makes the message; or what is wrong with it.
    pub message: Option<Result<Message, String>>,
}

#[derive(Debug)]
pub(crate) struct Message {
    pub expression: Checked,
    pub cost_max: u64,
}

/// Reads a rule for values that are declared so.
///
/// # Errors
/// What is wrong with the rule.
pub(crate) fn compile(rule: &Rule, decl: &Arc<Decl>) -> Result<Compiled, String> {
    let is_old_optional = rule.optional_old_self == Some(true);
    let read = |text: &str, expected: &Type, otherwise: &str| -> Result<Checked, String> {
        let source: Vec<char> = text.chars().collect();
        let checked = parse::parse(&source).and_then(|ast| check::check(ast, decl, is_old_optional));
        let checked =
            checked.map_err(|mut issues| format!("compilation failed: {}", show_issues(&source, &mut issues)))?;
        let found = &checked.types[checked.ast.root];
        // What is dynamic is decided when it runs.
        if found != expected && *found != Type::Dyn {
            return Err(otherwise.to_owned());
        }
        check_patterns(&checked)?;
        Ok(checked)
    };
    let checked = read(&rule.rule, &Type::Bool, "cel expression must evaluate to a bool")?;
    let message = (!rule.message_expression.is_empty()).then(|| {
        let otherwise = "messageExpression must evaluate to a string";
        let expression = read(&rule.message_expression, &Type::Text, otherwise).map_err(|why| match why.as_str() {
            why if why == otherwise => why.to_owned(),
            why => format!("messageExpression {why}"),
        })?;
        Ok(Message { cost_max: cost::estimate(&expression, decl).max, expression })
    });
    Ok(Compiled { cost_max: cost::estimate(&checked, decl).max, rule: checked, message })
}

/// Patterns that are constant are read when the rule is.
fn check_patterns(checked: &Checked) -> Result<(), String> {
    for node in &checked.ast.nodes {
        let Expr::Call { name, target: Some(_), args, .. } = node else { continue };
        if !matches!(name.as_str(), "find" | "findAll") {
            continue;
        }
        if let Some(Expr::Literal(Lit::Text(pattern))) = args.first().map(|id| checked.ast.node(*id))
            && let Err(why) = crate::go_regex::weigh(pattern)
        {
            return Err(format!("program instantiation failed: {why}"));
        }
    }
    Ok(())
}

/// A place of a schema as the root of an object.
pub(crate) fn declare_place(schema: &Schema, is_root: bool) -> Option<Arc<Decl>> {
    declare(schema, is_root || schema.embedded_resource)
}
