//! Which volume suits a claim, where its pod is, and why one does not that a person chose.

use api_kube::selector::LabelSelectorSpec;
use hub_runtime::volumes::{Offer as _, Suiting};

use crate::views::{Claim, Node, Volume};

/// Who binds the claim.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// Its class binds at once, wherever the volume is.
    Anywhere,
    /// Its class waits for a node, and none is known: only what is for the claim already counts.
    NotYet,
    /// Its pod is on this node.
    On(&'a Node<'a>),
}

/// The volume that suits the claim best.
pub(crate) fn best<'v, 'a>(
    claim: &Claim<'_>,
    volumes: impl IntoIterator<Item = &'v Volume<'a>>,
    place: Place<'_>,
) -> Option<&'v Volume<'a>>
where
    'a: 'v,
{
    // A selector that is none selects nothing.
    let selector = claim.spec.selector.as_ref().map(LabelSelectorSpec::to_selector).transpose().ok()?;
    let suiting = Suiting::find(&claim.asked(selector.as_ref()), volumes);
    let found = match (place, &suiting) {
        (Place::NotYet, Suiting::Free(_)) => None,
        (Place::On(node), _) => suiting.first(|volume| volume.is_reachable(node)),
        (Place::Anywhere | Place::NotYet, _) => suiting.first(|_| true),
    };
    found.copied()
}

