//! What lies in the cache of images, and its removal.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vmtest_backends::Result;

use super::built;
use super::shelf::{Shelf, unusable};
use super::tree;
use crate::dirs::Dirs;
use crate::store::try_lock;

/// Something in the cache of images: an image, or what images are made from (a kernel, a disk).
#[derive(Debug, Clone)]
pub struct Shelved {
    /// Its content key.
    pub key: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What is there.
    pub condition: Condition,
    /// When it was made.
    pub made: SystemTime,
    /// The keys of other things here that it refers to.
    pub uses: BTreeSet<String>,
}

/// In which condition it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whole; the text says what it is, such as `the image debian`.
    Whole(String),
    /// Files of it are missing or have another size.
    Damaged,
    /// Being made, or left by a builder that died: whoever holds its lock knows.
    Partial,
}

/// Everything in the cache of images, oldest first.
pub fn shelved(dirs: &Dirs) -> Result<Vec<Shelved>> {
    let shelf = Shelf::open(dirs)?;
    let failed = |cause| unusable(shelf.root(), "cannot be listed", cause);
    let mut all = Vec::new();
    for entry in fs::read_dir(shelf.root()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|_| entry.path().is_dir()) else {
            continue;
        };
        let made = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .map_err(failed)?;
        let partial = name.strip_prefix(".partial-");
        let key = partial.unwrap_or(name).to_owned();
        let (condition, uses) = match partial {
            Some(_) => (Condition::Partial, BTreeSet::new()),
            None => (condition(&shelf, &key)?, built::uses(&shelf, &key)),
        };
        all.push(Shelved {
            key,
            folder: entry.path(),
            condition,
            made,
            uses,
        });
    }
    all.sort_by(|one, other| (one.made, &one.key).cmp(&(other.made, &other.key)));
    Ok(all)
}

fn condition(shelf: &Shelf, key: &str) -> Result<Condition> {
    let described = shelf.place(key).join(built::FILE).exists();
    let whole = match described {
        true => built::find(shelf, key)?.is_some(),
        false => true,
    };
    Ok(match shelf.what(key).filter(|_| whole) {
        Some(what) => Condition::Whole(what),
        None => Condition::Damaged,
    })
}

/// Whether the image with this digest is there and whole.
pub fn is_there(dirs: &Dirs, digest: &str) -> Result<bool> {
    Ok(built::find(&Shelf::open(dirs)?, digest)?.is_some())
}

impl Shelved {
    /// Whether somebody holds its lock now.
    pub fn is_being_made(&self) -> bool {
        let lock_path = self.folder.with_file_name(format!("{}.lock", self.key));
        lock_path.exists() && File::open(&lock_path).is_ok_and(|lock| lock.try_lock_shared().is_err())
    }

    /// Removes it, unless somebody is making it or it has meanwhile become whole; tells whether it is gone.
    pub fn remove(&self, dirs: &Dirs) -> Result<bool> {
        let shelf = Shelf::open(dirs)?;
        let lock_path = shelf.root().join(format!("{}.lock", self.key));
        let Some(lock) = try_lock(&lock_path)? else {
            return Ok(false);
        };
        let changed = self.condition == Condition::Damaged && condition(&shelf, &self.key)? != self.condition;
        let removed = match changed {
            true => Ok(false),
            false => tree::remove(&self.folder).map(|()| true),
        };
        let_go(lock, &lock_path);
        removed
    }
}

/// Removed while it is still held: whoever waits sees that the file is no longer there.
fn let_go(lock: File, path: &Path) {
    let _ = fs::remove_file(path);
    drop(lock);
}

/// Removes what was fetched to make images (package lists, packages, cloud images) and not touched for `age`,
/// unless somebody is fetching. Returns the paths and their sizes in bytes.
pub fn remove_fetched(dirs: &Dirs, age: Duration) -> Result<Vec<(PathBuf, u64)>> {
    let mut removed = Vec::new();
    let apt = dirs.in_cache("apt")?;
    let lock_path = apt.join("lock");
    if let Some(lock) = try_lock(&lock_path)? {
        for folder in ["cache", "lists"] {
            remove_old(&apt.join(folder), age, &mut removed)?;
        }
        let_go(lock, &lock_path);
    }
    let downloads = dirs.in_cache("downloads")?;
    let failed = |cause| unusable(&downloads, "cannot be listed", cause);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&downloads).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let stem = name.to_str().and_then(|name| name.split('.').next());
        names.extend(stem.map(str::to_owned));
    }
    for name in names {
        let lock_path = downloads.join(format!("{name}.lock"));
        if let Some(lock) = try_lock(&lock_path)? {
            for file in [name.clone(), format!("{name}.partial")] {
                remove_old(&downloads.join(file), age, &mut removed)?;
            }
            let_go(lock, &lock_path);
        }
    }
    Ok(removed)
}

/// Removes the files below `path` that are older than `age`; folders stay.
fn remove_old(path: &Path, age: Duration, removed: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = |cause| unusable(path, "cannot be removed", cause);
    let meta = match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.map_err(failed)?,
    };
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            remove_old(&entry.map_err(failed)?.path(), age, removed)?;
        }
        return Ok(());
    }
    let modified = meta.modified().map_err(failed)?;
    let old = modified.elapsed().is_ok_and(|elapsed| elapsed >= age);
    if old && meta.is_file() {
        fs::remove_file(path).map_err(failed)?;
        // A file with other names takes its blocks nowhere.
        let bytes = if meta.nlink() == 1 { meta.blocks() * 512 } else { 0 };
        removed.push((path.to_owned(), bytes));
    }
    Ok(())
}
