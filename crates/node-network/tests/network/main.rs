//! The node's network in namespaces of its own, judged by the stock tools.

mod fixture;
mod links;
mod namespaces;
mod pods;
mod services;
