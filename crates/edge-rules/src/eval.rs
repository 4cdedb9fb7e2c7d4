//! Evaluates compiled expressions.
//!
//! The rules for null and for mixed types are eKuiper's: arithmetic with null is null, an order comparison with null
//! is false, integers and floats mix, and any other mix of types is an error of the row.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::sync::Arc;

use crate::datum::Datum;
use crate::functions::ScalarFunction;
use crate::sql::ast::BinaryOp;

/// Why a row could not be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct EvalError(pub String);

pub(crate) type Eval = Result<Datum, EvalError>;

pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError(message.into()))
}

/// A compiled expression: names are numbers of slots.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Literal(Datum),
    Slot(usize),
    Alias(usize),
    Aggregate(usize),
    WindowStart,
    WindowEnd,
    EventTime,
    Negate(Box<Node>),
    Not(Box<Node>),
    Binary { op: BinaryOp, left: Box<Node>, right: Box<Node> },
    Case { operand: Option<Box<Node>>, branches: Vec<(Node, Node)>, otherwise: Option<Box<Node>> },
    In { value: Box<Node>, list: Vec<Node>, array: bool, negated: bool },
    Between { value: Box<Node>, low: Box<Node>, high: Box<Node>, negated: bool },
    Like { value: Box<Node>, pattern: Box<Node>, negated: bool },
    Member { base: Box<Node>, name: Box<str> },
    Index { base: Box<Node>, index: Box<Node> },
    Slice { base: Box<Node>, start: Option<Box<Node>>, end: Option<Box<Node>> },
    Call { function: &'static ScalarFunction, arguments: Vec<Node> },
}

/// All that an expression can refer to.
pub(crate) struct Scope<'a> {
    /// Values of the columns and metadata that the rule reads.
    pub slots: &'a [Datum],
    /// Results of the aggregates; empty while rows are taken in.
    pub aggregates: &'a [Datum],
    /// Expressions behind aliases.
    pub aliases: &'a [Node],
    /// Aliases already computed for this row.
    pub memo: &'a RefCell<Vec<Option<Datum>>>,
    /// First millisecond of the window, and the one after its last; while a row is taken in, both are its time.
    pub window: (i64, i64),
    /// The present, in milliseconds.
    pub now_ms: i64,
}

impl Node {
    pub(crate) fn eval(&self, scope: &Scope<'_>) -> Eval {
        Ok(match self {
            Node::Literal(value) => value.clone(),
            Node::Slot(slot) => scope.slots.get(*slot).cloned().unwrap_or_default(),
            Node::Aggregate(at) => scope.aggregates.get(*at).cloned().unwrap_or_default(),
            Node::WindowStart => Datum::Int(scope.window.0),
            Node::WindowEnd => Datum::Int(scope.window.1),
            // Outside a window both bounds are the time of the row.
            Node::EventTime => Datum::Int(scope.window.1),
            Node::Alias(at) => {
                if let Some(known) = scope.memo.borrow()[*at].clone() {
                    return Ok(known);
                }
                let value = scope.aliases[*at].eval(scope)?;
                scope.memo.borrow_mut()[*at] = Some(value.clone());
                value
            }
            Node::Negate(inner) => match inner.eval(scope)? {
                Datum::Null => Datum::Null,
                Datum::Int(value) => match value.checked_neg() {
                    Some(value) => Datum::Int(value),
                    None => return fail(format!("-({value}) does not fit int64")),
                },
                Datum::Float(value) => Datum::Float(-value),
                other => return fail(format!("invalid operation -{}", typed(&other))),
            },
            Node::Not(inner) => match inner.eval(scope)? {
                Datum::Null => Datum::Null,
                Datum::Bool(value) => Datum::Bool(!value),
                other => return fail(format!("invalid operation NOT {}", typed(&other))),
            },
            Node::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), left, right } => {
                logic(*op, left.eval(scope)?, || right.eval(scope))?
            }
            Node::Binary { op, left, right } => binary(*op, &left.eval(scope)?, &right.eval(scope)?)?,
            Node::Case { operand, branches, otherwise } => {
                let operand = operand.as_ref().map(|operand| operand.eval(scope)).transpose()?;
                for (when, then) in branches {
                    let when = when.eval(scope)?;
                    let chosen = match &operand {
                        Some(operand) => same(operand, &when),
                        None => is_true(&when, "CASE WHEN")?,
                    };
                    if chosen {
                        return then.eval(scope);
                    }
                }
                otherwise.as_ref().map_or(Ok(Datum::Null), |otherwise| otherwise.eval(scope))?
            }
            Node::In { value, list, array, negated } => {
                let value = value.eval(scope)?;
                let mut found = false;
                for item in list {
                    match item.eval(scope)? {
                        Datum::Array(items) if *array => found |= items.iter().any(|item| same(&value, item)),
                        Datum::Null if *array => {}
                        other if *array => return fail(format!("IN takes an array, not {}", typed(&other))),
                        item => found |= same(&value, &item),
                    }
                }
                Datum::Bool(found != *negated)
            }
            Node::Between { value, low, high, negated } => {
                let value = value.eval(scope)?;
                let (low, high) = (low.eval(scope)?, high.eval(scope)?);
                if value.is_null() || low.is_null() || high.is_null() {
                    return Ok(Datum::Bool(false));
                }
                let inside = binary(BinaryOp::GreaterOrEqual, &value, &low)? == Datum::Bool(true)
                    && binary(BinaryOp::LessOrEqual, &value, &high)? == Datum::Bool(true);
                Datum::Bool(inside != *negated)
            }
            Node::Like { value, pattern, negated } => match (value.eval(scope)?, pattern.eval(scope)?) {
                (Datum::Null, _) | (_, Datum::Null) => Datum::Bool(false),
                (Datum::String(value), Datum::String(pattern)) => Datum::Bool(like(&value, &pattern) != *negated),
                (left, right) => return fail(format!("invalid operation {} LIKE {}", typed(&left), typed(&right))),
            },
            Node::Member { base, name } => match base.eval(scope)? {
                Datum::Null => Datum::Null,
                Datum::Object(fields) => fields.get(&**name).cloned().unwrap_or_default(),
                other => return fail(format!("{} has no member {name}", typed(&other))),
            },
            Node::Index { base, index } => match base.eval(scope)? {
                Datum::Null => Datum::Null,
                Datum::Array(items) => {
                    let index = integer(&index.eval(scope)?, "an index")?;
                    match position(index, items.len()) {
                        Some(at) if at < items.len() => items[at].clone(),
                        _ => return fail(format!("out of index: {index} of {}", items.len())),
                    }
                }
                other => return fail(format!("[] is an invalid operation for {}", typed(&other))),
            },
            Node::Slice { base, start, end } => match base.eval(scope)? {
                Datum::Null => Datum::Null,
                Datum::Array(items) => {
                    let bound = |bound: &Option<Box<Node>>, default: usize| match bound {
                        None => Ok(default),
                        Some(node) => {
                            let index = integer(&node.eval(scope)?, "an index")?;
                            match position(index, items.len()) {
                                Some(at) if at <= items.len() => Ok(at),
                                _ => fail(format!("out of index: {index} of {}", items.len())),
                            }
                        }
                    };
                    let (start, end) = (bound(start, 0)?, bound(end, items.len())?);
                    if start > end {
                        return fail(format!("start cannot be greater than end. start:{start}  end:{end}"));
                    }
                    Datum::Array(Arc::new(items[start..end].to_vec()))
                }
                other => return fail(format!("[:] is an invalid operation for {}", typed(&other))),
            },
            Node::Call { function, arguments } => {
                let mut values = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    values.push(argument.eval(scope)?);
                }
                function.call(&values, scope.now_ms)?
            }
        })
    }
}

