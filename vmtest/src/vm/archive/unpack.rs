//! An archive from a guest, unpacked on the host, which trusts none of its names, lengths and kinds.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tar::{Archive, EntryType};

use super::entry::{Named, Names, Refusal, refused};
use super::name::{check_link, parts};
use super::root::Root;

/// The most bytes that names of folders may take while their modes wait to be set.
const FOLDER_NAMES_LIMIT: usize = 64 * 1024 * 1024;

/// The most bytes of all files of one archive.
const SIZE_LIMIT: u64 = 64 * 1024 * 1024 * 1024;

/// The most bytes behind the end of an archive; usual writers fill up a record of 10 KiB.
const PADDING_LIMIT: u64 = 1024 * 1024;

/// Unpacks `archive` at `to`: into that folder, which is made where it is missing, if the first entry is the
/// top folder; otherwise it must be a single file, which becomes `to` itself. Gives the bytes of all files.
pub(crate) fn unpack(archive: impl Read, to: &Path) -> Result<u64, Refusal> {
    let mut archive = Archive::new(archive);
    let mut names = Names::new(&mut archive)?;
    let empty = || io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is empty");
    let first = names.next()?.ok_or_else(empty)?;
    let size = match first.kind.is_dir() && first.parts.is_empty() {
        true => unpack_tree(first, names, to)?,
        false => unpack_single(first, names, to)?,
    };
    let mut rest = archive.into_inner().take(PADDING_LIMIT + 1);
    if io::copy(&mut rest, &mut io::sink())? > PADDING_LIMIT {
        return Err(refused("there is more behind its end"));
    }
    Ok(size)
}

fn unpack_single<R: Read>(
    mut file: Named<'_, R>,
    mut names: Names<'_, R>,
    to: &Path,
) -> Result<u64, Refusal> {
    if !is_file(file.kind) {
        return Err(file.refuse("it is neither a file nor a folder"));
    }
    if to.is_dir() {
        let why = io::Error::other(format!("{} is a folder on the host", to.display()));
        return Err(file.failed(why));
    }
    let partial = Partial::beside(to);
    let size = partial
        .make()
        .map_err(|cause| file.failed(cause))
        .and_then(|made| fill(&mut file, &made, SIZE_LIMIT))?;
    if let Some(second) = names.next()? {
        return Err(second.refuse("a second entry where a single file was asked for"));
    }
    fs::rename(&partial.0, to).map_err(|cause| file.failed(cause))?;
    Ok(size)
}

/// A file beside the one to be; removed unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn beside(to: &Path) -> Self {
        let mut name = OsString::from(".");
        name.push(to.file_name().unwrap_or(OsStr::new("file")));
        name.push(format!(".{}.partial", std::process::id()));
        Self(to.with_file_name(name))
    }

    fn make(&self) -> io::Result<File> {
        if let Some(folder) = self.0.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create_new(&self.0)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

fn unpack_tree<R: Read>(top: Named<'_, R>, mut names: Names<'_, R>, to: &Path) -> Result<u64, Refusal> {
    let is_new = !to.exists();
    fs::create_dir_all(to).map_err(|cause| top.failed(cause))?;
    let mut tree = Tree {
        root: Root::open(to).map_err(|cause| top.failed(cause))?,
        folders: Vec::new(),
        folder_names: 0,
        size: 0,
    };
    // A folder that was there keeps its mode.
    if is_new {
        tree.folders.push((Vec::new(), top.mode()?));
    }
    while let Some(named) = names.next()? {
        tree.unpack(named)?;
    }
    tree.finish().map_err(|cause| top.failed(cause))
}

struct Tree {
    root: Root,
    /// Folders and their modes, set last: one that is not writable must be filled first.
    folders: Vec<(Vec<OsString>, u32)>,
    folder_names: usize,
    size: u64,
}

impl Tree {
    fn unpack(&mut self, mut named: Named<'_, impl Read>) -> Result<(), Refusal> {
        match named.kind {
            EntryType::Directory => self.folder(named),
            EntryType::Symlink => {
                check_link(&named.link, named.parts.len().saturating_sub(1))
                    .map_err(|why| named.refuse(why))?;
                let made = self.root.symlink(&named.parts, OsStr::from_bytes(&named.link));
                made.map_err(|cause| named.failed(cause))
            }
            EntryType::Link => {
                let to =
                    parts(&named.link).map_err(|why| named.refuse(&format!("as a second name, {why}")))?;
                self.root
                    .link(&named.parts, &to)
                    .map_err(|cause| named.failed(cause))
            }
            kind if is_file(kind) => {
                let file = self
                    .root
                    .file(&named.parts)
                    .map_err(|cause| named.failed(cause))?;
                self.size += fill(&mut named, &file, SIZE_LIMIT - self.size)?;
                Ok(())
            }
            kind => Err(named.refuse(&format!("it is {}", describe(kind)))),
        }
    }

    fn folder(&mut self, named: Named<'_, impl Read>) -> Result<(), Refusal> {
        self.root
            .folder(&named.parts)
            .map_err(|cause| named.failed(cause))?;
        self.folder_names += named.parts.iter().map(|part| part.len()).sum::<usize>();
        if self.folder_names > FOLDER_NAMES_LIMIT {
            return Err(refused("it has too many folders"));
        }
        let mode = named.mode()?;
        self.folders.push((named.parts, mode));
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        // The deepest first: a folder that cannot be entered any more hides those below.
        self.folders
            .sort_by_key(|(parts, _)| std::cmp::Reverse(parts.len()));
        for (parts, mode) in &self.folders {
            self.root.set_mode(parts, *mode)?;
        }
        Ok(self.size)
    }
}

/// Writes an entry's bytes, and only then gives the file its mode and time. At most `limit` bytes.
fn fill(named: &mut Named<'_, impl Read>, mut file: &File, limit: u64) -> Result<u64, Refusal> {
    let size = named.entry.size();
    if size > limit {
        return Err(named.refuse(&format!(
            "it would take {size} bytes, {limit} are left of what is allowed"
        )));
    }
    let mut piece = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let read = named.entry.read(&mut piece)?;
        if read == 0 {
            return Err(
                io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file").into(),
            );
        }
        io::Write::write_all(&mut file, &piece[..read]).map_err(|cause| named.failed(cause))?;
        left -= read as u64;
    }
    let mode = named.mode()?;
    let time = named.entry.header().mtime()?;
    let dated = match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time)) {
        Some(time) => file.set_modified(time),
        None => Ok(()),
    };
    let kept = dated.and_then(|()| file.set_permissions(Permissions::from_mode(mode)));
    kept.map_err(|cause| named.failed(cause))?;
    Ok(size)
}

fn is_file(kind: EntryType) -> bool {
    matches!(kind, EntryType::Regular | EntryType::Continuous)
}

fn describe(kind: EntryType) -> String {
    match kind {
        EntryType::Char | EntryType::Block => "a device".into(),
        EntryType::Fifo => "a named pipe".into(),
        kind => format!("of kind {:?}, which is not supported", char::from(kind.as_byte())),
    }
}
