//! Who may do what.

mod json;
mod rbac;
