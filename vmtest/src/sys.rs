//! Calls of the operating system, Linux: the one module of this crate with `unsafe` in it.
#![expect(
    unsafe_code,
    reason = "set-up of detached processes, and the descriptor they inherit"
)]

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::setsid;

unsafe extern "C" {
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
    fn dup2(old: c_int, new: c_int) -> c_int;
    fn fork() -> c_int;
    fn _exit(status: c_int) -> !;
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
}

/// Large enough for any C library's `sigset_t`.
#[repr(C, align(16))]
struct SignalSet([u8; 256]);

const SIG_SETMASK: c_int = 2;

/// The descriptor a detached process finds its listening socket at.
const LISTENER: RawFd = 3;

/// Makes `command` a process of its own: another session, no parent to wait for it, no descriptors but the
/// standard streams and `listener` as number 3, no blocked signals. The child that [`Command::spawn`] gives
/// ends at once and must be waited for.
pub(crate) fn detach(command: &mut Command, listener: &UnixListener) {
    let listener = listener.as_raw_fd();
    // SAFETY: between fork and exec only async-signal-safe functions are called, and nothing is allocated.
    unsafe {
        command.pre_exec(move || in_child(listener));
    }
}

fn in_child(listener: RawFd) -> io::Result<()> {
    setsid()?;
    let mut none = SignalSet([0; 256]);
    // SAFETY: the set is large enough; the calls are async-signal-safe. The first process exits without
    // running anything of ours; the listener is open in it and in its child.
    unsafe {
        sigemptyset(&raw mut none);
        sigprocmask(SIG_SETMASK, &raw const none, std::ptr::null_mut());
        match fork() {
            0 => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => _exit(0),
        }
        if listener == LISTENER {
            // dup2 onto itself would leave close-on-exec set.
            let copy = dup2(listener, LISTENER + 1);
            if copy < 0 || dup2(copy, LISTENER) < 0 {
                return Err(io::Error::last_os_error());
            }
        } else if dup2(listener, LISTENER) < 0 {
            return Err(io::Error::last_os_error());
        }
        const CLOSE_RANGE_CLOEXEC: c_int = 4;
        if close_range(4, c_uint::MAX, CLOSE_RANGE_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The socket this process was started with, if descriptor 3 is a listening one.
pub(crate) fn inherited_listener() -> Option<UnixListener> {
    // SAFETY: borrowed only to ask what it is; a closed descriptor answers with an error.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(LISTENER) };
    if !rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false) {
        return None;
    }
    // SAFETY: it is a listening socket, which only the starter of this process can have put there for us.
    let owned = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(owned.into())
}

/// Ends this process at once: nothing of anybody's runs any more, for a thread of it is stuck.
pub(crate) fn end_at_once(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { _exit(status) }
}
