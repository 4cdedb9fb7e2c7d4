//! An ordered map whose copies are free: the objects of a resource, and what finds them by field.
//!
//! A B-tree of shared nodes. A clone is one more reference to the root; a write copies the nodes on its way that somebody
//! else still sees, and changes the others in place. So a list, a page or a watcher's first events read from a clone
//! without a lock, while the writer continues. Every node knows how many items are below it, so that the number of items
//! that follow a page costs a walk from the root and not a walk over them.
//!
//! Items know their own order ([`Sorted`]) and are looked for with a closure, so no key is kept beside them.

use std::cmp::Ordering;
use std::sync::Arc;

/// Wide enough to be shallow (four levels hold a million), narrow enough that copying a node costs a microsecond or two.
const ITEMS_MAX: usize = 32;

/// A node with fewer is joined with its neighbour. Far below half, so that removing and adding does not split again.
const ITEMS_MIN: usize = 8;

/// Memory of a node grows by this many items at a time: doubling would leave a third of it unused.
const ITEMS_STEP: usize = 8;

/// What a [`Tree`] holds.
pub(crate) trait Sorted: Clone {
    /// Two items that are equal in this order take the same place.
    fn order(&self, other: &Self) -> Ordering;
}

/// A persistent ordered set of items.
pub(crate) struct Tree<T> {
    root: Option<Arc<Node<T>>>,
}

/// Either a leaf, or one child more than items: the items of child `i` come before item `i`.
struct Node<T> {
    items: Vec<T>,
    children: Vec<Arc<Node<T>>>,
    /// Items here and below.
    len: usize,
}

enum Inserted<T> {
    Added,
    Replaced(T),
    /// The node was full: it kept the items before this one, the new node has those after it.
    Split(T, Arc<Node<T>>),
}

impl<T> Clone for Tree<T> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<T> Tree<T> {
    pub fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.len)
    }

    /// The item for which `order` (its place, compared with the one looked for) is equal.
    pub fn get(&self, order: impl Fn(&T) -> Ordering) -> Option<&T> {
        let mut node = self.root.as_ref()?;
        loop {
            match node.items.binary_search_by(&order) {
                Ok(at) => return Some(&node.items[at]),
                Err(at) => node = node.children.get(at)?,
            }
        }
    }

    /// The items from the first one that is not before the start.
    pub fn range_from(&self, is_before: impl Fn(&T) -> bool) -> Iter<'_, T> {
        let mut path = Vec::new();
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            let at = node.items.partition_point(&is_before);
            path.push((&**node, at));
            next = node.children.get(at);
        }
        Iter { path }
    }

    /// How many items come before the place.
    pub fn rank(&self, is_before: impl Fn(&T) -> bool) -> usize {
        let mut rank = 0;
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            let at = node.items.partition_point(&is_before);
            rank += at + node.children.iter().take(at).map(|child| child.len).sum::<usize>();
            next = node.children.get(at);
        }
        rank
    }
}

impl<T: Sorted> Tree<T> {
    /// Adds an item; returns the one whose place it took.
    pub fn insert(&mut self, item: T) -> Option<T> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node { items: vec![item], children: Vec::new(), len: 1 }));
            return None;
        };
        let inserted = insert(root, item);
        self.grow(inserted)
    }

    /// Adds an item that comes after all others, without comparing it with any.
    pub fn append(&mut self, item: T) {
        let Some(root) = &mut self.root else {
            self.insert(item);
            return;
        };
        let inserted = append(root, item);
        self.grow(inserted);
    }

    /// A root that was split gets a new one above it.
    fn grow(&mut self, inserted: Inserted<T>) -> Option<T> {
        match inserted {
            Inserted::Added => None,
            Inserted::Replaced(before) => Some(before),
            Inserted::Split(middle, right) => {
                let left = self.root.take().expect("it was split, so it is there");
                let len = left.len + 1 + right.len;
                self.root = Some(Arc::new(Node { items: vec![middle], children: vec![left, right], len }));
                None
            }
        }
    }

    /// Takes out the item for which `order` is equal.
    pub fn remove(&mut self, order: impl Fn(&T) -> Ordering) -> Option<T> {
        // Looked for first: what is not there must not make copies of nodes.
        self.get(&order)?;
        let root = self.root.as_mut()?;
        let removed = remove(root, &order);
        if root.items.is_empty() {
            self.root = root.children.first().cloned();
        }
        Some(removed)
    }
}

impl<T: Clone> Clone for Node<T> {
    fn clone(&self) -> Self {
        // A node is copied to be changed, so there is space for one more.
        let mut items = Vec::with_capacity((self.items.len() + 1).next_multiple_of(ITEMS_STEP));
        items.extend_from_slice(&self.items);
        Self { items, children: self.children.clone(), len: self.len }
    }
}

impl<T> Node<T> {
    fn is_leaf(&self) -> bool {
        self.children.is_empty()
    }
}

