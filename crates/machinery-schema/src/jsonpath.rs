//! The part of Kubernetes' JSONPath that printer columns use.
//!
//! `.a.b`, `['a.b']`, `[0]`, `[-1]`, `[*]`, `.*`, `[?(@.type=="Ready")]` (also `!=`, `<`, `>`, or a bare `@.field`
//! that tests for presence), `..name` for every name below, with or without `{}` around it. Ranges and unions are rejected when a definition is installed.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(Box<str>),
    Index(i64),
    Every,
    /// `..`: the value and everything below it.
    Below,
    Filter {
        keys: Vec<Box<str>>,
        test: Option<(Comparison, Value)>,
    },
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
    /// A character that no path has there.
    #[error("has an unexpected {found:?} at character {at}; write .name, [n], [*] or [?(@.name==\"x\")]")]
    Unexpected {
        /// The character, or what comes instead of one.
        found: String,
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
        let inner = trimmed.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(trimmed).trim();
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        if inner.is_empty() {
            return Err(JsonPathError::Empty);
        }
        let mut parser = Parser { rest: inner, whole: inner };
        let mut steps = Vec::new();
        while !parser.rest.is_empty() {
            if let Some(step) = parser.step()? {
                steps.push(step);
            }
        }
        Ok(Self { steps })
    }

    /// Every value at the path; none when a key is missing.
    pub fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![root];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.follow(value, &mut next);
            }
            next.truncate(FOUND_MAX);
            found = next;
        }
        found
    }
}

impl Step {
    fn follow<'v>(&self, value: &'v Value, next: &mut Vec<&'v Value>) {
        match (self, value) {
            (Self::Key(key), Value::Object(map)) => next.extend(map.get(&**key)),
            (Self::Index(index), Value::Array(items)) => {
                let position = usize::try_from(*index).ok();
                let from_end =
                    usize::try_from(index.unsigned_abs()).ok().and_then(|back| items.len().checked_sub(back));
                next.extend(position.or(from_end).and_then(|position| items.get(position)));
            }
            (Self::Every, Value::Array(items)) => next.extend(items),
            (Self::Every, Value::Object(map)) => next.extend(map.values()),
            (Self::Below, value) => below(value, next),
            (Self::Filter { keys, test }, Value::Array(items)) => {
                next.extend(items.iter().filter(|item| passes(item, keys, test.as_ref())));
            }
            _ => {}
        }
    }
}

/// A value, then what is in it, as far as anybody looks.
fn below<'v>(value: &'v Value, next: &mut Vec<&'v Value>) {
    if next.len() >= FOUND_MAX {
        return;
    }
    next.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| below(item, next)),
        Value::Object(map) => map.values().for_each(|item| below(item, next)),
        _ => {}
    }
}

fn passes(item: &Value, keys: &[Box<str>], test: Option<&(Comparison, Value)>) -> bool {
    let found = keys.iter().try_fold(item, |value, key| value.get(&**key));
    let (Some(found), Some((comparison, expected))) = (found, test) else {
        return found.is_some() && test.is_none();
    };
    let order = match (found, expected) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
    };
    match comparison {
        Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::NotEqual => order.is_none_or(std::cmp::Ordering::is_ne),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

struct Parser<'t> {
    rest: &'t str,
    whole: &'t str,
}

impl<'t> Parser<'t> {
    /// One step; `None` for a lone dot at the start, which means the root.
    fn step(&mut self) -> Result<Option<Step>, JsonPathError> {
        if self.take("[") {
            let step = self.bracket()?;
            return Ok(Some(step));
        }
        let is_first = self.rest.len() == self.whole.len();
        if self.rest.starts_with("..") {
            // The second dot belongs to the name that follows.
            self.take(".");
            return Ok(Some(Step::Below));
        }
        if !self.take(".") && !is_first {
            return Err(self.unexpected());
        }
        if self.take("*") {
            return Ok(Some(Step::Every));
        }
        if self.rest.starts_with('[') || (is_first && self.rest.is_empty()) {
            return Ok(None);
        }
        Ok(Some(Step::Key(self.key()?)))
    }

    fn key(&mut self) -> Result<Box<str>, JsonPathError> {
        let mut key = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, char)) = chars.next() {
            match char {
                // `metadata.labels.selvedge\.dev/role` reaches a key with dots.
                '\\' => key.extend(chars.next().map(|(_, escaped)| escaped)),
                '.' | '[' | ']' | '(' | ')' | '=' | '!' | '<' | '>' | ' ' | '{' | '}' | '"' | '\'' | ',' => {
                    end = at;
                    break;
                }
                _ => key.push(char),
            }
        }
        if key.is_empty() {
            return Err(self.unexpected());
        }
        self.rest = &self.rest[end..];
        Ok(key.into())
    }

    fn bracket(&mut self) -> Result<Step, JsonPathError> {
        let step = if self.take("*") {
            Step::Every
        } else if self.take("?(") {
            self.filter()?
        } else if let Some(quoted) = self.quoted()? {
            Step::Key(quoted.into())
        } else {
            let len = self.rest.find(']').unwrap_or(self.rest.len());
            let index = self.rest[..len].trim().parse().map_err(|_| self.unexpected())?;
            self.rest = &self.rest[len..];
            Step::Index(index)
        };
        if self.take("]") { Ok(step) } else { Err(self.unexpected()) }
    }

    fn filter(&mut self) -> Result<Step, JsonPathError> {
        self.skip_spaces();
        if !self.take("@") {
            return Err(self.unexpected());
        }
        let mut keys = Vec::new();
        while self.take(".") {
            keys.push(self.key()?);
        }
        self.skip_spaces();
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let comparison = comparisons.into_iter().find(|(sign, _)| self.take(sign)).map(|(_, comparison)| comparison);
        let test = match comparison {
            None => None,
            Some(comparison) => {
                self.skip_spaces();
                Some((comparison, self.literal()?))
            }
        };
        self.skip_spaces();
        if self.take(")") { Ok(Step::Filter { keys, test }) } else { Err(self.unexpected()) }
    }

    fn literal(&mut self) -> Result<Value, JsonPathError> {
        if let Some(quoted) = self.quoted()? {
            return Ok(Value::String(quoted));
        }
        let len = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
        let value = serde_json::from_str(&self.rest[..len]).map_err(|_| self.unexpected())?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    fn quoted(&mut self) -> Result<Option<String>, JsonPathError> {
        let Some(quote) = self.rest.chars().next().filter(|char| matches!(char, '"' | '\'')) else { return Ok(None) };
        let Some(len) = self.rest[1..].find(quote) else { return Err(self.unexpected()) };
        let text = self.rest[1..=len].to_owned();
        self.rest = &self.rest[len + 2..];
        Ok(Some(text))
    }

    fn take(&mut self, sign: &str) -> bool {
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn unexpected(&self) -> JsonPathError {
        let found = self.rest.chars().next().map_or_else(|| "end".to_owned(), String::from);
        JsonPathError::Unexpected { found, at: self.whole.len() - self.rest.len() + 1 }
    }
}

#[cfg(test)]
mod tests;
