//! How many machines this host bears: a ledger of locked files, shared by all processes of the user.
//!
//! Each machine has a file `ID.lock` beside its folder, which says what it costs and is locked by the
//! process that owns it. The kernel unlocks it when that process ends, however it ends: an unlocked file
//! is a machine that is gone, and its folder is swept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::{MemoryLimit, PoolLimits};
use crate::dirs::Dirs;
use crate::pool::memory;
use crate::store::unusable;

/// What stays free of the host's available memory, in MiB.
const RESERVE_MIB: u64 = 256;

/// Virtual CPUs for each of the host's, where the configuration does not say.
const CPUS_PER_CPU: u32 = 16;

/// What a machine takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub cpus: u32,
}

/// A machine in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id, also the name of its folder.
    pub id: String,
    /// What it takes.
    pub cost: Cost,
    /// The key of the snapshot it is a fork of, or the digest of the image it was booted from: what must stay
    /// while it lives.
    pub origin: Option<String>,
}

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    cost: Cost,
    origin: Option<String>,
}

/// What is there for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The bounds of all machines together.
    pub budget: Cost,
    /// What those there are take.
    pub used: Cost,
    /// What the host has available now, without what is to stay free, in MiB.
    pub available_mib: u64,
}

impl Room {
    /// How many more machines of that cost fit.
    pub fn fits(&self, cost: Cost) -> u64 {
        let by_budget = self.budget.memory_mib.saturating_sub(self.used.memory_mib);
        let by_memory = by_budget.min(self.available_mib) / cost.memory_mib.max(1);
        let by_cpus = self.budget.cpus.saturating_sub(self.used.cpus) / cost.cpus.max(1);
        by_memory.min(u64::from(by_cpus))
    }
}

/// The ledger.
#[derive(Debug)]
pub struct Capacity {
    machines: PathBuf,
    limits: PoolLimits,
}

/// A machine's place on this host: its folder and its cost, held until it is dropped.
#[derive(Debug)]
pub struct Slot {
    id: String,
    folder: PathBuf,
    lock_path: PathBuf,
    /// Unlocked by the kernel when this process ends.
    _lock: File,
}

impl Slot {
    /// The machine's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The machine's folder, existing.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The folder is normally gone already, with its machine; whatever stays is swept later.
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Whether a machine may come.
#[derive(Debug)]
pub enum Admission {
    /// It may; here is its place.
    Granted(Slot),
    /// Not now; the text says what is short.
    Later(String),
}

impl Capacity {
    /// The ledger of these directories.
    pub fn open(dirs: &Dirs, limits: PoolLimits) -> Result<Self> {
        let machines = dirs.in_cache("machines")?;
        Ok(Self { machines, limits })
    }

    /// Takes a place for a machine made from `origin`, if there is one. An error when the machine could never
    /// be borne.
    pub fn admit(&self, id: &str, cost: Cost, origin: &str) -> Result<Admission> {
        let budget = self.budget();
        if let Some(what) = short(cost, budget) {
            let text = format!("a machine that {what} can never be admitted on this host");
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        let _ledger = self.ledger()?;
        let used = self.used()?;
        let wanted = Cost {
            memory_mib: used.memory_mib + cost.memory_mib,
            cpus: used.cpus + cost.cpus,
        };
        if let Some(what) = short(wanted, budget) {
            return Ok(Admission::Later(format!(
                "all machines together would be one that {what}"
            )));
        }
        let available = memory::available_mib();
        if cost.memory_mib + RESERVE_MIB > available {
            let text = format!(
                "{} MiB are needed and {available} MiB are available",
                cost.memory_mib + RESERVE_MIB
            );
            return Ok(Admission::Later(text));
        }
        self.take(id, cost, origin).map(Admission::Granted)
    }

    fn take(&self, id: &str, cost: Cost, origin: &str) -> Result<Slot> {
        let lock_path = self.machines.join(format!("{id}.lock"));
        let failed = |cause| unusable(&lock_path, "cannot be made", cause);
        let lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock_path);
        let mut lock = lock.map_err(failed)?;
        lock.lock().map_err(failed)?;
        let line = Line {
            cost,
            origin: Some(origin.to_owned()),
        };
        let text = serde_json::to_vec(&line).map_err(|cause| failed(cause.into()))?;
        lock.write_all(&text).map_err(failed)?;
        let folder = self.machines.join(id);
        let slot = Slot {
            id: id.to_owned(),
            folder,
            lock_path: lock_path.clone(),
            _lock: lock,
        };
        crate::dirs::make(&slot.folder)?;
        Ok(slot)
    }

