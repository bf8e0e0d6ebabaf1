//! Makes the root of a Debian system from packages, as a folder, and a disk of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::apt::Apt;
use super::host::Host;
use super::kernel::Kernel;
use super::shelf::unusable;
use super::sources::{self, Source};
use super::tool::{Tool, find};
use super::tree::{self, Maker};

/// The limit of installing all packages.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// The limit of each step after it.
const STEP_LIMIT: Duration = Duration::from_secs(180);

/// The packages of every Debian image.
pub(super) const PACKAGES: [&str; 15] = [
    "apt",
    "ca-certificates",
    "curl",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libpam-systemd",
    "netbase",
    "openssh-server",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
];

/// What is done in the new system before its disk is made.
pub(super) const GUEST_SETUP: &str = include_str!("guest_setup.sh");

/// What no test reads.
pub(super) const LEFT_OUT: [&str; 6] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/lintian/*",
];

/// A Debian system in the making, inside `folder`.
pub(super) struct Bootstrap<'a> {
    pub(super) host: &'a Host,
    pub(super) kernel: &'a Kernel,
    pub(super) packages: &'a [String],
    pub(super) folder: &'a Path,
    pub(super) say: Say<'a>,
}

impl Bootstrap<'_> {
    /// Makes the disk `name` of `size` bytes in the folder: installs, sets up, writes, and clears away.
    pub(super) fn disk(&self, apt: Apt, name: &str, size: u64) -> Result<PathBuf> {
        let maker = Maker::probe()?;
        let scratch = self.folder.join("scratch");
        let root = scratch.join("root");
        fs::create_dir(&scratch).map_err(|cause| unusable(&scratch, "cannot be made", cause))?;
        self.install(maker, &apt, &scratch, &root)?;
        (self.say)("setting the system up");
        self.add_modules(maker, &root)?;
        self.set_up(maker, &apt, &root)?;
        drop(apt);
        (self.say)("writing the disk");
        let disk = self.folder.join(name);
        self.write(maker, &root, &disk, size)?;
        (self.say)("clearing away");
        tree::remove(&scratch)?;
        Ok(disk)
    }

    fn install(&self, maker: Maker, apt: &Apt, scratch: &Path, root: &Path) -> Result<()> {
        let count = PACKAGES.len() + self.packages.len();
        (self.say)(&format!(
            "installing {count} packages of {} and what they need",
            self.host.codename
        ));
        let written = |name: &str, text: String| {
            let path = scratch.join(name);
            fs::write(&path, text)
                .map_err(|cause| unusable(&path, "cannot be written", cause))
                .map(|()| path)
        };
        let list = written("release.sources", sources::stanzas(apt.sources()))?;
        let transport = written("transport.conf", apt.transport()?)?;
        let all: Vec<&str> = PACKAGES
            .into_iter()
            .chain(self.packages.iter().map(String::as_str))
            .collect();
        let tool = mmdebstrap(apt, scratch)?
            .args(["--mode=root", "--variant=minbase", "--format=directory"])
            .arg(format!("--architectures={}", self.host.architecture))
            .arg(format!("--aptopt={}", transport.display()))
            .args([
                "--aptopt=APT::Sandbox::User \"root\"",
                "--aptopt=Acquire::Languages \"none\"",
            ])
            .arg("--dpkgopt=force-unsafe-io")
            .args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")))
            .arg(format!("--include={}", all.join(",")))
            .arg(&self.host.codename)
            .args([root, &list]);
        let mut told = |line: &str| {
            if let Some(step) = line.strip_prefix("I: ") {
                (self.say)(step);
            }
        };
        maker
            .run(tool, INSTALL_LIMIT)?
            .told(&mut told)
            .map(drop)
            .map_err(|cause| {
                let text = format!("the packages {} could not be installed", all.join(", "));
                Error::new(cause.kind(), text).because(cause)
            })
    }

    fn add_modules(&self, maker: Maker, root: &Path) -> Result<()> {
        let home = root.join("usr/lib/modules");
        let made = Tool::new("mkdir", "coreutils", STEP_LIMIT)?.arg("-p").arg(&home);
        maker.run(made, STEP_LIMIT)?.output()?;
        let copy = Tool::new("cp", "coreutils", STEP_LIMIT)?.args(["-r", "--preserve=mode", "--"]);
        maker
            .run(copy.arg(self.kernel.modules_folder()).arg(home), STEP_LIMIT)?
            .output()
            .map(drop)
    }

    fn set_up(&self, maker: Maker, apt: &Apt, root: &Path) -> Result<()> {
        for ring in apt.sources().iter().filter_map(Source::key_ring) {
            self.add_key_ring(maker, root, ring)?;
        }
        let checks = apt.transport()?;
        let checks: Vec<&str> = checks
            .lines()
            .filter(|line| line.starts_with("Acquire::Check-"))
            .collect();
        let tool =
            Tool::new("chroot", "coreutils", STEP_LIMIT)?
                .arg(root)
                .args(["/bin/sh", "-c", GUEST_SETUP]);
        let tool = tool
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KERNEL", self.kernel.version())
            .env("SOURCES", sources::stanzas(apt.sources()))
            .env(
                "CHECKS",
                checks.iter().map(|line| format!("{line}\n")).collect::<String>(),
            );
        maker.run(tool, STEP_LIMIT)?.output().map(drop)
    }

    /// The key ring that signs the archive, where the system has not brought it itself.
    fn add_key_ring(&self, maker: Maker, root: &Path, ring: &Path) -> Result<()> {
        let inside = root.join(ring.strip_prefix("/").unwrap_or(ring));
        if inside.exists() || !ring.exists() {
            return Ok(());
        }
        let tool = Tool::new("install", "coreutils", STEP_LIMIT)?.args(["-D", "-m", "0644", "--"]);
        maker
            .run(tool.args([ring, &inside]), STEP_LIMIT)?
            .output()
            .map(drop)
    }

    fn write(&self, maker: Maker, root: &Path, disk: &Path, size: u64) -> Result<()> {
        let tool = Tool::new("mkfs.ext4", "e2fsprogs", STEP_LIMIT)?
            // No lazy work that would be left to every machine; no space kept back for root.
            .args([
                "-q",
                "-F",
                "-L",
                "root",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
            ])
            .args(["-J", "size=16", "-d"])
            .args([root, disk])
            .arg(format!("{}k", size >> 10));
        maker.run(tool, STEP_LIMIT)?.output().map_err(|cause| {
            let text = format!(
                "the disk of {} MiB could not be written; is `disk_size` large enough?",
                size >> 20
            );
            Error::new(cause.kind(), text).because(cause)
        })?;
        let holes = Tool::new("fallocate", "util-linux", STEP_LIMIT)?
            .arg("--dig-holes")
            .arg(disk);
        holes.output().map(drop)
    }
}

/// The program mmdebstrap: the installed one, else that of the package, unpacked.
fn mmdebstrap(apt: &Apt, scratch: &Path) -> Result<Tool> {
    if find("mmdebstrap").is_some() {
        return Tool::new("mmdebstrap", "mmdebstrap", INSTALL_LIMIT);
    }
    if find("perl").is_none() {
        let text = "the program perl is missing; install it with `apt-get install mmdebstrap`";
        return Err(Error::new(ErrorKind::Unavailable, text));
    }
    let unpacked = scratch.join("mmdebstrap");
    apt.unpack("mmdebstrap", None, scratch, &unpacked)?;
    let programs = unpacked.join("usr/bin");
    // It looks for a helper of its own in PATH.
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        programs.display()
    );
    Ok(Tool::at(programs.join("mmdebstrap"), INSTALL_LIMIT).env("PATH", path))
}
