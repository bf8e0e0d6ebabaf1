//! Where snapshots lie: one folder each, named by its key, published by its manifest.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use vmtest_backends::backend::Snapshot;
use vmtest_backends::manifest::Manifest;
use vmtest_backends::{Error, ErrorKind, Result};

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

    /// All published snapshots that can be read, oldest first.
    pub fn all(&self) -> Result<Vec<Snapshot>> {
        let failed = |cause| unusable(&self.snapshots, "cannot be listed", cause);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // A damaged one is nobody's: it is replaced when it is asked for, and swept by `gc`.
            if let Some(snapshot) = name.to_str().and_then(|key| self.get(key).ok().flatten()) {
                all.push(snapshot);
            }
        }
        all.sort_by(|a, b| (a.manifest.created, &a.manifest.key).cmp(&(b.manifest.created, &b.manifest.key)));
        Ok(all)
    }

    /// Takes the right to make the snapshot `key`, waiting for whoever else makes it; the kernel gives the
    /// right back when the process ends. Blocks without a limit of its own: the builder's is around it.
    pub fn lock(&self, key: &str) -> Result<File> {
        let path = self.locks.join(format!("snapshot-{key}"));
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

    /// Notes how much private memory a fork of `key` used. It only guides admission: what cannot be
    /// written is measured again.
    pub fn note_use(&self, key: &str, bytes: u64) {
        if self.high_water(key).is_none_or(|known| known < bytes) {
            let partial = self.usage.join(format!(".{key}-{}", std::process::id()));
            if fs::write(&partial, bytes.to_string()).is_ok() {
                let _ = fs::rename(&partial, self.usage.join(key));
            }
        }
    }
}

pub(crate) fn unusable(path: &Path, what: &str, cause: io::Error) -> Error {
    Error::new(ErrorKind::Store, format!("{} {what}", path.display())).because(cause)
}
