//! Images of the user's own files, and cloud images: copied into the cache, so that nobody changes them under
//! the snapshots, and given the agent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vmtest_backends::spec::{Access, Disk, Image, Ready};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::agent;
use super::busybox::{self, Busybox};
use super::disk;
use super::fetch;
use super::hashes;
use super::host::Host;
use super::initrd::Initrd;
use super::key::Key;
use super::seed;
use super::shelf::{Shelf, unusable};
use super::tiny;
use crate::config::{DiskDecl, FilesDecl, ImageDecl};
use crate::dirs::Dirs;

/// Ends when cloud-init has done everything, well or not.
const CLOUD_INIT_READY: &str = "cloud-init status --wait >/dev/null";

/// How the agent gets into the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// The image brings and starts its own.
    Own,
    /// As the first process of an initial RAM disk of ours, which then enters the disk.
    Before,
    /// As the first process, above busybox: there is nothing but a kernel.
    Alone,
    /// On the CIDATA disk, from which cloud-init or the image itself starts it.
    Seed,
}

fn entry(decl: &FilesDecl) -> Entry {
    match decl {
        FilesDecl { agent: false, .. } => Entry::Own,
        FilesDecl { kernel: None, .. } | FilesDecl { initrd: Some(_), .. } => Entry::Seed,
        FilesDecl { disk: Some(_), .. } => Entry::Before,
        FilesDecl { disk: None, .. } => Entry::Alone,
    }
}

/// The content key of the image; a file that is not there is an error which names the place.
pub(super) fn digest(dirs: &Dirs, image: &ImageDecl, decl: &FilesDecl) -> Result<String> {
    let mut key = Key::new("files")
        .with("cmdline", cmdline(decl))
        .with("ready", ready(decl).join("\0"))
        .with("entry", format!("{:?}", entry(decl)));
    for (what, path) in [("kernel", &decl.kernel), ("initrd", &decl.initrd)] {
        if let Some(path) = path {
            key = key.with(what, of_file(dirs, image, what, path)?);
        }
    }
    match &decl.disk {
        None => {}
        Some(DiskDecl::Path(path)) => key = key.with("disk", of_file(dirs, image, "disk", path)?),
        Some(DiskDecl::Url { sha256, .. }) => key = key.with("disk", sha256),
    }
    key = match entry(decl) {
        Entry::Own => key,
        Entry::Before => key.with("agent", agent::key()),
        Entry::Alone => key
            .with("agent", agent::key())
            .with("busybox", busybox::key(&Host::detect()?)),
        Entry::Seed => key.with("agent", agent::key()).with("seed", seed::key()),
    };
    Ok(key.finish())
}

fn of_file(dirs: &Dirs, image: &ImageDecl, what: &str, path: &Path) -> Result<String> {
    let usable = fs::metadata(path).and_then(|meta| match meta.is_file() {
        true => fs::File::open(path).map(drop),
        false => Err(std::io::Error::other("it is not a file")),
    });
    usable.map_err(|cause| {
        let place = image
            .origin
            .as_ref()
            .map(|origin| format!(" (declared at {origin})"))
            .unwrap_or_default();
        let text = format!(
            "the {what} of the image {}, {}, cannot be used{place}",
            image.name,
            path.display()
        );
        Error::new(ErrorKind::Invalid, text).because(cause)
    })?;
    hashes::of(dirs, path)
}

/// Fills `folder` and returns the image in it.
pub(super) fn build(
    shelf: &Shelf,
    dirs: &Dirs,
    decl: &FilesDecl,
    digest: &str,
    folder: &Path,
    say: Say<'_>,
) -> Result<Image> {
    let kernel = decl
        .kernel
        .as_deref()
        .map(|path| taken(path, folder, "kernel"))
        .transpose()?;
    let initrd = match (entry(decl), &decl.initrd) {
        (_, Some(path)) => Some(taken(path, folder, "initrd")?),
        (Entry::Before, None) => Some(Initrd::new().save(folder)?),
        (Entry::Alone, None) => {
            let busybox = Busybox::get(shelf, dirs, &Host::detect()?, say)?;
            Some(Initrd::new().with_busybox(&busybox).save(folder)?)
        }
        (Entry::Own | Entry::Seed, None) => None,
    };
    let seed = match entry(decl) {
        Entry::Seed => Some(seed::write(folder, digest)?),
        _ => None,
    };
    let disk = decl
        .disk
        .as_ref()
        .map(|disk| self::disk(dirs, disk, folder, say))
        .transpose()?;
    Ok(Image {
        name: String::new(),
        digest: String::new(),
        kernel,
        initrd,
        cmdline: cmdline(decl),
        disks: disk.into_iter().collect(),
        seed,
        access: Access::Agent,
        ready: match ready(decl) {
            command if command.is_empty() => Ready::Agent,
            command => Ready::Command(command),
        },
    })
}

fn disk(dirs: &Dirs, decl: &DiskDecl, folder: &Path, say: Say<'_>) -> Result<Disk> {
    let place = folder.join("disk");
    match decl {
        DiskDecl::Path(path) => {
            disk::examine(path)?;
            say(&format!("copying {}", path.display()));
            fetch::copy(path, &place)?;
        }
        DiskDecl::Url { url, sha256 } => {
            let fetched = fetch::get(dirs, url, sha256, say)?;
            fs::hard_link(&fetched, &place).map_err(|cause| unusable(&place, "cannot be made", cause))?;
        }
    }
    let (format, size) = disk::examine(&place)?;
    let failed = |cause| unusable(&place, "cannot be made a disk", cause);
    let length = fs::metadata(&place).map_err(failed)?.len();
    if format == vmtest_backends::spec::DiskFormat::Raw && length != size {
        lengthen(&place, size).map_err(failed)?;
    }
    read_only(&place)?;
    Ok(Disk {
        path: place,
        format,
        size,
    })
}

/// Fills the last sector of a raw disk; of a copy of its own, for the fetched file is kept as it was.
fn lengthen(place: &Path, size: u64) -> std::io::Result<()> {
    let copy = place.with_extension("raw");
    fs::copy(place, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600))?;
    fs::File::options().write(true).open(&copy)?.set_len(size)?;
    fs::rename(&copy, place)
}

/// A copy of the user's file in the folder.
fn taken(path: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let place = folder.join(name);
    fetch::copy(path, &place)?;
    read_only(&place)?;
    Ok(place)
}

fn read_only(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
        .map_err(|cause| unusable(path, "cannot be made read-only", cause))
}

fn cmdline(decl: &FilesDecl) -> String {
    match (&decl.cmdline, &decl.kernel, &decl.disk) {
        (Some(own), _, _) => own.clone(),
        (None, None, _) => String::new(),
        (None, Some(_), Some(_)) => format!("{} root=/dev/vda rw", tiny::CMDLINE),
        (None, Some(_), None) => tiny::CMDLINE.to_owned(),
    }
}

fn ready(decl: &FilesDecl) -> Vec<String> {
    let shell = |text: &str| ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
    match &decl.ready {
        Some(own) => shell(own),
        None if decl.cloud_init => shell(CLOUD_INIT_READY),
        None => Vec::new(),
    }
}
