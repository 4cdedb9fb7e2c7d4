//! EdgeX Foundry v3 models: events, readings, device profiles, devices (`go-mod-core-contracts`, package `dtos`).
//!
//! A reading keeps its value typed ([`Value`]); EdgeX's text form is made once, when the event is encoded.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `apiVersion` of every EdgeX message we write.
pub const API_VERSION: &str = "v3";

/// Protocol → property → value, as a device carries them. Values are text or numbers in published files.
pub type Protocols = BTreeMap<String, BTreeMap<String, serde_json::Value>>;

/// What one read of a device brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Always [`API_VERSION`]; another one is refused.
    #[serde(default = "api_version", deserialize_with = "check_api_version")]
    pub api_version: String,
    /// A UUID.
    pub id: String,
    /// The device.
    pub device_name: String,
    /// Its profile.
    pub profile_name: String,
    /// The resource or command that was read.
    pub source_name: String,
    /// When, in nanoseconds since 1970.
    pub origin: i64,
    /// One per resource.
    pub readings: Vec<Reading>,
    /// Set by profiles, devices and pipelines.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, serde_json::Value>,
}

fn api_version() -> String {
    API_VERSION.to_owned()
}

fn check_api_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == API_VERSION {
        Ok(text)
    } else {
        Err(de::Error::custom(format!("apiVersion `{text}` is not `{API_VERSION}`")))
    }
}

/// The value of one resource at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// A UUID.
    pub id: String,
    /// When, in nanoseconds since 1970.
    pub origin: i64,
    /// The device.
    pub device_name: String,
    /// The resource.
    pub resource_name: String,
    /// Its profile.
    pub profile_name: String,
    /// The type that the profile gives the resource.
    pub value_type: ValueType,
    /// Unit of measure, as in the profile.
    pub units: Option<String>,
    /// Of a binary value.
    pub media_type: Option<String>,
    /// The value.
    pub value: Value,
}

/// A value in its own type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `Bool`.
    Bool(bool),
    /// `Int8` to `Int64`.
    Int(i64),
    /// `Uint8` to `Uint64`.
    Uint(u64),
    /// `Float32` (widened) and `Float64`.
    Float(f64),
    /// `String`.
    String(String),
    /// `Binary`.
    Binary(Vec<u8>),
    /// `Object`.
    Object(serde_json::Value),
    /// Every array type but `ObjectArray`, which is an [`Value::Object`] holding an array.
    Array(Vec<Value>),
    /// No value could be had (EdgeX's null reading).
    Null,
}

/// A value that does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {value_type}")]
pub struct ValueError {
    /// The value as text.
    pub text: String,
    /// The type it should have.
    pub value_type: ValueType,
}

macro_rules! value_types {
    ($($name:ident),+ $(,)?) => {
        /// EdgeX's value types.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[allow(missing_docs, reason = "the names are EdgeX's own and say all there is")]
        pub enum ValueType { $($name),+ }

        impl ValueType {
            /// All of them.
            pub const ALL: &'static [ValueType] = &[$(ValueType::$name),+];

            /// EdgeX's name of the type.
            pub fn as_str(self) -> &'static str {
                match self { $(ValueType::$name => stringify!($name)),+ }
            }
        }
    };
}

value_types!(
    Bool,
    String,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Binary,
    Object,
    BoolArray,
    StringArray,
    Uint8Array,
    Uint16Array,
    Uint32Array,
    Uint64Array,
    Int8Array,
    Int16Array,
    Int32Array,
    Int64Array,
    Float32Array,
    Float64Array,
    ObjectArray,
);

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl ValueType {
    /// The type of an array's elements; `None` for a type that is no array.
    pub fn element(self) -> Option<ValueType> {
        use ValueType::*;
        Some(match self {
            BoolArray => Bool,
            StringArray => String,
            Uint8Array => Uint8,
            Uint16Array => Uint16,
            Uint32Array => Uint32,
            Uint64Array => Uint64,
            Int8Array => Int8,
            Int16Array => Int16,
            Int32Array => Int32,
            Int64Array => Int64,
            Float32Array => Float32,
            Float64Array => Float64,
            _ => return None,
        })
    }

    /// Smallest and largest value of an integer type.
    pub fn integer_range(self) -> Option<(i128, i128)> {
        use ValueType::*;
        Some(match self {
            Uint8 => (0, u8::MAX.into()),
            Uint16 => (0, u16::MAX.into()),
            Uint32 => (0, u32::MAX.into()),
            Uint64 => (0, u64::MAX.into()),
            Int8 => (i8::MIN.into(), i8::MAX.into()),
            Int16 => (i16::MIN.into(), i16::MAX.into()),
            Int32 => (i32::MIN.into(), i32::MAX.into()),
            Int64 => (i64::MIN.into(), i64::MAX.into()),
            _ => return None,
        })
    }
}

