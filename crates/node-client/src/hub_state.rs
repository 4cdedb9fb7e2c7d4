//! Which hub this is: what a later answer must show to come from the hub that was known.

/// What the Lease says of the hub: which life of it this is, and how far it had come.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HubState {
    /// uid of the Lease: another one after the hub's store, or the Node, was lost.
    pub lease_uid: String,
    /// Revision of a renewal: a lower one after a restore from a backup.
    pub revision: u64,
    /// The highest revision that anything of the hub's had: no list of it is older.
    pub seen: u64,
}

impl HubState {
    /// Whether a hub that shows `now` has all that one which showed `self` had.
    pub fn continues_as(&self, now: &Self) -> bool {
        self.lease_uid.is_empty() || (self.lease_uid == now.lease_uid && self.revision <= now.revision)
    }
}

/// What is known of the hub over a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of the connection over which it was asked.
    pub connection: u64,
    /// What it shows; `None` where the node may not read its Lease.
    pub state: Option<HubState>,
    /// What any later life of this hub must show as well. A hub that crashes may lose the last renewal, which it need not have on
    /// disk when it answers; the one before it is there.
    pub confirmed: HubState,
}

/// Type of the Node's condition that pods of a former state of the hub run on and wait for a person's decision.
pub const PODS_ON_HOLD: &str = "PodsOnHold";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_has_forgotten_what_it_said_is_not_the_one_that_was_known() {
        let state = |uid: &str, revision| HubState { lease_uid: uid.to_owned(), revision, seen: 0 };
        for (known, now, expected) in [
            (HubState::default(), state("a", 5), true),
            (state("a", 5), state("a", 5), true),
            (state("a", 5), state("a", 6), true),
            (state("a", 5), state("a", 4), false),
            (state("a", 5), state("b", 9), false),
        ] {
            assert_eq!(known.continues_as(&now), expected, "{known:?} → {now:?}");
        }
    }
}
