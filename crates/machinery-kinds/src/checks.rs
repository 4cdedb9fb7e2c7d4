//! Checks that rules of many kinds share, with upstream's words.
//!
//! - [`names`]: which texts are names, keys and values; each gives what is wrong with a text, as a list of messages.
//! - [`metadata`]: labels, annotations, finalizers, owners, managed fields, conditions.
//! - [`selectors`]: label selectors.
//! - [`addresses`]: IP addresses and CIDRs.
//! - [`values`]: numbers, quantities, and what may not change.
//!
//! A message list becomes errors with [`Errors::invalid_each`](crate::kit::Errors::invalid_each):
//!
//! ```ignore
//! errors.invalid_each(&at.field("name"), port.text("name"), checks::port_name(port.text("name")));
//! ```

mod addresses;
mod metadata;
mod names;
mod selectors;
#[cfg(test)]
mod tests;
mod urls;
mod values;

pub(crate) use self::{addresses::*, metadata::*, names::*, selectors::*, urls::*, values::*};