impl<T: Sorted> Node<T> {
    /// Puts an item in, and the child that follows it; splits the node when that is too much.
    fn add(&mut self, at: usize, item: T, child: Option<Arc<Self>>) -> Inserted<T> {
        if self.items.len() == self.items.capacity() {
            self.items.reserve_exact(ITEMS_STEP);
        }
        self.items.insert(at, item);
        if let Some(child) = child {
            self.children.insert(at + 1, child);
        }
        self.len += 1;
        let count = self.items.len();
        if count <= ITEMS_MAX {
            return Inserted::Added;
        }
        // Names that are counted up are added at the end: then the left one stays full, because nothing follows into it.
        let middle = if at + 1 == count { count - 2 } else { count / 2 };
        let (middle, right) = self.split(middle);
        Inserted::Split(middle, right)
    }

    /// Keeps what is before `middle`; returns that item and a node of what is after it.
    fn split(&mut self, middle: usize) -> (T, Arc<Self>) {
        let items = self.items.split_off(middle + 1);
        let children = if self.is_leaf() { Vec::new() } else { self.children.split_off(middle + 1) };
        let len = items.len() + children.iter().map(|child| child.len).sum::<usize>();
        let middle = self.items.pop().expect("a node is split at one of its items");
        self.items.shrink_to_fit();
        self.len -= len + 1;
        (middle, Arc::new(Self { items, children, len }))
    }

    /// Joins a child that has become small with its neighbour, and splits them evenly when they are too much for one.
    fn refill(&mut self, child: usize) {
        if self.children[child].items.len() >= ITEMS_MIN {
            return;
        }
        let left = child.saturating_sub(1);
        let right = Arc::unwrap_or_clone(self.children.remove(left + 1));
        let between = self.items.remove(left);
        let node = Arc::make_mut(&mut self.children[left]);
        node.len += right.len + 1;
        node.items.push(between);
        node.items.extend(right.items);
        node.children.extend(right.children);
        if node.items.len() > ITEMS_MAX {
            let (between, right) = node.split(node.items.len() / 2);
            self.items.insert(left, between);
            self.children.insert(left + 1, right);
        }
    }
}

fn insert<T: Sorted>(node: &mut Arc<Node<T>>, item: T) -> Inserted<T> {
    let place = node.items.binary_search_by(|held| held.order(&item));
    let node = Arc::make_mut(node);
    let at = match place {
        Ok(at) => return Inserted::Replaced(std::mem::replace(&mut node.items[at], item)),
        Err(at) => at,
    };
    if node.is_leaf() {
        return node.add(at, item, None);
    }
    match insert(&mut node.children[at], item) {
        Inserted::Split(middle, right) => node.add(at, middle, Some(right)),
        Inserted::Added => {
            node.len += 1;
            Inserted::Added
        }
        replaced @ Inserted::Replaced(_) => replaced,
    }
}

fn append<T: Sorted>(node: &mut Arc<Node<T>>, item: T) -> Inserted<T> {
    let node = Arc::make_mut(node);
    let at = node.items.len();
    let Some(last) = node.children.last_mut() else {
        return node.add(at, item, None);
    };
    match append(last, item) {
        Inserted::Split(middle, right) => node.add(at, middle, Some(right)),
        inserted => {
            node.len += 1;
            inserted
        }
    }
}

/// The item is known to be there.
fn remove<T: Sorted>(node: &mut Arc<Node<T>>, order: &impl Fn(&T) -> Ordering) -> T {
    let place = node.items.binary_search_by(order);
    let node = Arc::make_mut(node);
    node.len -= 1;
    match place {
        Ok(at) if node.is_leaf() => node.items.remove(at),
        Ok(at) => {
            let before = remove_last(&mut node.children[at]);
            let removed = std::mem::replace(&mut node.items[at], before);
            node.refill(at);
            removed
        }
        Err(at) => {
            let removed = remove(&mut node.children[at], order);
            node.refill(at);
            removed
        }
    }
}

fn remove_last<T: Sorted>(node: &mut Arc<Node<T>>) -> T {
    let node = Arc::make_mut(node);
    node.len -= 1;
    let Some(last) = node.children.len().checked_sub(1) else {
        return node.items.pop().expect("a leaf below another node has items");
    };
    let removed = remove_last(&mut node.children[last]);
    node.refill(last);
    removed
}

/// Items in order.
pub(crate) struct Iter<'a, T> {
    /// From the root down: a node, and its next item.
    path: Vec<(&'a Node<T>, usize)>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            let (node, at) = self.path.last_mut()?;
            let Some(item) = node.items.get(*at) else {
                self.path.pop();
                continue;
            };
            *at += 1;
            let mut below = node.children.get(*at);
            while let Some(child) = below {
                self.path.push((child, 0));
                below = child.children.first();
            }
            return Some(item);
        }
    }
}

#[cfg(test)]
mod tests;
