//! Registers ↔ values.

use api_edge::edgex::{Value, ValueType};

use super::config::Point;

/// The value in the registers (or, for a bit, the register) of `point`; `None` when there are too few of them.
pub fn decode(point: &Point, registers: &[u16]) -> Option<Value> {
    let registers = registers.get(..usize::from(point.count))?;
    if let Some(bit) = point.bit {
        return Some(Value::Bool(registers[0] >> bit & 1 == 1));
    }
    let bytes = to_bytes(point, registers);
    let big_endian = bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    Some(match point.raw_type {
        ValueType::Bool => Value::Bool(big_endian != 0),
        ValueType::Uint8 | ValueType::Uint16 | ValueType::Uint32 | ValueType::Uint64 => Value::Uint(big_endian),
        ValueType::Int8 | ValueType::Int16 => Value::Int((big_endian as u16 as i16).into()),
        ValueType::Int32 => Value::Int((big_endian as u32 as i32).into()),
        ValueType::Int64 => Value::Int(big_endian as i64),
        ValueType::Float32 => Value::Float(f32::from_bits(big_endian as u32).into()),
        ValueType::Float64 => Value::Float(f64::from_bits(big_endian)),
        ValueType::String => Value::String(String::from_utf8_lossy(trim_zeros(&bytes)).into_owned()),
        // `Point::parse` lets no other type through.
        _ => return None,
    })
}

/// The registers that hold `value`.
///
/// # Errors
/// What is wrong with the value, as a sentence.
pub fn encode(point: &Point, value: &Value) -> Result<Vec<u16>, String> {
    let bytes = match (point.raw_type, value) {
        (ValueType::Bool, Value::Bool(bit)) => u16::from(*bit).to_be_bytes().to_vec(),
        (ValueType::String, Value::String(text)) => {
            let room = usize::from(point.count) * 2;
            if text.len() > room {
                return Err(format!("the text has {} bytes, but there is room for {room}", text.len()));
            }
            let mut bytes = text.clone().into_bytes();
            bytes.resize(room, 0);
            bytes
        }
        (ValueType::Float32, _) => {
            let number = value.as_f64().ok_or_else(|| "the value is not a number".to_owned())? as f32;
            if !number.is_finite() {
                return Err("the value does not fit Float32".to_owned());
            }
            number.to_be_bytes().to_vec()
        }
        (ValueType::Float64, _) => {
            value.as_f64().ok_or_else(|| "the value is not a number".to_owned())?.to_be_bytes().to_vec()
        }
        (raw_type, _) => {
            let (low, high) = raw_type.integer_range().ok_or_else(|| format!("{raw_type} cannot be written"))?;
            let number = match value {
                Value::Int(number) => i128::from(*number),
                Value::Uint(number) => i128::from(*number),
                // The inverse of a scale such as 0.1 lands next to the whole number that is meant.
                Value::Float(number) if number.is_finite() => number.round() as i128,
                _ => return Err("the value is not a number".to_owned()),
            };
            if number < low || number > high {
                return Err(format!("{number} does not fit the device's {raw_type}"));
            }
            // Two's complement, cut to the registers the type takes; the range was checked above.
            let bytes = number.to_be_bytes();
            bytes[bytes.len() - usize::from(point.count) * 2..].to_vec()
        }
    };
    Ok(from_bytes(point, &bytes))
}

fn to_bytes(point: &Point, registers: &[u16]) -> Vec<u8> {
    let register = |register: &u16| if point.swaps_bytes { register.to_le_bytes() } else { register.to_be_bytes() };
    if point.swaps_words {
        registers.iter().rev().flat_map(register).collect()
    } else {
        registers.iter().flat_map(register).collect()
    }
}

fn from_bytes(point: &Point, bytes: &[u8]) -> Vec<u16> {
    let pair = |pair: &[u8]| {
        let pair = [pair[0], pair[1]];
        if point.swaps_bytes { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
    };
    let mut registers: Vec<u16> = bytes.chunks_exact(2).map(pair).collect();
    if point.swaps_words {
        registers.reverse();
    }
    registers
}

/// Texts are filled up with zeros.
fn trim_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}