    /// Removes what machines of dead processes left behind; returns their ids.
    pub fn sweep(&self) -> Result<Vec<String>> {
        let _ledger = self.ledger()?;
        let mut swept = Vec::new();
        for (id, held) in self.entries()? {
            if held.is_none() {
                // The folder first: its lock file tells that it is to go.
                let folder = self.machines.join(&id);
                if let Err(cause) = fs::remove_dir_all(&folder)
                    && cause.kind() != io::ErrorKind::NotFound
                {
                    return Err(unusable(&folder, "cannot be swept", cause));
                }
                let _ = fs::remove_file(self.machines.join(format!("{id}.lock")));
                swept.push(id);
            }
        }
        Ok(swept)
    }

    /// The machines there are now, of all processes.
    pub fn machines(&self) -> Result<Vec<Entry>> {
        let _ledger = self.ledger()?;
        Ok(self
            .entries()?
            .into_iter()
            .filter_map(|(id, line)| {
                let Line { cost, origin } = line?;
                Some(Entry { id, cost, origin })
            })
            .collect())
    }

    /// What is there for machines now.
    pub fn room(&self) -> Result<Room> {
        let _ledger = self.ledger()?;
        Ok(Room {
            budget: self.budget(),
            used: self.used()?,
            available_mib: memory::available_mib().saturating_sub(RESERVE_MIB),
        })
    }

    fn used(&self) -> Result<Cost> {
        let mut used = Cost {
            memory_mib: 0,
            cpus: 0,
        };
        for line in self.entries()?.into_iter().filter_map(|(_, line)| line) {
            used.memory_mib += line.cost.memory_mib;
            used.cpus += line.cost.cpus;
        }
        Ok(used)
    }

    /// Every machine's id, with its line if its owner lives.
    fn entries(&self) -> Result<Vec<(String, Option<Line>)>> {
        let failed = |cause| unusable(&self.machines, "cannot be listed", cause);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.machines).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(id) = name.strip_suffix(".lock").filter(|id| !id.is_empty()) {
                entries.push((id.to_owned(), held_line(&self.machines.join(name))));
            } else if name != LEDGER && !self.machines.join(format!("{name}.lock")).exists() {
                entries.push((name.to_owned(), None));
            }
        }
        Ok(entries)
    }

    fn ledger(&self) -> Result<File> {
        let path = self.machines.join(LEDGER);
        let failed = |cause| unusable(&path, "cannot be locked", cause);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    fn budget(&self) -> Cost {
        let total = memory::total_mib();
        let memory_mib = match self.limits.memory {
            MemoryLimit::Percent(share) => total * u64::from(share) / 100,
            MemoryLimit::Mib(mib) => u64::from(mib),
        };
        let here = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpus = self
            .limits
            .cpus
            .unwrap_or(CPUS_PER_CPU * u32::try_from(here).unwrap_or(1));
        Cost { memory_mib, cpus }
    }
}

/// The lock around reading and changing the ledger.
const LEDGER: &str = "ledger";

/// What is written of a machine if somebody holds it.
fn held_line(path: &Path) -> Option<Line> {
    let mut file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(fs::TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            // Written under the ledger's lock, which the caller holds: it is whole.
            serde_json::from_str(&text).ok()
        }
        _ => None,
    }
}

fn short(cost: Cost, budget: Cost) -> Option<String> {
    if cost.memory_mib > budget.memory_mib {
        Some(format!(
            "takes {} MiB of the {} MiB for machines",
            cost.memory_mib, budget.memory_mib
        ))
    } else if cost.cpus > budget.cpus {
        Some(format!(
            "takes {} of the {} virtual CPUs for machines",
            cost.cpus, budget.cpus
        ))
    } else {
        None
    }
}
