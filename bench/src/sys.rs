//! What a child is told between fork and exec: the one module of this crate with `unsafe` in it.
#![expect(unsafe_code, reason = "set-up of child processes between fork and exec")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Makes `command` a child that inherits `fds` and dies with the calling thread.
pub(crate) fn inherit(command: &mut Command, fds: &[OwnedFd]) {
    let fds: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || in_child(&fds));
    }
}

fn in_child(fds: &[RawFd]) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for fd in fds {
        // SAFETY: the parent holds these open until the child has been started.
        fcntl_setfd(unsafe { BorrowedFd::borrow_raw(*fd) }, FdFlags::empty())?;
    }
    Ok(())
}
