//! What binders, schedulers and provisioners of Kubernetes agree on: annotations, and which volume suits a claim.

use api_kube::LabelSelector;

/// Of a claim whose binding is complete: what its volume does from then on is the volume's fault.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Of a claim or a volume whose binding a controller has chosen, and not a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Of a claim: the node on which its first pod runs, for whoever makes its volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Of a claim: who is to make its volume. Provisioners look at either.
pub const PROVISIONER_OF_CLAIM: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];
/// By which claims and volumes named their class before it was a field.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Of the class that claims get which name none.
pub const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The provisioner of a class whose volumes somebody makes by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// How volumes may be used: `spec.accessModes`, of a claim or of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessModes(u8);

impl AccessModes {
    const NAMES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];
    /// By one pod at a time.
    pub const ONE_POD: Self = Self(1 << 3);

    /// Reads names. The API server has let no others in; of one that it has, nothing is known that a volume could offer.
    pub fn new<'m>(names: impl IntoIterator<Item = &'m str>) -> Self {
        const UNKNOWN: usize = AccessModes::NAMES.len();
        let bit = |name: &str| Self::NAMES.iter().position(|known| *known == name).unwrap_or(UNKNOWN);
        Self(names.into_iter().fold(0, |modes, name| modes | 1 << bit(name)))
    }

    /// Whether all of another's are among these.
    pub fn contain(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }
}

/// What must suit between a claim, which asks for it, and a volume, which offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms<'a> {
    /// The class, by annotation or field; `""` is none.
    pub class: &'a str,
    /// `spec.volumeAttributesClassName`.
    pub attributes_class: &'a str,
    /// Bytes: what is requested, and the capacity.
    pub bytes: i64,
    /// `spec.accessModes`.
    pub modes: AccessModes,
    /// Whether it is a block device, and not a file system.
    pub is_block: bool,
}

/// A claim that looks for a volume.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its namespace, name and uid.
    pub claim: (&'a str, &'a str, &'a str),
    /// What the volume must offer.
    pub terms: Terms<'a>,
    /// The labels that it must have.
    pub selector: Option<&'a LabelSelector>,
}

/// A volume, however it was read.
pub trait Offer {
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// What it offers.
    fn terms(&self) -> Terms<'_>;
    /// Namespace, name and, once it is known, uid of the claim that it is for: `spec.claimRef`.
    fn claim(&self) -> Option<(&str, &str, &str)>;
    /// The value of one of its labels.
    fn label(&self, key: &str) -> Option<&str>;
    /// Whether it may be bound: see [`is_bindable`], and not on its way out.
    fn is_usable(&self) -> bool;

    /// Whether it is for this claim: by name, and by uid where the volume has one.
    fn is_for(&self, (namespace, name, uid): (&str, &str, &str)) -> bool {
        self.claim().is_some_and(|held| (held.0, held.1) == (namespace, name) && (held.2.is_empty() || held.2 == uid))
    }
}

/// Whether a volume of this `status.phase` may be bound: it is neither released nor failed.
pub fn is_bindable(phase: &str) -> bool {
    matches!(phase, "" | "Pending" | "Available" | "Bound")
}

/// The volumes that suit a claim, wherever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suiting<V> {
    /// The one that is for it already. Where it cannot be reached, no other one is taken.
    Reserved(V),
    /// Those that are for nobody yet, best first.
    Free(Vec<V>),
}

impl<V: Offer> Suiting<V> {
    /// Finds them, in upstream's order: a volume that is for the claim already comes before all others. Of these, the one with the fewest
    /// access modes beside those that the claim asks for is first, then the smallest, and of two of one size the first by name, so that whoever
    /// asks again, or is another program, chooses the same.
    pub fn find(asked: &Asked<'_>, volumes: impl IntoIterator<Item = V>) -> Self {
        let terms = asked.terms;
        let mut free = Vec::new();
        for volume in volumes {
            let offered = volume.terms();
            let is_candidate = volume.is_usable()
                && offered.is_block == terms.is_block
                && offered.bytes >= terms.bytes
                && offered.attributes_class == terms.attributes_class;
            if !is_candidate {
                continue;
            }
            if volume.is_for(asked.claim) {
                return Self::Reserved(volume);
            }
            let suits = volume.claim().is_none()
                && offered.class == terms.class
                && offered.modes.contain(terms.modes)
                && asked.selector.is_none_or(|selector| selector.matches(|key| volume.label(key)));
            if suits {
                free.push(volume);
            }
        }
        let rank = |volume: &V| (volume.terms().modes.0.count_ones(), volume.terms().bytes);
        free.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name().cmp(b.name())));
        Self::Free(free)
    }
}

impl<V> Suiting<V> {
    /// The same with something else of each volume, such as its name.
    pub fn map<U>(self, mut of_volume: impl FnMut(V) -> U) -> Suiting<U> {
        match self {
            Self::Reserved(volume) => Suiting::Reserved(of_volume(volume)),
            Self::Free(volumes) => Suiting::Free(volumes.into_iter().map(of_volume).collect()),
        }
    }

    /// The best of those that can be taken, as far as `can_take` knows.
    pub fn first(&self, mut can_take: impl FnMut(&V) -> bool) -> Option<&V> {
        match self {
            Self::Reserved(volume) => Some(volume).filter(|volume| can_take(volume)),
            Self::Free(volumes) => volumes.iter().find(|volume| can_take(volume)),
        }
    }
}
