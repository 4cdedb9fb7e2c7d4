//! The schema of a custom resource as server-side apply walks it: what belongs together, and what makes an item itself.

use std::sync::Arc;

use machinery_merge::{ApplySchema, BuiltinSchema, ListType, MapType, ScalarType, Untyped};
use machinery_schema::types::Type;
use serde_json::Value;

use crate::schema::{Items, Schema, SchemaOrBool};

/// A place in the schema of a custom resource.
#[derive(Clone, Copy, Debug)]
pub struct StructuralPlace<'s>(At<'s>);

#[derive(Clone, Copy, Debug)]
enum At<'s> {
    Schema {
        schema: &'s Schema,
        /// Whether unknown fields are kept here and below.
        keeps_unknown: bool,
        /// Whether it is an object of a kind of its own: the resource, or one embedded in it.
        is_object: bool,
    },
    /// `apiVersion` and `kind`.
    Text,
    Builtin(BuiltinSchema),
    Free(Untyped),
}

impl<'s> StructuralPlace<'s> {
    pub(super) fn top(schema: &'s Schema) -> Self {
        Self(At::Schema { schema, keeps_unknown: schema.preserve_unknown == Some(true), is_object: true })
    }

    fn below(schema: &'s Schema, keeps_unknown: bool) -> Self {
        if schema.int_or_string {
            return Self(At::Free(Untyped::Deduced));
        }
        Self(At::Schema {
            schema,
            keeps_unknown: keeps_unknown || schema.preserve_unknown == Some(true),
            is_object: schema.embedded_resource,
        })
    }
}

impl ApplySchema for StructuralPlace<'_> {
    fn scalar(self) -> Option<ScalarType> {
        match self.0 {
            At::Schema { schema, .. } => match (&*schema.kind, &*schema.format) {
                ("string", "" | "byte") => Some(ScalarType::String),
                ("string" | "", _) => Some(ScalarType::Untyped),
                ("boolean", _) => Some(ScalarType::Boolean),
                ("integer" | "number", _) => Some(ScalarType::Numeric),
                _ => None,
            },
            At::Text => Some(ScalarType::String),
            At::Builtin(builtin) => builtin.scalar(),
            At::Free(untyped) => untyped.scalar(),
        }
    }

    fn list(self) -> Option<ListType> {
        match self.0 {
            At::Schema { schema, .. } => match (&*schema.kind, schema.list_type.as_deref()) {
                ("array" | "", Some("set")) => Some(ListType::Set),
                ("array" | "", Some("map")) => Some(ListType::Map),
                ("array" | "", _) => Some(ListType::Atomic),
                _ => None,
            },
            At::Text => None,
            At::Builtin(builtin) => builtin.list(),
            At::Free(untyped) => untyped.list(),
        }
    }

    fn map(self) -> Option<MapType> {
        match self.0 {
            At::Schema { schema, .. } => match (&*schema.kind, schema.map_type.as_deref()) {
                ("object" | "", Some("atomic")) => Some(MapType::Atomic),
                ("object" | "", _) => Some(MapType::Granular),
                _ => None,
            },
            At::Text => None,
            At::Builtin(builtin) => builtin.map(),
            At::Free(untyped) => untyped.map(),
        }
    }

    fn keys(self) -> Vec<Arc<str>> {
        match self.0 {
            At::Schema { schema, .. } => schema.list_map_keys.iter().map(|key| Arc::from(&**key)).collect(),
            At::Builtin(builtin) => builtin.keys(),
            At::Text | At::Free(_) => Vec::new(),
        }
    }

    fn item(self) -> Self {
        match self.0 {
            At::Schema { schema, keeps_unknown, .. } => match &schema.items {
                Some(Items::One(item)) => Self::below(item, keeps_unknown),
                Some(Items::Many(_)) | None => Self(At::Free(Untyped::Atomic)),
            },
            At::Builtin(builtin) => Self(At::Builtin(builtin.item())),
            At::Text | At::Free(_) => Self(At::Free(Untyped::Atomic)),
        }
    }

    fn field(self, name: &str) -> Option<Self> {
        match self.0 {
            At::Schema { schema, keeps_unknown, is_object } => match name {
                "apiVersion" | "kind" if is_object => Some(Self(At::Text)),
                "metadata" if is_object => Some(Self(At::Builtin(BuiltinSchema::of(Type::object_meta())))),
                _ => schema.properties.get(name).map(|field| Self::below(field, keeps_unknown)),
            },
            At::Builtin(builtin) => builtin.field(name).map(|field| Self(At::Builtin(field))),
            At::Text | At::Free(_) => None,
        }
    }

    fn has_fields(self) -> bool {
        match self.0 {
            At::Schema { schema, is_object, .. } => is_object || !schema.properties.is_empty(),
            At::Builtin(builtin) => builtin.has_fields(),
            At::Text | At::Free(_) => false,
        }
    }

    fn other_fields(self) -> Option<Self> {
        match self.0 {
            At::Schema { schema, keeps_unknown, .. } => match &schema.additional {
                None if keeps_unknown || !self.has_fields() => Some(Self(At::Free(Untyped::Deduced))),
                None | Some(SchemaOrBool::Bool(false)) => None,
                Some(SchemaOrBool::Bool(true)) => Some(Self(At::Free(Untyped::Deduced))),
                Some(SchemaOrBool::Schema(others)) => Some(Self::below(others, keeps_unknown)),
            },
            At::Builtin(builtin) => builtin.other_fields().map(|others| Self(At::Builtin(others))),
            At::Text => None,
            At::Free(untyped) => untyped.other_fields().map(|others| Self(At::Free(others))),
        }
    }

    fn field_default(self, name: &str) -> Option<Value> {
        match self.0 {
            At::Schema { schema, .. } => schema.properties.get(name)?.default.clone(),
            At::Builtin(builtin) => builtin.field_default(name),
            At::Text | At::Free(_) => None,
        }
    }

    fn is_deduced(self) -> bool {
        match self.0 {
            At::Builtin(builtin) => builtin.is_deduced(),
            At::Free(untyped) => untyped.is_deduced(),
            At::Schema { .. } | At::Text => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Structural;

    #[test]
    fn a_schema_says_what_belongs_together() {
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
                    "items": {"type": "object", "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}},
                "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "plain": {"type": "array", "items": {"type": "string"}},
                "pair": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "integer"}}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "either": {"x-kubernetes-int-or-string": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }},
        }});
        let structural = Structural::read(&schema, None).expect("the schema is small");
        let top = structural.apply_schema();
        assert!(top.field("metadata").and_then(|metadata| metadata.field("finalizers")).is_some());
        assert!(top.field("status").is_none() && top.other_fields().is_none());
        let spec = top.field("spec").expect("it is declared");
        let field = |name: &str| spec.field(name).expect("it is declared");
        let ports = field("ports");
        assert_eq!((ports.list(), ports.keys().len()), (Some(ListType::Map), 2));
        assert_eq!(ports.item().field_default("protocol"), Some(json!("TCP")));
        assert_eq!(field("names").list(), Some(ListType::Set));
        assert_eq!(field("plain").list(), Some(ListType::Atomic));
        assert_eq!(field("pair").map(), Some(MapType::Atomic));
        assert_eq!(field("labels").other_fields().and_then(ApplySchema::scalar), Some(ScalarType::String));
        assert_eq!(field("either").scalar(), Some(ScalarType::Untyped));
        assert!(field("free").other_fields().is_some_and(ApplySchema::is_deduced));
    }
}
