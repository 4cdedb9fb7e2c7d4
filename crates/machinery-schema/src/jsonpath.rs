//! Kubernetes' JSONPath, as the columns of custom resources have it.
//!
//! `.a.b`, `['a.b']`, `[0]`, `[-1]`, `[0:2]`, `[::2]`, `[*]`, `.*`, `[0,2]` and `['a','b']`, `..name` for every name below,
//! `[?(@.type=="Ready")]` (also `!=`, `<`, `<=`, `>`, `>=`, or a bare `@.field` that tests for presence), with or without
//! `{}` around all of it. What can be read and what it finds is as in client-go's `util/jsonpath`, its oddities included:
//! a definition that one server takes must show the same columns on the other. Its `range` is none of them, as a column has one
//! value; a wildcard within a text, which finds bytes there, finds nothing here.

mod parse;

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(Box<str>),
    Slice(Slice),
    /// `.*`.
    Every,
    /// `..`: the values that have something in them, and those below.
    Below,
    /// What one of several paths finds, one after the other.
    Union(Vec<Vec<Step>>),
    Filter {
        left: Vec<Step>,
        test: Option<(Comparison, Vec<Step>)>,
    },
    /// A value instead of those that were found.
    Literal(Value),
    /// What can be written and never finds anything: `range`, or an unknown operator.
    Nonsense,
}

/// `[start:end:step]`, and `[n]`, which is `[n:n+1]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slice {
    start: Option<i64>,
    end: Option<i64>,
    /// The end was not written: it follows from the start.
    is_index: bool,
    step: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
}

/// Why a path was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// There is nothing.
    #[error("is empty; write a path such as .spec.nodeName")]
    Empty,
    /// Something that no path has there.
    #[error("{what} at character {at}; write .name, [n], [a:b], [*] or [?(@.name==\"x\")]")]
    Unexpected {
        /// What is wrong.
        what: String,
        /// Its position.
        at: usize,
    },
    /// It is longer than a path has to be.
    #[error("has more than {PATH_BYTES_MAX} bytes")]
    TooLong,
}

/// Real paths have a few dozen bytes.
const PATH_BYTES_MAX: usize = 1024;
/// A wildcard over a long list makes a useless cell; evaluation stops here.
const FOUND_MAX: usize = 256;

/// A path does not fit the value: an index that is out of bounds, a filter of something that is no list.
struct Unfit;

impl JsonPath {
    /// Reads a path such as `.spec.nodeName`.
    ///
    /// # Errors
    /// When it is none; with the place.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        if text.len() > PATH_BYTES_MAX {
            return Err(JsonPathError::TooLong);
        }
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(trimmed);
        if inner.trim().is_empty() {
            return Err(JsonPathError::Empty);
        }
        Ok(Self { steps: parse::steps(inner)? })
    }

    /// Every value at the path; none when a key is missing, or when the path does not fit what is there.
    pub fn find<'v>(&'v self, root: &'v Value) -> Vec<&'v Value> {
        follow(&self.steps, vec![root]).unwrap_or_default()
    }
}

fn follow<'v>(steps: &'v [Step], mut found: Vec<&'v Value>) -> Result<Vec<&'v Value>, Unfit> {
    for step in steps {
        found = step.follow(&found)?;
        found.truncate(FOUND_MAX);
    }
    Ok(found)
}

impl Step {
    fn follow<'v>(&'v self, values: &[&'v Value]) -> Result<Vec<&'v Value>, Unfit> {
        let present = values.iter().copied().filter(|value| !value.is_null());
        let mut next = Vec::new();
        match self {
            Self::Key(key) => next.extend(present.filter_map(|value| value.as_object()?.get(&**key))),
            Self::Slice(slice) => {
                for value in present {
                    let items = value.as_array().ok_or(Unfit)?;
                    // An empty slice ends the search, for all that came before it too.
                    let Some(range) = slice.range(items.len())? else { return Ok(Vec::new()) };
                    let step = slice.step.unwrap_or(1);
                    let step = usize::try_from(step).ok().filter(|step| *step > 0).ok_or(Unfit)?;
                    next.extend(items[range].iter().step_by(step));
                }
            }
            Self::Every => {
                for value in present {
                    next.extend(children(value));
                }
            }
            Self::Below => present.for_each(|value| below(value, &mut next)),
            Self::Union(paths) => {
                for path in paths {
                    next.extend(follow(path, values.to_vec())?);
                }
            }
            Self::Filter { left, test } => {
                for value in values {
                    for item in value.as_array().ok_or(Unfit)? {
                        if passes(item, left, test.as_ref())? {
                            next.push(item);
                        }
                    }
                }
            }
            Self::Literal(literal) => next.extend(values.iter().map(|_| literal)),
            Self::Nonsense => return Err(Unfit),
        }
        Ok(next)
    }
}

impl Slice {
    /// The positions that are meant in a list of this length; `None` for none.
    fn range(self, len: usize) -> Result<Option<std::ops::Range<usize>>, Unfit> {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        let mut start = self.start.unwrap_or(0);
        let mut end = match self.end {
            Some(end) => end,
            None if self.is_index => start.saturating_add(1),
            None => len,
        };
        if start < 0 {
            start = start.saturating_add(len);
        }
        if end < 0 || (end == 0 && self.is_index) {
            end = end.saturating_add(len);
        }
        if start == end {
            return Ok(None);
        }
        if start >= len || end > len || start > end {
            return Err(Unfit);
        }
        let position = |at: i64| usize::try_from(at).map_err(|_| Unfit);
        Ok(Some(position(start)?..position(end)?))
    }
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// A value that has something in it, then what is in it, as far as anybody looks.
fn below<'v>(value: &'v Value, next: &mut Vec<&'v Value>) {
    let is_text = value.as_str().is_some_and(|text| !text.is_empty());
    if next.len() < FOUND_MAX && (is_text || children(value).next().is_some()) {
        next.push(value);
        children(value).for_each(|item| below(item, next));
    }
}

fn passes<'v>(item: &'v Value, left: &'v [Step], test: Option<&'v (Comparison, Vec<Step>)>) -> Result<bool, Unfit> {
    let found = follow(left, vec![item]);
    let Some((comparison, right)) = test else {
        return Ok(found.is_ok_and(|found| !found.is_empty()));
    };
    let one = |found: Vec<&'v Value>| match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        _ => Err(Unfit),
    };
    let (Some(found), Some(expected)) = (one(found?)?, one(follow(right, vec![item])?)?) else { return Ok(false) };
    comparison.holds(found, expected)
}

impl Comparison {
    /// Go compares values of one kind; bools only for being the same, and 1 with 1.0 never.
    fn holds(self, a: &Value, b: &Value) -> Result<bool, Unfit> {
        let order = match (a, b) {
            (Value::Bool(a), Value::Bool(b)) if matches!(self, Self::Equal | Self::NotEqual) => a.cmp(b),
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.as_f64().partial_cmp(&b.as_f64()).ok_or(Unfit)?,
            },
            _ => return Err(Unfit),
        };
        Ok(match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::Greater => order.is_gt(),
            Self::LessOrEqual => order.is_le(),
            Self::GreaterOrEqual => order.is_ge(),
        })
    }
}

#[cfg(test)]
mod tests;
