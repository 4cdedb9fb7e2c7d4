//! Built-in types, from the tables that Kubernetes publishes.

use std::sync::Arc;

use machinery_schema::decode;
use machinery_schema::types::{self, Field, Items, Shape, Type};
use serde_json::{Value, json};

use super::{ApplySchema, ListType, MapType, ScalarType, Untyped};

/// A place in a built-in type.
///
/// ```
/// use machinery_merge::{ApplySchema, BuiltinSchema, ListType};
/// use machinery_schema::types::Type;
/// let pod = BuiltinSchema::of(Type::of_kind("", "v1", "Pod").expect("pods are published"));
/// let containers = pod.field("spec").and_then(|spec| spec.field("containers")).expect("a pod has containers");
/// assert_eq!(containers.list(), Some(ListType::Map));
/// assert_eq!(*containers.keys(), ["name".into()]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BuiltinSchema {
    shape: Shape,
    /// Where the place is, which says more than what is there: how a list is owned, whether a map is atomic.
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Top,
    Field(Field),
    Item(Items),
    /// Nothing is known there.
    Free(Untyped),
}

impl BuiltinSchema {
    /// The top of an object of a type.
    pub fn of(of: Type) -> Self {
        Self { shape: Shape::Struct(of), at: At::Top }
    }

    /// An object of a kind in which nothing is set, as Go writes it.
    pub fn empty_object(of: Type, api_version: &str, kind: &str) -> Value {
        let mut object = json!({});
        decode::complete(of, &mut object);
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        object
    }

    fn of_field(field: Field) -> Self {
        Self::new(field.shape(), At::Field(field))
    }

    fn of_items(items: Items) -> Self {
        Self::new(items.shape(), At::Item(items))
    }

    fn new(shape: Shape, at: At) -> Self {
        match shape {
            Shape::RawExtension => Self::free(Untyped::Atomic),
            // Their published schemas name no type, so any value may be there.
            Shape::Json | Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings | Shape::IntOrString => {
                Self::free(Untyped::Deduced)
            }
            shape => Self { shape, at },
        }
    }

    fn free(untyped: Untyped) -> Self {
        Self { shape: Shape::Json, at: At::Free(untyped) }
    }

    fn untyped(self) -> Option<Untyped> {
        match self.at {
            At::Free(untyped) => Some(untyped),
            _ => None,
        }
    }
}

impl ApplySchema for BuiltinSchema {
    fn scalar(self) -> Option<ScalarType> {
        match self.shape {
            _ if self.untyped().is_some() => Some(ScalarType::Untyped),
            Shape::Bool => Some(ScalarType::Boolean),
            Shape::Int32 | Shape::Int64 | Shape::Float => Some(ScalarType::Numeric),
            Shape::String | Shape::Bytes | Shape::Duration => Some(ScalarType::String),
            Shape::Time | Shape::MicroTime | Shape::Quantity => Some(ScalarType::Untyped),
            _ => None,
        }
    }

    fn list(self) -> Option<ListType> {
        if let Some(untyped) = self.untyped() {
            return untyped.list();
        }
        let Shape::List(_) = self.shape else { return None };
        let list = match self.at {
            At::Field(field) => field.list_type(),
            At::Item(items) => items.list_type(),
            At::Top | At::Free(_) => types::ListType::Atomic,
        };
        Some(match list {
            types::ListType::Set => ListType::Set,
            types::ListType::Map => ListType::Map,
            types::ListType::Atomic => ListType::Atomic,
        })
    }

    fn map(self) -> Option<MapType> {
        if let Some(untyped) = self.untyped() {
            return untyped.map();
        }
        if !matches!(self.shape, Shape::Struct(_) | Shape::Map(_) | Shape::FieldsV1) {
            return None;
        }
        // A field may say otherwise of its type, either way, so the type itself is not asked.
        let is_atomic = match self.at {
            At::Field(field) => field.is_atomic(),
            At::Item(items) => items.is_atomic(),
            At::Top | At::Free(_) => false,
        };
        Some(if is_atomic { MapType::Atomic } else { MapType::Granular })
    }

