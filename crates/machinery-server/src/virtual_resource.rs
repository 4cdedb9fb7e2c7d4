//! Resources of which nothing is stored: a create is answered, and that is all.
//!
//! Their bodies are of a kind of their own and take the way of every create up to the point where it would be stored:
//! decoding, plug-ins that change and plug-ins that validate. Reviews are built in (`reviews.rs`); what issues something,
//! such as tokens of service accounts, is given to the server ([`crate::ServerConfig::virtual_resources`]).

use serde_json::Value;

use crate::{AdmissionError, AdmissionRequest};

/// The kind of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualKind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// The kind, such as `TokenRequest`.
    pub kind: &'static str,
}

/// Asks the plug-ins that validate about an object in its final form.
pub type Admit<'a> = &'a mut dyn FnMut(&Value) -> Result<(), AdmissionError>;

/// Answers creates of one resource or subresource.
pub trait VirtualResource: Send + Sync {
    /// Group, plural name and subresource under which it is served.
    fn target(&self) -> (&'static str, &'static str, Option<&'static str>);

    /// The kind of what is sent and answered.
    fn kind(&self) -> VirtualKind;

    /// Answers a create. `object` is what was sent, changed by the plug-ins that do; `admit` is to be called with it once it is
    /// complete and valid, before anything is given away.
    ///
    /// # Errors
    /// When the request is rejected.
    fn create(
        &self,
        request: &AdmissionRequest<'_>,
        object: Value,
        now: jiff::Timestamp,
        admit: Admit<'_>,
    ) -> Result<Value, AdmissionError>;
}
