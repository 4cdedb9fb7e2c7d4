//! The tables are those of the profiles, and what is compiled of them says what the profiles say.

mod filters;
mod generate;
mod interpreter;
mod localhost;
mod profile;
