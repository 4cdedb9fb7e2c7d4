//! What protocol properties and attributes mean, checked without I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use api_edge::edgex::{Device, DeviceResource, Protocols, ValueType};
use serde_json::Value as Json;

/// Registers that one read may bring (Modbus Application Protocol 1.1b3, 6.3).
pub const READ_REGISTERS_MAX: u16 = 125;

/// Registers that one write may carry (6.12).
pub const WRITE_REGISTERS_MAX: u16 = 123;

/// Where a device is, from `protocols.modbus-tcp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address of the host.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Unit behind a gateway; 1 for most devices.
    pub unit_id: u8,
    /// How long to wait for a connection or an answer.
    pub timeout: Duration,
    /// A connection that was idle for longer is replaced before its next use: many gateways drop idle ones without a word.
    pub idle_timeout: Duration,
}

/// Something is wrong at `place`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Such as `protocols.modbus-tcp.Port` or `attributes.primaryTable`.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl ConfigError {
    fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

impl Endpoint {
    /// Reads the protocol properties of a device.
    ///
    /// # Errors
    /// `ConfigError`, naming the property.
    pub fn parse(device: &Device) -> Result<Endpoint, ConfigError> {
        let properties = tcp_properties(&device.protocols)?;
        let place = |key: &str| format!("protocols.modbus-tcp.{key}");
        if let Some(unknown) = properties.keys().find(|key| !TCP_PROPERTIES.contains(&key.as_str())) {
            let problem = format!("is unknown; the properties are {}", TCP_PROPERTIES.join(", "));
            return Err(ConfigError::new(place(unknown), problem));
        }
        let address = properties.get("Address").and_then(Json::as_str).filter(|address| !address.trim().is_empty());
        let address = address.ok_or_else(|| {
            ConfigError::new(place("Address"), "is missing; write the device's host name or IP address")
        })?;
        let number = |key: &str, default: u64, low: u64, high: u64| match properties.get(key) {
            None => Ok(default),
            Some(value) => number_of(value).filter(|number| (low..=high).contains(number)).ok_or_else(|| {
                ConfigError::new(place(key), format!("{value} is not a whole number from {low} to {high}"))
            }),
        };
        Ok(Endpoint {
            address: address.trim().to_owned(),
            port: number("Port", 502, 1, 65535)? as u16,
            unit_id: number("UnitID", 1, 0, 255)? as u8,
            timeout: Duration::from_secs(number("Timeout", 5, 1, 60)?),
            idle_timeout: Duration::from_secs(number("IdleTimeout", 5, 1, 86_400)?),
        })
    }
}

/// Properties EdgeX knows for `modbus-tcp`; those about links that are slow to recover mean nothing to this driver.
const TCP_PROPERTIES: &[&str] = &[
    "Address",
    "Port",
    "UnitID",
    "Timeout",
    "IdleTimeout",
    "LinkRecoveryTimeout",
    "ProtocolRecoveryTimeout",
    "ConnectDelay",
];

fn tcp_properties(protocols: &Protocols) -> Result<&BTreeMap<String, Json>, ConfigError> {
    if let Some(properties) = protocols.get("modbus-tcp") {
        return Ok(properties);
    }
    if protocols.contains_key("modbus-rtu") {
        let problem = "serial lines are not supported yet; use modbus-tcp, through a serial gateway if need be";
        return Err(ConfigError::new("protocols.modbus-rtu", problem));
    }
    let problem = "is missing; write Address, Port and UnitID of the device there";
    Err(ConfigError::new("protocols.modbus-tcp", problem))
}

/// A whole number, written as one or as text.
fn number_of(value: &Json) -> Option<u64> {
    match value {
        Json::String(text) => text.trim().parse().ok(),
        other => other.as_u64(),
    }
}

/// The four tables of a Modbus device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Bits that may be written.
    Coils,
    /// Bits that may not.
    DiscreteInputs,
    /// Registers that may not be written.
    InputRegisters,
    /// Registers that may.
    HoldingRegisters,
}

