//! The vocabulary of Kubernetes that every plane shares: data and plain functions on it, no I/O.
//!
//! | module | what |
//! | --- | --- |
//! | [`base64_text`] | base64 as Go reads it: line ends and loose bits do not matter |
//! | [`quantity`] | exact amounts of CPU, memory and the like, and their canonical text |
//! | [`selector`] | label and field selectors, in their text form and as `matchLabels`/`matchExpressions` |
//! | [`names`] | which names, labels and keys are valid |
//! | [`meta`] | an object's metadata, borrowed from its JSON; owner references |
//! | [`condition`] | conditions of a status |
//! | [`time`] | times as objects carry them |
//! | [`qos`] | a pod's quality-of-service class |
//! | [`go_duration`] | durations as Go reads them |
//! | [`int_or_percent`] | `maxUnavailable: 25%` |
//! | [`status`] | what an API server answers when it rejects a request |
//!
//! Hub and node decide with the same code here, so that they never disagree about a pod. Words and rules are Kubernetes'
//! own; where we are stricter, the item says so. Try it with `cargo test -p api-kube`. A change here changes what the API
//! accepts and what is stored, so it needs a test that says what Kubernetes does.

pub mod base64_text;
mod capabilities;
pub mod condition;
pub mod go_duration;
pub mod int_or_percent;
pub mod meta;
pub mod names;
pub mod qos;
pub mod quantity;
pub mod selector;
pub mod status;
pub mod time;

pub use capabilities::CAPABILITIES;
pub use condition::{Condition, ConditionStatus, set_condition};
pub use int_or_percent::IntOrPercent;
pub use meta::{ObjectMeta, ObjectView, OwnerReference, Text};
pub use qos::QosClass;
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector, LabelSelectorSpec};
pub use status::{Reason, Status};
pub use time::{MicroTime, Time};

#[cfg(test)]
mod tests;
