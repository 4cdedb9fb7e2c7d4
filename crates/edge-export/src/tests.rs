//! What an export promises.
