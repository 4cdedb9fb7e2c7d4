//! Claims and volumes over an embedded API, with the hub's scheduler and StatefulSets; the test plays the nodes.

mod binding;
mod hub;
mod provisioning;
