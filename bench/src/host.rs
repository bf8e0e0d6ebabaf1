//! What the host tells: processes, memory, load.

use std::fs;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use crate::error::Result;

/// How long a process that is being ended may take, in seconds.
const END_LIMIT: i64 = 10;

/// The process that works in `folder`.
pub(crate) fn process_in(folder: &Path) -> Result<u32> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder) {
            return Ok(pid);
        }
    }
    Err(format!("no process works in {}", folder.display()).into())
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub(crate) struct Watched(std::os::fd::OwnedFd);

impl Watched {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed()).ok_or("no process id")?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Blocks until it has ended.
    pub(crate) fn ended(&self) -> Result {
        let limit = Timespec {
            tv_sec: END_LIMIT,
            tv_nsec: 0,
        };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit))? {
            0 => Err(format!("a machine's process is there after {END_LIMIT} s").into()),
            _ => Ok(()),
        }
    }
}

/// The share of memory that falls to a process, in MiB.
pub(crate) fn pss(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no Pss is told")?.parse::<f64>()? / 1024.0)
}

/// The load of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok());
    first.unwrap_or(f64::NAN)
}

/// What the figures depend on and the product does not.
pub(crate) fn conditions() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let total = meminfo
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok());
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "cpu": model,
        "memory_mib": total.unwrap_or(0) / 1024,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "vmtest": env!("CARGO_PKG_VERSION"),
        "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
        "load_before": load(),
    })
}
