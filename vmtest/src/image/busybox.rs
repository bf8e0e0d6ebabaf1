//! Busybox, the system in `tiny`: from the distribution's static package.

use std::fs;
use std::path::Path;
use std::time::Duration;

use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::apt::Apt;
use super::host::Host;
use super::key::Key;
use super::shelf::{Shelf, unusable};
use super::tool::Tool;
use super::tree;
use crate::dirs::Dirs;

const PACKAGE: &str = "busybox-static";

/// The limit of asking busybox for its applets.
const LIST_LIMIT: Duration = Duration::from_secs(20);

/// Busybox, read.
#[derive(Debug)]
pub(super) struct Busybox {
    bytes: Vec<u8>,
    applets: Vec<String>,
}

/// The content key of the busybox of this host's release.
pub(super) fn key(host: &Host) -> String {
    Key::new("busybox")
        .with("distribution", &host.id)
        .with("release", &host.codename)
        .with("architecture", host.architecture)
        .with("package", PACKAGE)
        .finish()
}

impl Busybox {
    /// The busybox of this host's release; fetched when it is not there.
    pub(super) fn get(shelf: &Shelf, dirs: &Dirs, host: &Host, say: Say<'_>) -> Result<Self> {
        let folder = shelf.get(&key(host), "busybox", say, &|folder| {
            fetch(dirs, host, folder, say)
        })?;
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|cause| unusable(&path, "cannot be read", cause))
        };
        let applets = read("applets")?;
        let applets = String::from_utf8_lossy(&applets)
            .lines()
            .map(str::to_owned)
            .collect();
        Ok(Self {
            bytes: read("busybox")?,
            applets,
        })
    }

    /// The program.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where its links go, without the leading `/`: `bin/ls`.
    pub(super) fn applets(&self) -> impl Iterator<Item = &str> {
        self.applets
            .iter()
            .map(String::as_str)
            .filter(|path| *path != "bin/busybox")
    }
}

fn fetch(dirs: &Dirs, host: &Host, folder: &Path, say: Say<'_>) -> Result<()> {
    let apt = Apt::open(dirs, host, None, say)?;
    let scratch = folder.join("scratch");
    let unpacked = scratch.join("root");
    fs::create_dir_all(&unpacked).map_err(|cause| unusable(&unpacked, "cannot be made", cause))?;
    say(&format!("fetching {PACKAGE}"));
    apt.unpack(PACKAGE, None, &scratch, &unpacked)?;
    drop(apt);
    let program = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
    let program = program
        .iter()
        .find(|place| place.is_file())
        .ok_or_else(|| Error::new(ErrorKind::Image, format!("the package {PACKAGE} has no busybox")))?;
    let applets = Tool::at(program.clone(), LIST_LIMIT)
        .arg("--list-full")
        .output()?;
    let path = folder.join("applets");
    fs::write(&path, applets).map_err(|cause| unusable(&path, "cannot be written", cause))?;
    let path = folder.join("busybox");
    fs::rename(program, &path).map_err(|cause| unusable(&path, "cannot be made", cause))?;
    tree::remove(&scratch)
}
