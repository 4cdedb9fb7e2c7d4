//! The hub's controllers of volumes: claims find volumes, and get new ones on the disks of nodes.
//!
//! | module | key | what |
//! | --- | --- | --- |
//! | `binder` | claim or volume | claims and volumes are bound to each other, and say how far they are |
//! | `provisioner` | claim or volume | volumes of the class `local`: directories of nodes, made and deleted |
//!
//! Beside them: `matching` (which volume suits a claim?), `views` (what is read), `names` (annotations that all of Kubernetes
//! agrees on). That what is in use is not deleted is `protection` of `hub-controllers`; that claims which name no class get the
//! default one is admission; which node a waiting claim gets is the scheduler's choice; the directories are the nodes' (`node-pods`),
//! with whom `api_edge::volumes` is agreed.
//!
//! **May I touch it?** Two things must hold. A claim is never bound to two volumes, nor a volume to two claims, whoever is cut short where.
//! And a volume is Released only when its claim is known to be deleted, because a node removes data for it.
//!
//! **How do I try it?** `cargo test -p hub-volumes`: tables beside each module, and `tests/volumes` over an embedded API with a
//! scheduler and StatefulSets.
//!
//! **What breaks?** With these stopped, what is bound stays usable, and new claims wait.

use hub_runtime::kinds::Kind;
use hub_runtime::{Context, Manager};

mod binder;
mod matching;
mod provisioner;
mod views;

/// Everything that the controllers read: what the reader of their [`Manager`] must show.
pub const READ: &[Kind] =
    &[Kind::Node, Kind::Pod, Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::StorageClass];

/// Starts all of them. The API must be served already, and the manager's reader must show [`READ`].
pub fn start(manager: &Manager) {
    manager.run(|context| binder::Binder::new(named(context, "persistentvolume-controller")));
    manager.run(|context| provisioner::Provisioner::new(named(context, api_edge::volumes::PROVISIONER)));
}

/// What a controller is handed that has this name upstream: its Events come from it.
fn named(context: Context, component: &'static str) -> Context {
    Context { recorder: context.recorder.of(component), ..context }
}
