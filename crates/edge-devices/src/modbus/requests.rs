//! Which requests bring the resources of a command: as few as possible.

use super::config::{Point, READ_REGISTERS_MAX, Table};

/// A round trip costs more than 16 unwanted registers, and a larger hole may hold registers that change when they are
/// read.
const HOLE_MAX: u32 = 16;

/// Bits that one request may bring. The standard allows 2,000; this is the same number of bytes as a full read of
/// registers.
const READ_BITS_MAX: u16 = READ_REGISTERS_MAX * 16;

/// One request and the points it brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where.
    pub table: Table,
    /// First register or bit.
    pub address: u16,
    /// How many.
    pub count: u16,
    /// Indexes of the points within it.
    pub points: Vec<usize>,
}

/// Joins points into requests. With `bridges_holes`, registers that nobody asked for may lie between them; a device that
/// refuses such a request is asked again without.
pub fn plan(points: &[(usize, Point)], bridges_holes: bool) -> Vec<Request> {
    let mut sorted: Vec<&(usize, Point)> = points.iter().collect();
    sorted.sort_by_key(|(index, point)| (point.table, point.address, *index));
    let hole_max = if bridges_holes { HOLE_MAX } else { 0 };
    let mut requests: Vec<Request> = Vec::new();
    for (index, point) in sorted {
        let end = u32::from(point.address) + u32::from(point.count);
        if let Some(last) = requests.last_mut().filter(|last| last.table == point.table) {
            let count_max = if point.table.is_bits() { READ_BITS_MAX } else { READ_REGISTERS_MAX };
            let last_end = u32::from(last.address) + u32::from(last.count);
            let count = end.max(last_end) - u32::from(last.address);
            if u32::from(point.address) <= last_end + hole_max && count <= u32::from(count_max) {
                last.count = count as u16;
                last.points.push(*index);
                continue;
            }
        }
        let points = vec![*index];
        requests.push(Request { table: point.table, address: point.address, count: point.count, points });
    }
    requests
}
