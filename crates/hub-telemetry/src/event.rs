//! Reading one event line without keeping its readings.
//!
//! A batch of 4 MiB may hold 130,000 readings of a few bytes. As a list they take twice the batch, and a dozen batches are
//! checked at a time, so each reading is handed on when it has been read, and then forgotten.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What an event says of itself.
pub(crate) struct EventFields<'a> {
    pub(crate) api_version: Option<Cow<'a, str>>,
    pub(crate) device_name: Cow<'a, str>,
    pub(crate) origin: Option<i64>,
}

/// Reads a line and hands each of its readings to `each`, also those before a mistake.
pub(crate) fn read<'a, R: Deserialize<'a>>(
    line: &'a [u8],
    each: impl FnMut(R),
) -> Result<EventFields<'a>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let event = Event { each, reading: PhantomData }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(event)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    ApiVersion,
    DeviceName,
    Origin,
    Readings,
    #[serde(other)]
    Other,
}

/// A text that is borrowed from the line unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Event<R, F> {
    each: F,
    reading: PhantomData<fn(R)>,
}

impl<'de, R: Deserialize<'de>, F: FnMut(R)> DeserializeSeed<'de> for Event<R, F> {
    type Value = EventFields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, R: Deserialize<'de>, F: FnMut(R)> Visitor<'de> for Event<R, F> {
    type Value = EventFields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut api_version, mut device_name, mut origin, mut has_readings) = (None, None, None, false);
        while let Some(field) = map.next_key::<Field>()? {
            match field {
                Field::ApiVersion if api_version.is_some() => return Err(A::Error::duplicate_field("apiVersion")),
                Field::DeviceName if device_name.is_some() => return Err(A::Error::duplicate_field("deviceName")),
                Field::Origin if origin.is_some() => return Err(A::Error::duplicate_field("origin")),
                Field::Readings if has_readings => return Err(A::Error::duplicate_field("readings")),
                Field::ApiVersion => api_version = Some(map.next_value::<Option<Text<'de>>>()?),
                Field::DeviceName => device_name = Some(map.next_value::<Text<'de>>()?.0),
                Field::Origin => origin = Some(map.next_value()?),
                Field::Readings => {
                    map.next_value_seed(Readings { each: &mut self.each, reading: PhantomData })?;
                    has_readings = true;
                }
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !has_readings {
            return Err(A::Error::missing_field("readings"));
        }
        Ok(EventFields {
            api_version: api_version.flatten().map(|text| text.0),
            device_name: device_name.ok_or_else(|| A::Error::missing_field("deviceName"))?,
            origin,
        })
    }
}

struct Readings<'f, R, F> {
    each: &'f mut F,
    reading: PhantomData<fn(R)>,
}

impl<'de, R: Deserialize<'de>, F: FnMut(R)> DeserializeSeed<'de> for Readings<'_, R, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, R: Deserialize<'de>, F: FnMut(R)> Visitor<'de> for Readings<'_, R, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of readings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut readings: A) -> Result<(), A::Error> {
        while let Some(reading) = readings.next_element()? {
            (self.each)(reading);
        }
        Ok(())
    }
}
