//! The tree against a map of the standard library, with copies that must not change.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

impl Sorted for (u16, u32) {
    fn order(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

type Model = BTreeMap<u16, u32>;

/// What holds of every node; returns its depth.
fn check_node(node: &Node<(u16, u32)>, is_root: bool) -> usize {
    assert!(node.items.len() <= ITEMS_MAX && (is_root || !node.items.is_empty()), "{} items", node.items.len());
    assert_eq!(node.len, node.items.len() + node.children.iter().map(|child| child.len).sum::<usize>());
    if node.is_leaf() {
        return 1;
    }
    assert_eq!(node.children.len(), node.items.len() + 1);
    let depths: Vec<_> = node.children.iter().map(|child| check_node(child, false)).collect();
    assert!(depths.iter().all(|depth| *depth == depths[0]), "all leaves are equally deep");
    depths[0] + 1
}

fn check(tree: &Tree<(u16, u32)>, model: &Model) {
    if let Some(root) = &tree.root {
        check_node(root, true);
    }
    assert_eq!(tree.len(), model.len());
    let items: Vec<_> = tree.range_from(|_| false).copied().collect();
    assert_eq!(items, model.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>());
}

fn check_at(tree: &Tree<(u16, u32)>, model: &Model, key: u16) {
    assert_eq!(tree.get(|item| item.0.cmp(&key)).map(|item| item.1), model.get(&key).copied());
    assert_eq!(tree.rank(|item| item.0 < key), model.range(..key).count());
    let rest = tree.range_from(|item| item.0 < key).map(|item| item.0).take(5);
    assert!(rest.eq(model.range(key..).map(|(key, _)| *key).take(5)));
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    Remove(u16),
    /// Many at once make the tree deep; a step backwards fills it from the other end.
    InsertRun {
        from: u16,
        count: u16,
        backwards: bool,
    },
    RemoveRun {
        from: u16,
        count: u16,
    },
    Look(u16),
    Copy,
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = 0_u16..3000;
    prop_oneof![
        4 => key.clone().prop_map(Step::Insert),
        4 => key.clone().prop_map(Step::Remove),
        2 => (key.clone(), 1_u16..900, any::<bool>())
            .prop_map(|(from, count, backwards)| Step::InsertRun { from, count, backwards }),
        2 => (key.clone(), 1_u16..900).prop_map(|(from, count)| Step::RemoveRun { from, count }),
        3 => key.prop_map(Step::Look),
        1 => Just(Step::Copy),
    ]
}

fn run(steps: Vec<Step>) {
    let mut tree = Tree::default();
    let mut model = Model::new();
    let mut copies = Vec::new();
    for (value, step) in (1..).zip(steps) {
        let mut insert = |key: u16, tree: &mut Tree<(u16, u32)>| {
            assert_eq!(tree.insert((key, value)).map(|item| item.1), model.insert(key, value));
        };
        match step {
            Step::Insert(key) => insert(key, &mut tree),
            Step::InsertRun { from, count, backwards: false } => {
                (from..from + count).for_each(|key| insert(key, &mut tree));
            }
            Step::InsertRun { from, count, backwards: true } => {
                (from..from + count).rev().for_each(|key| insert(key, &mut tree));
            }
            Step::Remove(key) => {
                assert_eq!(tree.remove(|item| item.0.cmp(&key)).map(|item| item.1), model.remove(&key));
            }
            Step::RemoveRun { from, count } => {
                for key in from..from + count {
                    assert_eq!(tree.remove(|item| item.0.cmp(&key)).map(|item| item.1), model.remove(&key));
                }
            }
            Step::Look(key) => check_at(&tree, &model, key),
            Step::Copy => copies.push((tree.clone(), model.clone())),
        }
        check(&tree, &model);
    }
    // Whatever was done since, a copy is as it was.
    copies.iter().for_each(|(tree, model)| check(tree, model));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_is_an_ordered_map_whose_copies_stay(steps in prop::collection::vec(any_step(), 1..40)) {
        run(steps);
    }
}

#[test]
fn items_that_are_appended_make_the_same_tree() {
    let mut tree = Tree::default();
    let mut model = Model::new();
    for key in 0..5000 {
        tree.append((key, 7));
        model.insert(key, 7);
        if key % 97 == 0 {
            check(&tree, &model);
        }
    }
    check(&tree, &model);
    check_at(&tree, &model, 1234);
}

#[test]
fn items_added_in_order_fill_their_nodes() {
    let mut tree = Tree::default();
    for key in 0..3200 {
        tree.insert((key, 0));
    }
    let mut nodes = 0;
    let mut waiting: Vec<_> = tree.root.iter().collect();
    while let Some(node) = waiting.pop() {
        nodes += 1;
        waiting.extend(&node.children);
    }
    assert!(nodes < 3200 / (ITEMS_MAX * 3 / 4), "{nodes} nodes for 3200 items");
}
