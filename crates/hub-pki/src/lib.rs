//! Certificates of a hub: its authorities, its names, and their renewal.
