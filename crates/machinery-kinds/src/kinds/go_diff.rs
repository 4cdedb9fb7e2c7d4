//! The difference of two objects as upstream shows it: unified, of JSON with one value on a line.
//!
//! Go's `difflib` finds what two lists of lines have in common as Python's does, by the longest common run first; where there
//! are several, the answer depends on that, so we do it in the same way.

use std::{collections::HashMap, fmt::Write as _};

use serde_json::Value;

/// Lines around a change.
const CONTEXT: usize = 3;

/// Lines that are so frequent in long texts say nothing, and are no anchors.
const POPULAR_LINES_MIN: usize = 200;

/// Objects that are compared are at most so long; the search is quadratic in the worst case.
const LINES_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Equal,
    Change,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    tag: Tag,
    old: (usize, usize),
    new: (usize, usize),
}

/// The unified difference of two texts; empty when they are equal.
pub(crate) fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    if old.len().max(new.len()) > LINES_MAX {
        return String::new();
    }
    let mut out = String::new();
    for group in groups(parts(&old, &new)) {
        let (first, last) = (group[0], group[group.len() - 1]);
        let _ = writeln!(out, "@@ -{} +{} @@", range(first.old.0, last.old.1), range(first.new.0, last.new.1));
        for part in group {
            if part.tag == Tag::Equal {
                old[part.old.0..part.old.1].iter().for_each(|line| push(&mut out, ' ', line));
            } else {
                old[part.old.0..part.old.1].iter().for_each(|line| push(&mut out, '-', line));
                new[part.new.0..part.new.1].iter().for_each(|line| push(&mut out, '+', line));
            }
        }
    }
    out
}

fn push(out: &mut String, mark: char, line: &str) {
    out.push(mark);
    out.push_str(line);
    out.push('\n');
}

fn range(start: usize, end: usize) -> String {
    match end - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

/// What is equal and what is not, in order.
fn parts(old: &[&str], new: &[&str]) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut i, mut j) = (0, 0);
    for (a, b, size) in matches(old, new) {
        if i < a || j < b {
            parts.push(Part { tag: Tag::Change, old: (i, a), new: (j, b) });
        }
        if size > 0 {
            parts.push(Part { tag: Tag::Equal, old: (a, a + size), new: (b, b + size) });
        }
        (i, j) = (a + size, b + size);
    }
    parts
}

/// Changes with the lines around them; changes that are far from each other are groups of their own.
fn groups(mut parts: Vec<Part>) -> Vec<Vec<Part>> {
    if let Some(first) = parts.first_mut().filter(|part| part.tag == Tag::Equal) {
        let keep = CONTEXT.min(first.old.1 - first.old.0);
        (first.old.0, first.new.0) = (first.old.1 - keep, first.new.1 - keep);
    }
    if let Some(last) = parts.last_mut().filter(|part| part.tag == Tag::Equal) {
        let keep = CONTEXT.min(last.old.1 - last.old.0);
        (last.old.1, last.new.1) = (last.old.0 + keep, last.new.0 + keep);
    }
    let mut groups = Vec::new();
    let mut group: Vec<Part> = Vec::new();
    for part in parts {
        if part.tag == Tag::Equal && part.old.1 - part.old.0 > 2 * CONTEXT {
            let head = (part.old.0 + CONTEXT, part.new.0 + CONTEXT);
            group.push(Part { old: (part.old.0, head.0), new: (part.new.0, head.1), ..part });
            groups.push(std::mem::take(&mut group));
            let tail = (part.old.1 - CONTEXT, part.new.1 - CONTEXT);
            group.push(Part { old: (tail.0, part.old.1), new: (tail.1, part.new.1), ..part });
        } else {
            group.push(part);
        }
    }
    groups.push(group);
    groups.retain(|group| group.iter().any(|part| part.tag == Tag::Change));
    groups
}

/// Runs that both have, in order, and an empty one at the end.
fn matches(old: &[&str], new: &[&str]) -> Vec<(usize, usize, usize)> {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (number, line) in new.iter().enumerate() {
        places.entry(line).or_default().push(number);
    }
    if new.len() >= POPULAR_LINES_MIN {
        let popular = new.len() / 100 + 1;
        places.retain(|_, numbers| numbers.len() <= popular);
    }
    let mut found = Vec::new();
    let mut pending = vec![(0, old.len(), 0, new.len())];
    while let Some((old_start, old_end, new_start, new_end)) = pending.pop() {
        let (a, b, size) = longest(old, new, &places, (old_start, old_end), (new_start, new_end));
        if size > 0 {
            found.push((a, b, size));
            if old_start < a && new_start < b {
                pending.push((old_start, a, new_start, b));
            }
            if a + size < old_end && b + size < new_end {
                pending.push((a + size, old_end, b + size, new_end));
            }
        }
    }
    found.sort_unstable();
    let mut joined: Vec<(usize, usize, usize)> = Vec::new();
    for (a, b, size) in found {
        match joined.last_mut() {
            Some(last) if last.0 + last.2 == a && last.1 + last.2 == b => last.2 += size,
            _ => joined.push((a, b, size)),
        }
    }
    joined.push((old.len(), new.len(), 0));
    joined
}

