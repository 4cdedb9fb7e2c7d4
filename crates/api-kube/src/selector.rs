//! Label and field selectors.
//!
//! A [`LabelSelector`] is read from its text (`app=web,tier in (a,b)`) or made from the JSON that workloads carry
//! ([`LabelSelectorSpec`]); it is asked with a function that finds a label's value, so that nobody copies labels to ask.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{is_label_value, is_qualified_name, label_key_mistakes, label_value_mistakes};

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

/// A label selector in Kubernetes' full grammar: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, `a>1`,
/// `a<1`. All requirements must hold; the one without any selects everything.
///
/// ```
/// let selector: api_kube::LabelSelector = "app in (web, db), !legacy".parse().unwrap();
/// assert!(selector.matches(|key| (key == "app").then_some("web")));
/// assert!(!selector.matches(|key| (key == "legacy").then_some("")));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    selects_nothing: bool,
}

/// One condition of a [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
}

/// What a requirement asks of a label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It is one of these.
    In(Vec<String>),
    /// It is none of these, or there is no such label.
    NotIn(Vec<String>),
    /// There is such a label.
    Exists,
    /// There is none.
    Absent,
    /// It is a whole number above this.
    Greater(i64),
    /// It is a whole number below this.
    Less(i64),
}

impl LabelSelector {
    /// The selector that selects no object: an absent `metav1.LabelSelector`.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), selects_nothing: true }
    }

    /// A selector of these requirements.
    pub fn new(requirements: Vec<Requirement>) -> Self {
        Self { requirements, selects_nothing: false }
    }

    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.selects_nothing
    }

    /// Its requirements.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that a label must have, when the selector asks for exactly one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements.iter().find(|requirement| requirement.key == key).and_then(Requirement::exact)
    }

    /// Whether it selects an object whose labels `label` finds.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        !self.selects_nothing
            && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

