//! One law of back-off for everything that tries again.
