use serde_json::json;

use super::*;

fn request<'a>(node: &'a str, key: &'a str, username: &'a str) -> JoinRequest<'a> {
    JoinRequest { node, key_sha256: key, username, sender_key_sha256: None, has_node: false, last_seen: None }
}

fn bound(keys: &[&str], token: &str) -> NodeIdentitySpec {
    NodeIdentitySpec {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        generation: 1,
        registered: true,
        token: token.to_owned(),
        ..NodeIdentitySpec::default()
    }
}

fn one_use() -> TokenGrant {
    TokenGrant { uses: 1, ..TokenGrant::default() }
}

fn approved(verdict: JoinVerdict) -> (Option<NodeIdentitySpec>, Option<Vec<String>>) {
    match verdict {
        JoinVerdict::Approve { binding, used_by } => (binding, used_by),
        other => panic!("{other:?}"),
    }
}

fn check_denied(verdict: JoinVerdict, parts: &[&str]) {
    match verdict {
        JoinVerdict::Deny(why) => assert!(parts.iter().all(|part| why.contains(part)), "{why}"),
        other => panic!("{other:?}"),
    }
}

const TOKEN: &str = "system:bootstrap:abcdef";

#[test]
fn a_token_joins_one_box_and_binds_its_key() {
    let (binding, used_by) = approved(decide(&request("gw-1", "k1", TOKEN), None, Some(&one_use())));
    let binding = binding.expect("a new binding");
    assert_eq!((&binding.keys[..], binding.generation, &*binding.token), (&["k1".to_owned()][..], 1, "abcdef"));
    assert_eq!(used_by, Some(vec!["gw-1".to_owned()]));

    let used = TokenGrant { used_by: vec!["gw-1".to_owned()], ..one_use() };
    // The same box once more: no further use.
    let again = approved(decide(&request("gw-1", "k1", TOKEN), Some(&binding), Some(&used)));
    assert_eq!(again, (None, None));
    check_denied(
        decide(&request("gw-2", "k2", TOKEN), None, Some(&used)),
        &["was used already, by gw-1", "token create"],
    );
    check_denied(decide(&request("gw-2", "k2", TOKEN), None, None), &["does not exist any more"]);
}

#[test]
fn a_token_with_labels_that_no_node_may_have_joins_none() {
    let request = request("gw-1", "aa", "system:bootstrap:abcdef");
    let verdict = |key: &str, value: &str| {
        let labels = [(key.to_owned(), value.to_owned())].into();
        decide(&request, None, Some(&TokenGrant { labels, ..one_use() }))
    };
    for (key, value) in [("zone", "-a"), ("zone", "berlin."), ("/x", "1"), ("Foo_/x", "1"), ("", "1")] {
        check_denied(verdict(key, value), &["abcdef", &format!("{key}={value}"), "selvedge token create"]);
    }
    let (binding, _) = approved(verdict("example.com/zone", "a_1"));
    assert_eq!(binding.expect("a first key").labels["example.com/zone"], "a_1");
}

#[test]
fn a_second_box_under_a_live_name_is_rejected() {
    let live = bound(&["k1"], "other0");
    let why = decide(&request("gw-1", "k2", TOKEN), Some(&live), Some(&one_use()));
    check_denied(
        why,
        &["another box is joined", "--node-name", "kubectl delete node gw-1", "token create --node-name gw-1"],
    );
    let seen = JoinRequest { last_seen: Some("2026-01-02T03:04:05.000000Z"), ..request("gw-1", "k2", TOKEN) };
    check_denied(
        decide(&seen, Some(&live), Some(&one_use())),
        &["joined as node \"gw-1\" (last seen 2026-01-02T03:04:05.000000Z): choose another name"],
    );
    // Nor does a token for many help.
    let many = TokenGrant { uses: 100, ..TokenGrant::default() };
    check_denied(decide(&request("gw-1", "k2", TOKEN), Some(&live), Some(&many)), &["another box is joined"]);
    // A node of which no key is known yet is live all the same.
    check_denied(
        decide(&request("gw-1", "k2", TOKEN), Some(&bound(&[], "")), Some(&one_use())),
        &["another box is joined"],
    );
}

