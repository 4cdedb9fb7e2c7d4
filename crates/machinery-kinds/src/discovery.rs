//! Discovery documents: how a client learns what is served.

use serde_json::{Value, json};

use crate::{Registry, ResourceInfo, catalogue::group_order, resource::join_api_version};

/// Which form of the aggregated document a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryVersion {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, for clients older than 1.30.
    V2Beta1,
}

impl DiscoveryVersion {
    fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

impl Registry {
    /// The response to `GET /api`. `server_address` is `host:port` as the client reached us.
    pub fn api_versions(&self, server_address: &str) -> Value {
        json!({
            "kind": "APIVersions",
            "versions": self.versions(""),
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
        })
    }

    /// The response to `GET /apis`.
    pub fn api_group_list(&self) -> Value {
        let groups: Vec<Value> = self
            .groups_in_order()
            .into_iter()
            .filter(|group| !group.is_empty())
            .filter_map(|group| self.group_document(group))
            .collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    /// The response to `GET /apis/GROUP`; `None` when there is no such group.
    pub fn api_group(&self, group: &str) -> Option<Value> {
        let mut document = self.group_document(group).filter(|_| !group.is_empty())?;
        document["kind"] = json!("APIGroup");
        document["apiVersion"] = json!("v1");
        Some(document)
    }

    /// The response to `GET /api/v1` (group `""`) and `GET /apis/GROUP/VERSION`; `None` when there is no such group version.
    pub fn api_resource_list(&self, group: &str, version: &str) -> Option<Value> {
        let mut resources = Vec::new();
        for resource in self.resources_of(group, version) {
            let mut entry = json!({
                "name": resource.plural,
                "singularName": resource.singular,
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": verbs(resource),
            });
            if !resource.storage_hash.is_empty() {
                entry["storageVersionHash"] = json!(resource.storage_hash);
            }
            add_names(&mut entry, resource);
            resources.push(entry);
            for subresource in &resource.subresources {
                let mut entry = json!({
                    "name": format!("{}/{}", resource.plural, subresource.name),
                    "singularName": "",
                    "namespaced": resource.namespaced,
                    "kind": subresource.kind,
                    "verbs": subresource.verbs,
                });
                if !subresource.version.is_empty() {
                    entry["group"] = json!(subresource.group);
                    entry["version"] = json!(subresource.version);
                }
                resources.push(entry);
            }
        }
        if resources.is_empty() {
            return None;
        }
        let mut list = json!({
            "kind": "APIResourceList",
            "groupVersion": join_api_version(group, version),
            "resources": resources,
        });
        // The list of the oldest group is as old as itself: it does not say of which version it is.
        if !group.is_empty() {
            list["apiVersion"] = json!("v1");
        }
        Some(list)
    }

    /// The response to `GET /api` (`core`) or `GET /apis` for a client that takes the whole in one document.
    pub fn aggregated_discovery(&self, core: bool, form: DiscoveryVersion) -> Value {
        let groups: Vec<Value> = self
            .groups_in_order()
            .into_iter()
            .filter(|group| group.is_empty() == core)
            .map(|group| {
                let versions: Vec<Value> = self
                    .versions(group)
                    .into_iter()
                    .map(|version| {
                        let resources: Vec<Value> = self.resources_of(group, version).map(|r| aggregated(r)).collect();
                        json!({"version": version, "resources": resources, "freshness": "Current"})
                    })
                    .collect();
                let metadata = if core { json!({}) } else { json!({"name": group}) };
                json!({"metadata": metadata, "versions": versions})
            })
            .collect();
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": form.api_version(), "metadata": {}, "items": groups})
    }

    /// Groups by upstream's precedence; those of definitions come last, by name.
    fn groups_in_order(&self) -> Vec<&str> {
        let place = |group: &str| group_order().iter().position(|known| *known == group).unwrap_or(usize::MAX);
        let mut groups: Vec<&str> = self.groups().map(|group| &**group).collect();
        groups.sort_by_key(|group| place(group));
        groups
    }

    fn group_document(&self, group: &str) -> Option<Value> {
        let versions: Vec<Value> = self
            .versions(group)
            .into_iter()
            .map(|version| json!({"groupVersion": join_api_version(group, version), "version": version}))
            .collect();
        let preferred = versions.first()?.clone();
        Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
    }
}

/// What may be done, in the order in which upstream writes it: definitions' resources have one of their own.
fn verbs(resource: &ResourceInfo) -> &'static [&'static str] {
    if resource.is_custom() {
        &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"]
    } else {
        resource.verbs
    }
}

fn aggregated(resource: &ResourceInfo) -> Value {
    // Upstream leaves out of its own kinds what their place says.
    let response = |group: &str, version: &str, kind: &str| match (version.is_empty(), resource.is_custom()) {
        (false, _) => json!({"group": group, "version": version, "kind": kind}),
        (true, false) => json!({"group": "", "version": "", "kind": kind}),
        (true, true) => json!({"group": resource.group, "version": resource.version, "kind": kind}),
    };
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|part| {
            json!({
                "subresource": part.name,
                "responseKind": response(&part.group, &part.version, &part.kind),
                "verbs": part.verbs,
            })
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": response("", "", &resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource),
    });
    add_names(&mut entry, resource);
    if !subresources.is_empty() {
        entry["subresources"] = Value::Array(subresources);
    }
    entry
}

fn add_names(entry: &mut Value, resource: &ResourceInfo) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
}

#[cfg(test)]
mod tests;
