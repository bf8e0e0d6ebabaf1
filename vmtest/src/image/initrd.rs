//! The initial RAM disks: the agent as the first process, kernel modules in load order, and for `tiny`
//! a whole small system around busybox.

use std::io;
use std::path::{Path, PathBuf};

use vmtest_backends::{Error, ErrorKind, Result};

use super::agent;
use super::busybox::Busybox;
use super::cpio::Archive;
use super::modules::Module;
use super::shelf::unusable;

/// An initial RAM disk in the making.
#[derive(Debug, Default)]
pub(super) struct Initrd(Archive);

/// Folders that are there in every root, with their modes.
const FOLDERS: [(&str, u32); 8] = [
    ("dev", 0o755),
    ("proc", 0o755),
    ("sys", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("mnt", 0o755),
    ("root", 0o700),
    ("etc", 0o755),
];

/// Files of the small system around busybox.
const FILES: [(&str, &str); 7] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hostname", "tiny\n"),
    (
        "etc/hosts",
        "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 tiny\n",
    ),
    ("etc/resolv.conf", "# written when the machine gets an uplink\n"),
    (
        "etc/profile",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PATH\n",
    ),
    (
        "etc/services",
        "ssh 22/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nhttps 443/tcp\n",
    ),
];

impl Initrd {
    /// With the agent as `/init`, and nothing else that a user sees.
    pub(super) fn new() -> Self {
        let mut archive = Archive::default();
        for (folder, mode) in FOLDERS {
            archive.directory(folder, mode);
        }
        // The kernel opens it for the first process, before anything is mounted.
        archive.device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, agent::bytes());
        Self(archive)
    }

    /// With modules, which the agent loads in this order.
    pub(super) fn with_modules(mut self, modules: &[Module]) -> Self {
        let mut list = String::new();
        for module in modules {
            let path = format!("modules/{}.ko", module.name);
            self.0.file(&path, 0o644, &module.bytes);
            list.push_str(&format!("/{path}\n"));
        }
        self.0.file("modules/list", 0o644, list.as_bytes());
        self
    }

    /// With a small system around busybox.
    pub(super) fn with_busybox(mut self, busybox: &Busybox) -> Self {
        self.0.file("bin/busybox", 0o755, busybox.bytes());
        for applet in busybox.applets() {
            self.0.link(applet, "/bin/busybox");
        }
        for (path, text) in FILES {
            self.0.file(path, 0o644, text.as_bytes());
        }
        self.0.directory("var/log", 0o755);
        self.0.directory("var/tmp", 0o1777);
        self.0.link("var/run", "/run");
        self
    }

    /// Writes it into `folder`; its file there.
    pub(super) fn save(self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("initrd");
        self.0
            .save(&path)
            .map_err(|cause: io::Error| unusable(&path, "cannot be written", cause))?;
        if agent::bytes().is_empty() {
            let text = "there is no guest agent for this processor: it was not built for this target";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        Ok(path)
    }
}
