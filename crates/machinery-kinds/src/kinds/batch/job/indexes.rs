//! Lists of indexes of a job's pods: `1,3-5,7`.

/// How many indexes a list has, all of them below the number of completions.
///
/// # Errors
/// What is wrong with the list, in upstream's words.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut last, mut total) = (None, 0);
    for interval in text.split(',') {
        let (from, to) = self::interval(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

fn interval(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let index = |part: &str| {
        let index: i64 = part.parse().map_err(|_| format!("cannot convert string to integer for index: {part:?}"))?;
        if index >= completions { Err(format!("too large index: {part:?}")) } else { Ok(index) }
    };
    let from = index(parts[0])?;
    let Some(to) = parts.get(1) else { return Ok((from, from)) };
    let to = index(to)?;
    if from >= to {
        return Err(format!("non-increasing order, previous: {from}, current: {to}"));
    }
    Ok((from, to))
}

/// The first index that is in both lists; intervals that cannot be read are passed over.
pub(super) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    if one.is_empty() || other.is_empty() {
        return None;
    }
    let read = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|interval| self::interval(interval, completions).ok()).collect()
    };
    let (one, other) = (read(one), read(other));
    let (mut at_one, mut at_other) = (0, 0);
    while let (Some(first), Some(second)) = (one.get(at_one), other.get(at_other)) {
        if first.0 <= second.1 && second.0 <= first.1 {
            return Some(first.0.max(second.0));
        }
        if first.0 <= second.0 {
            at_one += 1;
        } else {
            at_other += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{count, overlap};

    #[test]
    fn a_list_of_indexes_is_read_as_upstream_reads_it() {
        for (text, expected) in [
            ("", Ok(0)),
            ("0,2-4", Ok(4)),
            ("3,1", Err("non-increasing order, previous: 3, current: 1")),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            ("10", Err("too large index: \"10\"")),
            ("4-4", Err("non-increasing order, previous: 4, current: 4")),
        ] {
            assert_eq!(count(text, 10), expected.map_err(str::to_owned), "{text}");
        }
        assert_eq!(overlap("0,2-4", "1,4-6", 10), Some(4));
        assert_eq!(overlap("0,2-3", "1,4-6", 10), None);
    }
}
