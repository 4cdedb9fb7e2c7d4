//! What is wrong with a statement, and where.

use std::fmt;

use crate::sql::ast::Span;

/// A statement that cannot be parsed, or that cannot be run by this version.
///
/// Its text is one sentence for a condition: ``unexpected `FORM` at line 1, column 10; did you mean `FROM`?``
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// What is wrong, without the place.
    pub message: String,
    /// Line of the statement, from 1.
    pub line: u32,
    /// Character of the line, from 1.
    pub column: u32,
    /// The next step, where one is known.
    pub hint: Option<String>,
}

impl SqlError {
    /// An error at the start of `span` in `text`.
    pub(crate) fn new(text: &str, span: Span, message: impl Into<String>) -> Self {
        let mut start = (span.start as usize).min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            message: message.into(),
            line: 1 + before.bytes().filter(|byte| *byte == b'\n').count() as u32,
            column: 1 + before[line_start..].chars().count() as u32,
            hint: None,
        }
    }

    /// Adds the next step.
    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}, column {}", self.message, self.line, self.column)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SqlError {}

/// The candidate that `word` was probably meant to be, as a hint.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_lowercase();
    // A word of up to four letters may be off by a swap (two edits); longer ones by a third of their length.
    let off_max = (word.chars().count() / 3).max(2);
    let (best, candidate) = candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .min_by_key(|(off, _)| *off)?;
    (best <= off_max && best < word.chars().count()).then(|| format!("did you mean `{candidate}`?"))
}

/// Levenshtein's distance of two short words.
fn distance(left: &str, right: &str) -> usize {
    // Nothing we know is longer; a longer word is no typing mistake.
    const WORD_CHARS_MAX: usize = 64;
    let right: Vec<char> = right.chars().collect();
    if left.chars().count() > WORD_CHARS_MAX || right.len() > WORD_CHARS_MAX {
        return usize::MAX;
    }
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(from != *to);
            current.push(replaced.min(previous[column + 1] + 1).min(current[column] + 1));
        }
        previous = current;
    }
    previous[right.len()]
}
