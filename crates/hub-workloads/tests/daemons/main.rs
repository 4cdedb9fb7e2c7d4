//! DaemonSets beside the other controllers of a hub, over the embedded API, in one process and without a socket.

mod daemonsets;
mod hub;
mod others;