impl Table {
    /// EdgeX's name.
    pub fn name(self) -> &'static str {
        match self {
            Table::Coils => "COILS",
            Table::DiscreteInputs => "DISCRETES_INPUT",
            Table::InputRegisters => "INPUT_REGISTERS",
            Table::HoldingRegisters => "HOLDING_REGISTERS",
        }
    }

    /// Whether it holds bits.
    pub fn is_bits(self) -> bool {
        matches!(self, Table::Coils | Table::DiscreteInputs)
    }

    /// Whether it can be written.
    pub fn can_write(self) -> bool {
        matches!(self, Table::Coils | Table::HoldingRegisters)
    }

    fn parse(name: &str) -> Option<Table> {
        Some(match name.to_ascii_uppercase().as_str() {
            "COILS" => Table::Coils,
            // EdgeX's spelling, and the standard's.
            "DISCRETES_INPUT" | "DISCRETE_INPUTS" => Table::DiscreteInputs,
            "INPUT_REGISTERS" => Table::InputRegisters,
            "HOLDING_REGISTERS" => Table::HoldingRegisters,
            _ => return None,
        })
    }
}

/// Where a resource lies in the device, and how its bits become a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The table.
    pub table: Table,
    /// First register or bit, from 0.
    pub address: u16,
    /// Registers or bits that it takes.
    pub count: u16,
    /// Bit of the register, from 0 (least significant), for a truth value in a register.
    pub bit: Option<u8>,
    /// The type in which the device holds it.
    pub raw_type: ValueType,
    /// Whether the bytes of each register are swapped.
    pub swaps_bytes: bool,
    /// Whether the registers come least significant first.
    pub swaps_words: bool,
}

/// Attributes of a resource.
const ATTRIBUTES: &[&str] =
    &["primaryTable", "startingAddress", "rawType", "isByteSwap", "isWordSwap", "stringRegisterSize"];

