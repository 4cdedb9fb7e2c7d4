//! The node's own network, seen by kubectl, nft, dig and the programs in its pods.
//!
//! ```text
//! site       hub and node in namespaces of their own, an uplink between them
//! reach      who reaches whom: pods of all runtimes, Services, ports, names
//! offline    the hub away, the agent killed, its pods too, the machine switched on anew
//! leaks      what is left of pods, and of an agent that is killed while it sets them up
//! bad_input  what pods, Services and uplinks ask for that cannot be had
//! attack     what a pod or a neighbour tries that is not its own
//! ```

mod attack;
mod bad_input;
mod leaks;
mod offline;
mod reach;
mod site;
