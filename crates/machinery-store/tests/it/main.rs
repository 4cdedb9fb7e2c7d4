//! The store through its API: what it promises in peace, at power cuts, on a full disk, and to older formats.

#[cfg(test)]
mod backup;
#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod format;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod model;
#[cfg(test)]
mod reindex;
#[cfg(test)]
mod sealed;
#[cfg(test)]
mod util;
