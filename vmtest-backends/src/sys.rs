//! Calls of the operating system, Linux: the one module of this crate with `unsafe` in it.
#![expect(
    unsafe_code,
    reason = "set-up of child processes between fork and exec, and readiness of pidfds"
)]

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal, setsid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

unsafe extern "C" {
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int;
}

const CLOSE_RANGE_CLOEXEC: c_int = 4;

/// Makes `command` a child that is killed when the *calling thread* ends, in a session of its own, with no
/// descriptors of ours but its standard streams and `keep`.
///
/// The parent-death signal belongs to the thread that spawns: call it where the thread lives as long as the
/// child may. That the parent did not die between fork and the call is checked afterwards.
pub(crate) fn bind_to_this_thread(command: &mut Command, keep: Vec<RawFd>) {
    let parent = getpid();
    let set_up = move || in_child(parent, &keep);
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(set_up);
    }
}

fn in_child(parent: Pid, keep: &[RawFd]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    setsid()?;
    // SAFETY: marks descriptors close-on-exec and touches no memory.
    if unsafe { close_range(3, c_uint::MAX, CLOSE_RANGE_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: the parent holds these open until the child has been started.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}

/// Readiness of `fd` to be read, from the runtime this is called on.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is made here, so it is not closed while it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
