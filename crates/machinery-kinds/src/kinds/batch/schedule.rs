//! Schedules of CronJobs: which texts are schedules and time zones, and what is wrong with others.
//!
//! The messages are those of the library that upstream reads schedules with.

/// The names of the IANA database of time zones.
const TIME_ZONES: &str = include_str!("time_zones.txt");

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// One of the fields of a schedule: its bounds, and the names of its values (the first one counts as the lowest bound).
struct Field {
    min: i64,
    max: i64,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: &MONTHS },
    Field { min: 0, max: 6, names: &DAYS },
];

/// Whether a text is the name of a time zone.
pub(super) fn is_time_zone(name: &str) -> bool {
    name == "UTC" || TIME_ZONES.lines().any(|known| known == name)
}

/// What is wrong with a schedule.
///
/// # Errors
/// The first mistake.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let mut rest = schedule;
    if schedule.starts_with("TZ=") || schedule.starts_with("CRON_TZ=") {
        let equals = schedule.find('=').unwrap_or_default();
        let Some(space) = schedule.find(' ') else {
            return Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".to_owned());
        };
        let zone = &schedule[equals + 1..space.max(equals + 1)];
        if !zone.is_empty() && zone != "Local" && !is_time_zone(zone) {
            return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
        }
        rest = schedule[space..].trim();
    }
    if rest.starts_with('@') {
        return descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (text, field) in fields.iter().zip(&FIELDS) {
        for expression in text.split(',').filter(|expression| !expression.is_empty()) {
            range(expression, field)?;
        }
    }
    Ok(())
}

fn range(expression: &str, field: &Field) -> Result<(), String> {
    let parts: Vec<&str> = expression.split('/').collect();
    let bounds: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end) = if matches!(bounds[0], "*" | "?") {
        (field.min, field.max)
    } else {
        let start = value(bounds[0], field)?;
        match bounds.len() {
            1 => (start, start),
            2 => (start, value(bounds[1], field)?),
            _ => return Err(format!("too many hyphens: {expression}")),
        }
    };
    let step = match parts.len() {
        1 => 1,
        2 => {
            let step = number(parts[1])?;
            if bounds.len() == 1 {
                end = field.max;
            }
            step
        }
        _ => return Err(format!("too many slashes: {expression}")),
    };
    let (min, max) = (field.min, field.max);
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {expression}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {expression}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {expression}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {expression}"));
    }
    Ok(())
}

fn value(text: &str, field: &Field) -> Result<i64, String> {
    let lower = text.to_lowercase();
    match field.names.iter().position(|name| *name == lower) {
        Some(position) => Ok(field.min + i64::try_from(position).unwrap_or_default()),
        None => number(text),
    }
}

fn number(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = text.parse::<i64>().ok().filter(|_| is_number);
    match parsed {
        Some(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Some(number) => Ok(number),
        None => {
            let why = if is_number { "value out of range" } else { "invalid syntax" };
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"))
        }
    }
}

fn descriptor(text: &str) -> Result<(), String> {
    if matches!(text, "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly") {
        return Ok(());
    }
    let Some(duration) = text.strip_prefix("@every ") else {
        return Err(format!("unrecognized descriptor: {text}"));
    };
    match api_kube::go_duration::parse(duration) {
        Err(why) => Err(format!("failed to parse duration {text}: {why}")),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{check, is_time_zone};

    #[test]
    fn schedules_are_read_as_upstream_reads_them() {
        for (schedule, expected) in [
            ("*/5 * * * *", None),
            ("0 9-17/2 1,15 jan-MAR mon", None),
            ("@daily", None),
            ("@every 1h30m", None),
            ("@every 2562047h", None),
            ("@every .5h", None),
            (
                "@every 876000000h",
                Some("failed to parse duration @every 876000000h: time: invalid duration \"876000000h\""),
            ),
            ("TZ=Europe/Berlin 0 * * * *", None),
            ("* * * *", Some("expected exactly 5 fields, found 4: [* * * *]")),
            ("60 * * * *", Some("end of range (60) above maximum (59): 60")),
            ("* * 0 * *", Some("beginning of range (0) below minimum (1): 0")),
            ("5-1 * * * *", Some("beginning of range (5) beyond end of range (1): 5-1")),
            ("*/0 * * * *", Some("step of range should be a positive number: */0")),
            ("x * * * *", Some("failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax")),
            ("@often", Some("unrecognized descriptor: @often")),
            ("@every x", Some("failed to parse duration @every x: time: invalid duration \"x\"")),
            ("TZ=UTC", Some("invalid schedule format: runtime error: slice bounds out of range [:-1]")),
        ] {
            assert_eq!(check(schedule).err().as_deref(), expected, "{schedule}");
        }
        assert!(is_time_zone("Europe/Berlin") && is_time_zone("UTC") && !is_time_zone("europe/berlin"));
    }
}