impl Point {
    /// Reads the attributes of a resource.
    ///
    /// # Errors
    /// `ConfigError`, naming the attribute or property.
    pub fn parse(resource: &DeviceResource) -> Result<Point, ConfigError> {
        let attributes = &resource.attributes;
        let wrong = |key: &str, problem: String| ConfigError::new(format!("attributes.{key}"), problem);
        if let Some(unknown) = attributes.keys().find(|key| !ATTRIBUTES.contains(&key.as_str())) {
            return Err(wrong(unknown, format!("is unknown; the attributes are {}", ATTRIBUTES.join(", "))));
        }
        let tables = "COILS, DISCRETES_INPUT, INPUT_REGISTERS or HOLDING_REGISTERS";
        let table = match attributes.get("primaryTable") {
            None => return Err(wrong("primaryTable", format!("is missing; write {tables}"))),
            Some(name) => name
                .as_str()
                .and_then(Table::parse)
                .ok_or_else(|| wrong("primaryTable", format!("{name} is unknown; write {tables}")))?,
        };
        let value_type = resource.properties.value_type;
        let raw_type = raw_type(attributes.get("rawType"), value_type)?;
        let (address, bit) = starting_address(attributes.get("startingAddress"))?;
        let flag = |key: &str| match attributes.get(key) {
            None => Ok(false),
            Some(Json::Bool(flag)) => Ok(*flag),
            Some(Json::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(Json::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(other) => Err(wrong(key, format!("{other} is neither true nor false"))),
        };
        let count = registers(table, raw_type, attributes.get("stringRegisterSize"))?;
        if bit.is_some() && (table.is_bits() || value_type != ValueType::Bool) {
            let problem = "a bit (`register.bit`) is for Bool resources in registers only".to_owned();
            return Err(wrong("startingAddress", problem));
        }
        if table.is_bits() && value_type != ValueType::Bool {
            let problem = format!("{value_type} cannot be read from {}; use Bool", table.name());
            return Err(ConfigError::new("properties.valueType", problem));
        }
        if u32::from(address) + u32::from(count) > 65_536 {
            return Err(wrong("startingAddress", format!("{address} and {count} registers reach beyond 65535")));
        }
        if resource.properties.read_write.can_write() && !table.can_write() {
            let problem = format!("{} cannot be written; use R", table.name());
            return Err(ConfigError::new("properties.readWrite", problem));
        }
        Ok(Point {
            table,
            address,
            count,
            bit,
            raw_type,
            swaps_bytes: flag("isByteSwap")?,
            swaps_words: flag("isWordSwap")?,
        })
    }
}

/// The type in registers: `rawType`, else the type of the resource.
fn raw_type(attribute: Option<&Json>, value_type: ValueType) -> Result<ValueType, ConfigError> {
    use ValueType::{Bool, Float32, Float64, Int8, Int16, Int32, Int64, String, Uint8, Uint16, Uint32, Uint64};
    const NUMBERS: &[ValueType] = &[Int16, Uint16, Int32, Uint32, Int64, Uint64, Float32, Float64];
    let Some(attribute) = attribute else {
        return match value_type {
            Bool | String | Int8 | Uint8 => Ok(value_type),
            other if NUMBERS.contains(&other) => Ok(other),
            other => {
                Err(ConfigError::new("properties.valueType", format!("{other} cannot be read from a Modbus device")))
            }
        };
    };
    let is_named =
        |value_type: &&ValueType| attribute.as_str().is_some_and(|name| name.eq_ignore_ascii_case(value_type.as_str()));
    let raw = NUMBERS.iter().find(is_named).copied().ok_or_else(|| {
        let names: Vec<&str> = NUMBERS.iter().map(|value_type| value_type.as_str()).collect();
        ConfigError::new("attributes.rawType", format!("{attribute} is unknown; write one of {}", names.join(", ")))
    })?;
    let is_number = value_type.integer_range().is_some() || matches!(value_type, Float32 | Float64);
    if is_number {
        Ok(raw)
    } else {
        let problem = format!("is for numbers; the resource is a {value_type}");
        Err(ConfigError::new("attributes.rawType", problem))
    }
}

/// `7`, `"7"`, `"0x10"`, and with a bit `7.3` or `"7.12"`.
///
/// A number that is not quoted loses the zero of `7.10` before it gets here: it is bit 1 then.
fn starting_address(attribute: Option<&Json>) -> Result<(u16, Option<u8>), ConfigError> {
    let place = "attributes.startingAddress";
    let text = match attribute {
        Some(Json::Number(number)) => number.to_string(),
        Some(Json::String(text)) => text.trim().to_owned(),
        Some(other) => return Err(ConfigError::new(place, format!("{other} is not an address"))),
        None => return Err(ConfigError::new(place, "is missing; write the address, counting from 0")),
    };
    let wrong = || ConfigError::new(place, format!("`{text}` is not an address from 0 to 65535, or `register.bit`"));
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u16::from_str_radix(digits, 16).map(|address| (address, None)).map_err(|_| wrong());
    }
    let (address, bit) = text.split_once('.').map_or((text.as_str(), None), |(address, bit)| (address, Some(bit)));
    let address: u16 = address.parse().map_err(|_| wrong())?;
    match bit {
        None => Ok((address, None)),
        // `7.0`, not quoted, is also how some tools write the number 7; as a bit it must be quoted.
        Some("0") if matches!(attribute, Some(Json::Number(_))) => Ok((address, None)),
        Some(bit) => bit.parse().ok().filter(|bit| *bit < 16).map(|bit| (address, Some(bit))).ok_or_else(wrong),
    }
}

fn registers(table: Table, raw_type: ValueType, string_size: Option<&Json>) -> Result<u16, ConfigError> {
    use ValueType::{Float32, Float64, Int32, Int64, String, Uint32, Uint64};
    let place = "attributes.stringRegisterSize";
    match raw_type {
        _ if table.is_bits() => Ok(1),
        String => {
            let size = string_size
                .ok_or_else(|| ConfigError::new(place, "is missing; write the text's length in registers"))?;
            let max = u64::from(WRITE_REGISTERS_MAX);
            number_of(size)
                .filter(|size| (1..=max).contains(size))
                .map(|size| size as u16)
                .ok_or_else(|| ConfigError::new(place, format!("{size} is not a number of registers from 1 to {max}")))
        }
        Int32 | Uint32 | Float32 => Ok(2),
        Int64 | Uint64 | Float64 => Ok(4),
        _ => Ok(1),
    }
}
