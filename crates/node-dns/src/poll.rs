//! What the thread waits for: one epoll, whose events name a descriptor by kind, place and age.
//!
//! A descriptor may be closed, and its place taken by another, between two events of one wake-up; the generation keeps them apart.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Events of one wake-up.
pub(crate) const EVENTS_MAX: usize = 64;

/// Kinds of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Ends the thread.
    Wake,
    /// Queries by UDP.
    Udp,
    /// Connections to come.
    Listener,
    /// A client by TCP.
    Client,
    /// An upstream by UDP.
    UpstreamUdp,
    /// An upstream by TCP.
    UpstreamTcp,
}

const SOURCES: [Source; 6] =
    [Source::Wake, Source::Udp, Source::Listener, Source::Client, Source::UpstreamUdp, Source::UpstreamTcp];

/// Names one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) source: Source,
    /// 24 bits.
    pub(crate) generation: u32,
    pub(crate) index: u32,
}

/// Generations wrap here: millions of descriptors later.
pub(crate) const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Token {
    fn encode(self) -> u64 {
        let source = SOURCES.iter().position(|source| *source == self.source).unwrap_or_default() as u64;
        (source << 56) | (u64::from(self.generation & GENERATION_MASK) << 32) | u64::from(self.index)
    }

    fn decode(raw: u64) -> Self {
        let [source, g2, g1, g0, index @ ..] = raw.to_be_bytes();
        Self {
            source: SOURCES.get(usize::from(source)).copied().unwrap_or(Source::Wake),
            generation: u32::from_be_bytes([0, g2, g1, g0]),
            index: u32::from_be_bytes(index),
        }
    }
}

/// What to wait for.
#[derive(Clone, Copy)]
pub(crate) enum Interest {
    Read,
    Write,
    /// Only that it ends.
    Neither,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::Neither => epoll::EventFlags::empty(),
        }
    }
}

/// Everything the thread waits for.
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token.encode()), interest.flags())
    }

    pub(crate) fn change(&self, fd: impl AsFd, token: Token, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token.encode()), interest.flags())
    }

    /// Waits for events, at most as long as given. An interruption is a wake-up without any.
    pub(crate) fn wait<'a>(
        &self,
        space: &'a mut [MaybeUninit<epoll::Event>; EVENTS_MAX],
        timeout: Option<Duration>,
    ) -> Result<impl Iterator<Item = Token> + 'a, Errno> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let events = match epoll::wait(&self.epoll, space.as_mut_slice(), timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(error),
        };
        Ok(events.iter().map(|event| Token::decode(event.data.u64())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_again() {
        for source in SOURCES {
            for (generation, index) in [(0, 0), (1, u32::MAX), (GENERATION_MASK, 7)] {
                let token = Token { source, generation, index };
                assert_eq!(Token::decode(token.encode()), token);
            }
        }
    }
}
