//! The image `debian` and those based on it: a disk of packages with systemd, booted by the distribution's
//! kernel and an initial RAM disk of ours, which holds the agent: the disk does not depend on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use vmtest_backends::Result;
use vmtest_backends::spec::{Access, Disk, DiskFormat, Image, Ready};

use super::Say;
use super::agent;
use super::apt::Apt;
use super::bootstrap::{Bootstrap, GUEST_SETUP, LEFT_OUT, PACKAGES};
use super::host::Host;
use super::initrd::Initrd;
use super::kernel::{self, Kernel};
use super::key::Key;
use super::shelf::{Shelf, check_room, unusable};
use super::tiny;
use crate::config::DebianDecl;
use crate::dirs::Dirs;

/// The name of the disk in its folder.
const DISK: &str = "disk.raw";

/// What is written while the disk is made without further packages: the system as files and as a disk, package
/// lists and their cache twice; in bytes.
const ROOM: u64 = 1 << 30;

/// What the command line has besides that of `tiny`.
const ROOT: &str = "root=/dev/vda rw";

/// Ends when systemd has started everything, well or not, and no device is being set up any more. The agent
/// answers before systemd is there to be asked; nothing tells of its socket, so it is looked for.
const READY: &str = "until [ -S /run/systemd/private ]; do sleep 0.05; done; \
                     systemctl is-system-running --wait; udevadm settle --timeout=30";

/// The content key of the image.
pub(super) fn digest(host: &Host, decl: &DebianDecl) -> String {
    Key::new("debian")
        .with("kernel", kernel::key(host))
        .with("agent", agent::key())
        .with("disk", disk_key(host, decl))
        .with("cmdline", cmdline())
        .with("ready", READY)
        .finish()
}

fn disk_key(host: &Host, decl: &DebianDecl) -> String {
    Key::new("debian disk")
        .with("distribution", &host.id)
        .with("release", &host.codename)
        .with("architecture", host.architecture)
        .with("kernel", kernel::key(host))
        .with_all("base", &PACKAGES)
        .with_all("packages", &decl.packages)
        .with("size", decl.disk_size.to_string())
        .with_all("left out", &LEFT_OUT)
        .with("set-up", GUEST_SETUP)
        .finish()
}

fn cmdline() -> String {
    format!("{} {ROOT}", tiny::CMDLINE)
}

/// Fills `folder` and returns the image in it.
pub(super) fn build(
    shelf: &Shelf,
    dirs: &Dirs,
    host: &Host,
    decl: &DebianDecl,
    folder: &Path,
    say: Say<'_>,
) -> Result<Image> {
    let kernel = Kernel::get(shelf, dirs, host, say)?;
    let make = |folder: &Path| disk(dirs, host, &kernel, decl, folder, say);
    let home = shelf.get(&disk_key(host, decl), "the disk", say, &make)?;
    let modules = kernel.modules()?;
    let modules = modules.closure(&tiny::wanted(&modules, &[]))?;
    say("writing the initial RAM disk");
    let initrd = Initrd::new().with_modules(&modules).save(folder)?;
    Ok(Image {
        name: String::new(),
        digest: String::new(),
        kernel: Some(kernel.image()),
        initrd: Some(initrd),
        cmdline: cmdline(),
        disks: vec![Disk {
            path: home.join(DISK),
            format: DiskFormat::Raw,
            size: decl.disk_size,
        }],
        seed: None,
        access: Access::Agent,
        ready: Ready::Command(["/bin/sh", "-c", READY].map(str::to_owned).to_vec()),
    })
}

fn disk(
    dirs: &Dirs,
    host: &Host,
    kernel: &Kernel,
    decl: &DebianDecl,
    folder: &Path,
    say: Say<'_>,
) -> Result<()> {
    check_room(folder, ROOM)?;
    say("fetching the package lists");
    let apt = Apt::open(dirs, host, None, say)?;
    let bootstrap = Bootstrap {
        host,
        kernel,
        packages: &decl.packages,
        folder,
        say,
    };
    let disk = bootstrap.disk(apt, DISK, decl.disk_size)?;
    let read_only = fs::Permissions::from_mode(0o444);
    fs::set_permissions(&disk, read_only).map_err(|cause| unusable(&disk, "cannot be made read-only", cause))
}
