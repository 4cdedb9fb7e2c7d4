//! What a kind requires of its objects beyond their types.

mod pods;
mod small;
#[cfg(test)]
mod tests;
pub(crate) mod update;

pub(crate) use small::*;
