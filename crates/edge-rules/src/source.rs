//! Where a rule reads its columns from: anything that knows them by name.

use api_edge::edgex::Event;

use crate::datum::{Datum, Row};

/// One message of a stream.
pub trait RowSource {
    /// The value of a column; `None` when the message does not have it. A name that differs in case only is found
    /// when no name matches exactly, as in eKuiper.
    fn column(&self, name: &str) -> Option<Datum>;

    /// Shows every column, in order.
    fn columns(&self, visit: &mut dyn FnMut(&str, Datum));

    /// What `meta(name)` gives.
    fn meta(&self, name: &str) -> Option<Datum> {
        let _ = name;
        None
    }

    /// What `meta(column->name)` gives: metadata of one column.
    fn column_meta(&self, column: &str, name: &str) -> Option<Datum> {
        let _ = (column, name);
        None
    }
}

impl RowSource for Row {
    fn column(&self, name: &str) -> Option<Datum> {
        self.get(name)
            .or_else(|| self.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value))
            .cloned()
    }

    fn columns(&self, visit: &mut dyn FnMut(&str, Datum)) {
        self.iter().for_each(|(name, value)| visit(name, value.clone()));
    }
}

/// An EdgeX event as a row: one column per reading, the rest through `meta(…)`.
///
/// `meta(deviceName)`, `profileName`, `sourceName`, `id` and `origin` (nanoseconds) are the event's, other names its
/// tags; `meta(temperature->origin)` is the reading's, with `resourceName`, `valueType`, `units` and `mediaType` too.
pub struct EventRow<'a>(pub &'a Event);

impl RowSource for EventRow<'_> {
    fn column(&self, name: &str) -> Option<Datum> {
        let readings = &self.0.readings;
        readings
            .iter()
            .find(|reading| reading.resource_name == name)
            .or_else(|| readings.iter().find(|reading| reading.resource_name.eq_ignore_ascii_case(name)))
            .map(|reading| Datum::from(&reading.value))
    }

    fn columns(&self, visit: &mut dyn FnMut(&str, Datum)) {
        self.0.readings.iter().for_each(|reading| visit(&reading.resource_name, Datum::from(&reading.value)));
    }

    fn meta(&self, name: &str) -> Option<Datum> {
        let event = self.0;
        Some(match name.to_ascii_lowercase().as_str() {
            "devicename" => Datum::from(event.device_name.as_str()),
            "profilename" => Datum::from(event.profile_name.as_str()),
            "sourcename" => Datum::from(event.source_name.as_str()),
            "id" => Datum::from(event.id.as_str()),
            "origin" => Datum::from(event.origin),
            _ => Datum::from(event.tags.get(name)?),
        })
    }

    fn column_meta(&self, column: &str, name: &str) -> Option<Datum> {
        let reading = self.0.readings.iter().find(|reading| reading.resource_name.eq_ignore_ascii_case(column))?;
        Some(match name.to_ascii_lowercase().as_str() {
            "devicename" => Datum::from(reading.device_name.as_str()),
            "profilename" => Datum::from(reading.profile_name.as_str()),
            "resourcename" => Datum::from(reading.resource_name.as_str()),
            "valuetype" => Datum::from(reading.value_type.as_str()),
            "id" => Datum::from(reading.id.as_str()),
            "origin" => Datum::from(reading.origin),
            "units" => Datum::from(reading.units.as_deref()?),
            "mediatype" => Datum::from(reading.media_type.as_deref()?),
            _ => return None,
        })
    }
}
