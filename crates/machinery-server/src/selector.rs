//! Label and field selectors: text → conditions on an object's index fields.

use std::fmt;
use std::str::FromStr;

use machinery_store::Object;

/// Labels stand in the store's index as this and the label's key, so that no field is taken for a label.
pub(crate) const LABEL_FIELD_PREFIX: &str = "label:";

/// A selector is written by people; longer ones only cost.
const REQUIREMENTS_MAX: usize = 1000;

/// Why a selector could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ParseSelectorError {
    reason: String,
}

fn fail<T>(reason: impl Into<String>) -> Result<T, ParseSelectorError> {
    Err(ParseSelectorError { reason: reason.into() })
}

/// A label selector in Kubernetes' full grammar: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`, `a<1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// The label's key behind [`LABEL_FIELD_PREFIX`].
    field: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a label must have, when the selector asks for exactly one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements.iter().find(|requirement| requirement.key() == key).and_then(Requirement::exact)
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(object.field(&requirement.field)))
    }

    /// An index field and the value it must have, for a watch that is woken by these objects only.
    pub(crate) fn index_term(&self) -> Option<(&str, &str)> {
        self.requirements.iter().find_map(|requirement| Some((requirement.field.as_str(), requirement.exact()?)))
    }
}

impl Requirement {
    fn key(&self) -> &str {
        &self.field[LABEL_FIELD_PREFIX.len()..]
    }

