//! Black-box suites live in `tests/`.
