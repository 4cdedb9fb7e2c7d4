//! The whole of who may do what, in one table: every resource and subresource that is served, every verb, every kind of
//! caller. It is generated from the registry and from [`hub_policy::authorizers`], so a new kind or subresource changes it, and
//! whoever adds one looks at the new rows and decides them: `cargo xtask test --bless`, then read the difference.
//!
//! A row's object is gw-1's where such a thing can be a node's: `gw-1` is its owner and `gw-2` another node. What admission
//! rejects afterwards (labels of a node, mirror pods of others) is not here; see `nodes.rs` and `tokens.rs`.

use std::fmt::Write as _;

use api_kube::selector::{FieldSelector, LabelSelector};
use expect_test::expect_file;
use machinery_kinds::Registry;
use machinery_server::{Access, Authorizer as _, Decision, Identity, Target, Union};
use machinery_store::Store;
use serde_json::json;

use crate::harness::{self, Hub};

/// Resources that are never stored, and so are not in the registry: reviews, and what may be impersonated.
const UNSTORED: &[(&str, &str, Option<&str>, &str)] = &[
    ("", "groups", None, "impersonate"),
    ("", "serviceaccounts", None, "impersonate"),
    ("", "users", None, "impersonate"),
    ("authentication.k8s.io", "selfsubjectreviews", None, "create"),
    ("authentication.k8s.io", "uids", None, "impersonate"),
    ("authentication.k8s.io", "userextras", Some("scopes"), "impersonate"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", None, "create"),
    ("authorization.k8s.io", "subjectaccessreviews", None, "create"),
    // Not served. A rule that lets somebody do what is not there yet is found before it is there.
    ("", "pods", Some("exec"), "create"),
    ("", "serviceaccounts", Some("token"), "create"),
    ("nobody.example", "things", None, "get"),
];

/// Paths that are no resource.
const PATHS: &[(&str, &str)] = &[
    ("get", "/"),
    ("get", "/api"),
    ("get", "/apis"),
    ("get", "/apis/apps/v1"),
    ("get", "/healthz"),
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/openapi/v2"),
    ("get", "/openapi/v3"),
    ("get", "/openapi/v3/api/v1"),
    ("get", "/version"),
    ("post", "/version"),
    ("get", "/apisome"),
    ("post", api_edge::telemetry::BATCHES_PATH),
    ("get", api_edge::telemetry::BATCHES_PATH),
    ("get", api_edge::telemetry::READINGS_PATH),
    ("get", api_edge::telemetry::LATEST_PATH),
    ("get", "/debug/pprof"),
];

/// Who is asked about, in the order of the columns.
fn callers() -> [(&'static str, Identity); 9] {
    let anonymous = Identity {
        user: "system:anonymous".to_owned(),
        groups: vec!["system:unauthenticated".to_owned()],
        ..Identity::default()
    };
    [
        ("nobody", anonymous),
        ("token", Identity::new("system:bootstrap:abcdef", ["system:bootstrappers"])),
        ("gw-1", harness::node("gw-1")),
        ("gw-2", harness::node("gw-2")),
        ("as gw-1", harness::in_nodes_name("gw-1")),
        // A node's certificate without the group of nodes, as an impersonator may make one up.
        ("named", Identity::new("system:node:gw-1", Vec::<String>::new())),
        // A user of his own, and whoever is impersonated without groups.
        ("user", Identity::new("jane", ["developers"])),
        ("admin", Identity::new("kubernetes-admin", ["system:masters"])),
        ("hub", Identity::controllers()),
    ]
}

/// What a row is about.
#[derive(Clone, Copy)]
struct Row<'a> {
    group: &'a str,
    resource: &'a str,
    subresource: Option<&'a str>,
    verb: &'a str,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    /// What a list or watch selects.
    labels: &'a str,
    fields: &'a str,
}

/// A hub with things of gw-1, of gw-2 and of a bearer of a token.
async fn hub() -> Hub {
    let hub = Hub::start().await;
    for node in ["gw-1", "gw-2"] {
        hub.create(harness::NODES, json!({"metadata": {"name": node}})).await;
    }
    hub.create(harness::PODS, harness::pod("of-gw-1", "gw-1")).await;
    hub.create(harness::CONFIG_MAPS, harness::config_map("settings")).await;
    hub.create(
        harness::ASSIGNMENTS,
        json!({"metadata": {"name": "gw-1", "labels": {api_edge::LABEL_NODE: "gw-1"}}, "spec": {"nodeName": "gw-1"}}),
    )
    .await;
    let token = Identity::new("system:bootstrap:abcdef", ["system:bootstrappers"]);
    for (name, owner) in [("of-gw-1", harness::node("gw-1")), ("of-token", token)] {
        let answer = hub.send(&owner, "POST", harness::CSRS, harness::csr(name, "gw-1")).await;
        assert_eq!(answer.code, 201, "{}", answer.body);
    }
    hub
}

/// Where gw-1's object of a resource is: namespace, name, and the selectors by which a node lists its own.
fn of_gw_1<'a>(group: &str, resource: &str) -> (&'a str, &'a str, &'a str, &'a str) {
    match (group, resource) {
        ("", "nodes") => ("", "gw-1", "", "metadata.name=gw-1"),
        ("", "pods") => ("default", "of-gw-1", "", "spec.nodeName=gw-1"),
        // The pod refers to it.
        ("", "configmaps") => ("default", "settings", "", "metadata.name=settings"),
        ("coordination.k8s.io", "leases") => ("kube-node-lease", "gw-1", "", "metadata.name=gw-1"),
        ("certificates.k8s.io", "certificatesigningrequests") => ("", "of-gw-1", "", "metadata.name=of-gw-1"),
        (api_edge::GROUP, "nodeassignments") => ("", "gw-1", "selvedge.dev/node=gw-1", ""),
        _ => ("default", "one", "", "metadata.name=one"),
    }
}