    fn exact(&self) -> Option<&str> {
        match &self.operator {
            Operator::In(values) if values.len() == 1 => Some(&values[0]),
            _ => None,
        }
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let is_in = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => is_in(values),
            Operator::NotIn(values) => !is_in(values),
            Operator::Exists => value.is_some(),
            Operator::Absent => value.is_none(),
            Operator::Greater(bound) => number().is_some_and(|number| number > *bound),
            Operator::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl FromStr for LabelSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tokens = Tokens { rest: text.trim() };
        let mut requirements = Vec::new();
        if tokens.rest.is_empty() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(tokens.requirement()?);
            if requirements.len() > REQUIREMENTS_MAX {
                return fail(format!("more than {REQUIREMENTS_MAX} requirements"));
            }
            match tokens.next() {
                None => return Ok(Self { requirements }),
                Some(",") => {}
                Some(other) => return fail(format!("found '{other}', expected: ',' or the end")),
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, requirement) in self.requirements.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let key = requirement.key();
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => write!(formatter, "{comma}{key}={}", values[0])?,
                Operator::NotIn(values) if values.len() == 1 => write!(formatter, "{comma}{key}!={}", values[0])?,
                Operator::In(values) => write!(formatter, "{comma}{key} in ({})", values.join(","))?,
                Operator::NotIn(values) => write!(formatter, "{comma}{key} notin ({})", values.join(","))?,
                Operator::Exists => write!(formatter, "{comma}{key}")?,
                Operator::Absent => write!(formatter, "{comma}!{key}")?,
                Operator::Greater(bound) => write!(formatter, "{comma}{key}>{bound}")?,
                Operator::Less(bound) => write!(formatter, "{comma}{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// The next symbol or word.
    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        let symbols = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"];
        let len = match symbols.iter().find(|symbol| self.rest.starts_with(**symbol)) {
            Some(symbol) => symbol.len(),
            None => self
                .rest
                .find(|character: char| character.is_whitespace() || "=!(),<>".contains(character))
                .unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(token).filter(|token| !token.is_empty())
    }

    fn peek(&self) -> Option<&'a str> {
        Tokens { rest: self.rest }.next()
    }

    fn requirement(&mut self) -> Result<Requirement, ParseSelectorError> {
        if self.peek() == Some("!") {
            self.next();
            return Ok(Requirement { field: self.key()?, operator: Operator::Absent });
        }
        let field = self.key()?;
        let operator = match self.peek() {
            None | Some(",") => Operator::Exists,
            Some("=" | "==") => {
                self.next();
                Operator::In(vec![self.value()?])
            }
            Some("!=") => {
                self.next();
                Operator::NotIn(vec![self.value()?])
            }
            Some(bound @ (">" | "<")) => {
                self.next();
                let value = self.value()?;
                let Ok(number) = value.parse() else { return fail(format!("'{value}' is not a whole number")) };
                if bound == ">" { Operator::Greater(number) } else { Operator::Less(number) }
            }
            Some("in") => {
                self.next();
                Operator::In(self.values()?)
            }
            Some("notin") => {
                self.next();
                Operator::NotIn(self.values()?)
            }
            Some(other) => return fail(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        Ok(Requirement { field, operator })
    }

    fn key(&mut self) -> Result<String, ParseSelectorError> {
        match self.next() {
            Some(key) if machinery_schema::is_qualified_name(key) => Ok(format!("{LABEL_FIELD_PREFIX}{key}")),
            Some(other) => fail(format!("'{other}' is not a label key")),
            None => fail("found the end, expected: a label key"),
        }
    }

    /// A value, which may be empty (`a=`).
    fn value(&mut self) -> Result<String, ParseSelectorError> {
        match self.peek() {
            None | Some(",") => return Ok(String::new()),
            Some(_) => {}
        }
        self.checked_value()
    }

    fn checked_value(&mut self) -> Result<String, ParseSelectorError> {
        match self.next() {
            Some(value) if machinery_schema::is_label_value(value) => Ok(value.to_owned()),
            Some(other) => fail(format!("'{other}' is not a label value")),
            None => fail("found the end, expected: a label value"),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, ParseSelectorError> {
        if self.next() != Some("(") {
            return fail("expected '(' after in or notin");
        }
        let mut values = Vec::new();
        loop {
            // `in (,a)` and `in ()` ask for the empty value, as in Kubernetes.
            match self.peek() {
                Some("," | ")") => values.push(String::new()),
                _ => values.push(self.checked_value()?),
            }
            if values.len() > REQUIREMENTS_MAX {
                return fail(format!("more than {REQUIREMENTS_MAX} values"));
            }
            match self.next() {
                Some(",") => {}
                Some(")") => return Ok(values),
                _ => return fail("expected ',' or ')' in a list of values"),
            }
        }
    }
}

/// A field selector: `a=b`, `a==b`, `a!=b`, with commas between them; `\` escapes `,`, `=` and itself in values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    value: String,
    is_equal: bool,
}

impl FieldSelector {
    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a field must have, when the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.is_equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Names of the fields that it asks for.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.field.as_str())
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|term| {
            let value = match term.field.as_str() {
                "metadata.name" => &object.key.name,
                "metadata.namespace" => &object.key.namespace,
                field => object.field(field).unwrap_or_default(),
            };
            (value == term.value) == term.is_equal
        })
    }

    /// An index field and the value it must have; not for namespaces, which are no field.
    pub(crate) fn index_term(&self) -> Option<(&str, &str)> {
        let term = self
            .terms
            .iter()
            .find(|term| term.is_equal && term.field != "metadata.namespace" && !term.value.is_empty())?;
        Some((&term.field, &term.value))
    }
}

impl FromStr for FieldSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, rest)) = part.split_once('=') else {
                return fail(format!("invalid selector: '{part}'; can't understand it"));
            };
            let (field, value, is_equal) = match (field.strip_suffix('!'), rest.strip_prefix('=')) {
                (Some(field), _) => (field, rest, false),
                (None, Some(value)) => (field, value, true),
                (None, None) => (field, rest, true),
            };
            terms.push(FieldTerm { field: field.trim().to_owned(), value: unescape(value)?, is_equal });
            if terms.len() > REQUIREMENTS_MAX {
                return fail(format!("more than {REQUIREMENTS_MAX} requirements"));
            }
        }
        Ok(Self { terms })
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut is_escaped) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Result<String, ParseSelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ (',' | '=' | '\\')) => plain.push(escaped),
                _ => return fail(format!("invalid escape sequence in '{value}'")),
            },
            '=' => return fail(format!("unescaped '=' in the value '{value}'")),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

/// What a list or watch selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selection {
    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| *object.key.namespace == *namespace)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }

    /// Whether something besides the namespace is asked for.
    pub(crate) fn has_selectors(&self) -> bool {
        !self.labels.is_everything() || !self.fields.is_everything()
    }

    /// See [`LabelSelector::index_term`].
    pub(crate) fn index_term(&self) -> Option<(&str, &str)> {
        self.fields.index_term().or_else(|| self.labels.index_term())
    }
}

#[cfg(test)]
mod tests;