impl Value {
    /// EdgeX's text form of a simple value; `None` for binary, object and null, which have fields of their own.
    ///
    /// Floats stand as Go's `%e` with the fewest digits that read back the same.
    pub fn to_edgex(&self, value_type: ValueType) -> Option<String> {
        Some(match self {
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Uint(value) => value.to_string(),
            Value::Float(value) => {
                float_text(*value, matches!(value_type, ValueType::Float32 | ValueType::Float32Array))
            }
            Value::String(value) => value.clone(),
            Value::Array(values) => {
                let element = value_type.element().unwrap_or(value_type);
                let texts: Vec<String> = values
                    .iter()
                    .map(|value| match value {
                        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
                        other => other.to_edgex(element).unwrap_or_default(),
                    })
                    .collect();
                format!("[{}]", texts.join(", "))
            }
            Value::Binary(_) | Value::Object(_) | Value::Null => return None,
        })
    }

    /// Reads EdgeX's text form, the inverse of [`Value::to_edgex`].
    pub fn from_edgex(text: &str, value_type: ValueType) -> Result<Value, ValueError> {
        let wrong = || ValueError { text: text.to_owned(), value_type };
        if let Some(element) = value_type.element() {
            if element == ValueType::String {
                let texts: Vec<String> = serde_json::from_str(text).map_err(|_| wrong())?;
                return Ok(Value::Array(texts.into_iter().map(Value::String).collect()));
            }
            let inner = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or_else(wrong)?;
            let values = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
            return values.map(|part| Value::from_edgex(part, element)).collect::<Result<_, _>>().map(Value::Array);
        }
        if let Some((low, high)) = value_type.integer_range() {
            let number: i128 = text.trim().parse().map_err(|_| wrong())?;
            if number < low || number > high {
                return Err(wrong());
            }
            return match (low, u64::try_from(number), i64::try_from(number)) {
                (0, Ok(number), _) => Ok(Value::Uint(number)),
                (_, _, Ok(number)) => Ok(Value::Int(number)),
                _ => Err(wrong()),
            };
        }
        match value_type {
            ValueType::Bool => text.trim().to_ascii_lowercase().parse().map(Value::Bool).map_err(|_| wrong()),
            ValueType::String => Ok(Value::String(text.to_owned())),
            ValueType::Float64 => text.trim().parse().map(Value::Float).map_err(|_| wrong()),
            ValueType::Float32 => text.trim().parse::<f32>().map(|v| Value::Float(v.into())).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    /// The value as a number, where it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(value) => Some(*value as f64),
            Value::Uint(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }
}

/// Go's `strconv.FormatFloat(value, 'e', -1, bits)`: at least two digits of exponent, always with a sign.
fn float_text(value: f64, is_single: bool) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN".into()
        } else if value > 0.0 {
            "+Inf".into()
        } else {
            "-Inf".into()
        };
    }
    let text = if is_single { format!("{:e}", value as f32) } else { format!("{value:e}") };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The wire form of [`Reading`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReading {
    id: String,
    origin: i64,
    device_name: String,
    resource_name: String,
    profile_name: String,
    value_type: ValueType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    units: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary_value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object_value: Option<serde_json::Value>,
}

impl Serialize for Reading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (binary_value, object_value) = match &self.value {
            Value::Binary(bytes) => (Some(BASE64.encode(bytes)), None),
            Value::Object(value) => (None, Some(value.clone())),
            _ => (None, None),
        };
        WireReading {
            id: self.id.clone(),
            origin: self.origin,
            device_name: self.device_name.clone(),
            resource_name: self.resource_name.clone(),
            profile_name: self.profile_name.clone(),
            value_type: self.value_type,
            units: self.units.clone(),
            value: self.value.to_edgex(self.value_type),
            binary_value,
            media_type: self.media_type.clone(),
            object_value,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reading {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireReading::deserialize(deserializer)?;
        let value = if let Some(text) = &wire.binary_value {
            Value::Binary(BASE64.decode(text).map_err(de::Error::custom)?)
        } else if let Some(value) = wire.object_value {
            Value::Object(value)
        } else if let Some(text) = &wire.value {
            Value::from_edgex(text, wire.value_type).map_err(de::Error::custom)?
        } else {
            Value::Null
        };
        Ok(Self {
            id: wire.id,
            origin: wire.origin,
            device_name: wire.device_name,
            resource_name: wire.resource_name,
            profile_name: wire.profile_name,
            value_type: wire.value_type,
            units: wire.units,
            media_type: wire.media_type,
            value,
        })
    }
}

/// A device profile: what can be read from a kind of device, and written to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceProfile {
    /// Unique name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Maker.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manufacturer: String,
    /// What it is, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// EdgeX labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Single values.
    pub device_resources: Vec<DeviceResource>,
    /// Resources that are read or written together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_commands: Vec<DeviceCommand>,
}

