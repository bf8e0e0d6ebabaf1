//! The folder that holds what was built, each thing in a folder named by its content key: built by one
//! process at a time, whole or not there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::tree;
use crate::dirs::Dirs;

pub(super) use vmtest_backends::error::unusable;

/// The name of the list of files in each folder; the last file written.
const LIST: &str = "files.json";

/// What fills a folder.
pub(super) type Make<'a> = &'a dyn Fn(&Path) -> Result<()>;

/// What is built, by content key.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    root: PathBuf,
}

/// The files of a thing, with their sizes in bytes.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    what: String,
    files: Vec<(PathBuf, u64)>,
}

impl Shelf {
    pub(super) fn open(dirs: &Dirs) -> Result<Self> {
        Ok(Self {
            root: dirs.in_cache("images")?,
        })
    }

    /// Where all things lie.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the thing with this key lies, or would.
    pub(super) fn place(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// The folder of the thing with this key, if it is there and its files have their sizes.
    pub(super) fn find(&self, key: &str) -> Option<PathBuf> {
        let folder = self.place(key);
        intact(&folder).then_some(folder)
    }

    /// What the thing with this key is, if it is there and its files have their sizes.
    pub(super) fn what(&self, key: &str) -> Option<String> {
        let folder = self.find(key)?;
        read_list(&folder).map(|list| list.what)
    }

    /// The folder of the thing with this key; `make` fills it when it is not there. At most one process
    /// makes it, the others wait: as long as that one lives, and all its steps have limits.
    pub(super) fn get(&self, key: &str, what: &str, say: Say<'_>, make: Make<'_>) -> Result<PathBuf> {
        self.get_usable(key, what, say, &|| true, make)
    }

    /// The same; what is there counts only if it is also `usable`: things refer to each other.
    pub(super) fn get_usable(
        &self,
        key: &str,
        what: &str,
        say: Say<'_>,
        usable: &dyn Fn() -> bool,
        make: Make<'_>,
    ) -> Result<PathBuf> {
        let find = || self.find(key).filter(|_| usable());
        if let Some(folder) = find() {
            return Ok(folder);
        }
        let _lock = Lock::take(self.root.join(format!("{key}.lock")), what, say)?;
        match find() {
            Some(folder) => Ok(folder),
            None => self.make(key, what, say, make),
        }
    }

    fn make(&self, key: &str, what: &str, say: Say<'_>, make: Make<'_>) -> Result<PathBuf> {
        self.sweep(key, say)?;
        let partial = self.root.join(format!(".partial-{key}"));
        fs::create_dir(&partial).map_err(|cause| unusable(&partial, "cannot be made", cause))?;
        let made = make(&partial).and_then(|()| self.publish(key, what, &partial));
        if made.is_err() {
            // What stands in the way of this is told by the error that is already there.
            let _ = tree::remove(&partial);
        }
        made
    }

    /// Removes what a builder that died has left, and what is damaged. Called under the lock of the key.
    fn sweep(&self, key: &str, say: Say<'_>) -> Result<()> {
        let partial = self.root.join(format!(".partial-{key}"));
        if partial.exists() {
            say("removing what a builder that was killed has left");
            tree::remove(&partial)?;
        }
        let folder = self.place(key);
        if folder.exists() {
            say(&format!("{} is damaged and is built anew", folder.display()));
            tree::remove(&folder)?;
        }
        Ok(())
    }

    fn publish(&self, key: &str, what: &str, partial: &Path) -> Result<PathBuf> {
        let mut files = Vec::new();
        list(partial, Path::new(""), &mut files)
            .map_err(|cause| unusable(partial, "cannot be read", cause))?;
        files.sort();
        let list = List {
            what: what.to_owned(),
            files,
        };
        write_json(&partial.join(LIST), &list)?;
        let folder = self.place(key);
        fs::rename(partial, &folder).map_err(|cause| unusable(&folder, "cannot be made", cause))?;
        Ok(folder)
    }
}

/// Refuses when the disk of `folder` has fewer than `need` bytes for us: better at once than after minutes.
pub(super) fn check_room(folder: &Path, need: u64) -> Result<()> {
    let failed = |cause: rustix::io::Errno| unusable(folder, "cannot be examined", cause.into());
    let disk = rustix::fs::statvfs(folder).map_err(failed)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= need {
        return Ok(());
    }
    let text = format!(
        "no space is left on the disk of {}: {} MiB are free, about {} MiB are needed",
        folder.display(),
        free >> 20,
        need >> 20
    );
    Err(Error::new(ErrorKind::Store, text))
}

/// Writes `value` and brings it to the disk.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |cause: io::Error| unusable(path, "cannot be written", cause);
    let text = serde_json::to_vec_pretty(value).map_err(|cause| failed(cause.into()))?;
    let mut file = File::create(path).map_err(failed)?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(failed)
}

fn intact(folder: &Path) -> bool {
    read_list(folder).is_some_and(|list| {
        let there = |(file, size): &(PathBuf, u64)| {
            fs::metadata(folder.join(file)).is_ok_and(|meta| meta.len() == *size)
        };
        list.files.iter().all(there)
    })
}

fn read_list(folder: &Path) -> Option<List> {
    serde_json::from_slice(&fs::read(folder.join(LIST)).ok()?).ok()
}

/// The files of the first level, which are what is handed out; a whole tree would be dear to check each time.
fn list(root: &Path, below: &Path, files: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((below.join(entry.file_name()), meta.len()));
        }
    }
    Ok(())
}

/// A lock of ours. The kernel frees it when its holder dies; dropping it frees it and leaves no file.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock at `path`, or waits for who holds it: that one lives, and all its steps have limits.
    pub(super) fn take(path: PathBuf, what: &str, say: Say<'_>) -> Result<Self> {
        let failed = |cause: io::Error| unusable(&path, "cannot be locked", cause);
        loop {
            let file = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    say(&format!("waiting for another process that is making {what}"));
                    file.lock().map_err(failed)?;
                }
                Err(TryLockError::Error(cause)) => return Err(failed(cause)),
            }
            // The last holder removed the file: whoever comes now locks another one.
            let ours = file.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev()) {
                return Ok(Self { path, file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is still held: whoever waits sees that the file is no longer there.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}
