//! Roles and bindings, decoded and found by whom they are about.
//!
//! A decision has to be quick, however many bindings of others there are, and has to know of every write that was answered
//! before it: whoever has been granted something uses it in the next moment. So the index follows the store itself. Each
//! look first takes up what has changed since the last one, which is one comparison of revisions when nothing has.
//!
//! `store ── Watch of four resources ──▶ Index { roles, bindings by subject } ◀── look ── authorizer, escalation checks`

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt as _;
use machinery_server::Identity;
use machinery_store::{Change, ChangeKind, Object, Store, Watch};
use parking_lot::{RwLock, RwLockReadGuard};
use serde_json::Value;

use super::rule::Rule;
use crate::json::{decoded, items, text};

/// API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

const RESOURCES: [&str; 4] = [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS];

/// Namespace and name; the namespace is empty for what is the cluster's.
type Names = (Box<str>, Box<str>);

/// A reference to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleRef {
    pub kind: String,
    pub name: String,
}

impl RoleRef {
    pub fn of_binding(binding: &Value) -> Self {
        Self { kind: text(binding, "/roleRef/kind").to_owned(), name: text(binding, "/roleRef/name").to_owned() }
    }
}

/// Who is granted something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
    /// Namespace and name.
    ServiceAccount(Box<str>, Box<str>),
    /// Of a kind that nobody is.
    Other(Box<str>),
}

/// A binding: a role, and the subjects that have it.
#[derive(Debug)]
pub(crate) struct Binding {
    namespace: Box<str>,
    name: Box<str>,
    role: RoleRef,
    subjects: Vec<(Subject, Box<str>)>,
}

impl Binding {
    fn decode(object: &Object) -> Self {
        let value = decoded(object);
        let namespace: Box<str> = (&*object.key.namespace).into();
        let subjects = items(&value, "subjects").iter().map(|subject| {
            let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
            let subject = match kind {
                "User" => Subject::User(name.into()),
                "Group" => Subject::Group(name.into()),
                "ServiceAccount" => {
                    let own = text(subject, "/namespace");
                    let namespace = if own.is_empty() { &namespace } else { own };
                    Subject::ServiceAccount(namespace.into(), name.into())
                }
                other => Subject::Other(other.into()),
            };
            (subject, name.into())
        });
        let subjects = subjects.collect();
        Self { name: (&*object.key.name).into(), role: RoleRef::of_binding(&value), subjects, namespace }
    }

    /// As the reasons of decisions show it, for the first of its subjects that is this caller.
    fn describe(&self, identity: &Identity) -> String {
        let role = format!("{} {:?}", self.role.kind, self.role.name);
        let subject = self.subjects.iter().find(|(subject, _)| is_subject(subject, identity));
        let subject = match subject {
            Some((Subject::ServiceAccount(namespace, name), _)) => {
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
            Some((Subject::Group(name), _)) => format!("Group {name:?}"),
            Some((_, name)) => format!("User {name:?}"),
            None => String::new(),
        };
        if self.namespace.is_empty() {
            format!("ClusterRoleBinding {:?} of {role} to {subject}", self.name)
        } else {
            format!("RoleBinding {:?} of {role} to {subject}", format!("{}/{}", self.name, self.namespace))
        }
    }
}

fn is_subject(subject: &Subject, identity: &Identity) -> bool {
    match subject {
        Subject::User(name) => **name == *identity.user,
        Subject::Group(name) => identity.groups.iter().any(|group| **name == **group),
        Subject::ServiceAccount(namespace, name) => {
            identity.service_account().is_some_and(|(of, called)| (of, called) == (namespace, name))
        }
        Subject::Other(_) => false,
    }
}

/// What is known of the store's roles and bindings.
#[derive(Default)]
struct Tables {
    /// Rules by namespace and name.
    roles: HashMap<Names, Arc<[Rule]>>,
    bindings: HashMap<Names, Arc<Binding>>,
    by_subject: HashMap<Subject, BTreeSet<Names>>,
    watches: Vec<Watch>,
}

impl Tables {
    /// Everything anew, after a start or when a watch has fallen behind.
    fn load(&mut self, store: &Store) {
        *self = Self::default();
        let from = store.current();
        for resource in RESOURCES {
            let snapshot = store.snapshot(resource);
            // A change between the two is seen twice, which does no harm; the snapshot is never older than the watch.
            self.watches.extend(store.watch(resource, from));
            for object in snapshot.iter(None, None) {
                self.put(object);
            }
        }
    }

    /// Takes up what has changed.
    fn follow(&mut self, store: &Store) {
        if self.watches.len() < RESOURCES.len() {
            return self.load(store);
        }
        let mut watches = std::mem::take(&mut self.watches);
        let mut is_behind = false;
        for watch in &mut watches {
            loop {
                match watch.next().now_or_never() {
                    Some(Ok(batch)) => batch.changes.iter().for_each(|change| self.apply(change)),
                    Some(Err(_)) => {
                        is_behind = true;
                        break;
                    }
                    None => break,
                }
            }
        }
        self.watches = watches;
        if is_behind {
            self.load(store);
        }
    }

    fn apply(&mut self, change: &Change) {
        match change.kind {
            ChangeKind::Put => self.put(&change.object),
            ChangeKind::Delete => self.remove(&change.object),
        }
    }

