//! Schedules: how they are written, and which times they mean.
//!
//! A schedule reads as upstream's library (robfig/cron, its standard parser) reads it: five fields or a descriptor. Its times are
//! the minutes whose local time matches every field:
//!
//! - A local time that a clock skips in spring does not come that day; one that it shows twice in autumn comes twice.
//! - With a `*` (or `?`) among day of month and day of week, both must match; else one of them is enough.
//! - `@every` counts seconds from the time before it and knows no zone.
//! - A schedule with no time in five years has none.
//!
//! Days are walked and not minutes, so a time that is years away costs as little as the next minute. Within a day the first
//! match is found by bits of hours and minutes. Only around a change of a zone's offset, where a local time may come twice or
//! never and even days may overlap, all minutes of two days that match are looked at one by one.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// How far the next time is looked for, as upstream's library does: leap days come within it, but for those around 2100.
const YEARS_MAX: i16 = 5;
/// How far back a time is looked for: no schedule with a next time has rarer ones than leap days around 2100.
const DAYS_BACK_MAX: usize = 9 * 366;
/// No zone changes its offset by more at a time, but for days that were left out whole.
const SHIFT_MAX: SignedDuration = SignedDuration::from_hours(3);
const DAY: SignedDuration = SignedDuration::from_hours(24);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// What is wrong with a schedule, as upstream's library says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseScheduleError {
    #[error("empty spec string")]
    Empty,
    #[error("invalid schedule format: {0}")]
    NoFieldsAfterZone(String),
    #[error("expected exactly 5 fields, found {}: [{}]", .0.len(), .0.join(" "))]
    FieldCount(Vec<String>),
    #[error("too many hyphens: {0}")]
    Hyphens(String),
    #[error("too many slashes: {0}")]
    Slashes(String),
    #[error("beginning of range ({start}) below minimum ({min}): {text}")]
    BelowMinimum { start: u32, min: u32, text: String },
    #[error("end of range ({end}) above maximum ({max}): {text}")]
    AboveMaximum { end: u32, max: u32, text: String },
    #[error("beginning of range ({start}) beyond end of range ({end}): {text}")]
    Reversed { start: u32, end: u32, text: String },
    #[error("step of range should be a positive number: {0}")]
    NoStep(String),
    #[error("failed to parse int from {0}: strconv.Atoi: parsing {0:?}: invalid syntax")]
    NoNumber(String),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("failed to parse duration {0}: time: invalid duration")]
    Duration(String),
}

/// A schedule that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Minutes of which every field matches.
    Fields(Fields),
    /// So many seconds apart.
    Every(i64),
}

/// Which values match, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether one of the two fields of days was written with a `*`, without a step.
    has_free_day: bool,
}

/// One field: its bounds and the names of its values, of which the first is the lowest.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule; the zone of a prefix `TZ=` or `CRON_TZ=` is returned apart. The API takes none any more, but an object
    /// from before may have one.
    pub fn parse(text: &str) -> Result<(Self, Option<&str>), ParseScheduleError> {
        if text.is_empty() {
            return Err(ParseScheduleError::Empty);
        }
        let (mut rest, mut zone) = (text, None);
        if let Some(after) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            let Some((name, fields)) = after.split_once(' ') else {
                return Err(ParseScheduleError::NoFieldsAfterZone(text.to_owned()));
            };
            (zone, rest) = (Some(name), fields.trim());
        }
        if rest.starts_with('@') {
            return Ok((descriptor(rest)?, zone));
        }
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = &fields[..] else {
            return Err(ParseScheduleError::FieldCount(fields.into_iter().map(str::to_owned).collect()));
        };
        let (minutes, _) = field(minutes, &MINUTES)?;
        let (hours, _) = field(hours, &HOURS)?;
        let (days, is_any_day) = field(days, &DAYS)?;
        let (months, _) = field(months, &MONTHS)?;
        let (weekdays, is_any_weekday) = field(weekdays, &WEEKDAYS)?;
        let has_free_day = is_any_day || is_any_weekday;
        Ok((Self::Fields(Fields { minutes, hours, days, months, weekdays, has_free_day }), zone))
    }

    /// The first time after this one; `None` when there is none in five years.
    pub fn next(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Fields(fields) => fields.next(zone, after),
            Self::Every(seconds) => whole_second(after).checked_add(SignedDuration::from_secs(*seconds)).ok(),
        }
    }

    /// The last time that is after `after` and not after `now`.
    pub fn last_between(&self, zone: &TimeZone, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Fields(fields) => fields.last_between(zone, after, now),
            Self::Every(seconds) => {
                let first = whole_second(after);
                let times = now.duration_since(first).as_secs() / seconds;
                let passed = SignedDuration::from_secs(times.checked_mul(*seconds)?);
                (times > 0).then(|| first.checked_add(passed).ok()).flatten()
            }
        }
    }
}