#[test]
fn a_token_for_a_name_replaces_a_broken_box_once_and_joins_no_other() {
    let live = bound(&["k1"], "other0");
    let token = TokenGrant { node_name: Some("gw-1".to_owned()), ..one_use() };
    check_denied(decide(&request("gw-2", "k2", TOKEN), None, Some(&token)), &["is for node \"gw-1\""]);
    let (binding, used_by) = approved(decide(&request("gw-1", "k2", TOKEN), Some(&live), Some(&token)));
    let binding = binding.expect("a new binding");
    assert_eq!((&binding.keys[..], binding.generation), (&["k2".to_owned()][..], 2));
    assert!(!binding.accepts("k1") && binding.accepts("k2"));
    let used = TokenGrant { used_by: used_by.expect("a use"), ..token };
    // Whoever finds the token afterwards gets nothing.
    let binding = NodeIdentitySpec { registered: true, ..binding };
    check_denied(decide(&request("gw-1", "k3", TOKEN), Some(&binding), Some(&used)), &["was used already"]);
}

#[test]
fn a_box_whose_first_certificate_was_lost_tries_again_until_it_has_registered() {
    let token = TokenGrant { used_by: vec!["gw-1".to_owned()], ..one_use() };
    let lost = NodeIdentitySpec { registered: false, ..bound(&["k1"], "abcdef") };
    let (binding, used_by) = approved(decide(&request("gw-1", "k2", TOKEN), Some(&lost), Some(&token)));
    assert_eq!(
        (binding.map(|binding| (binding.keys, binding.generation)), used_by),
        (Some((vec!["k2".to_owned()], 1)), None)
    );
    let registered = bound(&["k1"], "abcdef");
    check_denied(decide(&request("gw-1", "k2", TOKEN), Some(&registered), Some(&token)), &["was used already"]);
}

#[test]
fn a_use_that_was_cut_before_its_binding_is_finished_by_the_same_box_alone() {
    let unfinished = vec![("gw-1".to_owned(), "k1".to_owned())];
    let token = TokenGrant { used_by: vec!["gw-1".to_owned()], unfinished, ..one_use() };
    let (binding, used_by) = approved(decide(&request("gw-1", "k1", TOKEN), None, Some(&token)));
    assert_eq!((binding.map(|binding| binding.keys), used_by), (Some(vec!["k1".to_owned()]), None));
    for (node, key) in [("gw-1", "k2"), ("gw-2", "k1")] {
        check_denied(decide(&request(node, key, TOKEN), None, Some(&token)), &["was used already"]);
    }
    // In between another box has got that name.
    let live = bound(&["k2"], "other0");
    check_denied(decide(&request("gw-1", "k1", TOKEN), Some(&live), Some(&token)), &["was used already"]);
    // Finished: whoever revokes the key afterwards is not outwitted with the old token.
    let finished = TokenGrant { unfinished: Vec::new(), ..token };
    let revoked = NodeIdentitySpec { state: NodeIdentityState::Revoked, ..bound(&["k1"], "abcdef") };
    for held in [None, Some(&revoked)] {
        check_denied(decide(&request("gw-1", "k1", TOKEN), held, Some(&finished)), &["was used already"]);
    }
}

#[test]
fn a_deleted_node_joins_again_with_a_new_token() {
    let revoked = NodeIdentitySpec { state: NodeIdentityState::Revoked, ..bound(&["k1"], "other0") };
    for key in ["k1", "k2"] {
        let (binding, used_by) = approved(decide(&request("gw-1", key, TOKEN), Some(&revoked), Some(&one_use())));
        let binding = binding.expect("a new binding");
        assert!(binding.accepts(key) && binding.generation == 2 && used_by.is_some());
    }
    let own = JoinRequest { sender_key_sha256: Some("k1"), ..request("gw-1", "k2", "system:node:gw-1") };
    check_denied(decide(&own, Some(&revoked), None), &["was revoked"]);
}

