//! Sets of completion indexes: intervals in order, as `status.completedIndexes` has them (`1,3-5,7`).

use std::fmt;

/// A set of indexes. Its size is that of its intervals, however large they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads a list; what lies beyond the completions, or is no number, is left out, as upstream does. The text is untrusted: what
    /// is out of order comes in order.
    pub fn parse(text: &str, completions: i64) -> Self {
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        let intervals = text.split(',').filter_map(|interval| {
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            let (first, last) = (number(first)?, number(last)?.min(completions - 1));
            (first <= last).then_some((first, last))
        });
        Self::of(intervals.collect())
    }

    fn of(mut intervals: Vec<(i64, i64)>) -> Self {
        intervals.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match joined.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
    }

    /// With some more.
    pub fn with(&self, more: impl IntoIterator<Item = i64>) -> Self {
        Self::of(self.0.iter().copied().chain(more.into_iter().map(|index| (index, index))).collect())
    }

    /// How many there are.
    pub fn len(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is among them.
    pub fn contains(&self, index: i64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many are in both.
    pub fn common(&self, other: &Self) -> i64 {
        let (mut one, mut two, mut count) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(one), other.0.get(two)) {
            count += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 <= b.1 {
                one += 1;
            } else {
                two += 1;
            }
        }
        count
    }

    /// The first indexes below `completions` that are not among them, `count` at most.
    pub fn first_missing(&self, count: usize, completions: i64) -> Vec<i64> {
        let gaps_end = self.0.iter().map(|(first, _)| *first).chain([completions]);
        let gaps_begin = [0].into_iter().chain(self.0.iter().map(|(_, last)| last + 1));
        gaps_begin.zip(gaps_end).flat_map(|(begin, end)| begin..end.min(completions)).take(count).collect()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (first, last)) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_as_upstream_does() {
        for (text, completions, expected, len) in [
            ("", 10, "", 0),
            ("0", 10, "0", 1),
            ("0,1", 10, "0,1", 2),
            ("0,1,2", 10, "0-2", 3),
            ("1,3-5,7", 10, "1,3-5,7", 5),
            ("1-3,4-6", 10, "1-6", 6),
            ("2-20", 10, "2-9", 8),
            ("5,11,12-14", 10, "5", 1),
            ("x,1-y,3", 10, "3", 1),
            ("7-9,1-2", 10, "1,2,7-9", 5),
            ("5-3,-1,8", 10, "8", 1),
            ("0-9223372036854775807", 1 << 31, "0-2147483647", 1 << 31),
            ("0-3", 0, "", 0),
        ] {
            let read = Indexes::parse(text, completions);
            assert_eq!((read.to_string().as_str(), read.len()), (expected, len), "{text:?} of {completions}");
            assert_eq!(Indexes::parse(expected, completions), read);
        }
    }

    #[test]
    fn sets_are_joined_compared_and_filled() {
        for (one, other, union, common) in [
            ("0-2", "4", "0-2,4", 0),
            ("0-2", "3", "0-3", 0),
            ("1,3,5", "0-9", "0-9", 3),
            ("0-4,8-9", "3-8", "0-9", 3),
            ("", "1", "1", 0),
        ] {
            let (one, other) = (Indexes::parse(one, 10), Indexes::parse(other, 10));
            assert_eq!((one.union(&other).to_string().as_str(), one.common(&other)), (union, common), "{one} {other}");
            assert_eq!(other.common(&one), common);
        }
        for (text, count, completions, expected) in [
            ("", 3, 10, &[0, 1, 2][..]),
            ("0-2,4", 3, 10, &[3, 5, 6]),
            ("0-8", 3, 10, &[9]),
            ("0-9", 3, 10, &[]),
            ("1", 5, 3, &[0, 2]),
        ] {
            let held = Indexes::parse(text, 10);
            assert_eq!(held.first_missing(count, completions), expected, "{text}");
        }
        let held = Indexes::parse("1,3-5", 10).with([7, 0, 7]);
        assert_eq!(held.to_string(), "0,1,3-5,7");
        let contained: Vec<i64> = (0..10).filter(|index| held.contains(*index)).collect();
        assert_eq!(contained, [0, 1, 3, 4, 5, 7]);
    }
}
