//! What may differ between a page and a run: ages, times, ids, keys, counts of events, widths of columns.
//!
//! A line of a page is a pattern: where it shows a UUID, any UUID fits, and nothing else does. `…` on a page is anything in the line,
//! a line of `...` any lines.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

/// What is looked for on the page, in this order, and what fits in its place (`None`: decided in [`fits`]); how a snapshot names it.
const VARYING: &[(&str, Option<&str>, &str)] = &[
    // A join token: the fingerprint of a CA, an id, a secret.
    (r"sv1\.[0-9a-f]{64}\.[a-z0-9]{6}\.[a-z0-9]{16}", Some(r"sv1\.[0-9a-f]{64}\.[a-z0-9]{6}\.[a-z0-9]{16}"), "<token>"),
    (UUID, Some(UUID), "<uuid>"),
    (TIME, Some(TIME), "<time>"),
    (r"(?:system:bootstrap:|bootstrap-token-)[a-z0-9]{6}", None, ""),
    (r"[0-9a-f]{12,64}\b", Some(r"[0-9a-f]{12,64}"), "<hex>"),
    // Names that a DaemonSet gives.
    (r"-[bcdfghjklmnpqrstvwxz2456789]{10}\b", Some(r"-[bcdfghjklmnpqrstvwxz2456789]{10}"), "-<name>"),
    // Addresses of pods, in the order in which they started, and of Services.
    (r"\b10\.39\.0\.[0-9]{1,3}\b", Some(r"10\.39\.0\.[0-9]{1,3}"), "<pod-ip>"),
    (r"\b10\.96(?:\.[0-9]{1,3}){2}\b", Some(r"10\.(?:9[6-9]|1[01][0-9])(?:\.[0-9]{1,3}){2}"), "<service-ip>"),
    // Values of a reading, and where the next page begins.
    (r#""value":"[^"]*""#, Some(r#""value":"[^"]*""#), "<value>"),
    (r#""next":(?:"[^"]*"|null)"#, Some(r#""next":(?:"[^"]*"|null)"#), "<next>"),
    (r"[0-9]{10,20}", Some("[0-9]{10,20}"), "<number>"),
    (r"[0-9]+ (?:events?|on disk|bytes|runs|due)\b", None, ""),
    // How long ago.
    (r"\b[0-9]+(?:ms|s|m|h|d)(?:[0-9]+[smhd])?\b", Some("[0-9]+(?:ms|s|m|h|d)(?:[0-9]+[smhd])?"), "<age>"),
    // The public half of a bootstrap token: where it is known by what is before it, and where it is known by its form.
    (r"\b(?:bootstrap:|bootstrap-token-|(?:Active|Revoked)\s+[0-9]+\s+)[a-z0-9]{6}\b", None, ""),
    (r"\b[a-z0-9]{6}\b", None, ""),
    ("…", Some(".*"), "…"),
    (r"\s+", Some(r"\s+"), " "),
];

const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
const TIME: &str = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}Z";

static LOOKED_FOR: LazyLock<Regex> = LazyLock::new(|| {
    let parts: Vec<String> = VARYING.iter().map(|(looked_for, ..)| format!("({looked_for})")).collect();
    Regex::new(&parts.join("|")).expect("the table is of expressions")
});

/// Seconds in a row, as the tutorial prints them.
static SECONDS: LazyLock<Regex> = LazyLock::new(|| Regex::new("^(?:[0-9]{10} ?){3,}$").expect("an expression"));

static SPACES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\s+").expect("an expression"));

/// How often an error came is chance.
static TIMES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r" \([0-9]+ times\)$").expect("an expression"));

/// What fits a line of a page.
pub fn pattern(line: &str) -> Regex {
    let line = &*TIMES.replace(line.trim(), "");
    if SECONDS.is_match(line) {
        return Regex::new("^every second once$").expect("an expression");
    }
    let mut expression = "^".to_owned();
    let mut end = 0;
    for found in LOOKED_FOR.captures_iter(line) {
        let whole = found.get(0).expect("the whole is always there");
        expression.push_str(&regex_lite::escape(&line[end..whole.start()]));
        expression.push_str(&fits(&found));
        end = whole.end();
    }
    let _ = write!(expression, "{}$", regex_lite::escape(&line[end..]));
    Regex::new(&expression).unwrap_or_else(|error| panic!("{line}: {expression}: {error}"))
}

