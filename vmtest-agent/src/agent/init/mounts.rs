//! The file systems that the kernel makes.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::fs::symlink;

use crate::say;
use crate::sys::{self, MS_NODEV, MS_NOEXEC, MS_NOSUID};

/// What every machine has.
pub(super) fn kernel() {
    let strict = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    mount(c"proc", "/proc", strict, c"");
    mount(c"sysfs", "/sys", strict, c"");
    mount(c"devtmpfs", "/dev", MS_NOSUID, c"mode=0755");
    mount(c"tmpfs", "/run", MS_NOSUID | MS_NODEV, c"mode=0755");
}

/// What a machine without a system of its own has besides.
pub(super) fn diskless() {
    mount(
        c"devpts",
        "/dev/pts",
        MS_NOSUID | MS_NOEXEC,
        c"mode=0620,gid=5,ptmxmode=0666",
    );
    mount(c"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, c"mode=1777");
    mount(c"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, c"mode=1777");
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        // One that is there already is as good.
        let _ = symlink(target, format!("/dev/{link}"));
    }
}

fn mount(kind: &CStr, target: &str, flags: std::ffi::c_ulong, data: &CStr) {
    let _ = fs::create_dir_all(target);
    let Ok(path) = CString::new(target) else { return };
    match sys::mount(kind, &path, kind, flags, data) {
        Err(error) if error.kind() != std::io::ErrorKind::ResourceBusy => say(&format!("{target}: {error}")),
        _ => {}
    }
}
