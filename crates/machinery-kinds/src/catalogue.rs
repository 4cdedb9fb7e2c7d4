//! The built-in resources that are served: a table, read once.

use std::sync::Arc;

use crate::{
    builtin,
    resource::{Columns, ResourceInfo, Schema, SelectableField, Subresource, storage_key},
    strategy::{self, Strategy},
};

/// Verbs of an ordinary resource, in the order in which discovery lists them.
pub(crate) const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces are deleted one by one, each with all that it holds.
const VERBS_NAMESPACE: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
/// Verbs of a subresource that is a view of the object.
pub(crate) const VERBS_VIEW: &[&str] = &["get", "patch", "update"];
const VERBS_READ: &[&str] = &["get"];
/// Of a kind of which there are no objects: clients that look for some find none.
const VERBS_LOOK: &[&str] = &["get", "list", "watch"];

struct Entry {
    group: &'static str,
    version: &'static str,
    /// Group of the store's name, when another group's resource of the same plural is the same objects.
    storage_group: Option<&'static str>,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    verbs: &'static [&'static str],
    subresources: &'static [(&'static str, &'static [&'static str])],
    /// Prefix of the definition's name.
    package: &'static str,
    selectable: &'static [&'static str],
    strategy: &'static Strategy,
}

impl Entry {
    const CLUSTER: Self = Self {
        group: "",
        version: "v1",
        storage_group: None,
        kind: "",
        plural: "",
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: VERBS,
        subresources: &[],
        package: "io.k8s.api.core.v1",
        selectable: &[],
        strategy: &PLAIN,
    };
    const NAMESPACED: Self = Self { namespaced: true, ..Self::CLUSTER };
}

static PLAIN: Strategy = Strategy::PLAIN;

const STATUS: &[(&str, &[&str])] = &[("status", VERBS_VIEW)];

static ENTRIES: &[Entry] = &[
    Entry {
        kind: "ConfigMap",
        strategy: &strategy::CONFIG_MAP,
        plural: "configmaps",
        short_names: &["cm"],
        ..Entry::NAMESPACED
    },
    Entry {
        kind: "Event",
        strategy: &strategy::EVENT,
        plural: "events",
        short_names: &["ev"],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..Entry::NAMESPACED
    },
    Entry {
        kind: "Namespace",
        strategy: &strategy::NAMESPACE,
        plural: "namespaces",
        short_names: &["ns"],
        verbs: VERBS_NAMESPACE,
        subresources: &[("finalize", &["update"]), ("status", VERBS_VIEW)],
        selectable: &["status.phase"],
        ..Entry::CLUSTER
    },
    Entry {
        kind: "Node",
        strategy: &strategy::NODE,
        plural: "nodes",
        short_names: &["no"],
        subresources: STATUS,
        selectable: &["spec.unschedulable"],
        ..Entry::CLUSTER
    },
    Entry {
        kind: "Pod",
        strategy: &strategy::POD,
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        subresources: &[("log", VERBS_READ), ("status", VERBS_VIEW)],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ..Entry::NAMESPACED
    },
    Entry {
        kind: "Secret",
        strategy: &strategy::SECRET,
        plural: "secrets",
        selectable: &["type"],
        ..Entry::NAMESPACED
    },
    // No service can be created yet. Clients look for those of the cluster all the same (`kubectl cluster-info`, `get all`),
    // and that there is none is the truth.
    Entry {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        verbs: VERBS_LOOK,
        ..Entry::NAMESPACED
    },
    Entry {
        kind: "ServiceAccount",
        strategy: &strategy::SERVICE_ACCOUNT,
        plural: "serviceaccounts",
        short_names: &["sa"],
        ..Entry::NAMESPACED
    },
    Entry {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        strategy: &strategy::CUSTOM_RESOURCE_DEFINITION,
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        subresources: STATUS,
        package: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
        ..Entry::CLUSTER
    },
    Entry {
        group: "apps",
        kind: "ControllerRevision",
        strategy: &strategy::CONTROLLER_REVISION,
        plural: "controllerrevisions",
        package: "io.k8s.api.apps.v1",
        ..Entry::NAMESPACED
    },
    Entry {
        group: "apps",
        kind: "DaemonSet",
        strategy: &strategy::DAEMON_SET,
        plural: "daemonsets",
        short_names: &["ds"],
        categories: &["all"],
        subresources: STATUS,
        package: "io.k8s.api.apps.v1",
        ..Entry::NAMESPACED
    },
    Entry {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        strategy: &strategy::CERTIFICATE_SIGNING_REQUEST,
        plural: "certificatesigningrequests",
        short_names: &["csr"],
        subresources: &[("approval", VERBS_VIEW), ("status", VERBS_VIEW)],
        package: "io.k8s.api.certificates.v1",
        selectable: &["spec.signerName"],
        ..Entry::CLUSTER
    },
    Entry {
        group: "coordination.k8s.io",
        kind: "Lease",
        strategy: &strategy::LEASE,
        plural: "leases",
        package: "io.k8s.api.coordination.v1",
        ..Entry::NAMESPACED
    },
    Entry {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        strategy: &strategy::RUNTIME_CLASS,
        plural: "runtimeclasses",
        package: "io.k8s.api.node.v1",
        ..Entry::CLUSTER
    },
];

/// Every built-in resource.
pub(crate) fn builtin_resources() -> impl Iterator<Item = Arc<ResourceInfo>> {
    ENTRIES.iter().map(|entry| {
        let definition = builtin::definition(&format!("{}.{}", entry.package, entry.kind))
            .expect("the vendored definitions are pruned to the served kinds");
        Arc::new(ResourceInfo {
            group: entry.group.into(),
            version: entry.version.into(),
            storage_version: entry.version.into(),
            kind: entry.kind.into(),
            list_kind: format!("{}List", entry.kind).into(),
            plural: entry.plural.into(),
            singular: entry.kind.to_lowercase().into(),
            short_names: entry.short_names.iter().map(|name| (*name).into()).collect(),
            categories: entry.categories.iter().map(|name| (*name).into()).collect(),
            namespaced: entry.namespaced,
            verbs: entry.verbs,
            subresources: entry
                .subresources
                .iter()
                .map(|(name, verbs)| Subresource { name: (*name).into(), kind: entry.kind.into(), verbs })
                .collect(),
            selectable_fields: entry.selectable.iter().map(|name| selectable(name)).collect(),
            storage_key: storage_key(entry.storage_group.unwrap_or(entry.group), entry.plural),
            strategy: entry.strategy,
            schema: Schema::Builtin(definition),
            columns: Columns::Builtin(entry.strategy.printer),
        })
    })
}

fn selectable(name: &'static str) -> SelectableField {
    let mut field = SelectableField::new(name);
    match name {
        // Of an Event, `source` means the component that reported it; new and old clients write it in two places.
        "source" => field.paths = &["source.component", "reportingComponent"],
        "spec.unschedulable" | "spec.hostNetwork" => field.absent = "false",
        _ => {}
    }
    field
}