    fn put(&mut self, object: &Object) {
        let names = names_of(object);
        if matches!(&*object.key.resource, ROLES | CLUSTER_ROLES) {
            self.roles.insert(names, Rule::of_role(&decoded(object)).into());
            return;
        }
        self.remove(object);
        let binding = Arc::new(Binding::decode(object));
        for (subject, _) in &binding.subjects {
            self.by_subject.entry(subject.clone()).or_default().insert(names.clone());
        }
        self.bindings.insert(names, binding);
    }

    fn remove(&mut self, object: &Object) {
        let names = names_of(object);
        if matches!(&*object.key.resource, ROLES | CLUSTER_ROLES) {
            self.roles.remove(&names);
            return;
        }
        let Some(binding) = self.bindings.remove(&names) else { return };
        for (subject, _) in &binding.subjects {
            if let Some(bound) = self.by_subject.get_mut(subject) {
                bound.remove(&names);
                if bound.is_empty() {
                    self.by_subject.remove(subject);
                }
            }
        }
    }

    /// The bindings of a caller in the cluster, then in a namespace, in order of their names.
    fn bindings_of(&self, identity: &Identity, namespace: &str) -> Vec<&Arc<Binding>> {
        let account = identity.service_account();
        let account = account.map(|(namespace, name)| Subject::ServiceAccount(namespace.into(), name.into()));
        let groups = identity.groups.iter().map(|group| Subject::Group((**group).into()));
        let subjects = std::iter::once(Subject::User((*identity.user).into())).chain(account).chain(groups);
        let mut found: BTreeSet<&Names> = BTreeSet::new();
        for subject in subjects {
            let Some(bound) = self.by_subject.get(&subject) else { continue };
            for scope in ["", namespace] {
                let from: Names = (scope.into(), "".into());
                found.extend(bound.range(from..).take_while(|(of, _)| **of == *scope));
            }
        }
        found.into_iter().filter_map(|names| self.bindings.get(names)).collect()
    }
}

fn names_of(object: &Object) -> Names {
    ((&*object.key.namespace).into(), (&*object.key.name).into())
}

/// The roles and bindings of a store. Shared by all who decide by them.
#[derive(Default)]
pub(crate) struct Index {
    tables: RwLock<Tables>,
    /// Revision of the store up to which the tables are known to be complete.
    seen: AtomicU64,
}

/// A look at the index as of one moment.
pub(crate) struct Look<'a>(RwLockReadGuard<'a, Tables>);

impl Index {
    /// The index with all that the store holds now.
    pub fn look(&self, store: &Store) -> Look<'_> {
        // Read before following: what is written in between is found by the next look.
        let current = store.current().0;
        if self.seen.load(Ordering::Acquire) < current {
            let mut tables = self.tables.write();
            if self.seen.load(Ordering::Acquire) < current {
                tables.follow(store);
                self.seen.store(current, Ordering::Release);
            }
        }
        Look(self.tables.read())
    }
}

impl Look<'_> {
    /// Calls `visit` with each rule that a caller has in a namespace, and the binding that gives it, until that returns
    /// `false`. Returns what could not be resolved.
    pub fn visit(
        &self,
        identity: &Identity,
        namespace: &str,
        mut visit: impl FnMut(&Binding, &Rule) -> bool,
    ) -> Vec<String> {
        let mut errors = Vec::new();
        for binding in self.0.bindings_of(identity, namespace) {
            match self.rules(&binding.role, &binding.namespace) {
                Ok(rules) => {
                    if !rules.iter().all(|rule| visit(binding, rule)) {
                        return errors;
                    }
                }
                Err(MissingRole::NotFound) => {
                    let kind = binding.role.kind.to_lowercase();
                    errors.push(format!("{kind}.{GROUP} {:?} not found", binding.role.name));
                }
                Err(MissingRole::Unsupported) => errors.push(unsupported(&binding.role)),
            }
        }
        errors
    }

    /// All rules of a caller in a namespace.
    pub fn rules_of(&self, identity: &Identity, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut rules = Vec::new();
        let errors = self.visit(identity, namespace, |_, rule| {
            rules.push(rule.clone());
            true
        });
        (rules, errors)
    }

    /// The rules of a role that a binding of this namespace refers to.
    pub fn rules(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[Rule]>, MissingRole> {
        let scope = match role.kind.as_str() {
            "ClusterRole" => "",
            "Role" => namespace,
            _ => return Err(MissingRole::Unsupported),
        };
        // A Role in no namespace is none, and must not be mistaken for the ClusterRole of its name.
        if role.kind == "Role" && scope.is_empty() {
            return Err(MissingRole::NotFound);
        }
        let names: Names = (scope.into(), role.name.as_str().into());
        self.0.roles.get(&names).cloned().ok_or(MissingRole::NotFound)
    }

    /// As the reasons of decisions show a binding.
    pub fn describe(binding: &Binding, identity: &Identity) -> String {
        binding.describe(identity)
    }
}

/// Why a binding grants nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingRole {
    NotFound,
    Unsupported,
}

pub(crate) fn unsupported(role: &RoleRef) -> String {
    format!("unsupported role reference kind: {:?}", role.kind)
}
