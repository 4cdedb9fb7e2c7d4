//! An object's metadata, borrowed from the JSON that holds it.
//!
//! Deciding needs a name, a few labels, an owner; copying all of an object's text for that is most of what a controller
//! would do. [`ObjectView::read`] walks the bytes once and points into them; text with escapes is the only one copied.
//! A `null` means the same as an absent field, as everywhere in Kubernetes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::Time;

/// Text that points into its source unless it had escapes. `Cow` alone would be copied wherever it is nested.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<'a>(pub Cow<'a, str>);

/// Of an object, what it is and its metadata.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectView<'a> {
    /// `apps/v1`.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub api_version: Text<'a>,
    /// `DaemonSet`.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub kind: Text<'a>,
    /// The rest of what all objects share.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub metadata: ObjectMeta<'a>,
}

/// `metadata` of an object, without `managedFields`.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta<'a> {
    /// Unique in its namespace and kind.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub name: Text<'a>,
    /// Empty for objects of the cluster.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub namespace: Text<'a>,
    /// Of this object alone: the next of the same name has another.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub uid: Text<'a>,
    /// The revision that wrote it.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub resource_version: Text<'a>,
    /// Counts changes of `spec`.
    #[serde(deserialize_with = "null_as_default")]
    pub generation: i64,
    /// When it was created.
    pub creation_timestamp: Option<Time>,
    /// When its deletion was asked for; it is there until its finalizers are removed and its grace period has passed.
    pub deletion_timestamp: Option<Time>,
    /// The grace period.
    pub deletion_grace_period_seconds: Option<i64>,
    /// What selectors look at.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<Text<'a>, Text<'a>>,
    /// What they do not look at.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<Text<'a>, Text<'a>>,
    /// Objects without which it is garbage.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub owner_references: Vec<OwnerReference<'a>>,
    /// Who must act before it is removed.
    #[serde(borrow, deserialize_with = "null_as_default")]
    pub finalizers: Vec<Text<'a>>,
}

/// An owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference<'a> {
    /// `apps/v1`.
    #[serde(borrow)]
    pub api_version: Text<'a>,
    /// `DaemonSet`.
    #[serde(borrow)]
    pub kind: Text<'a>,
    /// Its name.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// Its uid: an owner of the same name with another uid is another owner.
    #[serde(borrow)]
    pub uid: Text<'a>,
    /// Whether it is the one that manages the object; at most one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether its deletion in the foreground waits for the object's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl<'a> ObjectView<'a> {
    /// Reads an object's JSON; unknown fields are passed over.
    pub fn read(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl ObjectMeta<'_> {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(|value| &**value)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(|value| &**value)
    }

    /// The owner that manages it.
    pub fn controller(&self) -> Option<&OwnerReference<'_>> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }

    /// Whether the object with this uid manages it.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| *owner.uid == *uid)
    }

    /// Whether its deletion was asked for.
    pub fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// `namespace/name`, or the name alone.
    pub fn full_name(&self) -> String {
        if self.namespace.is_empty() { self.name.to_string() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl<'a> OwnerReference<'a> {
    /// A reference to the object that manages another, blocking its own deletion in the foreground, as Kubernetes' controllers
    /// write it.
    pub fn controller(
        api_version: impl Into<Text<'a>>,
        kind: impl Into<Text<'a>>,
        name: impl Into<Text<'a>>,
        uid: impl Into<Text<'a>>,
    ) -> Self {
        Self {
            api_version: api_version.into(),
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// The same without the source it points into.
    pub fn into_owned(self) -> OwnerReference<'static> {
        OwnerReference {
            api_version: self.api_version.into_owned(),
            kind: self.kind.into_owned(),
            name: self.name.into_owned(),
            uid: self.uid.into_owned(),
            controller: self.controller,
            block_owner_deletion: self.block_owner_deletion,
        }
    }
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same without the source it points into.
    pub fn into_owned(self) -> Text<'static> {
        Text(Cow::Owned(self.0.into_owned()))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for Text<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;
        impl<'de> Visitor<'de> for OfText {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }

            // A value of a map that is `null` is the empty text, as Go decodes it.
            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(OfText)
    }
}

/// Reads a `null` as the default.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
