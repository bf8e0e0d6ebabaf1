//! Where snapshots lie: one folder each, named by its key, published by its manifest.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vmtest_backends::backend::Snapshot;
pub(crate) use vmtest_backends::error::unusable;
use vmtest_backends::manifest::Manifest;
use vmtest_backends::{Error, Result};

use crate::dirs::{self, Dirs};

/// The snapshots of this user; a cheap handle.
#[derive(Debug, Clone)]
pub struct Store {
    snapshots: PathBuf,
    locks: PathBuf,
    usage: PathBuf,
}

impl Store {
    /// The store in these directories.
    pub fn open(dirs: &Dirs) -> Result<Self> {
        Ok(Self {
            snapshots: dirs.in_cache("snapshots")?,
            locks: dirs.in_cache("locks")?,
            usage: dirs.in_cache("usage")?,
        })
    }

    /// The folder of all snapshots.
    pub fn folder(&self) -> &Path {
        &self.snapshots
    }

    /// The snapshot with this key, if it has been published. One that is damaged is reported as an error;
    /// [`Store::begin`] replaces it.
    pub fn get(&self, key: &str) -> Result<Option<Snapshot>> {
        let manifest = Manifest::load(&self.snapshots.join(key))?;
        Ok(manifest.map(|manifest| Snapshot {
            store: self.snapshots.clone(),
            manifest,
        }))
    }

    /// All snapshots, those first that were taken first; what is no whole snapshot at the end.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let failed = |cause| unusable(&self.snapshots, "cannot be listed", cause);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(key) = name.to_str().map(str::to_owned) else {
                continue;
            };
            let state = match self.get(&key) {
                Ok(Some(snapshot)) => State::Whole(Box::new(snapshot)),
                Ok(None) => State::Unfinished,
                Err(damage) => State::Damaged(damage),
            };
            entries.push(Entry { key, state });
        }
        entries.sort_by_key(|entry| match &entry.state {
            State::Whole(snapshot) => (snapshot.manifest.created, entry.key.clone()),
            State::Unfinished | State::Damaged(_) => (u64::MAX, entry.key.clone()),
        });
        Ok(entries)
    }

    /// All published snapshots that can be read, oldest first.
    pub fn all(&self) -> Result<Vec<Snapshot>> {
        let whole = |entry: Entry| match entry.state {
            State::Whole(snapshot) => Some(*snapshot),
            // Nobody's: it is replaced when it is asked for, and swept by `gc`.
            State::Unfinished | State::Damaged(_) => None,
        };
        Ok(self.entries()?.into_iter().filter_map(whole).collect())
    }

    /// Takes the right to make the snapshot `key`, waiting for whoever else makes it; the kernel gives the
    /// right back when the process ends. Blocks without a limit of its own: the builder's is around it.
    pub fn lock(&self, key: &str) -> Result<File> {
        lock(&self.lock_path(key))
    }

    /// The same right, if nobody has it.
    pub fn try_lock(&self, key: &str) -> Result<Option<File>> {
        try_lock(&self.lock_path(key))
    }

    fn lock_path(&self, key: &str) -> PathBuf {
        self.locks.join(format!("snapshot-{key}"))
    }

    /// An empty folder for the snapshot `key`, whose lock the caller holds. It counts from the moment its
    /// manifest is there.
    pub fn begin(&self, key: &str) -> Result<PathBuf> {
        let folder = self.snapshots.join(key);
        self.remove(key)?;
        dirs::make(&folder)?;
        Ok(folder)
    }

    /// Removes a snapshot, its manifest first, so that half of it is never taken for whole.
    pub fn remove(&self, key: &str) -> Result<()> {
        let folder = self.snapshots.join(key);
        let manifest = folder.join(vmtest_backends::manifest::FILE);
        for removed in [fs::remove_file(manifest), fs::remove_dir_all(&folder)] {
            match removed {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(unusable(&folder, "cannot be removed", cause));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The most private memory that a fork of `key` has been seen to use, in bytes.
    pub fn high_water(&self, key: &str) -> Option<u64> {
        fs::read_to_string(self.usage.join(key)).ok()?.trim().parse().ok()
    }

    /// Notes how much private memory a fork of `key` used, and that it was used. It only guides admission:
    /// what cannot be written is measured again.
    pub fn note_use(&self, key: &str, bytes: u64) {
        if self.high_water(key).is_none_or(|known| known < bytes) {
            let partial = self.usage.join(format!(".{key}-{}", std::process::id()));
            if fs::write(&partial, bytes.to_string()).is_ok() {
                let _ = fs::rename(&partial, self.usage.join(key));
            }
        } else if let Ok(note) = OpenOptions::new().write(true).open(self.usage.join(key)) {
            let _ = note.set_modified(SystemTime::now());
        }
    }

    /// When a fork of the snapshot was last put away; when it was taken, if there was none.
    pub fn last_used(&self, snapshot: &Snapshot) -> SystemTime {
        let taken = SystemTime::UNIX_EPOCH + Duration::from_secs(snapshot.manifest.created);
        let note = fs::metadata(self.usage.join(&snapshot.manifest.key)).and_then(|meta| meta.modified());
        note.map_or(taken, |used| used.max(taken))
    }

    /// Removes what is remembered of snapshots that are not there: notes of use, and files of locks that nobody
    /// holds. Returns how many files.
    pub fn forget_the_gone(&self) -> Result<usize> {
        let mut forgotten = 0;
        for (folder, prefix) in [(&self.usage, ""), (&self.locks, "snapshot-")] {
            let failed = |cause| unusable(folder, "cannot be swept", cause);
            for entry in fs::read_dir(folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let key = name.to_str().and_then(|name| name.strip_prefix(prefix));
                let Some(key) = key.filter(|key| !self.snapshots.join(key).exists()) else {
                    continue;
                };
                // Held while the file goes: whoever makes the snapshot holds it, too.
                if let Some(_lock) = self.try_lock(key)? {
                    forgotten += usize::from(fs::remove_file(entry.path()).is_ok());
                    let _ = fs::remove_file(self.lock_path(key));
                }
            }
        }
        Ok(forgotten)
    }
}

/// What lies in the store under a key.
#[derive(Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// What is there.
    pub state: State,
}

/// What lies in the store under a key.
#[derive(Debug)]
pub enum State {
    /// A snapshot.
    Whole(Box<Snapshot>),
    /// One being made, or left by a builder that died: whoever holds its lock knows.
    Unfinished,
    /// One that cannot be used, for this reason.
    Damaged(Error),
}

/// Locks the file at `path`, which is made when missing and may be removed by whoever holds the lock.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let failed = |cause| unusable(path, "cannot be locked", cause);
    loop {
        let file = open_lock(path).map_err(failed)?;
        file.lock().map_err(failed)?;
        if is_at(&file, path).map_err(failed)? {
            return Ok(file);
        }
    }
}

/// The same, unless somebody else holds it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<File>> {
    let failed = |cause| unusable(path, "cannot be locked", cause);
    loop {
        let file = open_lock(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, path).map_err(failed)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Whether the file is still the one at `path`: the last holder may have removed it.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    Ok(fs::metadata(path).is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev()))
}