/// `type(value)`, as eKuiper's messages show an operand.
pub(crate) fn typed(value: &Datum) -> String {
    format!("{}({})", value.type_name(), value.to_text())
}

/// Whether a condition holds; null does not.
pub(crate) fn is_true(value: &Datum, place: &str) -> Result<bool, EvalError> {
    match value {
        Datum::Bool(value) => Ok(*value),
        Datum::Null => Ok(false),
        other => fail(format!("{place} takes a condition, not {}", typed(other))),
    }
}

pub(crate) fn integer(value: &Datum, what: &str) -> Result<i64, EvalError> {
    match value {
        Datum::Int(value) => Ok(*value),
        Datum::Float(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => Ok(*value as i64),
        other => fail(format!("{what} is an integer, not {}", typed(other))),
    }
}

/// Whether two values are equal; values of different types are not, and null equals null.
pub(crate) fn same(left: &Datum, right: &Datum) -> bool {
    match (left, right) {
        (Datum::Int(left), Datum::Float(right)) | (Datum::Float(right), Datum::Int(left)) => *left as f64 == *right,
        _ => left == right,
    }
}

/// Position of `index`, which counts from the end when it is negative.
fn position(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i64)? } else { index };
    usize::try_from(index).ok()
}

fn logic(op: BinaryOp, left: Datum, right: impl FnOnce() -> Eval) -> Eval {
    let decides = op == BinaryOp::Or;
    if left == Datum::Bool(decides) {
        return Ok(left);
    }
    let right = right()?;
    match (&left, &right) {
        (Datum::Bool(_) | Datum::Null, Datum::Bool(value)) if *value == decides => Ok(right),
        (Datum::Bool(_), Datum::Bool(_)) => Ok(right),
        (Datum::Null, Datum::Null | Datum::Bool(_)) | (Datum::Bool(_), Datum::Null) => Ok(Datum::Null),
        _ => invalid(op, &left, &right),
    }
}

fn invalid<T>(op: BinaryOp, left: &Datum, right: &Datum) -> Result<T, EvalError> {
    fail(format!("invalid operation {} {} {}", typed(left), op.as_str(), typed(right)))
}