/// Why a volume that the claim names by hand does not suit it, in upstream's words.
pub(crate) fn mismatch(claim: &Claim<'_>, volume: &Volume<'_>) -> Option<&'static str> {
    let (asked, offered) = (claim.terms(), volume.terms());
    if offered.bytes < asked.bytes {
        return Some("requested PV is too small");
    }
    if offered.class != asked.class {
        return Some("storageClassName does not match");
    }
    if offered.attributes_class != asked.attributes_class {
        return Some("volumeAttributesClassName does not match");
    }
    if offered.is_block != asked.is_block {
        return Some("incompatible volumeMode");
    }
    if !offered.modes.contain(asked.modes) {
        return Some("incompatible accessMode");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> String {
        let mut whole = json!({
            "storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}},
        });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        json!({"metadata": {"namespace": "d", "name": "data", "uid": "c"}, "spec": whole}).to_string()
    }

    fn volume(name: &str, gib: u32, spec: Value) -> String {
        let mut whole = json!({
            "storageClassName": "", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": format!("{gib}Gi")},
        });
        let mut metadata = json!({"name": name});
        for (field, value) in spec.as_object().unwrap() {
            match field.as_str() {
                "labels" | "deletionTimestamp" => metadata[field] = value.clone(),
                _ => whole[field] = value.clone(),
            }
        }
        json!({"metadata": metadata, "spec": whole}).to_string()
    }

    fn check(what: &str, of_claim: Value, volumes: &[String], place: Option<&str>, expected: Option<&str>) {
        let text = claim(of_claim);
        let claim: Claim<'_> = serde_json::from_str(&text).unwrap();
        let volumes: Vec<Volume<'_>> = volumes.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let node = json!({"metadata": {"name": "gw-1", "labels": {"kubernetes.io/hostname": "gw-1"}}}).to_string();
        let node: Node<'_> = serde_json::from_str(&node).unwrap();
        let place = match place {
            None => Place::Anywhere,
            Some("wait") => Place::NotYet,
            Some(_) => Place::On(&node),
        };
        let found = best(&claim, &volumes, place).map(|volume| &*volume.metadata.name);
        assert_eq!(found, expected, "{what}");
    }

    fn on(node: &str) -> Value {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}})
    }

    #[test]
    fn the_smallest_volume_that_suits_is_taken() {
        let sizes = [1, 10, 5, 50, 8].map(|gib| volume(&format!("v{gib}"), gib, json!({})));
        check("size", json!({}), &sizes, None, Some("v5"));
        let exact = json!({"resources": {"requests": {"storage": "5000Mi"}}});
        check("a little less", exact, &sizes, None, Some("v5"));
        check("too much", json!({"resources": {"requests": {"storage": "51Gi"}}}), &sizes, None, None);
        let equal = ["b", "a"].map(|name| volume(name, 5, json!({})));
        check("of equals the first by name", json!({}), &equal, None, Some("a"));
    }

    #[test]
    fn fewer_access_modes_come_before_a_smaller_size() {
        let more = volume("more", 5, json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}));
        let fewer = volume("fewer", 10, json!({}));
        let other = volume("other", 5, json!({"accessModes": ["ReadOnlyMany"]}));
        check("as upstream searches", json!({}), &[more.clone(), fewer, other], None, Some("fewer"));
        let both = json!({"accessModes": ["ReadOnlyMany", "ReadWriteOnce"]});
        check("all modes asked for", both, &[more], None, Some("more"));
    }

    #[test]
    fn class_selector_mode_and_state_of_a_volume_must_suit() {
        for (what, of_claim, of_volume, suits) in [
            ("another class", json!({"storageClassName": "fast"}), json!({}), false),
            ("the class", json!({"storageClassName": "fast"}), json!({"storageClassName": "fast"}), true),
            ("no class", json!({}), json!({"storageClassName": "fast"}), false),
            ("labels", json!({"selector": {"matchLabels": {"a": "b"}}}), json!({"labels": {"a": "b"}}), true),
            ("other labels", json!({"selector": {"matchLabels": {"a": "b"}}}), json!({"labels": {"a": "c"}}), false),
            ("block", json!({"volumeMode": "Block"}), json!({}), false),
            ("block of block", json!({"volumeMode": "Block"}), json!({"volumeMode": "Block"}), true),
            ("file system by name", json!({"volumeMode": "Filesystem"}), json!({}), true),
            ("being deleted", json!({}), json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), false),
            ("another's", json!({}), json!({"claimRef": {"namespace": "d", "name": "other"}}), false),
            ("of another namespace", json!({}), json!({"claimRef": {"namespace": "e", "name": "data"}}), false),
            (
                "of the claim before",
                json!({}),
                json!({"claimRef": {"namespace": "d", "name": "data", "uid": "old"}}),
                false,
            ),
            ("attributes", json!({}), json!({"volumeAttributesClassName": "gold"}), false),
        ] {
            check(what, of_claim, &[volume("v", 5, of_volume)], None, suits.then_some("v"));
        }
    }

    #[test]
    fn a_volume_that_is_for_the_claim_comes_first() {
        let mine = json!({"claimRef": {"namespace": "d", "name": "data"}, "storageClassName": "any"});
        let volumes = [volume("a", 5, json!({})), volume("mine", 50, mine.clone())];
        check("whatever its class and size", json!({}), &volumes, None, Some("mine"));
        check("also while others wait", json!({}), &volumes, Some("wait"), Some("mine"));
        let small = [volume("a", 5, json!({})), volume("mine", 1, mine)];
        check("unless it is too small", json!({}), &small, None, Some("a"));
        check("and without one the claim waits", json!({}), &[volume("a", 5, json!({}))], Some("wait"), None);
    }

    #[test]
    fn on_a_node_only_what_it_reaches_counts() {
        let volumes = [volume("far", 5, on("gw-2")), volume("near", 9, on("gw-1")), volume("any", 50, json!({}))];
        check("affinity", json!({}), &volumes, Some("gw-1"), Some("near"));
        let mut mine = on("gw-2");
        mine["claimRef"] = json!({"namespace": "d", "name": "data", "uid": "c"});
        let volumes = [volume("any", 5, json!({})), volume("mine", 5, mine)];
        check("its own one is out of reach", json!({}), &volumes, Some("gw-1"), None);
        let nowhere = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{}]}}});
        check("a term that demands nothing", json!({}), &[volume("v", 5, nowhere)], Some("gw-1"), None);
    }

    #[test]
    fn a_volume_that_was_chosen_by_hand_says_why_it_does_not_suit() {
        for (of_claim, of_volume, expected) in [
            (json!({}), json!({}), None),
            (json!({"resources": {"requests": {"storage": "6Gi"}}}), json!({}), Some("requested PV is too small")),
            (json!({"storageClassName": "a"}), json!({}), Some("storageClassName does not match")),
            (json!({"volumeMode": "Block"}), json!({}), Some("incompatible volumeMode")),
            (json!({"accessModes": ["ReadWriteMany"]}), json!({}), Some("incompatible accessMode")),
        ] {
            let (claim, volume) = (claim(of_claim), volume("v", 5, of_volume));
            let (claim, volume) = (serde_json::from_str(&claim).unwrap(), serde_json::from_str(&volume).unwrap());
            assert_eq!(mismatch(&claim, &volume), expected);
        }
    }
}
