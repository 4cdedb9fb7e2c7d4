//! The definitions of our kinds, as the hub installs them at its start and as `kubectl apply` would on a real cluster.

use serde_json::{Value, json};

use crate::{GROUP, VERSION};

/// Every `CustomResourceDefinition` of the project.
pub fn all() -> Vec<Value> {
    vec![device_profiles(), devices(), streams(), rules(), exports(), node_assignments(), node_identities()]
}

/// What differs between our kinds.
struct Crd {
    kind: &'static str,
    singular: &'static str,
    plural: &'static str,
    short: &'static str,
    namespaced: bool,
    description: &'static str,
    spec: Value,
    status: Option<Value>,
    columns: Value,
}

impl Crd {
    fn build(self) -> Value {
        let mut spec = self.spec;
        spec["description"] = json!(format!("What is desired. {}", self.description));
        let mut properties = json!({
            "apiVersion": {"type": "string", "description": "Version of this representation of the object."},
            "kind": {"type": "string", "description": "Name of the kind."},
            "metadata": {"type": "object"},
            "spec": spec,
        });
        let mut version =
            json!({"name": VERSION, "served": true, "storage": true, "additionalPrinterColumns": self.columns});
        if let Some(status) = self.status {
            properties["status"] = status;
            version["subresources"] = json!({"status": {}});
        }
        version["schema"] = json!({"openAPIV3Schema": {
            "type": "object", "description": self.description, "required": ["spec"], "properties": properties,
        }});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{GROUP}", self.plural)},
            "spec": {
                "group": GROUP,
                "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
                "names": {
                    "kind": self.kind, "listKind": format!("{}List", self.kind), "plural": self.plural,
                    "singular": self.singular, "shortNames": [self.short], "categories": ["edge"],
                },
                "versions": [version],
            },
        })
    }
}

fn device_profiles() -> Value {
    Crd {
        kind: "DeviceProfile", singular: "deviceprofile", plural: "deviceprofiles", short: "dprof", namespaced: false,
        description: "An EdgeX device profile: what can be read from a kind of device, and written to it.",
        spec: json!({"type": "object", "required": ["deviceResources"], "properties": {
            "name": {"type": "string", "description": "EdgeX name; metadata.name when absent."},
            "apiVersion": {"type": "string", "description": "EdgeX version of the profile, as published files carry it."},
            "manufacturer": {"type": "string", "description": "Maker."},
            "model": {"type": "string", "description": "Model."},
            "description": {"type": "string", "description": "What it is, for people."},
            "labels": {"type": "array", "description": "EdgeX labels.", "items": {"type": "string"}},
            "deviceResources": {"type": "array", "description": "Single values of the device.", "items": device_resource()},
            "deviceCommands": {"type": "array", "description": "Resources that are read or written together.", "items": {
                "type": "object", "required": ["name", "resourceOperations"], "properties": {
                    "name": {"type": "string"}, "isHidden": {"type": "boolean"}, "readWrite": read_write(), "tags": any_object(),
                    "resourceOperations": {"type": "array", "items": {"type": "object", "required": ["deviceResource"], "properties": {
                        "deviceResource": {"type": "string"}, "defaultValue": {"type": "string"},
                        "mappings": {"type": "object", "additionalProperties": {"type": "string"}},
                    }}},
                },
            }},
        }}),
        status: None,
        columns: json!([
            {"name": "Manufacturer", "type": "string", "jsonPath": ".spec.manufacturer"},
            {"name": "Model", "type": "string", "jsonPath": ".spec.model"},
            age(),
        ]),
    }
    .build()
}

fn device_resource() -> Value {
    let value_types: Vec<&str> = crate::edgex::ValueType::ALL.iter().map(|value_type| value_type.as_str()).collect();
    json!({"type": "object", "required": ["name", "properties"], "properties": {
        "name": {"type": "string", "description": "Unique in the profile."},
        "description": {"type": "string"},
        "isHidden": {"type": "boolean", "description": "Hidden resources are not offered as commands."},
        "tags": any_object(),
        "attributes": {"type": "object", "description": "For the driver: register, file, node id.", "x-kubernetes-preserve-unknown-fields": true},
        "properties": {"type": "object", "required": ["valueType"], "description": "Type, and how a raw value becomes a reading: mask, shift, base, scale, offset.", "properties": {
            "valueType": {"type": "string", "enum": value_types, "description": "EdgeX value type."},
            "readWrite": read_write(),
            "units": {"type": "string", "description": "Unit of measure."},
            "minimum": {"type": "number"}, "maximum": {"type": "number"}, "defaultValue": {"type": "string"},
            "mask": {"type": "integer", "format": "int64", "minimum": 0}, "shift": {"type": "integer", "format": "int64"},
            "base": {"type": "number"}, "scale": {"type": "number"}, "offset": {"type": "number"},
            "assertion": {"type": "string"}, "mediaType": {"type": "string"}, "optional": any_object(),
        }},
    }})
}

