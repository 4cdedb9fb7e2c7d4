//! The expressions of rules: whether they can be read, and what all of them may cost together.

use std::sync::Arc;

use crate::{
    FieldError, FieldErrorReason,
    cel::{self, Decl},
    schema::{Rule, show_rule},
};

use super::openapi::Inherited;

/// What one expression may cost for an object, as estimated, and all of one schema.
const EXPRESSION_COST_MAX: u64 = 10_000_000;
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// Rules that cost less are not named when all together cost too much.
const NAMED_COST_MIN: u64 = 1_000_000;
const NAMED_MAX: usize = 4;

/// The costs of one schema's rules.
pub(super) struct Costs {
    total: u64,
    most: Vec<(u64, String)>,
    is_unchanged: bool,
}

impl Costs {
    pub fn new(is_unchanged: bool) -> Self {
        Self { total: 0, most: Vec::new(), is_unchanged }
    }

    /// Checks the expressions of a rule and counts them in.
    pub fn rule(
        &mut self,
        rule: &Rule,
        decl: &Arc<Decl>,
        cardinality: u64,
        path: &str,
        inherited: &Inherited,
    ) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if rule.rule.trim().is_empty() {
            return errors;
        }
        let rule_path = format!("{path}.rule");
        let invalid = |path: String, why: &str| FieldError {
            path,
            reason: FieldErrorReason::Invalid,
            message: format!("Invalid value: {}: {why}", show_rule(rule)),
        };
        let compiled = match cel::compile(rule, decl) {
            Ok(compiled) => compiled,
            Err(why) => {
                errors.push(invalid(rule_path, &why));
                // What could not be compiled uses nothing.
                errors.extend(rule.optional_old_self.map(|flag| unused_flag(flag, path)));
                return errors;
            }
        };
        errors.extend(self.count("rule", compiled.cost_max, cardinality, &rule_path));
        match &compiled.message {
            None => {}
            Some(Err(why)) => errors.push(invalid(format!("{path}.messageExpression"), why)),
            Some(Ok(message)) => {
                let path = format!("{path}.messageExpression");
                errors.extend(self.count("messageExpression", message.cost_max, cardinality, &path));
            }
        }
        if compiled.rule.uses_old_self {
            if let Some(place) = &inherited.uncorrelatable {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {place}");
                errors.push(FieldError::invalid(rule_path, &(*rule.rule).into(), detail));
            }
        } else if let Some(flag) = rule.optional_old_self {
            errors.push(unused_flag(flag, path));
        }
        errors
    }

    fn count(&mut self, what: &str, cost: u64, cardinality: u64, path: &str) -> Option<FieldError> {
        let cost = cost.saturating_mul(cardinality);
        self.total = self.total.saturating_add(cost);
        self.most.push((cost, path.to_owned()));
        self.most.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        self.most.truncate(NAMED_MAX);
        if cost <= EXPRESSION_COST_MAX || self.is_unchanged {
            return None;
        }
        let factor = factor(cost, EXPRESSION_COST_MAX);
        let detail = format!(
            "estimated {what} cost exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
             maxProperties, and maxLength where arrays, maps, and strings are declared)"
        );
        Some(FieldError::forbidden(path, detail))
    }

    /// What is wrong with the rules of a schema together.
    pub fn total_errors(self, path: &str) -> Vec<FieldError> {
        if self.total <= SCHEMA_COST_MAX || self.is_unchanged {
            return Vec::new();
        }
        let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let named = self.most.into_iter().filter(|(cost, _)| *cost >= NAMED_COST_MIN);
        let mut errors: Vec<FieldError> = named.map(|(_, path)| FieldError::forbidden(path, detail)).collect();
        let factor = factor(self.total, SCHEMA_COST_MAX);
        let detail = format!(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of \
             {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
             strings are declared)"
        );
        errors.push(FieldError::forbidden(path, detail));
        errors
    }
}

#[expect(clippy::cast_precision_loss, reason = "the quotient is shown with few digits")]
fn factor(cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    }
}

/// What is wrong with `optionalOldSelf` beside a rule that does not look at `oldSelf`.
fn unused_flag(flag: bool, path: &str) -> FieldError {
    let detail = "may not be set if oldSelf is not used in rule";
    FieldError::invalid(format!("{path}.optionalOldSelf"), &flag.into(), detail)
}
