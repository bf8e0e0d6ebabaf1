//! The virtio-serial port to the host.

use std::fs::{self, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::sys;

const NAME: &str = "vmtest.agent";

/// How long the port may take to appear.
const LIMIT: Duration = Duration::from_secs(60);

/// How often the device is looked for, in milliseconds: sysfs tells of no new entry.
const POLL_MS: i32 = 2;

const O_NONBLOCK: i32 = 0o4000;

/// Waits for the port and opens it.
pub(crate) fn find() -> Result<OwnedFd> {
    let begin = Instant::now();
    loop {
        let problem = match device() {
            Some(path) => match open(&path) {
                Ok(port) => return Ok(port),
                Err(error) => format!("{}: {error}", path.display()),
            },
            None => format!("there is no virtio-serial port named {NAME}"),
        };
        if begin.elapsed() > LIMIT {
            return Err(Error::other(format!("{problem}, after {} s", LIMIT.as_secs())));
        }
        sys::pause(POLL_MS);
    }
}

fn device() -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == NAME {
            return Some(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    None
}

fn open(path: &PathBuf) -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(path)?;
    Ok(file.into())
}
