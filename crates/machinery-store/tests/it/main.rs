//! The store through its door: what it promises in peace, at power cuts, on a full disk, and to older formats.

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod format;
#[cfg(test)]
mod model;
#[cfg(test)]
mod util;
