//! The verbs, one module each, and what all writes share.

pub(crate) mod answer;
pub(crate) mod binding;
pub(crate) mod components;
pub(crate) mod create;
pub(crate) mod delete;
mod items;
pub(crate) mod log;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod scale;
pub(crate) mod streams;
pub(crate) mod update;
pub(crate) mod watch;
pub(crate) mod write;