struct Table {
    text: String,
    store: Store,
    authorizers: Union,
}

impl Table {
    fn ask(&self, identity: &Identity, verb: &str, target: Target<'_>) -> &'static str {
        match self.authorizers.authorize(&Access { identity, verb, target, object: None }, &self.store) {
            Decision::Allow(_) => "yes",
            Decision::Deny(_) => "never",
            Decision::NoOpinion(_) => "-",
        }
    }

    fn line(&mut self, what: &str, verb: &str, about: &str, target: &Target<'_>) {
        let cells: Vec<&str> = callers().iter().map(|(_, caller)| self.ask(caller, verb, target.clone())).collect();
        // Whatever the rules say, these columns are the ground they stand on.
        assert_eq!((cells[7], cells[8]), ("yes", "yes"), "{verb} {what}: the administrator and the hub may do all");
        assert_eq!(cells[0], "-", "{verb} {what}: nobody may do anything");
        // A name of the hub speaks for nothing, whoever signed its certificate.
        assert_eq!(self.ask(&harness::node("localhost"), verb, target.clone()), "never", "{verb} {what}");
        let cells: String = cells.iter().fold(String::new(), |mut line, cell| {
            let _ = write!(line, "{cell:8}");
            line
        });
        let line = format!("{what:62}{verb:18}{about:24}{cells}");
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn row(&mut self, row: Row<'_>) {
        let selectors: (LabelSelector, FieldSelector) = (row.labels.parse().unwrap(), row.fields.parse().unwrap());
        let is_list = matches!(row.verb, "list" | "watch" | "deletecollection");
        let target = Target::Resource {
            group: row.group,
            resource: row.resource,
            subresource: row.subresource,
            namespace: row.namespace,
            name: row.name,
            selectors: is_list.then_some((&selectors.0, &selectors.1)),
        };
        let mut what =
            if row.group.is_empty() { row.resource.to_owned() } else { format!("{}.{}", row.resource, row.group) };
        if let Some(part) = row.subresource {
            let _ = write!(what, "/{part}");
        }
        let about = match (is_list, row.name) {
            (true, _) if !row.labels.is_empty() => row.labels.to_owned(),
            (true, _) if !row.fields.is_empty() => row.fields.to_owned(),
            (true, _) => "all".to_owned(),
            (false, name) => name.unwrap_or_default().to_owned(),
        };
        self.line(&what, row.verb, &about, &target);
    }
}

fn registry() -> Registry {
    let mut registry = Registry::builtin();
    for definition in api_edge::crds::all() {
        registry.install_crd(&definition).unwrap();
    }
    registry
}

#[tokio::test]
async fn every_cell_of_the_table_was_decided() {
    let hub = hub().await;
    let mut table =
        Table { text: String::new(), store: hub.store.clone(), authorizers: Union::new(hub_policy::authorizers()) };
    let heads: String = callers().iter().map(|(name, _)| format!("{name:8}")).collect();
    let _ = writeln!(table.text, "{}", format!("{:62}{:18}{:24}{heads}", "RESOURCE", "VERB", "OBJECT").trim_end());

    let registry = registry();
    let mut resources: Vec<_> = registry.resources().collect();
    resources.sort_by_key(|info| (info.group.clone(), info.plural.clone(), info.version.clone()));
    for info in resources {
        let (namespace, name, labels, fields) = of_gw_1(&info.group, &info.plural);
        let row = Row {
            group: &info.group,
            resource: &info.plural,
            subresource: None,
            verb: "",
            namespace: info.namespaced.then_some(namespace),
            name: None,
            labels: "",
            fields: "",
        };
        for &verb in info.verbs {
            match verb {
                "create" | "deletecollection" => table.row(Row { verb, ..row }),
                "list" | "watch" => {
                    table.row(Row { verb, ..row });
                    table.row(Row { verb, labels, fields, ..row });
                }
                _ => table.row(Row { verb, name: Some(name), ..row }),
            }
        }
        if &*info.plural == "certificatesigningrequests" {
            table.row(Row { verb: "get", name: Some("of-token"), ..row });
        }
        for part in &info.subresources {
            for &verb in part.verbs {
                table.row(Row { verb, subresource: Some(&part.name), name: Some(name), ..row });
            }
        }
    }
    for &(group, resource, subresource, verb) in UNSTORED {
        let name = (verb != "create" || subresource.is_some()).then_some("one");
        let namespace = (resource == "pods" || resource == "serviceaccounts").then_some("default");
        table.row(Row { group, resource, subresource, verb, namespace, name, labels: "", fields: "" });
    }
    for (verb, path) in PATHS {
        table.line(path, verb, "", &Target::Path(path));
    }
    expect_file!["authorization.txt"].assert_eq(&table.text);
}