/// One value of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceResource {
    /// Unique in the profile.
    pub name: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Hidden resources are not offered as commands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_hidden: bool,
    /// Added to readings' tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, serde_json::Value>,
    /// For the driver: register, node id, file …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// Type and transformation.
    pub properties: ResourceProperties,
}

/// Type of a resource and how its raw value becomes a reading: mask, shift, base, scale, offset, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceProperties {
    /// The type of its readings.
    pub value_type: ValueType,
    /// `R`, `W`, `RW` or `WR`.
    #[serde(default)]
    pub read_write: ReadWrite,
    /// Unit of measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// Smallest value that may be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// Largest value that may be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// Written when a command gives no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_value: Option<String>,
    /// Bits kept of an integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<u64>,
    /// Bits by which an unsigned integer is moved on reading: left when positive, right when negative, as EdgeX does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<i64>,
    /// The raw value is the exponent to this base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Summand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// A reading that differs from this text is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<String>,
    /// Of a binary value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub optional: BTreeMap<String, serde_json::Value>,
}

/// What may be done with a resource or command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum ReadWrite {
    /// Read only.
    #[default]
    R,
    /// Write only.
    W,
    /// Both.
    #[serde(alias = "WR")]
    RW,
}

impl ReadWrite {
    /// Whether it may be read.
    pub fn can_read(self) -> bool {
        self != ReadWrite::W
    }

    /// Whether it may be written.
    pub fn can_write(self) -> bool {
        self != ReadWrite::R
    }
}

/// Resources that are read or written together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceCommand {
    /// Unique in the profile, resources included.
    pub name: String,
    /// Hidden commands are not offered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_hidden: bool,
    /// What may be done.
    #[serde(default)]
    pub read_write: ReadWrite,
    /// The resources, in order.
    pub resource_operations: Vec<ResourceOperation>,
    /// Added to the event's tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, serde_json::Value>,
}

/// One resource of a command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceOperation {
    /// Name of the resource.
    pub device_resource: String,
    /// Written when no value is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_value: Option<String>,
    /// Text of a reading → text to give instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mappings: BTreeMap<String, String>,
}

/// Whether a device may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum AdminState {
    /// Yes.
    #[default]
    Unlocked,
    /// No: no traffic.
    Locked,
}

/// What is read without being asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct AutoEvent {
    /// Go duration, at least 1 ms.
    pub interval: String,
    /// Only when a value changed.
    pub on_change: bool,
    /// By how much a number must change to count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_change_threshold: Option<f64>,
    /// The resource or command.
    pub source_name: String,
}

/// A device as EdgeX's `deviceList` files and core-metadata hold it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Device {
    /// Unique on the node.
    pub name: String,
    /// What it is, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whether it may be used.
    pub admin_state: AdminState,
    /// EdgeX labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The driver.
    pub service_name: String,
    /// Its profile.
    pub profile_name: String,
    /// What is read without being asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auto_events: Vec<AutoEvent>,
    /// How to reach it.
    pub protocols: Protocols,
    /// Properties of the user's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, serde_json::Value>,
}