fn devices() -> Value {
    Crd {
        kind: "Device", singular: "device", plural: "devices", short: "dev", namespaced: true,
        description: "A device and the node that talks to it.",
        spec: json!({"type": "object", "required": ["nodeName", "profileName", "serviceName"], "properties": {
            "nodeName": {"type": "string", "minLength": 1, "description": "The node that talks to the device."},
            "name": {"type": "string", "description": "EdgeX name, unique per node; metadata.name when absent."},
            "profileName": {"type": "string", "minLength": 1, "description": "metadata.name of its DeviceProfile."},
            "serviceName": {"type": "string", "minLength": 1, "description": "The driver, such as host or modbus."},
            "description": {"type": "string", "description": "What it is, for people."},
            "adminState": {"type": "string", "enum": ["UNLOCKED", "LOCKED"], "default": "UNLOCKED", "description": "LOCKED stops all traffic with the device."},
            "labels": {"type": "array", "items": {"type": "string"}, "description": "EdgeX labels; not Kubernetes'."},
            "autoEvents": {"type": "array", "description": "What is read without being asked.", "items": {
                "type": "object", "required": ["interval", "sourceName"], "properties": {
                    "interval": {"type": "string", "description": "Go duration, at least 1ms."},
                    "onChange": {"type": "boolean", "description": "Only when a value changed."},
                    "onChangeThreshold": {"type": "number", "description": "By how much a number must change to count."},
                    "sourceName": {"type": "string", "description": "The resource or command that is read."},
                },
            }},
            "protocols": {"type": "object", "description": "How to reach it: protocol, property, value.", "additionalProperties": any_object()},
            "properties": {"type": "object", "description": "Properties of your own.", "x-kubernetes-preserve-unknown-fields": true},
        }}),
        status: Some(fleet_status()),
        columns: json!([
            {"name": "Node", "type": "string", "jsonPath": ".spec.nodeName"},
            {"name": "Service", "type": "string", "jsonPath": ".spec.serviceName"},
            {"name": "Profile", "type": "string", "jsonPath": ".spec.profileName", "priority": 1},
            ready(), reason(), age(),
        ]),
    }
    .build()
}

fn streams() -> Value {
    Crd {
        kind: "Stream",
        singular: "stream",
        plural: "streams",
        short: "strm",
        namespaced: true,
        description: "A stream that rules read, on every node that the selector matches.",
        spec: json!({"type": "object", "required": ["sql"], "properties": {
            "nodeSelector": node_selector(),
            "sql": {"type": "string", "minLength": 1, "description": "CREATE STREAM name (...) WITH (...)."},
        }}),
        status: Some(fleet_status()),
        columns: fleet_columns(Some(json!({"name": "SQL", "type": "string", "jsonPath": ".spec.sql", "priority": 1}))),
    }
    .build()
}

fn rules() -> Value {
    Crd {
        kind: "Rule", singular: "rule", plural: "rules", short: "rl", namespaced: true,
        description: "A query over streams, and what to do with its rows, on every node that the selector matches.",
        spec: json!({"type": "object", "required": ["sql"], "properties": {
            "nodeSelector": node_selector(),
            "sql": {"type": "string", "minLength": 1, "description": "SELECT ... FROM stream WHERE ... GROUP BY ...; a mistake shows with line and column in the Accepted condition."},
            "actions": {"type": "array", "description": "Where rows go: edgex, log or nop, each with its properties.", "items": any_object()},
        }}),
        status: Some(fleet_status()),
        columns: fleet_columns(Some(json!({"name": "SQL", "type": "string", "jsonPath": ".spec.sql", "priority": 1}))),
    }
    .build()
}

fn exports() -> Value {
    Crd {
        kind: "Export", singular: "export", plural: "exports", short: "exp", namespaced: true,
        description: "Which events leave the node, and where to. Nothing is lost, nothing arrives twice.",
        spec: json!({"type": "object", "required": ["to"], "properties": {
            "nodeSelector": node_selector(),
            "devices": {"type": "array", "items": {"type": "string"}, "description": "Only events of these devices (EdgeX names); all when empty."},
            "to": {"type": "object", "description": "The receiver; exactly one.", "properties": {
                "hub": {"type": "object", "description": "The hub that the node has joined."},
            }},
            "batchEvents": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 500, "description": "Events in a batch at most."},
            "batchPeriod": {"type": "string", "default": "1s", "description": "How long an event may wait for others, as a Go duration."},
        }}),
        status: Some(fleet_status()),
        columns: fleet_columns(None),
    }
    .build()
}

