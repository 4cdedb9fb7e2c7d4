//! The node's network in namespaces of its own, judged by the stock tools.

#![allow(clippy::unwrap_used, reason = "in a test, an unwrap that fails is the test failing")]

mod cycles;
mod fixture;
mod links;
mod namespaces;
mod pods;
mod services;
