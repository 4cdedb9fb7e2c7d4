//! StatefulSets, disruption budgets and autoscalers over the embedded API, in one process and without a socket: what they bring
//! about, seen through the API as a person or a node would.

mod autoscaling;
mod disruption;
mod hub;
mod statefulsets;