#[test]
fn a_node_renews_with_its_bound_key_and_keeps_both_until_the_new_one_is_used() {
    let live = bound(&["k1"], "other0");
    let own = |sender, key| JoinRequest { sender_key_sha256: Some(sender), ..request("gw-1", key, "system:node:gw-1") };
    let (binding, _) = approved(decide(&own("k1", "k2"), Some(&live), None));
    let binding = binding.expect("two keys");
    assert_eq!(binding.keys, ["k1", "k2"]);
    // A certificate that got lost: the next one takes its place, and two keys is all there ever are.
    let (binding, _) = approved(decide(&own("k1", "k3"), Some(&binding), None));
    assert_eq!(binding.expect("two keys").keys, ["k1", "k3"]);
    check_denied(decide(&own("k9", "k2"), Some(&live), None), &["not the one that it is bound to"]);
    assert_eq!(decide(&request("gw-1", "k2", "system:node:gw-2"), Some(&live), None), JoinVerdict::NotAutomatic);
    assert_eq!(decide(&request("gw-1", "k2", "jane"), Some(&live), None), JoinVerdict::NotAutomatic);
}

#[test]
fn a_box_that_never_became_a_node_does_not_renew() {
    let unseen = NodeIdentitySpec { registered: false, ..bound(&["k1"], "other0") };
    let own = JoinRequest { sender_key_sha256: Some("k1"), ..request("gw-1", "k2", "system:node:gw-1") };
    check_denied(decide(&own, Some(&unseen), None), &["has never registered"]);
    // Its Node is there, and nobody has written that down yet.
    let own = JoinRequest { has_node: true, ..own };
    assert_eq!(approved(decide(&own, Some(&unseen), None)).0.expect("two keys").keys, ["k1", "k2"]);
}

#[test]
fn what_a_person_approves_is_bound_as_by_a_token_for_that_name() {
    let live = bound(&["k1"], "other0");
    let revoked = NodeIdentitySpec { state: NodeIdentityState::Revoked, ..live.clone() };
    let older = bound(&[], "");
    for (held, generation) in [(None, 1), (Some(&live), 2), (Some(&revoked), 2), (Some(&older), 2)] {
        let (binding, used_by) = approved(decide_approved(&request("gw-1", "k2", "jane"), held, true));
        let binding = binding.expect("a new binding");
        assert_eq!((&binding.keys[..], binding.generation, used_by), (&["k2".to_owned()][..], generation, None));
        assert!(binding.is_live() && !binding.registered && binding.token.is_empty());
    }
    // The key is bound already: nothing changes, whoever approved it.
    for by_person in [true, false] {
        let again = decide_approved(&request("gw-1", "k1", "jane"), Some(&live), by_person);
        assert_eq!(approved(again), (None, None));
    }
    // What the hub approved was bound then; if it is not now, something has happened since.
    for held in [&live, &revoked] {
        check_denied(decide_approved(&request("gw-1", "k2", TOKEN), Some(held), false), &["another key was bound"]);
    }
    assert_eq!(approved(decide_approved(&request("gw-1", "k2", TOKEN), None, false)), (None, None));
}

#[test]
fn a_tokens_secret_is_read_with_care() {
    let encode = |text: &str| base64_text::encode(text.as_bytes());
    let grant = TokenGrant::of_secret(&json!({"data": {
        "node-name": encode("gw-1"), "uses": encode("3"), "used-by": encode("gw-1, gw-2"),
        "registration-labels": encode("site=hall-2,selvedge.dev/role=gateway,broken"),
    }}));
    assert_eq!((grant.node_name.as_deref(), grant.uses, grant.used_by.len()), (Some("gw-1"), 3, 2));
    assert_eq!(grant.labels.get("selvedge.dev/role").map(String::as_str), Some("gateway"));
    assert_eq!(grant.labels.len(), 2);
    assert_eq!(TokenGrant::of_secret(&json!({})), one_use());
    assert_eq!(TokenGrant::of_secret(&json!({"data": {"uses": encode("many")}})).uses, 0);
}
