//! Streams and rules in SQL, as eKuiper's users write them.
//!
//! A `Stream` gives events a name and perhaps columns; a `Rule` is a `SELECT` over one stream. This crate parses both
//! with errors that point at a line and a column, compiles the query to a small tree over numbered columns, and runs
//! it: rows are pushed in, rows come out. It holds no thread, no socket and no clock; the caller tells the time.
//!
//! `text ──sql──▶ Select + StreamStatement ──plan──▶ Rule ──push(row), tick(now)──▶ rows`
//!
//! ```
//! use edge_rules::{Row, Rule, parse_select, parse_stream};
//!
//! let stream = parse_stream("CREATE STREAM press () WITH (TYPE=\"edgex\", FORMAT=\"json\")")?;
//! let select = parse_select("SELECT avg(rms) AS rms FROM press GROUP BY TUMBLINGWINDOW(ss, 10)")?;
//! let mut rule = Rule::new(&select, [&stream])?;
//!
//! let mut out = Vec::new();
//! rule.push("press", 1_000, &Row::from_json(r#"{"rms": 6.0}"#).unwrap(), &mut out);
//! rule.push("press", 9_000, &Row::from_json(r#"{"rms": 8.0}"#).unwrap(), &mut out);
//! assert!(out.is_empty());
//! assert_eq!(rule.next_deadline(), Some(10_000));
//! rule.tick(10_000, &mut out);
//! assert_eq!(out[0].to_json().to_string(), r#"{"rms":7.0}"#);
//! # Ok::<(), edge_rules::SqlError>(())
//! ```
//!
//! What differs from eKuiper on purpose: an integer that overflows is an error of its row and does not wrap; windows
//! count in processing time and close early when the clock is set back by more than a window.

mod aggregates;
mod datum;
mod error;
mod eval;
mod functions;
mod plan;
mod rule;
mod source;
mod sql;

pub use datum::{Datum, Row};
pub use error::SqlError;
pub use rule::{GROUPS_MAX, Rule, RuleStats, WINDOW_ROWS_MAX};
pub use source::{EventRow, RowSource};
pub use sql::ast::{
    BinaryOp, ColumnDef, ColumnType, Expr, ExprKind, Field, Format, OrderBy, Select, SourceType, Span, StreamKind,
    StreamOptions, StreamStatement, Unit, Window, WindowKind,
};
pub use sql::{NESTING_MAX, STATEMENT_BYTES_MAX, parse_expr, parse_select, parse_stream};

#[cfg(test)]
mod tests;