fn node_assignments() -> Value {
    let mut definition = Crd {
        kind: "NodeAssignment", singular: "nodeassignment", plural: "nodeassignments", short: "nasg", namespaced: false,
        description: "What one node should run, made by the hub from Devices, Streams, Rules, Exports and Services. Not for editing.",
        spec: json!({"type": "object", "properties": {
            "nodeName": {"type": "string", "description": "The node."},
            "part": {"type": "integer", "minimum": 0, "description": "Which part this is, from 0."},
            "parts": {"type": "integer", "minimum": 0, "description": "How many parts there are."},
            "entries": {"type": "array", "description": "What the node should run.", "items": {"type": "object", "properties": {
                "kind": {"type": "string"}, "namespace": {"type": "string"}, "name": {"type": "string"}, "uid": {"type": "string"},
                "generation": {"type": "integer", "format": "int64"}, "spec": any_object(),
            }}},
        }}),
        status: Some(json!({"type": "object", "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "entries": {"type": "array", "items": {"type": "object", "properties": {
                "kind": {"type": "string"}, "namespace": {"type": "string"}, "name": {"type": "string"},
                "generation": {"type": "integer", "format": "int64"}, "conditions": conditions(),
            }}},
        }})),
        columns: json!([
            {"name": "Part", "type": "integer", "jsonPath": ".spec.part"},
            {"name": "Generation", "type": "integer", "jsonPath": ".metadata.generation"},
            {"name": "Observed", "type": "integer", "jsonPath": ".status.observedGeneration"},
            age(),
        ]),
    }
    .build();
    // The hub finds the parts of a node's assignment by it.
    definition["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.nodeName"}]);
    definition
}

fn node_selector() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}, "description": "Labels a node must have; every node when empty."})
}

fn any_object() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn read_write() -> Value {
    json!({"type": "string", "enum": ["R", "W", "RW", "WR"], "description": "What may be done."})
}

fn node_identities() -> Value {
    Crd {
        kind: "NodeIdentity", singular: "nodeidentity", plural: "nodeidentities", short: "nid", namespaced: false,
        description: "Which key may speak as a node. The hub keeps it; set state to Revoked to shut a stolen box out.",
        spec: json!({"type": "object", "properties": {
            "state": {"type": "string", "enum": ["Active", "Revoked"], "default": "Active", "description": "Whether any key may."},
            "keys": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 64}, "description": "SHA-256 of the public keys that may, the newest last; empty for a node whose first key will be bound."},
            "generation": {"type": "integer", "format": "int64", "minimum": 0, "description": "How many boxes have borne the name."},
            "registered": {"type": "boolean", "description": "Whether the key was used and the Node is there."},
            "token": {"type": "string", "description": "Id of the bootstrap token with which it joined."},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Labels that its Node is created with, from the token."},
            "reason": {"type": "string", "description": "Why it was revoked."},
        }}),
        status: None,
        columns: json!([
            {"name": "State", "type": "string", "jsonPath": ".spec.state"},
            {"name": "Generation", "type": "integer", "jsonPath": ".spec.generation"},
            {"name": "Token", "type": "string", "jsonPath": ".spec.token"},
            {"name": "Key", "type": "string", "jsonPath": ".spec.keys[0]", "priority": 1},
            {"name": "Reason", "type": "string", "jsonPath": ".spec.reason"},
            age(),
        ]),
    }
    .build()
}

fn conditions() -> Value {
    json!({"type": "array", "description": "Accepted, Applied, Ready.", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"], "items": {
        "type": "object", "required": ["type", "status", "reason"], "properties": {
            "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]}, "reason": {"type": "string"}, "message": {"type": "string"},
            "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    }})
}

fn fleet_status() -> Value {
    json!({"type": "object", "properties": {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "desired": {"type": "integer", "minimum": 0, "description": "Nodes that should run it."},
        "applied": {"type": "integer", "minimum": 0, "description": "Nodes that took the current generation over."},
        "ready": {"type": "integer", "minimum": 0, "description": "Nodes on which it does its work."},
        "failures": {"type": "array", "description": "The first ten nodes on which it does not.", "items": {"type": "object", "properties": {
            "node": {"type": "string"}, "reason": {"type": "string"}, "message": {"type": "string"},
        }}},
        "conditions": conditions(),
    }})
}

/// Columns of a spread kind, with one of its own for `-o wide`.
fn fleet_columns(wide: Option<Value>) -> Value {
    let desired = json!({"name": "Desired", "type": "integer", "jsonPath": ".status.desired"});
    let applied = json!({"name": "Applied", "type": "integer", "jsonPath": ".status.applied"});
    [desired, applied, ready(), reason()].into_iter().chain(wide).chain([age()]).collect()
}

fn ready() -> Value {
    json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"})
}

fn reason() -> Value {
    json!({"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"})
}

fn age() -> Value {
    json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})
}
