//! A folder of the host that nothing is written outside of: each step goes by a descriptor and follows no link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchmod, linkat, mkdirat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// Flags to open a folder that is one, not a link to one.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A folder of the host, and what is below it. Names are given as parts, each a plain file name.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    /// The folder at `path`, where links are followed: its user named it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = FOLDER.difference(OFlags::NOFOLLOW);
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// The folder that is named by `parts`; it and those above are made where they are missing.
    pub(super) fn folder(&self, parts: &[OsString]) -> io::Result<OwnedFd> {
        let mut folder = openat(&self.0, ".", FOLDER, Mode::empty())?;
        for part in parts {
            match mkdirat(&folder, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(cause) => return Err(cause.into()),
            }
            folder = openat(&folder, part, FOLDER, Mode::empty()).map_err(|cause| match cause {
                Errno::NOTDIR | Errno::LOOP => io::Error::other("a file or a link on the host is in its way"),
                cause => cause.into(),
            })?;
        }
        Ok(folder)
    }

    /// A new file, open for writing, of mode 600. What was there is unlinked, never written to.
    pub(super) fn file(&self, parts: &[OsString]) -> io::Result<File> {
        let (folder, name) = self.cleared(parts)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&folder, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// A new symbolic link.
    pub(super) fn symlink(&self, parts: &[OsString], target: &OsStr) -> io::Result<()> {
        let (folder, name) = self.cleared(parts)?;
        Ok(symlinkat(target, &folder, name)?)
    }

    /// A second name for a regular file below this folder.
    pub(super) fn link(&self, parts: &[OsString], to: &[OsString]) -> io::Result<()> {
        let (last, above) = to.split_last().ok_or(Errno::INVAL)?;
        let source = self.folder(above)?;
        let found = statat(&source, last, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other(
                "what it is a second name for is no regular file",
            ));
        }
        let (folder, name) = self.cleared(parts)?;
        Ok(linkat(&source, last, &folder, name, AtFlags::empty())?)
    }

    /// Sets the mode of a folder.
    pub(super) fn set_mode(&self, parts: &[OsString], mode: u32) -> io::Result<()> {
        let folder = self.folder(parts)?;
        Ok(fchmod(&folder, Mode::from_raw_mode(mode & 0o777))?)
    }

    /// The folder that something is to be made in, and its name there, which is free then.
    fn cleared<'a>(&self, parts: &'a [OsString]) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (name, above) = parts.split_last().ok_or(Errno::ISDIR)?;
        let folder = self.folder(above)?;
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((folder, name)),
            Err(Errno::ISDIR) => Err(io::Error::other("a folder on the host is in its way")),
            Err(cause) => Err(cause.into()),
        }
    }
}
