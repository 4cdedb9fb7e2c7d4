//! The checks that EdgeX's core-metadata makes on profiles and devices before anybody uses them.

use std::collections::BTreeSet;
use std::time::Duration;

use api_edge::edgex::{Device, DeviceProfile};
use api_edge::go_duration;

/// A mistake in a profile or device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct MetadataError {
    /// Where, as a field path: `deviceCommands[Switch].resourceOperations[1].deviceResource`.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

fn error(place: impl Into<String>, problem: impl Into<String>) -> MetadataError {
    MetadataError { place: place.into(), problem: problem.into() }
}

/// All mistakes of a profile; none when it may be used.
pub fn check_profile(profile: &DeviceProfile) -> Vec<MetadataError> {
    let mut errors = Vec::new();
    if profile.device_resources.is_empty() {
        errors.push(error("deviceResources", "is empty; a profile needs at least one resource"));
    }
    let mut names = BTreeSet::new();
    for (index, resource) in profile.device_resources.iter().enumerate() {
        if resource.name.trim().is_empty() {
            errors.push(error(format!("deviceResources[{index}].name"), "is empty"));
        } else if !names.insert(resource.name.as_str()) {
            errors.push(error(format!("deviceResources[{index}].name"), format!("`{}` is used twice", resource.name)));
        }
        let (low, high) = (resource.properties.minimum, resource.properties.maximum);
        if let (Some(low), Some(high)) = (low, high)
            && low > high
        {
            let place = format!("deviceResources[{}].properties.minimum", resource.name);
            errors.push(error(place, format!("{low} is larger than the maximum {high}")));
        }
    }
    let mut commands = BTreeSet::new();
    for (index, command) in profile.device_commands.iter().enumerate() {
        let place = format!("deviceCommands[{}]", command.name);
        if command.name.trim().is_empty() {
            errors.push(error(format!("deviceCommands[{index}].name"), "is empty"));
        } else if !commands.insert(command.name.as_str()) {
            errors.push(error(format!("deviceCommands[{index}].name"), format!("`{}` is used twice", command.name)));
        }
        if command.resource_operations.is_empty() {
            errors.push(error(format!("{place}.resourceOperations"), "is empty; name the resources of the command"));
        }
        for (index, operation) in command.resource_operations.iter().enumerate() {
            let place = format!("{place}.resourceOperations[{index}].deviceResource");
            let name = &operation.device_resource;
            let Some(resource) = profile.device_resources.iter().find(|resource| resource.name == *name) else {
                errors.push(error(place, format!("there is no resource `{name}`")));
                continue;
            };
            let (of_command, of_resource) = (command.read_write, resource.properties.read_write);
            let is_too_much = (of_command.can_read() && !of_resource.can_read())
                || (of_command.can_write() && !of_resource.can_write());
            if is_too_much {
                let problem = format!("resource `{name}` is {of_resource:?}, so the command cannot be {of_command:?}");
                errors.push(error(place, problem));
            }
        }
    }
    errors
}

/// All mistakes of a device that has `profile`; none when it may be used.
pub fn check_device(device: &Device, profile: &DeviceProfile) -> Vec<MetadataError> {
    let mut errors = Vec::new();
    if device.name.trim().is_empty() {
        errors.push(error("name", "is empty"));
    }
    for (index, auto) in device.auto_events.iter().enumerate() {
        let place = |field: &str| format!("autoEvents[{index}].{field}");
        match go_duration::parse(&auto.interval) {
            Err(wrong) => errors.push(error(place("interval"), wrong.to_string())),
            Ok(interval) if interval < Duration::from_millis(1) => {
                errors.push(error(place("interval"), format!("`{}` is shorter than 1ms", auto.interval)));
            }
            Ok(_) => {}
        }
        let name = &auto.source_name;
        let is_known = profile.device_resources.iter().any(|resource| resource.name == *name)
            || profile.device_commands.iter().any(|command| command.name == *name);
        if !is_known {
            let problem = format!("profile `{}` has no resource or command `{name}`", profile.name);
            errors.push(error(place("sourceName"), problem));
        }
        if auto.on_change_threshold.is_some_and(|threshold| threshold.is_nan() || threshold < 0.0) {
            errors.push(error(place("onChangeThreshold"), "is negative"));
        }
    }
    errors
}
