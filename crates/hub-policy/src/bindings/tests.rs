use super::*;

fn bound(keys: &[&str], registered: bool) -> NodeIdentitySpec {
    NodeIdentitySpec {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        registered,
        generation: 1,
        ..NodeIdentitySpec::default()
    }
}

fn check_recorded(before: &NodeIdentitySpec, key: &str, has_node: bool, after: Option<NodeIdentitySpec>) {
    assert_eq!(recorded(before, key, has_node), after);
    // What is news is reported, what is not costs nothing.
    assert_eq!(needs_record(before, key) && before.accepts(key), after.is_some() || (!before.registered && !has_node));
}

#[test]
fn the_first_use_of_a_key_is_recorded_and_the_next_is_no_news() {
    // A node of an older version is bound to the first key that it shows.
    check_recorded(&bound(&[], true), "k1", true, Some(bound(&["k1"], true)));
    // A node that has joined registers.
    check_recorded(&bound(&["k1"], false), "k1", true, Some(bound(&["k1"], true)));
    check_recorded(&bound(&["k1"], false), "k1", false, None);
    check_recorded(&bound(&["k1"], true), "k1", true, None);
    // The old key is good until the renewed one is used.
    check_recorded(&bound(&["k1", "k2"], true), "k1", true, None);
    check_recorded(&bound(&["k1", "k2"], true), "k2", true, Some(bound(&["k2"], true)));
    check_recorded(&bound(&["k1"], true), "stolen", true, None);
}