impl Requirement {
    /// A requirement; fails when the key or a value is no valid label.
    pub fn new(key: &str, operator: Operator) -> Result<Self, ParseSelectorError> {
        if !is_qualified_name(key) {
            return fail(format!("'{key}' is not a label key"));
        }
        match &operator {
            Operator::In(values) | Operator::NotIn(values) => {
                if let Some(value) = values.iter().find(|value| !is_label_value(value)) {
                    return fail(format!("'{value}' is not a label value"));
                }
                if values.len() > REQUIREMENTS_MAX {
                    return fail(format!("more than {REQUIREMENTS_MAX} values"));
                }
            }
            Operator::Exists | Operator::Absent | Operator::Greater(_) | Operator::Less(_) => {}
        }
        Ok(Self { key: key.to_owned(), operator })
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is asked of it.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// The value that the label must have, when it is exactly one.
    pub fn exact(&self) -> Option<&str> {
        match &self.operator {
            Operator::In(values) if values.len() == 1 => Some(&values[0]),
            _ => None,
        }
    }

    /// Whether it holds for the label's value.
    pub fn matches(&self, value: Option<&str>) -> bool {
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

/// `metav1.LabelSelector` as workloads carry it. Node selector terms have the same expressions, with `Gt` and `Lt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelectorSpec {
    /// Labels that must have these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::meta::null_as_default")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::meta::null_as_default")]
    pub match_expressions: Vec<Expression>,
}

/// One requirement as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; for nodes also `Gt`, `Lt`.
    pub operator: String,
    /// What the operator compares with.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "crate::meta::null_as_default")]
    pub values: Vec<String>,
}

impl LabelSelectorSpec {
    /// The selector it means. An empty one selects everything; an absent one ([`LabelSelector::nothing`]) nothing.
    pub fn to_selector(&self) -> Result<LabelSelector, ParseSelectorError> {
        if self.match_labels.len() + self.match_expressions.len() > REQUIREMENTS_MAX {
            return fail(format!("more than {REQUIREMENTS_MAX} requirements"));
        }
        let of_labels =
            self.match_labels.iter().map(|(key, value)| Requirement::new(key, Operator::In(vec![value.clone()])));
        let of_expressions = self.match_expressions.iter().map(Expression::to_requirement);
        Ok(LabelSelector::new(of_labels.chain(of_expressions).collect::<Result<_, _>>()?))
    }
}

impl Expression {
    /// The requirement it means.
    pub fn to_requirement(&self) -> Result<Requirement, ParseSelectorError> {
        let number = || match self.values.as_slice() {
            [value] => value.parse().or_else(|_| fail(format!("'{value}' is not a whole number"))),
            _ => fail(format!("{} needs exactly one value", self.operator)),
        };
        let operator = match (self.operator.as_str(), self.values.is_empty()) {
            ("In", false) => Operator::In(self.values.clone()),
            ("NotIn", false) => Operator::NotIn(self.values.clone()),
            ("In" | "NotIn", true) => {
                return fail(format!("for '{}' operator, values set can't be empty", self.operator));
            }
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::Absent,
            ("Exists" | "DoesNotExist", false) => {
                return fail(format!("values set must be empty for '{}'", self.operator));
            }
            ("Gt", _) => Operator::Greater(number()?),
            ("Lt", _) => Operator::Less(number()?),
            (other, _) => return fail(format!("'{other}' is not a valid label selector operator")),
        };
        Requirement::new(&self.key, operator)
    }
}

impl FromStr for LabelSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tokens = Tokens { rest: text };
        let mut requirements = Vec::new();
        loop {
            match tokens.peek() {
                Token::End => return Ok(Self::new(requirements)),
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = tokens.requirement();
                    requirements
                        .push(requirement.or_else(|error| fail(format!("unable to parse requirement: {error}")))?);
                }
                other => return fail(format!("found '{other}', expected: !, identifier, or 'end of string'")),
            }
            if requirements.len() > REQUIREMENTS_MAX {
                return fail(format!("more than {REQUIREMENTS_MAX} requirements"));
            }
            match tokens.next() {
                Token::End => return Ok(Self::new(requirements)),
                Token::Symbol(",") => match tokens.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return fail(format!("found '{other}', expected: identifier after ','")),
                },
                other => return fail(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.selects_nothing {
            return formatter.write_str("<none>");
        }
        for (number, requirement) in self.requirements.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let key = &requirement.key;
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

/// A piece of a selector; `in` and `notin` are words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Symbol(&'a str),
    Word(&'a str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symbol(text) | Self::Word(text) => formatter.write_str(text),
            Self::End => Ok(()),
        }
    }
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Token<'a> {
        let is_space = |character: char| matches!(character, ' ' | '\t' | '\r' | '\n');
        self.rest = self.rest.trim_start_matches(is_space);
        if self.rest.is_empty() {
            return Token::End;
        }
        let symbols = ["==", "!=", "=", "!", "(", ")", ",", "<", ">"];
        if let Some(symbol) = symbols.iter().find(|symbol| self.rest.starts_with(**symbol)) {
            let (token, rest) = self.rest.split_at(symbol.len());
            self.rest = rest;
            return Token::Symbol(token);
        }
        let is_end = |character: char| is_space(character) || "=!(),<>".contains(character);
        let (token, rest) = self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
        self.rest = rest;
        Token::Word(token)
    }

    fn peek(&self) -> Token<'a> {
        Tokens { rest: self.rest }.next()
    }

    fn requirement(&mut self) -> Result<Requirement, ParseSelectorError> {
        let is_absent = self.peek() == Token::Symbol("!");
        if is_absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return fail(format!("found '{other}', expected: identifier")),
        };
        let mistakes = label_key_mistakes(key);
        if !mistakes.is_empty() {
            // The field is not known here, and upstream prints it all the same.
            return fail(format!("<nil>: Invalid value: {key:?}: {}", mistakes.join("; ")));
        }
        if is_absent {
            return Requirement::new(key, Operator::Absent);
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists);
        }
        let operator = self.next();
        let mut values = match operator {
            Token::Symbol("=" | "==" | "!=" | ">" | "<") => vec![self.value()?],
            Token::Word("in" | "notin") => self.values()?,
            other => return fail(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        values.sort();
        values.dedup();
        check_values(key, &values, matches!(operator, Token::Symbol(">" | "<")))?;
        let bound = || values[0].parse().expect("checked to be a number");
        let operator = match operator {
            Token::Symbol(">") => Operator::Greater(bound()),
            Token::Symbol("<") => Operator::Less(bound()),
            Token::Symbol("!=") | Token::Word("notin") => Operator::NotIn(values),
            _ => Operator::In(values),
        };
        Requirement::new(key, operator)
    }

    /// A value, which may be empty (`a=`).
    fn value(&mut self) -> Result<String, ParseSelectorError> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(value) => Ok(value.to_owned()),
            other => fail(format!("found '{other}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, ParseSelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return fail(format!("found '{other}' expected: '('")),
        }
        let mut values = Vec::new();
        match self.peek() {
            Token::Symbol(")") => {
                self.next();
                return Ok(vec![String::new()]);
            }
            Token::Word(_) | Token::Symbol(",") => {}
            other => return fail(format!("found '{other}', expected: ',', ')' or identifier")),
        }
        loop {
            // `in (,a)`, `in (a,)` and `in ()` ask for the empty value, as in Kubernetes.
            match self.next() {
                Token::Word(value) => {
                    values.push(value.to_owned());
                    match self.peek() {
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => break,
                        other => return fail(format!("found '{other}', expected: ',' or ')'")),
                    }
                }
                Token::Symbol(",") => {
                    let next = self.peek();
                    if values.is_empty() || matches!(next, Token::Symbol(")" | ",")) {
                        values.push(String::new());
                    }
                    if next == Token::Symbol(")") {
                        break;
                    }
                }
                other => return fail(format!("found '{other}', expected: ',', or identifier")),
            }
            if values.len() > REQUIREMENTS_MAX {
                return fail(format!("more than {REQUIREMENTS_MAX} values"));
            }
        }
        self.next();
        Ok(values)
    }
}

