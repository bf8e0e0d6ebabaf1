//! The files of a machine's folder and of a snapshot's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{copy_file_range, ioctl_ficlone, seek, statvfs};

use crate::error::{Error, ErrorKind, Result};

pub(super) use crate::error::unusable;

/// The guest's memory.
pub(super) const RAM: &str = "ram";
/// The state of CPU and devices.
pub(super) const STATE: &str = "state";
/// What QEMU had to say.
const LOG: &str = "qemu.log";

/// Bytes that must stay free beyond what a machine may need.
const SPARE_BYTES: u64 = 64 << 20;

pub(super) fn log_path(folder: &Path) -> PathBuf {
    folder.join(LOG)
}

pub(super) fn log_file(path: &Path) -> Result<File> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    opened.map_err(|cause| unusable(path, "cannot be created", cause))
}

/// The last lines QEMU wrote to its standard error.
pub(super) fn log_tail(folder: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(log_path(folder)) {
        let end = file.seek(SeekFrom::End(0)).unwrap_or(0);
        // Whatever can be read is better than nothing; this only decorates an error.
        let _ = file.seek(SeekFrom::Start(end.saturating_sub(4096)));
        let _ = file.read_to_string(&mut text);
    }
    text.trim().to_owned()
}

/// Checks that the file system of `folder` has room for a machine of that size; a memory file that cannot
/// grow would kill QEMU with a bus error later.
pub(super) fn check_space(folder: &Path, memory_mib: u32) -> Result<()> {
    let stat = statvfs(folder)
        .map_err(|cause| unusable(folder, "cannot be asked for its free space", cause.into()))?;
    let free = stat.f_bavail * stat.f_frsize;
    let needed = u64::from(memory_mib) * (1 << 20) + SPARE_BYTES;
    if free >= needed {
        return Ok(());
    }
    let text = format!(
        "no space for a machine in {}: {} MiB are free, {} MiB are needed (memory plus {} MiB); \
         `cargo vmtest gc` frees what is unused",
        folder.display(),
        free >> 20,
        needed >> 20,
        SPARE_BYTES >> 20,
    );
    Err(Error::new(ErrorKind::Store, text))
}

/// Copies a sparse file, by reference where the file system can.
pub(super) fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(&source, at)? {
        copy_range(&source, &target, start, end)?;
        at = end;
    }
    Ok(())
}

fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(start) => Ok(Some((start, seek(file, rustix::fs::SeekFrom::Hole(start))?))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX);
        if copy_file_range(source, Some(&mut from), target, Some(&mut to), length)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Moves a file into a snapshot's folder, where nobody writes it again; returns its size.
pub(super) fn settle(from: &Path, to: &Path, mode: u32) -> Result<u64> {
    let failed = |cause| unusable(to, "cannot be moved into the snapshot", cause);
    fs::rename(from, to).map_err(failed)?;
    seal(to, mode)
}

/// Forbids writing a file; returns its size.
pub(super) fn seal(path: &Path, mode: u32) -> Result<u64> {
    let failed = |cause| unusable(path, "cannot be sealed", cause);
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(fs::metadata(path).map_err(failed)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn copies_keep_bytes_and_holes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-files");
        fs::create_dir_all(&folder).unwrap();
        let from = folder.join(format!("from-{}", std::process::id()));
        let to = folder.join(format!("to-{}", std::process::id()));
        let mut file = File::create(&from).unwrap();
        file.seek(SeekFrom::Start(8 << 20)).unwrap();
        file.write_all(b"middle").unwrap();
        file.set_len(64 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        let (copied, blocks) = (fs::read(&to).unwrap(), fs::metadata(&to).unwrap().blocks());
        fs::remove_file(&from).unwrap();
        fs::remove_file(&to).unwrap();
        assert_eq!(copied.len(), 64 << 20);
        assert_eq!(&copied[8 << 20..(8 << 20) + 6], b"middle");
        assert!(blocks < 1024, "{blocks} blocks: the holes were filled");
    }
}
