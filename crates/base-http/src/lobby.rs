//! Where accepted connections wait while all places for handshakes are taken.
//!
//! The system's own queue has one line for everybody: who opens a thousand connections a second is before all others
//! in it. So the accept loop takes whoever comes, and here addresses take turns: whoever sends a crowd waits behind its own
//! crowd. Nothing is held for those who wait but their sockets, and when as many wait as may, somebody of the largest crowd
//! is turned away, the newest, so that those who have waited longest are not in vain.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// What crowds are distinguished by; unix sockets are one.
pub(crate) type Source = Option<IpAddr>;

pub(crate) struct Lobby<T> {
    /// None of them is empty.
    lines: HashMap<Source, VecDeque<T>>,
    /// The sources that have a line, in the order of their turns.
    turns: VecDeque<Source>,
    count: usize,
}

impl<T> Lobby<T> {
    pub(crate) fn new() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), count: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn has_line(&self, source: Source) -> bool {
        self.lines.contains_key(&source)
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self) -> Option<Source> {
        self.turns.front().copied()
    }

    /// Takes out the first in line of the source whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let source = self.turns.pop_front()?;
        let line = self.lines.get_mut(&source)?;
        let first = line.pop_front();
        self.count -= 1;
        match line.is_empty() {
            true => drop(self.lines.remove(&source)),
            false => self.turns.push_back(source),
        }
        first
    }

    /// Lets somebody wait, where `max` may; gives back who is turned away for it.
    pub(crate) fn push(&mut self, source: Source, newcomer: T, max: usize) -> Option<T> {
        let mut turned_away = None;
        if self.count >= max {
            let largest = self.lines.iter().max_by_key(|(_, line)| line.len());
            let own = self.lines.get(&source).map_or(0, VecDeque::len);
            // Only one of a crowd that is then still not the smaller one; which leaves nobody's line empty.
            match largest {
                Some((&crowd, line)) if line.len() >= own + 2 => turned_away = self.pop_newest(crowd),
                _ => return Some(newcomer),
            }
        }
        let line = self.lines.entry(source).or_default();
        if line.is_empty() {
            self.turns.push_back(source);
        }
        line.push_back(newcomer);
        self.count += 1;
        turned_away
    }

    /// Turns away the newest of the largest crowd.
    pub(crate) fn turn_away(&mut self) -> Option<T> {
        let (&crowd, _) = self.lines.iter().max_by_key(|(_, line)| line.len())?;
        self.pop_newest(crowd)
    }

    fn pop_newest(&mut self, source: Source) -> Option<T> {
        let line = self.lines.get_mut(&source)?;
        let newest = line.pop_back()?;
        self.count -= 1;
        if line.is_empty() {
            self.lines.remove(&source);
            self.turns.retain(|one| *one != source);
        }
        Some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> Source {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    /// Newcomers as `(source, number)`, where six may wait; who is turned away, and in which order the others have their turn.
    fn check(newcomers: &[(u8, u32)], turned_away: &[u32], served: &[u32]) {
        let mut lobby = Lobby::new();
        let dropped: Vec<_> =
            newcomers.iter().filter_map(|&(from, number)| lobby.push(source(from), number, 6)).collect();
        assert_eq!(dropped, turned_away, "{newcomers:?}");
        assert_eq!(lobby.len(), newcomers.len() - dropped.len());
        let turns: Vec<_> = std::iter::from_fn(|| lobby.pop()).collect();
        assert_eq!(turns, served, "{newcomers:?}");
        assert!(lobby.is_empty() && lobby.turn().is_none() && lobby.lines.is_empty());
    }

    #[test]
    fn sources_take_turns_and_each_has_a_line() {
        check(&[], &[], &[]);
        check(&[(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)], &[], &[10, 20, 30, 11, 21, 12]);
    }

    #[test]
    fn the_newest_of_the_largest_crowd_is_turned_away() {
        let crowd = [(1, 10), (1, 11), (1, 12), (1, 13), (1, 14), (1, 15)];
        check(&[&crowd[..], &[(1, 16)]].concat(), &[16], &[10, 11, 12, 13, 14, 15]);
        check(&[&crowd[..], &[(2, 20), (2, 21)]].concat(), &[15, 14], &[10, 20, 11, 21, 12, 13]);
        // It shares what there is, and gets no more than that.
        check(
            &[&crowd[..], &[(2, 20), (2, 21), (2, 22), (2, 23)]].concat(),
            &[15, 14, 13, 23],
            &[10, 20, 11, 21, 12, 22],
        );
    }

    #[test]
    fn somebody_gives_way_when_there_is_space_for_nobody() {
        let mut lobby = Lobby::new();
        assert_eq!(lobby.turn_away(), None);
        assert_eq!(lobby.push(source(1), 1, 0), Some(1));
        for number in 0..3 {
            assert_eq!(lobby.push(source(2), number, 6), None);
        }
        assert_eq!(lobby.push(None, 9, 6), None);
        assert_eq!((lobby.turn_away(), lobby.turn_away()), (Some(2), Some(1)));
        assert!(lobby.turn_away().is_some() && lobby.turn_away().is_some() && lobby.turn_away().is_none());
        assert!(lobby.is_empty() && lobby.turn().is_none());
    }
}