fn fits(found: &Captures<'_>) -> String {
    let text = &found[0];
    let row = (0..VARYING.len()).find(|row| found.get(row + 1).is_some()).expect("one of the rows was found");
    if let Some(fits) = VARYING[row].1 {
        return fits.to_owned();
    }
    if let Some((count, word)) = text.split_once(' ')
        && count.parse::<u64>().is_ok()
    {
        // One event or several: chance, too.
        return if word.starts_with("event") { "[0-9]+ events?".to_owned() } else { format!("[0-9]+ {word}") };
    }
    let (before, id) = text.split_at(text.len() - 6);
    let is_id = !before.is_empty() || (id.contains(|c: char| c.is_ascii_digit()) && id.contains(char::is_alphabetic));
    let before = SPACES.replace_all(before, " +");
    if is_id { format!("{before}[a-z0-9]{{6}}") } else { regex_lite::escape(text) }
}

/// A text for a snapshot: what varies is named, spaces are one.
pub fn normalised(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_end();
        LOOKED_FOR.replace_all(line, |found: &Captures<'_>| {
            let row = (0..VARYING.len()).find(|row| found.get(row + 1).is_some()).expect("one of the rows was found");
            let (.., name) = VARYING[row];
            if !name.is_empty() {
                return name.to_owned();
            }
            // An id after what it is the id of, or a count.
            let expression = fits(found);
            expression
                .replace('\\', "")
                .replace(" +", " ")
                .replace("[a-z0-9]{6}", "<id>")
                .replace("[0-9]+", "<count>")
                .replace("s?", "s")
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What was printed, line by line, as patterns expect it: without blank lines, colours and spaces at the ends.
pub fn lines(printed: &str) -> Vec<String> {
    printed.lines().map(|line| plain(&TIMES.replace(line.trim(), ""))).filter(|line| !line.is_empty()).collect()
}

fn plain(line: &str) -> String {
    if SECONDS.is_match(line) {
        let seconds: Vec<u64> = line.split(' ').filter_map(|second| second.parse().ok()).collect();
        // A device is read once a second, and now and then on the other side of the turn of a second.
        let is_steady = seconds.windows(2).all(|pair| (pair[0]..=pair[0] + 2).contains(&pair[1]));
        let span = seconds.last().zip(seconds.first()).map_or(0, |(last, first)| last.saturating_sub(*first) + 1);
        if is_steady && span.abs_diff(seconds.len() as u64) <= 1 {
            return "every second once".to_owned();
        }
    }
    line.to_owned()
}

/// Whether a page's lines are what was printed, in their order.
pub fn is_equal(page: &[String], printed: &[String]) -> bool {
    let Some((first, rest)) = page.split_first() else { return printed.is_empty() };
    if first.trim().is_empty() {
        return is_equal(rest, printed);
    }
    if first.trim() == "..." {
        return (0..=printed.len()).any(|skipped| is_equal(rest, &printed[skipped..]));
    }
    match printed.split_first() {
        Some((line, others)) => pattern(first).is_match(line) && is_equal(rest, others),
        None => false,
    }
}

/// Whether they are the same lines, whatever their order.
pub fn is_same_set(page: &[String], printed: &[String]) -> bool {
    let mut left: Vec<&String> = printed.iter().collect();
    let is_open = page.iter().any(|line| line.trim() == "...");
    let all_found = page.iter().filter(|line| !line.trim().is_empty() && line.trim() != "...").all(|line| {
        let expected = pattern(line);
        let place = left.iter().position(|line| expected.is_match(line));
        place.map(|place| left.remove(place)).is_some()
    });
    all_found && (is_open || left.is_empty())
}

/// Whether a page's lines are among what a role printed, in their order but for its log: that comes in a stream of its own, from
/// tasks that do not wait for each other.
pub fn is_printed(page: &[String], printed: &[String]) -> bool {
    static LOGGED: LazyLock<Regex> = LazyLock::new(|| Regex::new(&format!("^{TIME} ")).expect("an expression"));
    let split = |lines: &[String]| lines.iter().cloned().partition::<Vec<_>, _>(|line| LOGGED.is_match(line));
    let ((page_log, page), (log, printed)) = (split(page), split(printed));
    page_log.iter().all(|line| is_within(std::slice::from_ref(line), &log)) && is_within(&page, &printed)
}

/// Whether a page's lines are among what was printed, in their order.
fn is_within(page: &[String], printed: &[String]) -> bool {
    let mut left = printed.iter();
    page.iter()
        .filter(|line| !line.trim().is_empty() && line.trim() != "...")
        .all(|line| left.any(|printed| pattern(line).is_match(printed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(page: &str, printed: &str, fits: bool) {
        assert_eq!(is_equal(&[page.to_owned()], &lines(printed)), fits, "{page} | {printed} | {}", pattern(page));
    }

    #[test]
    fn what_varies_fits_and_what_does_not_must_be_equal() {
        check("box    Ready    <none>   25s   v1.36.0", "box  Ready <none> 3m5s v1.36.0", true);
        check("box    Ready    <none>   25s   v1.36.0", "box  Ready <none> 3m5s v1.37.0", false);
        check("device.edge/host 1 1 True 25s", "device.edge/host 1 0 True 25s", false);
        check("greeter-xdtblb6tp7 Running", "greeter-ntd8s42hqf Running", true);
        check("greeter-xdtblb6tp7 Running", "greeter-shortname Running", false);
        check("csr-162aa36bdb864586967bbccb503c0e0b x", "csr-d0d706a36e11475e89d5b74189bcbc37 x", true);
        check("system:bootstrap:pvw3nh", "system:bootstrap:abcdef", true);
        check("Active 1 88wcim 3s", "Active 1 pvwxyz 1s", true);
        check("Ready 1 normal 3s", "Ready 1 pvwxyz 1s", false);
        check(r#"{"value":"5e+00"}],"next":"6.0"}"#, r#"{"value":"1.5"}],"next":null}"#, true);
        check("12 events to be exported, 23 on disk", "1 event to be exported, 0 on disk", true);
        check("12 events to be exported, 23 on disk", "1 event lost, 0 on disk", false);
        check("supported values: \"Bool\", …", "supported values: \"Bool\", \"Int8\"", true);
        check("2026-11-22T04:00:47.431063Z  INFO a", "2027-01-02T03:04:05.1Z INFO a", true);
        check("1795320051 1795320052 1795320053 ", "1 2", false);
        check("1795320051 1795320052 1795320053 ", "1795320071 1795320072 1795320073 1795320074 ", true);
        check("1795320051 1795320052 1795320053 ", "1795320071 1795320071 1795320072 1795320073 ", true);
        check("1795320051 1795320052 1795320053 ", "1795320071 1795320074 1795320075 ", false);
        check("1795320051 1795320052 1795320053 ", "1795320071 1795320071 1795320072 1795320072 ", false);
    }

    #[test]
    fn a_snapshot_names_what_varies() {
        // One in seven ids has no digit.
        assert_eq!(
            normalised("box  Active   1   gedziy\nbootstrap-token-gedziy"),
            "box Active 1 <id>\nbootstrap-token-<id>"
        );
        let text = "edge-1   Ready  25s  3m5s\nsystem:bootstrap:pvw3nh 12 events, greeter-xdtblb6tp7 normal";
        assert_eq!(
            normalised(text),
            "edge-1 Ready <age> <age>\nsystem:bootstrap:<id> <count> events, greeter-<name> normal"
        );
    }

    #[test]
    fn lines_may_be_left_out_where_the_page_says_so() {
        let page = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(is_equal(&page("a\n...\nc"), &page("a\nb\nb\nc")));
        assert!(!is_equal(&page("a\n...\nc"), &page("a\nb")));
        assert!(!is_equal(&page("a"), &page("a\nb")));
        assert!(is_same_set(&page("a\nb"), &page("b\na")) && !is_same_set(&page("a\na"), &page("a\nb")));
        let log = "2026-11-22T04:00:47.4Z  INFO a";
        assert!(is_printed(&page(&format!("x\n{log}\ny")), &page(&format!("{log}\nx\nz\ny"))));
        assert!(!is_printed(&page(&format!("x\n{log}")), &page("x\nINFO a")));
        assert!(is_within(&page("a\nc"), &page("a\nb\nc\nd")) && !is_within(&page("c\na"), &page("a\nb\nc")));
    }
}
