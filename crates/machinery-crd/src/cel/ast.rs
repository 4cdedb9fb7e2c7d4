//! Expressions as trees. A node is known by its number, so that types and costs can be noted beside it.

use super::value::Lit;

/// The number of a node.
pub(crate) type Id = usize;

#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Literal(Lit),
    Ident(String),
    /// `operand.field`, and `has(operand.field)` when it only tests.
    Select {
        operand: Id,
        field: String,
        is_test: bool,
    },
    Call {
        function: &'static str,
        name: String,
        target: Option<Id>,
        args: Vec<Id>,
    },
    List(Vec<Id>),
    Map(Vec<(Id, Id)>),
    Fold(Box<Fold>),
}

/// What the macros over lists and maps become.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub range: Id,
    pub var: String,
    pub var2: Option<String>,
    pub accu: String,
    pub init: Id,
    pub condition: Id,
    pub step: Id,
    pub result: Id,
}

/// A whole expression.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ast {
    pub nodes: Vec<Expr>,
    /// Where each node is, in characters.
    pub places: Vec<usize>,
    pub root: Id,
}

impl Ast {
    pub fn node(&self, id: Id) -> &Expr {
        &self.nodes[id]
    }
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Issue {
    pub at: usize,
    pub text: String,
}

/// Issues as cel-go shows them, with the line and a caret below.
pub(crate) fn show_issues(source: &[char], issues: &mut [Issue]) -> String {
    issues.sort_by_key(|issue| issue.at);
    let shown: Vec<String> = issues
        .iter()
        .map(|issue| {
            let at = issue.at.min(source.len());
            let line_start = source[..at].iter().rposition(|char| *char == '\n').map_or(0, |position| position + 1);
            let line = 1 + source[..at].iter().filter(|char| **char == '\n').count();
            let end =
                source[line_start..].iter().position(|char| *char == '\n').map_or(source.len(), |len| line_start + len);
            let text: String =
                source[line_start..end].iter().map(|char| if *char == '\t' { ' ' } else { *char }).collect();
            let column = at - line_start;
            format!("ERROR: <input>:{line}:{}: {}\n | {text}\n | {}^", column + 1, issue.text, ".".repeat(column))
        })
        .collect();
    shown.join("\n")
}