/// The longest run that both have in these ranges; the first of several.
fn longest(
    old: &[&str],
    new: &[&str],
    places: &HashMap<&str, Vec<usize>>,
    old_range: (usize, usize),
    new_range: (usize, usize),
) -> (usize, usize, usize) {
    let (mut best_a, mut best_b, mut best) = (old_range.0, new_range.0, 0);
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for (a, line) in old.iter().enumerate().take(old_range.1).skip(old_range.0) {
        let mut next = HashMap::new();
        for b in places.get(line).into_iter().flatten().copied() {
            if b < new_range.0 {
                continue;
            }
            if b >= new_range.1 {
                break;
            }
            let length = b.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0) + 1;
            next.insert(b, length);
            if length > best {
                (best_a, best_b, best) = (a + 1 - length, b + 1 - length, length);
            }
        }
        lengths = next;
    }
    // Lines that are no anchors may still join a run.
    while best_a > old_range.0 && best_b > new_range.0 && old[best_a - 1] == new[best_b - 1] {
        (best_a, best_b, best) = (best_a - 1, best_b - 1, best + 1);
    }
    while best_a + best < old_range.1 && best_b + best < new_range.1 && old[best_a + best] == new[best_b + best] {
        best += 1;
    }
    (best_a, best_b, best)
}

/// A struct of Go, or any JSON.
pub(crate) enum Shown {
    Value(Value),
    Fields(Vec<(&'static str, Shown)>),
}

impl Shown {
    /// JSON with one value on a line.
    pub(crate) fn pretty(&self) -> String {
        let mut out = String::new();
        self.write(0, &mut out);
        out
    }

    fn write(&self, depth: usize, out: &mut String) {
        let indent = |depth: usize, out: &mut String| {
            out.push('\n');
            (0..depth).for_each(|_| out.push(' '));
        };
        let entry = |first: bool, key: Option<&str>, value: &Shown, out: &mut String| {
            if !first {
                out.push(',');
            }
            indent(depth + 1, out);
            if let Some(key) = key {
                out.push_str(&Value::from(key).to_string());
                out.push_str(": ");
            }
            value.write(depth + 1, out);
        };
        match self {
            Self::Fields(fields) => {
                out.push('{');
                for (number, (key, value)) in fields.iter().enumerate() {
                    entry(number == 0, Some(key), value, out);
                }
                indent(depth, out);
                out.push('}');
            }
            Self::Value(Value::Object(fields)) if !fields.is_empty() => {
                out.push('{');
                for (number, (key, value)) in fields.iter().enumerate() {
                    entry(number == 0, Some(key), &Self::Value(value.clone()), out);
                }
                indent(depth, out);
                out.push('}');
            }
            Self::Value(Value::Array(items)) if !items.is_empty() => {
                out.push('[');
                for (number, value) in items.iter().enumerate() {
                    entry(number == 0, None, &Self::Value(value.clone()), out);
                }
                indent(depth, out);
                out.push(']');
            }
            Self::Value(value) => out.push_str(&value.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unified;

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let old = "{\n a\n b\n c\n d\n e\n f\n g\n h\n}";
        let new = "{\n a\n b\n c\n x\n e\n f\n g\n h\n}";
        assert_eq!(unified(old, new), "@@ -2,7 +2,7 @@\n  a\n  b\n  c\n- d\n+ x\n  e\n  f\n  g\n");
    }

    #[test]
    fn changes_far_from_each_other_are_shown_apart() {
        let lines = |first: &str, last: &str| {
            let middle: Vec<String> = (0..10).map(|number| number.to_string()).collect();
            format!("{first}\n{}\n{last}", middle.join("\n"))
        };
        let shown = unified(&lines("a", "z"), &lines("b", "y"));
        assert_eq!(shown, "@@ -1,4 +1,4 @@\n-a\n+b\n 0\n 1\n 2\n@@ -9,4 +9,4 @@\n 7\n 8\n 9\n-z\n+y\n");
    }
}
