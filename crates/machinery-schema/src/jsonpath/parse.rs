//! Reads a path as client-go does: a row of steps within braces.

use serde_json::Value;

use super::{Comparison, JsonPathError, Slice, Step};

/// Reads what is within braces. What follows a closing brace is text around the path, which no column shows.
pub(super) fn steps(text: &str) -> Result<Vec<Step>, JsonPathError> {
    let mut parser = Parser { text, at: 0 };
    let mut steps = Vec::new();
    while let Some(next) = parser.peek() {
        if parser.take("[?(") {
            parser.filter(&mut steps)?;
        } else if parser.take("..") {
            if steps.last() == Some(&Step::Below) {
                return Err(parser.unexpected("has `..` twice"));
            }
            steps.push(Step::Below);
            if parser.peek().is_some_and(is_alphanumeric) {
                steps.push(parser.field());
            }
        } else if parser.take("[") {
            parser.array(&mut steps)?;
        } else if parser.take(".") {
            steps.push(parser.field());
        } else if matches!(next, ' ' | '@' | '$') {
            parser.at += 1;
        } else if matches!(next, '"' | '\'') {
            parser.at += 1;
            steps.push(parser.quoted(next)?);
        } else if next == '}' {
            break;
        } else if matches!(next, '+' | '-') || next.is_numeric() {
            steps.push(parser.number()?);
        } else if is_alphanumeric(next) {
            let word = parser.until(is_terminator);
            steps.push(word.parse().map_or(Step::Nonsense, |flag: bool| Step::Literal(flag.into())));
        } else {
            return Err(parser.unexpected(&format!("has an unexpected {next:?}")));
        }
    }
    Ok(steps)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, sign: &str) -> bool {
        let is_there = self.rest().starts_with(sign);
        if is_there {
            self.at += sign.len();
        }
        is_there
    }

    /// The text up to a character of a kind.
    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let len = rest.find(is_end).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// A name up to the next terminator without a backslash: `metadata.labels.selvedge\.dev/role` has one with a dot.
    fn field(&mut self) -> Step {
        let rest = self.rest();
        let mut is_escaped = false;
        let len = rest.find(|next| {
            if std::mem::take(&mut is_escaped) {
                return false;
            }
            is_escaped = next == '\\';
            is_terminator(next)
        });
        let (name, _) = rest.split_at(len.unwrap_or(rest.len()));
        self.at += name.len();
        if name == "*" { Step::Every } else { Step::Key(name.replace('\\', "").into()) }
    }

    fn number(&mut self) -> Result<Step, JsonPathError> {
        let start = self.at;
        let _ = self.take("+") || self.take("-");
        self.until(|next| next != '.' && !next.is_numeric());
        let text = &self.text[start..self.at];
        let whole = text.parse::<i64>().map(Value::from);
        let number = whole.or_else(|_| text.parse::<f64>().map(Value::from));
        number.map(Step::Literal).map_err(|_| self.unexpected(&format!("has `{text}`, which is no number,")))
    }

    /// What is within brackets; the first is taken.
    fn array(&mut self, steps: &mut Vec<Step>) -> Result<(), JsonPathError> {
        let text = self.until(|next| matches!(next, ']' | '\n'));
        if !self.take("]") {
            return Err(self.unexpected("has a bracket that is not closed"));
        }
        if text.contains(',') {
            let paths = text.split(',').map(|one| {
                let mut path = Vec::new();
                self.element(one.trim_matches(' '), &mut path).map(|()| path)
            });
            steps.push(Step::Union(paths.collect::<Result<_, _>>()?));
            return Ok(());
        }
        self.element(text, steps)
    }

    fn element(&self, text: &str, found: &mut Vec<Step>) -> Result<(), JsonPathError> {
        let quoted = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).filter(|key| !key.contains('\''));
        if let Some(key) = quoted {
            // A key in quotes is a path of its own, so that one with dots needs backslashes in it.
            found.extend(steps(&format!(".{key}"))?);
            return Ok(());
        }
        let wrong =
            || self.unexpected(&format!("has `[{text}]`, which is neither a key in ' nor a number nor a slice,"));
        if text == "*" {
            found.push(Step::Slice(Slice::default()));
            return Ok(());
        }
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| match text {
            "" => Ok(None),
            _ if text.starts_with('+') => Err(wrong()),
            _ => text.parse::<i64>().map(Some).map_err(|_| wrong()),
        };
        let slice = match *parts.as_slice() {
            [start] => Slice { start: number(start)?, is_index: true, ..Slice::default() },
            [start, end] => Slice { start: number(start)?, end: number(end)?, ..Slice::default() },
            [start, end, step] => {
                Slice { start: number(start)?, end: number(end)?, step: number(step)?, is_index: false }
            }
            _ => return Err(wrong()),
        };
        found.push(Step::Slice(slice));
        Ok(())
    }

    /// What is within `[?(` and `)]`; the first is taken.
    fn filter(&mut self, found: &mut Vec<Step>) -> Result<(), JsonPathError> {
        let inner = self.rest();
        let (mut pair, mut is_closed, mut last, mut len) = (None, false, '(', None);
        for (at, next) in inner.char_indices() {
            match next {
                '\n' => break,
                '"' | '\'' => match pair {
                    None => pair = Some(next),
                    Some(pair) => is_closed |= last != '\\' && next == pair,
                },
                // A parenthesis within quotes ends nothing.
                ')' if pair.is_some() == is_closed => {
                    len = Some(at);
                    break;
                }
                _ => {}
            }
            last = next;
        }
        let Some(len) = len else { return Err(self.unexpected("has a filter that is not closed")) };
        self.at += len + 1;
        if !self.take("]") {
            return Err(self.unexpected("has a filter without its `]`"));
        }
        let text = &inner[..len];
        let is_sign = |character: char| matches!(character, '!' | '<' | '>' | '=');
        let start = text.find(is_sign).filter(|start| *start > 0);
        let Some(start) = start else {
            found.push(Step::Filter { left: steps(text)?, test: None });
            return Ok(());
        };
        let Some(signs) = text[start..].find(|character| !is_sign(character)) else {
            if text.len() - start > 1 {
                return Err(self.unexpected("has a comparison without a right side"));
            }
            // One sign at the end belongs to a name.
            found.push(Step::Filter { left: steps(text)?, test: None });
            return Ok(());
        };
        let (left, right) = (steps(&text[..start])?, steps(&text[start + signs..])?);
        let comparison = match &text[start..start + signs] {
            "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "<=" => Comparison::LessOrEqual,
            ">=" => Comparison::GreaterOrEqual,
            "<" => Comparison::Less,
            ">" => Comparison::Greater,
            _ => {
                found.push(Step::Nonsense);
                return Ok(());
            }
        };
        found.push(Step::Filter { left, test: Some((comparison, right)) });
        Ok(())
    }

    /// A text up to the quote that began it, which is taken.
    fn quoted(&mut self, quote: char) -> Result<Step, JsonPathError> {
        let rest = self.rest();
        let (mut text, mut chars) = (String::new(), rest.char_indices());
        while let Some((at, next)) = chars.next() {
            match next {
                '\n' => break,
                '\\' => match chars.next().map(|(_, escaped)| escaped) {
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('t') => text.push('\t'),
                    Some(escaped) if escaped == '\\' || escaped == quote => text.push(escaped),
                    _ => return Err(self.unexpected("has an unknown escape")),
                },
                _ if next == quote => {
                    self.at += at + next.len_utf8();
                    return Ok(Step::Literal(Value::String(text)));
                }
                _ => text.push(next),
            }
        }
        Err(self.unexpected("has a text that is not closed"))
    }

    fn unexpected(&self, what: &str) -> JsonPathError {
        JsonPathError::Unexpected { what: what.to_owned(), at: self.at + 1 }
    }
}

/// What ends a name.
fn is_terminator(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn is_alphanumeric(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}
