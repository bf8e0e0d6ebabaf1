//! What a new epoch changes in the machine: wall clock, randomness, fork id.

use std::fs::{self, File};
use std::os::fd::AsFd as _;

use crate::sys;
use crate::wire::Hello;

/// Where programs in the guest find the fork's id, as 32 hexadecimal digits.
const FORK_ID: &str = "/run/vmtest/fork-id";

/// What could be done of it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Refreshed {
    pub(crate) clock_set: bool,
    pub(crate) reseeded: bool,
}

/// Sets the machine's clock and feeds its random generator.
pub(crate) fn refresh(hello: &Hello) -> Refreshed {
    let reseeded = File::open("/dev/urandom").is_ok_and(|urandom| sys::reseed(urandom.as_fd(), &hello.seed));
    let refreshed = Refreshed {
        clock_set: sys::set_clock(hello.clock),
        reseeded,
    };
    note_fork(&hello.fork_id);
    refreshed
}

/// Best effort: a machine without a writable `/run` is none the worse.
fn note_fork(fork_id: &[u8; 16]) {
    let digits: String = fork_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let _ = fs::create_dir_all("/run/vmtest").and_then(|()| fs::write(FORK_ID, digits + "\n"));
}

/// Whether the kernel has bound a VM generation id device.
pub(crate) fn has_vmgenid() -> bool {
    [
        "/sys/bus/platform/drivers/vmgenid",
        "/sys/bus/acpi/drivers/vmgenid",
    ]
    .iter()
    .any(|driver| {
        fs::read_dir(driver).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                entry.file_name() != "module" && entry.file_type().is_ok_and(|kind| kind.is_symlink())
            })
        })
    })
}

/// The kernel is to kill tests when memory runs out, not the agent.
pub(crate) fn protect_from_oom() {
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
}
