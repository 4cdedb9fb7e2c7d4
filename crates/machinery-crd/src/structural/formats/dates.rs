//! Dates, times and durations.

use std::sync::LazyLock;

use regex::Regex;

static TIME: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(?:.[0-9]+)?(?:z|[+-][0-9]{2}:[0-9]{2})$";
    Regex::new(pattern).expect("the pattern is constant")
});

static PARTS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)").expect("the pattern is constant"));

/// `2006-01-02`, a day that exists.
pub(super) fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 10
        && bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
    if !shape {
        return false;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<i16>().unwrap_or_default();
    let (Ok(month), Ok(day)) = (i8::try_from(number(5..7)), i8::try_from(number(8..10))) else { return false };
    jiff::civil::Date::new(number(0..4), month, day).is_ok()
}

/// RFC 3339, with a leap second or without; the date and the time are looked at apart.
pub(super) fn is_date_time(text: &str) -> bool {
    if text.len() < 4 {
        return false;
    }
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    let Some(found) = TIME.captures(time) else { return false };
    is_date(date) && &found[1] <= "23" && &found[2] <= "59" && &found[3] <= "59"
}

/// `1h2m`, as Go reads it, or `3 days`, as Scala does.
pub(super) fn is_duration(text: &str) -> bool {
    if api_kube::go_duration::parse(text).is_ok() {
        return true;
    }
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let mut is_good = false;
    for part in PARTS.captures_iter(text) {
        if part[1].parse::<i64>().is_err() {
            return false;
        }
        let unit = part[2].to_lowercase();
        for variants in UNITS {
            let (last, others) = variants.split_last().expect("each unit has names");
            is_good |= unit.starts_with(last) || others.iter().any(|variant| *variant == unit);
        }
    }
    is_good
}
