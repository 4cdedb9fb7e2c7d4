//! Sources (resources and commands), and the events that reading them makes.

use std::collections::{BTreeMap, HashMap};

use api_edge::edgex::{
    self, Device, DeviceProfile, DeviceResource, Event, Reading, ResourceOperation, Value, ValueType,
};
use uuid::Uuid;

use crate::driver::ResourceError;
use crate::task::CommandError;
use crate::transform;

/// What a read brought: the event with all that worked, and what did not.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// `None` when no resource could be read.
    pub event: Option<Event>,
    /// One per resource that could not be read.
    pub failures: Vec<ResourceError>,
}

/// A resource or a command, taken apart.
pub(crate) struct Source<'a> {
    pub name: &'a str,
    /// The resources in order, with the operation of the command that names them.
    pub parts: Vec<(&'a DeviceResource, Option<&'a ResourceOperation>)>,
    pub tags: Option<&'a BTreeMap<String, serde_json::Value>>,
}

impl<'a> Source<'a> {
    /// Finds the resource or command `name`; a command wins, as in EdgeX.
    pub fn find(profile: &'a DeviceProfile, name: &str) -> Option<Source<'a>> {
        let resource = |name: &str| profile.device_resources.iter().find(|resource| resource.name == name);
        if let Some(command) = profile.device_commands.iter().find(|command| command.name == name) {
            let parts = command
                .resource_operations
                .iter()
                .map(|operation| Some((resource(&operation.device_resource)?, Some(operation))))
                .collect::<Option<Vec<_>>>()?;
            return Some(Source { name: &command.name, parts, tags: Some(&command.tags) });
        }
        resource(name).map(|resource| Source { name: &resource.name, parts: vec![(resource, None)], tags: None })
    }

    /// Whether every part may be read.
    pub fn can_read(&self, profile: &DeviceProfile) -> bool {
        self.command_access(profile).is_none_or(|access| access.can_read())
            && self.parts.iter().all(|(resource, _)| resource.properties.read_write.can_read())
    }

    /// Whether every part may be written.
    pub fn can_write(&self, profile: &DeviceProfile) -> bool {
        self.command_access(profile).is_none_or(|access| access.can_write())
            && self.parts.iter().all(|(resource, _)| resource.properties.read_write.can_write())
    }

    fn command_access(&self, profile: &DeviceProfile) -> Option<edgex::ReadWrite> {
        profile.device_commands.iter().find(|command| command.name == self.name).map(|command| command.read_write)
    }

    /// Turns raw values into an event, made at `origin` (nanoseconds since 1970).
    pub fn outcome(&self, device: &Device, raw: Vec<Result<Value, ResourceError>>, origin: i64) -> Outcome {
        let event_id = Uuid::new_v4();
        let mut readings = Vec::with_capacity(self.parts.len());
        let mut failures = Vec::new();
        for ((resource, operation), raw) in self.parts.iter().zip(raw) {
            let properties = &resource.properties;
            let value = raw.and_then(|raw| {
                transform::to_reading(raw, properties)
                    .map_err(|error| ResourceError::new(&resource.name, error.to_string()))
            });
            let value = match value {
                Ok(value) => value,
                Err(failure) => {
                    failures.push(failure);
                    continue;
                }
            };
            let (value, value_type) = map(value, properties.value_type, *operation);
            readings.push(Reading {
                id: reading_id(event_id, readings.len()),
                origin,
                device_name: device.name.clone(),
                resource_name: resource.name.clone(),
                profile_name: device.profile_name.clone(),
                value_type,
                units: properties.units.clone().filter(|units| !units.is_empty()),
                media_type: properties.media_type.clone().filter(|_| value_type == ValueType::Binary),
                value,
            });
        }
        let event = (!readings.is_empty()).then(|| Event {
            api_version: edgex::API_VERSION.to_owned(),
            id: event_id.to_string(),
            device_name: device.name.clone(),
            profile_name: device.profile_name.clone(),
            source_name: self.name.to_owned(),
            origin,
            readings,
            tags: self.tags.cloned().unwrap_or_default(),
        });
        Outcome { event, failures }
    }

    /// The raw values that a write of `settings` sends, in the order of the source.
    pub fn raw_values(
        &self,
        settings: &BTreeMap<String, serde_json::Value>,
    ) -> Result<Vec<(&'a DeviceResource, Value)>, CommandError> {
        if let Some(unknown) =
            settings.keys().find(|key| !self.parts.iter().any(|(resource, _)| resource.name == **key))
        {
            return Err(CommandError::UnknownSetting { source_name: self.name.to_owned(), resource: unknown.clone() });
        }
        self.parts
            .iter()
            .map(|(resource, operation)| {
                let properties = &resource.properties;
                let default = || {
                    let of_command = operation.and_then(|operation| operation.default_value.as_deref());
                    of_command.or(properties.default_value.as_deref()).filter(|text| !text.is_empty())
                };
                let text = match settings.get(&resource.name) {
                    Some(serde_json::Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => default()
                        .ok_or_else(|| CommandError::MissingSetting { resource: resource.name.clone() })?
                        .to_owned(),
                };
                // The inverse of the mapping that reads apply.
                let text = operation
                    .and_then(|operation| operation.mappings.iter().find(|(_, shown)| **shown == text))
                    .map_or(text.as_str(), |(raw, _)| raw.as_str());
                parse_setting(resource, text).map(|value| (*resource, value))
            })
            .collect()
    }
}

/// A value as a command gives it, checked and transformed back to raw.
fn parse_setting(resource: &DeviceResource, text: &str) -> Result<Value, CommandError> {
    let properties = &resource.properties;
    let wrong = |problem: String| CommandError::Setting { resource: resource.name.clone(), problem };
    let value = match properties.value_type {
        ValueType::Object | ValueType::ObjectArray => {
            Value::Object(serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")))?)
        }
        // Published profiles write `0` and `1` as defaults of truth values.
        ValueType::Bool if matches!(text, "0" | "1") => Value::Bool(text == "1"),
        value_type => Value::from_edgex(text, value_type).map_err(|error| wrong(error.to_string()))?,
    };
    if let Some(number) = value.as_f64() {
        if !number.is_finite() {
            return Err(wrong(format!("`{text}` is not finite")));
        }
        let (low, high) = (properties.minimum, properties.maximum);
        if low.is_some_and(|low| number < low) || high.is_some_and(|high| number > high) {
            let show = |bound: Option<f64>| bound.map_or("any".to_owned(), |bound| bound.to_string());
            return Err(wrong(format!("{text} is outside {} to {}", show(low), show(high))));
        }
    }
    transform::from_write(value, properties).map_err(|error| wrong(error.to_string()))
}

/// A mapped value becomes text, as in EdgeX; one without a mapping stays what it is.
fn map(value: Value, value_type: ValueType, operation: Option<&ResourceOperation>) -> (Value, ValueType) {
    let Some(mappings) = operation.map(|operation| &operation.mappings).filter(|mappings| !mappings.is_empty()) else {
        return (value, value_type);
    };
    let text = value.to_edgex(value_type).unwrap_or_default();
    match mappings.get(&text) {
        Some(shown) => (Value::String(shown.clone()), ValueType::String),
        None => (value, value_type),
    }
}

/// Readings are numbered from their event's id: one random number per event, and still a valid version 4 UUID, as only
/// its last 32 random bits change.
fn reading_id(event: Uuid, index: usize) -> String {
    let bits = event.as_u128();
    let low = (bits as u32).wrapping_add(index as u32 + 1);
    Uuid::from_u128((bits & !u128::from(u32::MAX)) | u128::from(low)).to_string()
}

/// What an auto-event with `onChange` saw last.
#[derive(Default)]
pub(crate) struct LastSeen {
    values: HashMap<String, Value>,
}

impl LastSeen {
    /// Whether any reading differs from the last that counted, and remembers those that do.
    ///
    /// Numbers must differ by more than `threshold`. A slow creep counts as soon as it has come that far, because the
    /// value that counted last is kept, not the one read last.
    pub fn has_changed(&mut self, event: &Event, threshold: f64) -> bool {
        let mut changed = false;
        for reading in &event.readings {
            let same = match self.values.get(&reading.resource_name) {
                None => false,
                Some(old) => match (old.as_f64(), reading.value.as_f64()) {
                    (Some(a), Some(b)) if threshold > 0.0 => (a - b).abs() <= threshold,
                    _ => *old == reading.value,
                },
            };
            if !same {
                changed = true;
                self.values.insert(reading.resource_name.clone(), reading.value.clone());
            }
        }
        changed
    }

    /// Forgets: the device was away, so its next values are news.
    pub fn clear(&mut self) {
        self.values.clear();
    }
}