impl Fields {
    fn next(&self, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
        let today = zone.to_datetime(after).date();
        // A change of the offset at midnight may bring minutes of the day before once more.
        let mut day = today.yesterday().unwrap_or(today);
        let last_year = today.year().saturating_add(YEARS_MAX);
        while day.year() <= last_year {
            if self.months & bit(day.month()) == 0 {
                day = day.last_of_month().tomorrow().ok()?;
                continue;
            }
            let found = if is_even(zone, day) {
                self.matches_day(day).then(|| self.first_of(zone, day, after)).flatten()
            } else {
                self.around(zone, day).filter(|time| *time > after).min()
            };
            if found.is_some() {
                return found;
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn last_between(&self, zone: &TimeZone, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let today = zone.to_datetime(now).date();
        let first = zone.to_datetime(after).date();
        let first = first.yesterday().unwrap_or(first);
        let mut day = today.tomorrow().unwrap_or(today);
        for _ in 0..DAYS_BACK_MAX {
            if day < first {
                return None;
            }
            if self.months & bit(day.month()) == 0 {
                day = day.first_of_month().yesterday().ok()?;
                continue;
            }
            let found = if is_even(zone, day) {
                self.matches_day(day).then(|| self.last_of(zone, day, now)).flatten()
            } else {
                // With the day before: a fold at midnight puts minutes of it after those of this day.
                let before = day.yesterday().unwrap_or(day);
                self.around(zone, before).filter(|time| *time <= now).max()
            };
            if let Some(found) = found {
                return (found > after).then_some(found);
            }
            day = day.yesterday().ok()?;
        }
        None
    }

    fn matches_day(&self, day: Date) -> bool {
        let is_day = self.days & bit(day.day()) != 0;
        let is_weekday = self.weekdays & bit(day.weekday().to_sunday_zero_offset()) != 0;
        let is_month = self.months & bit(day.month()) != 0;
        is_month && if self.has_free_day { is_day && is_weekday } else { is_day || is_weekday }
    }

    /// The first match of a day with one offset.
    fn first_of(&self, zone: &TimeZone, day: Date, after: Timestamp) -> Option<Timestamp> {
        let midnight = instants(zone, day.at(0, 0, 0, 0)).next()?;
        let passed = after.duration_since(midnight).as_secs().div_euclid(60);
        let from = u32::try_from(passed.saturating_add(1).clamp(0, i64::from(MINUTES_A_DAY))).unwrap_or_default();
        let minute = self.minute_from(from)?;
        midnight.checked_add(MINUTE * i32::try_from(minute).ok()?).ok()
    }

    /// The last match of a day with one offset.
    fn last_of(&self, zone: &TimeZone, day: Date, now: Timestamp) -> Option<Timestamp> {
        let midnight = instants(zone, day.at(0, 0, 0, 0)).next()?;
        let passed = now.duration_since(midnight).as_secs().div_euclid(60);
        let to = u32::try_from(passed.min(i64::from(MINUTES_A_DAY) - 1)).ok()?;
        let minute = self.minute_to(to)?;
        midnight.checked_add(MINUTE * i32::try_from(minute).ok()?).ok()
    }

    /// The first matching minute of a day from this one on.
    fn minute_from(&self, from: u32) -> Option<u32> {
        let (hour, minute) = (from / 60, from % 60);
        if hour < 24 && self.hours & (1 << hour) != 0 {
            let left = self.minutes & (u64::MAX << minute);
            if left != 0 {
                return Some(hour * 60 + left.trailing_zeros());
            }
        }
        let hours = self.hours & u64::MAX.checked_shl(hour + 1).unwrap_or_default();
        (hours != 0 && self.minutes != 0).then(|| hours.trailing_zeros() * 60 + self.minutes.trailing_zeros())
    }

    /// The last matching minute of a day up to this one.
    fn minute_to(&self, to: u32) -> Option<u32> {
        let (hour, minute) = (to / 60, to % 60);
        if self.hours & (1 << hour) != 0 {
            let left = self.minutes & (u64::MAX >> (63 - minute));
            if left != 0 {
                return Some(hour * 60 + left.ilog2());
            }
        }
        let hours = self.hours & ((1 << hour) - 1);
        (hours != 0 && self.minutes != 0).then(|| hours.ilog2() * 60 + self.minutes.ilog2())
    }

    /// Every match of a day and the next one, in no order.
    fn around<'a>(&'a self, zone: &'a TimeZone, day: Date) -> impl Iterator<Item = Timestamp> + 'a {
        let days = [Some(day), day.tomorrow().ok()].into_iter().flatten().filter(|day| self.matches_day(*day));
        let minutes = (0..MINUTES_A_DAY)
            .filter(|minute| self.hours & (1 << (minute / 60)) != 0 && self.minutes & (1 << (minute % 60)) != 0);
        days.flat_map(move |day| {
            minutes.clone().flat_map(move |minute| {
                let number = |value: u32| i8::try_from(value).unwrap_or_default();
                instants(zone, day.at(number(minute / 60), number(minute % 60), 0, 0))
            })
        })
    }
}

const MINUTES_A_DAY: u32 = 24 * 60;

/// Whether a zone keeps its offset all day and some hours before and after it.
fn is_even(zone: &TimeZone, day: Date) -> bool {
    let look = || {
        let midnight = zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0)).compatible().ok()?;
        let from = midnight.checked_sub(SHIFT_MAX).ok()?;
        let to = midnight.checked_add(DAY + SHIFT_MAX).ok()?;
        // Zones list changes of their names and rules as well; one that keeps the offset costs only time.
        Some(zone.following(from).next().is_none_or(|change| change.timestamp() > to))
    };
    // At the ends of the calendar nothing is known.
    look().unwrap_or(false)
}

/// When a local time comes: once, never, or twice.
fn instants(zone: &TimeZone, local: DateTime) -> impl Iterator<Item = Timestamp> + use<> {
    let (first, second) = match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => (Some(offset), None),
        AmbiguousOffset::Gap { .. } => (None, None),
        AmbiguousOffset::Fold { before, after } => (Some(before), Some(after)),
    };
    [first, second].into_iter().flatten().filter_map(move |offset| offset.to_timestamp(local).ok())
}

