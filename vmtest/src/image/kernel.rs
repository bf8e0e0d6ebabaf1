//! The kernel of guests made from packages: the distribution's own for virtual machines.

use std::fs;
use std::path::{Path, PathBuf};

use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::apt::Apt;
use super::host::Host;
use super::key::Key;
use super::modules::Modules;
use super::shelf::{Shelf, check_room, unusable};
use super::tree;
use crate::dirs::Dirs;

/// The file names inside the folder of a kernel.
const IMAGE: &str = "vmlinuz";
const VERSION: &str = "version";

/// What is written while it is fetched: lists of packages and their cache, the package, its files; in bytes.
const ROOM: u64 = 300 << 20;

/// A kernel as it lies on the shelf.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    folder: PathBuf,
    version: String,
}

/// The content key of the kernel of this host's release.
pub(super) fn key(host: &Host) -> String {
    Key::new("kernel")
        .with("distribution", &host.id)
        .with("release", &host.codename)
        .with("architecture", host.architecture)
        .with("package", host.kernel_package())
        .with("suite", host.kernel_suite().unwrap_or_default())
        .finish()
}

impl Kernel {
    /// The kernel of this host's release; fetched when it is not there.
    pub(super) fn get(shelf: &Shelf, dirs: &Dirs, host: &Host, say: Say<'_>) -> Result<Self> {
        let folder = shelf.get(&key(host), "the kernel", say, &|folder| {
            fetch(dirs, host, folder, say)
        })?;
        let path = folder.join(VERSION);
        let version = fs::read_to_string(&path).map_err(|cause| unusable(&path, "cannot be read", cause))?;
        Ok(Self { folder, version })
    }

    /// The file to boot.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join(IMAGE)
    }

    /// What `uname -r` says.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// The folder `lib/modules/VERSION`.
    pub(super) fn modules_folder(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.version)
    }

    /// Its modules.
    pub(super) fn modules(&self) -> Result<Modules> {
        Modules::open(&self.modules_folder())
    }
}

fn fetch(dirs: &Dirs, host: &Host, folder: &Path, say: Say<'_>) -> Result<()> {
    check_room(folder, ROOM)?;
    say("fetching the package lists");
    let apt = Apt::open(dirs, host, host.kernel_suite(), say)?;
    let suite = apt.extra_suite();
    if let (Some(wanted), None) = (host.kernel_suite(), suite) {
        say(&format!(
            "the mirror has no {wanted}: the older kernel of {} is used",
            host.codename
        ));
    }
    let scratch = folder.join("scratch");
    let unpacked = scratch.join("root");
    fs::create_dir_all(&unpacked).map_err(|cause| unusable(&unpacked, "cannot be made", cause))?;
    for package in packages(&apt, host, suite)? {
        say(&format!("fetching {package}"));
        apt.unpack(&package, suite, &scratch, &unpacked)?;
    }
    drop(apt);
    keep(&unpacked, folder)?;
    tree::remove(&scratch)
}

/// The packages that hold the kernel and its modules.
fn packages(apt: &Apt, host: &Host, suite: Option<&str>) -> Result<Vec<String>> {
    let of = |list: Vec<String>, start: &str| list.into_iter().find(|name| name.starts_with(start));
    let meta = host.kernel_package();
    let image = of(apt.needs(&meta, suite)?, "linux-image-")
        .ok_or_else(|| Error::new(ErrorKind::Image, format!("the package {meta} needs no kernel")))?;
    // Ubuntu keeps the modules in a package of their own.
    let modules = of(apt.needs(&image, suite)?, "linux-modules-");
    Ok([Some(image), modules].into_iter().flatten().collect())
}

/// Moves what is needed from the unpacked packages into the folder.
fn keep(unpacked: &Path, folder: &Path) -> Result<()> {
    let modules = ["lib/modules", "usr/lib/modules"].map(|place| unpacked.join(place));
    let modules = modules
        .iter()
        .find(|place| place.is_dir())
        .ok_or_else(|| missing("modules"))?;
    let version = only_entry(modules)?;
    let image = unpacked.join("boot").join(format!("vmlinuz-{version}"));
    let moved = |from: &Path, to: &Path| {
        fs::rename(from, to)
            .map_err(|cause| unusable(to, &format!("cannot be moved from {}", from.display()), cause))
    };
    let home = folder.join("lib");
    fs::create_dir(&home).map_err(|cause| unusable(&home, "cannot be made", cause))?;
    moved(modules, &home.join("modules"))?;
    moved(&image, &folder.join(IMAGE))?;
    let path = folder.join(VERSION);
    fs::write(&path, &version).map_err(|cause| unusable(&path, "cannot be written", cause))
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut entries = fs::read_dir(folder)
        .map_err(|cause| unusable(folder, "cannot be read", cause))?
        .flatten();
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry.file_name().to_string_lossy().into_owned()),
        _ => Err(missing("modules of exactly one version")),
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Image, format!("the kernel's package has no {what}"))
}
