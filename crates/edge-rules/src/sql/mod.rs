//! From text to statements: lexer, parser and the tree they make.
//!
//! `text ──lexer──▶ tokens with spans ──parser──▶ ast`; `ast` prints itself so that it parses back to the same tree.

pub mod ast;
mod ddl;
mod lexer;
mod parser;
mod printer;

use crate::error::SqlError;
use ast::{Expr, Select, StreamStatement};
use parser::Parser;

/// Deepest nesting of expressions and column types; the parser and the evaluator recurse as deep.
pub const NESTING_MAX: usize = 64;

/// Longest statement.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// Parses `SELECT …`.
///
/// # Errors
/// The first place where the text is no query, or one that is longer or nested deeper than we take.
pub fn parse_select(text: &str) -> Result<Select, SqlError> {
    let mut parser = Parser::new(text)?;
    let select = parser.select()?;
    parser.end()?;
    Ok(select)
}

/// Parses `CREATE STREAM …` or `CREATE TABLE …`.
///
/// # Errors
/// The first place where the text is no such statement, an unknown option, or an option's value of another type.
pub fn parse_stream(text: &str) -> Result<StreamStatement, SqlError> {
    let mut parser = Parser::new(text)?;
    let stream = parser.create()?;
    parser.end()?;
    Ok(stream)
}

/// Parses one expression.
///
/// # Errors
/// The first place where the text is no expression.
pub fn parse_expr(text: &str) -> Result<Expr, SqlError> {
    let mut parser = Parser::new(text)?;
    let expr = parser.expr()?;
    parser.end()?;
    Ok(expr)
}
