//! Black-box suites live in `tests/`; here is what the benchmarks share.

pub mod figures;
pub mod hub;
pub mod site;
pub mod starts;
