//! The terminal of a container: made in its own `/dev/pts`, and watched by the shim.

use std::{
    fs::OpenOptions,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// What programs get while nobody sets the size of a window.
static WINDOW: libc::winsize = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// Makes a terminal, hands its other end to the shim by `shim`, and makes it the one of this session; answers the program's end.
pub fn open(shim: &UnixStream) -> Result<OwnedFd, String> {
    let make = || -> io::Result<OwnedFd> {
        // What is there may be a volume's: whatever it is, nobody waits for it to open. The shim reads without waiting as well.
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let ours = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/pts/ptmx")?;
        let unlocked: libc::c_int = 0;
        // SAFETY: the number outlives the call.
        check(unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
        // By descriptor: a name in `/dev/pts` might lead to somewhere else.
        // SAFETY: the call takes flags and returns a descriptor of its own.
        let peer = check(unsafe {
            libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
        })?;
        // SAFETY: it was made by the call above and is nobody else's.
        let peer = unsafe { OwnedFd::from_raw_fd(peer) };
        // SAFETY: the size is written and outlives the call; the other call takes a number.
        unsafe {
            check(libc::ioctl(ours.as_raw_fd(), libc::TIOCSWINSZ, &raw const WINDOW))?;
            check(libc::ioctl(peer.as_raw_fd(), libc::TIOCSCTTY, 0))?;
        }
        send(shim, ours.as_fd())?;
        Ok(peer)
    };
    make().map_err(|error| format!("failed to make a terminal: {error}"))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn send(to: &UnixStream, fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    message.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(to, &[io::IoSlice::new(b"t")], &mut message, SendFlags::empty())?;
    Ok(())
}

/// The shim's end of a terminal.
pub fn receive(from: &UnixStream) -> Result<OwnedFd, String> {
    let receive = || -> io::Result<OwnedFd> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        rustix::net::recvmsg(from, &mut [io::IoSliceMut::new(&mut byte)], &mut message, flags)?;
        let fds = message.drain().find_map(|one| match one {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        fds.ok_or_else(|| io::Error::other("none was handed over"))
    };
    receive().map_err(|error| format!("failed to take the container's terminal: {error}"))
}
