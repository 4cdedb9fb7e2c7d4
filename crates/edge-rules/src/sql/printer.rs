//! Expressions as text that parses back to the same tree.

use std::fmt;

use super::ast::{Expr, ExprKind};
use super::ddl::is_plain_word;
use super::parser::is_reserved;
use crate::datum::Datum;

/// A name, in backticks where it needs them.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_plain_word(self.0) && !is_reserved(self.0) {
            f.write_str(self.0)
        } else {
            write!(f, "`{}`", self.0.replace('`', "``"))
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |negated: bool| if negated { "NOT " } else { "" };
        match &self.kind {
            ExprKind::Literal(value) => literal(f, value),
            ExprKind::Wildcard { except, replace } => {
                f.write_str("*")?;
                if !except.is_empty() {
                    write!(f, " EXCEPT({})", Commas(&except.iter().map(|name| Name(name)).collect::<Vec<_>>()))?;
                }
                if !replace.is_empty() {
                    let items: Vec<String> =
                        replace.iter().map(|(expr, name)| format!("{expr} AS {}", Name(name))).collect();
                    write!(f, " REPLACE({})", Commas(&items))?;
                }
                Ok(())
            }
            ExprKind::Column { stream: None, name } => write!(f, "{}", Name(name)),
            ExprKind::Column { stream: Some(stream), name } => write!(f, "{}.{}", Name(stream), Name(name)),
            ExprKind::Negate(inner) => write!(f, "(-({inner}))"),
            ExprKind::Not(inner) => write!(f, "(NOT {inner})"),
            ExprKind::Binary { op, left, right } => write!(f, "({left} {} {right})", op.as_str()),
            ExprKind::Case { operand, branches, otherwise } => {
                f.write_str("CASE ")?;
                if let Some(operand) = operand {
                    write!(f, "{operand} ")?;
                }
                for (when, then) in branches {
                    write!(f, "WHEN {when} THEN {then} ")?;
                }
                if let Some(otherwise) = otherwise {
                    write!(f, "ELSE {otherwise} ")?;
                }
                f.write_str("END")
            }
            ExprKind::In { value, list, array, negated } => {
                let list = Commas(list);
                if *array {
                    write!(f, "({value} {}IN {list})", not(*negated))
                } else {
                    write!(f, "({value} {}IN ({list}))", not(*negated))
                }
            }
            ExprKind::Between { value, low, high, negated } => {
                write!(f, "({value} {}BETWEEN {low} AND {high})", not(*negated))
            }
            ExprKind::Like { value, pattern, negated } => write!(f, "({value} {}LIKE {pattern})", not(*negated)),
            ExprKind::Member { base, name } => write!(f, "{}->{}", Base(base), Name(name)),
            ExprKind::Index { base, index } => write!(f, "{}[{index}]", Base(base)),
            ExprKind::Slice { base, start, end } => {
                write!(f, "{}[", Base(base))?;
                if let Some(start) = start {
                    write!(f, "{start}")?;
                }
                f.write_str(":")?;
                if let Some(end) = end {
                    write!(f, "{end}")?;
                }
                f.write_str("]")
            }
            ExprKind::Call { name, arguments, .. } => write!(f, "{name}({})", Commas(arguments)),
        }
    }
}

/// What `->` and `[]` reach into; a negative number there needs brackets of its own.
struct Base<'a>(&'a Expr);

impl fmt::Display for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            ExprKind::Literal(_) => write!(f, "({})", self.0),
            _ => write!(f, "{}", self.0),
        }
    }
}

struct Commas<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Commas<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, item) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

fn literal(f: &mut fmt::Formatter<'_>, value: &Datum) -> fmt::Result {
    match value {
        Datum::String(text) => {
            f.write_str("\"")?;
            for c in text.chars() {
                match c {
                    '"' => f.write_str("\\\"")?,
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    _ => write!(f, "{c}")?,
                }
            }
            f.write_str("\"")
        }
        // `{:?}` keeps a point or an exponent, so the number stays a FLOAT.
        Datum::Float(value) => write!(f, "{value:?}"),
        other => write!(f, "{}", other.to_json()),
    }
}
