//! Entering a system on a disk, whose init becomes PID 1.

use std::ffi::CString;
use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::be_agent;
use crate::sys::{self, MS_MOVE, MS_RDONLY};

/// How long the disk may take to appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);

/// How often it is looked for, in milliseconds.
const DEVICE_POLL_MS: i32 = 2;

const NEW_ROOT: &str = "/vmtest-root";

pub(super) struct Root<'a> {
    pub(super) device: &'a str,
    pub(super) kind: &'a str,
    pub(super) read_only: bool,
    pub(super) init: &'a str,
}

/// Goes there. Comes back with the reason why that failed.
pub(super) fn enter(root: &Root<'_>) -> String {
    if !wait_for(Path::new(root.device)) {
        let limit = DEVICE_LIMIT.as_secs();
        return format!(
            "the root device {} (root=) did not appear within {limit} s",
            root.device
        );
    }
    if let Err(error) = switch(root) {
        return format!("{} cannot be entered as {}: {error}", root.device, root.kind);
    }
    match sys::fork() {
        Ok(None) => be_agent(),
        Ok(Some(_)) => {}
        Err(error) => return format!("the agent cannot be started: {error}"),
    }
    let error = Command::new(root.init).env_clear().env("TERM", "linux").exec();
    format!(
        "{} (init=) on {} cannot be executed: {error}",
        root.init, root.device
    )
}

fn wait_for(device: &Path) -> bool {
    let begin = Instant::now();
    while !device.exists() {
        if begin.elapsed() > DEVICE_LIMIT {
            return false;
        }
        sys::pause(DEVICE_POLL_MS);
    }
    true
}

fn switch(root: &Root<'_>) -> Result<()> {
    fs::create_dir_all(NEW_ROOT)?;
    let flags = if root.read_only { MS_RDONLY } else { 0 };
    mount(root.device, NEW_ROOT, root.kind, flags)?;
    for name in ["proc", "sys", "dev", "run"] {
        let target = format!("{NEW_ROOT}/{name}");
        if !Path::new(&target).is_dir() {
            fs::create_dir(&target)
                .map_err(|error| Error::other(format!("/{name} is missing there: {error}")))?;
        }
        mount(&format!("/{name}"), &target, "", MS_MOVE)?;
    }
    empty(Path::new("/"), fs::metadata("/")?.dev());
    std::env::set_current_dir(NEW_ROOT)?;
    mount(".", "/", "", MS_MOVE)?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// Frees the memory that the initramfs takes; this process lives on.
fn empty(folder: &Path, device: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.dev() != device => {}
            Ok(meta) if meta.is_dir() => {
                empty(&path, device);
                let _ = fs::remove_dir(&path);
            }
            _ => drop(fs::remove_file(&path)),
        }
    }
}

fn mount(source: &str, target: &str, kind: &str, flags: std::ffi::c_ulong) -> Result<()> {
    let (source, target, kind) = (CString::new(source)?, CString::new(target)?, CString::new(kind)?);
    sys::mount(&source, &target, &kind, flags, c"")
}