    fn keys(self) -> Vec<Arc<str>> {
        match self.at {
            At::Field(field) => field.list_keys().map(Arc::from).collect(),
            At::Top | At::Item(_) | At::Free(_) => Vec::new(),
        }
    }

    fn item(self) -> Self {
        match self.shape {
            Shape::List(items) => Self::of_items(items),
            _ => Self::free(Untyped::Atomic),
        }
    }

    fn field(self, name: &str) -> Option<Self> {
        match self.shape {
            Shape::Struct(of) => of.field(name).map(Self::of_field),
            _ => None,
        }
    }

    fn has_fields(self) -> bool {
        matches!(self.shape, Shape::Struct(_))
    }

    fn other_fields(self) -> Option<Self> {
        match (self.untyped(), self.shape) {
            (Some(untyped), _) => untyped.other_fields().map(Self::free),
            (None, Shape::Map(items)) => Some(Self::of_items(items)),
            (None, Shape::FieldsV1) => Some(Self::free(Untyped::Deduced)),
            (None, _) => None,
        }
    }

    fn field_default(self, name: &str) -> Option<Value> {
        let Shape::Struct(of) = self.shape else { return None };
        serde_json::from_str(of.field(name)?.default_json()).ok()
    }

    fn is_deduced(self) -> bool {
        self.untyped() == Some(Untyped::Deduced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::openapi::{Place, schemas};

    /// Compares two places, and those below them to some depth: types refer to themselves.
    fn check(ours: BuiltinSchema, theirs: Place, path: &str, levels: usize) {
        if levels == 0 {
            return;
        }
        assert_eq!(ours.scalar(), theirs.scalar(), "scalar at {path}");
        assert_eq!(ours.list(), theirs.list(), "list at {path}");
        assert_eq!(ours.map(), theirs.map(), "map at {path}");
        assert_eq!(ours.is_deduced() || ours.untyped().is_some(), is_free(theirs), "freedom at {path}");
        if is_free(theirs) {
            return;
        }
        if ours.list() == Some(ListType::Map) {
            assert_eq!(ours.keys(), theirs.keys(), "keys at {path}");
        }
        if ours.list().is_some() {
            check(ours.item(), theirs.item(), &format!("{path}[]"), levels - 1);
        }
        if let Shape::Struct(of) = ours.shape {
            for field in of.fields() {
                let name = field.name();
                let there = theirs.field(name).unwrap_or_else(|| panic!("{path} has no {name}"));
                check(BuiltinSchema::of_field(field), there, &format!("{path}.{name}"), levels - 1);
                assert_eq!(ours.field_default(name), theirs.field_default(name), "default of {path}.{name}");
            }
        } else if let (Some(ours), Some(theirs)) = (ours.other_fields(), theirs.other_fields()) {
            check(ours, theirs, &format!("{path}.*"), levels - 1);
        }
    }

    fn is_free(place: Place) -> bool {
        match place {
            Place::Free(_) => true,
            // No type: anything.
            Place::Known(schema, _) => {
                place.scalar() == Some(ScalarType::Untyped)
                    && place.list().is_some()
                    && schema.get("properties").is_none()
            }
        }
    }

    #[test]
    fn the_tables_say_what_the_published_documents_say() {
        for (group, version, kind) in [
            ("", "v1", "Pod"),
            ("", "v1", "Service"),
            ("", "v1", "Node"),
            ("", "v1", "PersistentVolume"),
            ("", "v1", "ConfigMap"),
            ("", "v1", "Event"),
            ("apps", "v1", "Deployment"),
            ("apps", "v1", "StatefulSet"),
            ("batch", "v1", "CronJob"),
            ("networking.k8s.io", "v1", "Ingress"),
            ("networking.k8s.io", "v1", "NetworkPolicy"),
            ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
            ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
            ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy"),
            ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema"),
            ("resource.k8s.io", "v1", "ResourceClaim"),
            ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
        ] {
            let of = Type::of_kind(group, version, kind).expect("a built-in kind");
            let published = &schemas()[of.name()];
            check(BuiltinSchema::of(of), Place::of(published), kind, 14);
        }
    }
}
