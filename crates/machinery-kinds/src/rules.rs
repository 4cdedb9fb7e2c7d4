//! What a kind requires of its objects beyond their types, for kinds without a module of their own.

#[cfg(test)]
mod tests;
