//! What the hub promises about readings.