/// Says what is wrong with the values of a requirement, as one text.
fn check_values(key: &str, values: &[String], are_numbers: bool) -> Result<(), ParseSelectorError> {
    let mut mistakes = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if are_numbers && value.parse::<i64>().is_err() {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            mistakes.push(format!("values[{index}]: Invalid value: {value:?}: {why}"));
        }
    }
    for (index, value) in values.iter().enumerate() {
        let wrong = label_value_mistakes(value);
        if !wrong.is_empty() {
            mistakes.push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
        }
    }
    match mistakes.as_slice() {
        [] => Ok(()),
        [one] => fail(one.clone()),
        many => fail(format!("[{}]", many.join(", "))),
    }
}

/// A field selector: `a=b`, `a==b`, `a!=b`, with commas between them; `\` escapes `,`, `=` and itself in values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

/// One condition of a [`FieldSelector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field's path, such as `spec.nodeName`.
    pub field: String,
    /// What it is compared with; an absent field is the empty text.
    pub value: String,
    /// Whether it must be equal, or must not.
    pub is_equal: bool,
}

impl FieldSelector {
    /// The selector of the object of one name.
    pub fn name(name: &str) -> Self {
        Self { terms: vec![FieldTerm { field: "metadata.name".to_owned(), value: name.to_owned(), is_equal: true }] }
    }

    /// The same of fields that have other names.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&str) -> String) -> Self {
        self.terms.iter_mut().for_each(|term| term.field = name(&term.field));
        self
    }

    /// Whether it selects every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Its conditions, all of which must hold.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The value that a field must have, when the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.is_equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Names of the fields that it asks for.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.field.as_str())
    }

    /// Whether it selects an object whose fields `field` finds; one that is not there is the empty text.
    pub fn matches<'f>(&self, field: impl Fn(&str) -> &'f str) -> bool {
        self.terms.iter().all(|term| (field(&term.field) == term.value) == term.is_equal)
    }
}

impl FromStr for FieldSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut terms = Vec::new();
        let mut parts = split_unescaped(text);
        // Of several mistakes the first in this order is named.
        parts.sort_unstable();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, rest)) = part.split_once('=') else {
                return fail(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let (field, value, is_equal) = match (field.strip_suffix('!'), rest.strip_prefix('=')) {
                (Some(field), _) => (field, rest, false),
                (None, Some(value)) => (field, value, true),
                (None, None) => (field, rest, true),
            };
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, is_equal });
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
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return fail(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            '=' | ',' => {
                let number = u32::from(character);
                return fail(format!("invalid field selector: unescaped character in value: {number}"));
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}
