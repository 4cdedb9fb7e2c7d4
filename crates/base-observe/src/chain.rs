//! An error and its causes in one line.

use std::error::Error;
use std::fmt;

/// Prints an error and its causes in one line, `a: b: c`.
///
/// A cause that the text before it ends with is left out: some libraries print their causes themselves.
///
/// ```
/// use base_observe::Chain;
/// let error = "x".parse::<u32>().unwrap_err();
/// assert_eq!(Chain(&error).to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Chain<'e>(pub &'e (dyn Error + 'e));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// What the last cause of an error says. Of a client library's failure to connect it is the part that means something to
/// people: the links before it name the layers of the library.
pub fn last_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}
