//! Checks of this module.
