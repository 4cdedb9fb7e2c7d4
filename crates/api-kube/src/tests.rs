//! What Kubernetes does, as data.

mod meta;
mod quantity;
mod selector;
mod small;
