//! What the journal and the store promise.