/// `left op right` for every operator but `AND` and `OR`, which look at the right side only when they need it.
pub(crate) fn binary(op: BinaryOp, left: &Datum, right: &Datum) -> Eval {
    use BinaryOp::*;
    if left.is_null() || right.is_null() {
        let both = left.is_null() && right.is_null();
        return Ok(match op {
            Equal | LessOrEqual | GreaterOrEqual => Datum::Bool(both),
            NotEqual => Datum::Bool(!both),
            Less | Greater => Datum::Bool(false),
            _ => Datum::Null,
        });
    }
    match (left, right) {
        (Datum::Int(l), Datum::Int(r)) => integers(op, *l, *r),
        (Datum::Float(l), Datum::Float(r)) => floats(op, *l, *r),
        (Datum::Int(l), Datum::Float(r)) => floats(op, *l as f64, *r),
        (Datum::Float(l), Datum::Int(r)) => floats(op, *l, *r as f64),
        (Datum::String(l), Datum::String(r)) => ordered(op, l.cmp(r)).map_or_else(|| invalid(op, left, right), Ok),
        (Datum::Bool(l), Datum::Bool(r)) => Ok(Datum::Bool(match op {
            Equal => l == r,
            NotEqual | BitXor => l != r,
            BitAnd => l & r,
            BitOr => l | r,
            _ => return invalid(op, left, right),
        })),
        (Datum::Bytes(_), Datum::Bytes(_))
        | (Datum::Array(_), Datum::Array(_))
        | (Datum::Object(_), Datum::Object(_)) => match op {
            Equal => Ok(Datum::Bool(left == right)),
            NotEqual => Ok(Datum::Bool(left != right)),
            _ => invalid(op, left, right),
        },
        _ => invalid(op, left, right),
    }
}

fn ordered(op: BinaryOp, order: Ordering) -> Option<Datum> {
    Some(Datum::Bool(match op {
        BinaryOp::Equal => order.is_eq(),
        BinaryOp::NotEqual => order.is_ne(),
        BinaryOp::Less => order.is_lt(),
        BinaryOp::LessOrEqual => order.is_le(),
        BinaryOp::Greater => order.is_gt(),
        BinaryOp::GreaterOrEqual => order.is_ge(),
        _ => return None,
    }))
}

fn integers(op: BinaryOp, left: i64, right: i64) -> Eval {
    if let Some(answer) = ordered(op, left.cmp(&right)) {
        return Ok(answer);
    }
    if right == 0 && matches!(op, BinaryOp::Divide | BinaryOp::Modulo) {
        return fail("divided by zero");
    }
    let value = match op {
        BinaryOp::Add => left.checked_add(right),
        BinaryOp::Subtract => left.checked_sub(right),
        BinaryOp::Multiply => left.checked_mul(right),
        BinaryOp::Divide => left.checked_div(right),
        BinaryOp::Modulo => left.checked_rem(right),
        BinaryOp::BitAnd => Some(left & right),
        BinaryOp::BitOr => Some(left | right),
        BinaryOp::BitXor => Some(left ^ right),
        _ => return invalid(op, &Datum::Int(left), &Datum::Int(right)),
    };
    match value {
        Some(value) => Ok(Datum::Int(value)),
        None => fail(format!("{left} {} {right} does not fit int64", op.as_str())),
    }
}

fn floats(op: BinaryOp, left: f64, right: f64) -> Eval {
    Ok(match op {
        BinaryOp::Equal => Datum::Bool(left == right),
        BinaryOp::NotEqual => Datum::Bool(left != right),
        BinaryOp::Less => Datum::Bool(left < right),
        BinaryOp::LessOrEqual => Datum::Bool(left <= right),
        BinaryOp::Greater => Datum::Bool(left > right),
        BinaryOp::GreaterOrEqual => Datum::Bool(left >= right),
        BinaryOp::Add => Datum::Float(left + right),
        BinaryOp::Subtract => Datum::Float(left - right),
        BinaryOp::Multiply => Datum::Float(left * right),
        BinaryOp::Divide | BinaryOp::Modulo if right == 0.0 => return fail("divided by zero"),
        BinaryOp::Divide => Datum::Float(left / right),
        BinaryOp::Modulo => Datum::Float(left % right),
        _ => return invalid(op, &Datum::Float(left), &Datum::Float(right)),
    })
}

/// Matches with `%` for any text and `_` for any character; a backslash takes the next character as it is.
pub(crate) fn like(text: &str, pattern: &str) -> bool {
    #[derive(PartialEq)]
    enum Piece {
        Any,
        One,
        Char(char),
    }
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '%' => Piece::Any,
            '_' => Piece::One,
            '\\' => Piece::Char(chars.next().unwrap_or('\\')),
            c => Piece::Char(c),
        });
    }
    // Only the last `%` is ever tried again, so the time is at most the product of both lengths.
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut piece) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        match pieces.get(piece) {
            Some(Piece::Any) => {
                piece += 1;
                retry = Some((at, piece));
            }
            Some(Piece::One) => (at, piece) = (at + 1, piece + 1),
            Some(Piece::Char(c)) if *c == text[at] => (at, piece) = (at + 1, piece + 1),
            _ => match retry {
                Some((from, after)) => {
                    (at, piece) = (from + 1, after);
                    retry = Some((at, after));
                }
                None => return false,
            },
        }
    }
    pieces[piece..].iter().all(|piece| *piece == Piece::Any)
}
