//! A tree of the host's files as an archive.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use vmtest_backends::{Error, ErrorKind, Result};

/// Writes everything below the folder `from` to `out`: files, folders and symbolic links with their modes and times,
/// all owned by root. Entries are sorted, so that equal trees give equal archives.
pub(crate) fn pack(from: &Path, out: impl Write) -> Result<()> {
    let mut archive = Builder::new(out);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for name in listed(&from.join(&folder))? {
            let inside = folder.join(name);
            let whole = from.join(&inside);
            let failed = |cause| unreadable(&whole, cause);
            let meta = fs::symlink_metadata(&whole).map_err(failed)?;
            append(&mut archive, &whole, &inside, &meta)?;
            if meta.is_dir() {
                folders.push(inside);
            }
        }
    }
    let end = |cause| unreadable(from, cause);
    archive.into_inner().map_err(end)?.flush().map_err(end)
}

fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| unreadable(folder, cause);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(PathBuf::from(entry.map_err(failed)?.file_name()));
    }
    names.sort();
    Ok(names)
}

fn append(archive: &mut Builder<impl Write>, whole: &Path, inside: &Path, meta: &Metadata) -> Result<()> {
    let kind = meta.file_type();
    let appended = if kind.is_dir() {
        archive.append_data(&mut header(meta, EntryType::Directory, 0), inside, io::empty())
    } else if kind.is_symlink() {
        let mut header = header(meta, EntryType::Symlink, 0);
        fs::read_link(whole).and_then(|target| archive.append_link(&mut header, inside, target))
    } else if kind.is_file() {
        append_file(archive, whole, inside)
    } else {
        Err(io::Error::other(
            "it is neither a file, a folder nor a symbolic link",
        ))
    };
    appended.map_err(|cause| unreadable(whole, cause))
}

fn append_file(archive: &mut Builder<impl Write>, whole: &Path, inside: &Path) -> io::Result<()> {
    let file = File::open(whole)?;
    let meta = file.metadata()?;
    let mut header = header(&meta, EntryType::Regular, meta.len());
    archive.append_data(&mut header, inside, Exact::new(file, meta.len()))
}

fn header(meta: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(meta.mode() & 0o7777);
    header.set_mtime(meta.mtime().max(0).unsigned_abs());
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn unreadable(path: &Path, cause: io::Error) -> Error {
    Error::new(
        ErrorKind::Exec,
        format!("{} on the host could not be copied", path.display()),
    )
    .because(cause)
}

/// Exactly so many bytes of a file: one that shrinks meanwhile is an error, what is appended is left out.
#[derive(Debug)]
pub(crate) struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R> Exact<R> {
    pub(crate) fn new(inner: R, size: u64) -> Self {
        Self { inner, left: size }
    }
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut into[..most])?;
        if read == 0 {
            let shrank = "it became shorter while it was copied";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, shrank));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