fn bit(value: i8) -> u64 {
    u32::try_from(value).ok().and_then(|value| 1_u64.checked_shl(value)).unwrap_or_default()
}

/// The time without what is finer than a second.
fn whole_second(time: Timestamp) -> Timestamp {
    let finer =
        SignedDuration::from_nanos(time.as_nanosecond().rem_euclid(1_000_000_000).try_into().unwrap_or_default());
    time.checked_sub(finer).unwrap_or(time)
}

/// The values of one field, and whether a `*` without a step is among them.
fn field(text: &str, bounds: &Bounds) -> Result<(u64, bool), ParseScheduleError> {
    let (mut bits, mut is_any) = (0, false);
    for expression in text.split(',').filter(|expression| !expression.is_empty()) {
        let (more, is_star) = range(expression, bounds)?;
        bits |= more;
        is_any |= is_star;
    }
    Ok((bits, is_any))
}

fn range(text: &str, bounds: &Bounds) -> Result<(u64, bool), ParseScheduleError> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let is_star = matches!(ends[0], "*" | "?");
    let (start, mut end) = match &ends[..] {
        _ if is_star => (bounds.min, bounds.max),
        [one] => (value(one, bounds)?, value(one, bounds)?),
        [start, end] => (value(start, bounds)?, value(end, bounds)?),
        _ => return Err(ParseScheduleError::Hyphens(text.to_owned())),
    };
    let step = match &parts[..] {
        [_] => 1,
        [_, step] => {
            // `5/15` begins at 5 and has no end of its own.
            if ends.len() == 1 {
                end = bounds.max;
            }
            number(step)?
        }
        _ => return Err(ParseScheduleError::Slashes(text.to_owned())),
    };
    let text = || text.to_owned();
    if start < bounds.min {
        return Err(ParseScheduleError::BelowMinimum { start, min: bounds.min, text: text() });
    }
    if end > bounds.max {
        return Err(ParseScheduleError::AboveMaximum { end, max: bounds.max, text: text() });
    }
    if start > end {
        return Err(ParseScheduleError::Reversed { start, end, text: text() });
    }
    if step == 0 {
        return Err(ParseScheduleError::NoStep(text()));
    }
    let step_by = usize::try_from(step).unwrap_or(usize::MAX);
    let bits = (start..=end).step_by(step_by).fold(0, |bits, value| bits | (1 << value));
    Ok((bits, is_star && step == 1))
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, ParseScheduleError> {
    let lower = text.to_lowercase();
    match (bounds.min..).zip(bounds.names).find(|(_, name)| **name == lower) {
        Some((value, _)) => Ok(value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, ParseScheduleError> {
    // Go reads a sign too; a negative number is rejected there with other words, and by the API before it comes here.
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).ok_or_else(|| ParseScheduleError::NoNumber(text.to_owned()))
}

fn descriptor(text: &str) -> Result<Schedule, ParseScheduleError> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(duration) = text.strip_prefix("@every ") else {
                return Err(ParseScheduleError::Descriptor(text.to_owned()));
            };
            let nanoseconds =
                api_kube::go_duration::parse(duration).map_err(|_| ParseScheduleError::Duration(text.to_owned()))?;
            return Ok(Schedule::Every((nanoseconds / 1_000_000_000).max(1)));
        }
    };
    Schedule::parse(fields).map(|(schedule, _)| schedule)
}

#[cfg(test)]
mod tests;
