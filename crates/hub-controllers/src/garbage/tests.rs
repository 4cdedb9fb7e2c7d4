//! Tests of `garbage`: its decisions, as data.

use super::Owner::{Absent, Solid, Waiting};
use super::*;

#[test]
fn an_object_goes_when_none_of_its_owners_is_left() {
    for (owners, expected) in [
        (vec![], Verdict::Keep),
        (vec![Solid], Verdict::Keep),
        (vec![Absent], Verdict::Delete),
        (vec![Waiting], Verdict::Delete),
        (vec![Absent, Waiting], Verdict::Delete),
        (vec![Solid, Solid], Verdict::Keep),
        (vec![Absent, Solid], Verdict::Release(vec![0])),
        (vec![Solid, Waiting, Absent], Verdict::Release(vec![1, 2])),
    ] {
        assert_eq!(judge(&owners), expected, "{owners:?}");
    }
}
