//! What a configuration declares: images and the snapshots made from them, as data.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where in a file something was declared; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// An image that tests may name.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageDecl {
    /// The name that tests use.
    pub name: String,
    /// Where it was declared; none for the built-in images.
    pub origin: Option<Origin>,
    /// What it is made of.
    pub source: Source,
    /// Memory of its machines where neither the test nor the settings say, in MiB.
    pub memory_mib: Option<u32>,
    /// Virtual CPUs of its machines where neither the test nor the settings say.
    pub cpus: Option<u32>,
    /// The snapshots declared for it, by name; free of cycles and of unknown parents.
    pub snapshots: BTreeMap<String, SnapshotDecl>,
}

impl ImageDecl {
    /// Memory of its machines where nobody says, in MiB.
    pub fn default_memory_mib(&self) -> u32 {
        self.memory_mib.unwrap_or(match self.source {
            Source::Tiny(_) => 256,
            Source::Debian(_) => 512,
            Source::Files(_) => 1024,
        })
    }
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A kernel and an initial RAM disk with busybox, no disk.
    Tiny(TinyDecl),
    /// A disk of Debian packages with systemd, booted by a kernel of ours.
    Debian(DebianDecl),
    /// The user's own files, or a cloud image.
    Files(FilesDecl),
}

/// A kernel and an initial RAM disk with busybox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TinyDecl {
    /// Kernel modules to load besides the virtio ones, by name, such as `overlay`.
    pub modules: Vec<String>,
}

/// A disk of Debian packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianDecl {
    /// Packages besides the base system.
    pub packages: Vec<String>,
    /// The size of the disk as the guest sees it, in bytes; the file is sparse.
    pub disk_size: u64,
}

/// The size of a Debian disk that does not say, in bytes.
pub const DEFAULT_DISK_SIZE: u64 = 2 << 30;

/// The user's own files; paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesDecl {
    /// The kernel to boot directly; without one the firmware boots the disk.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The disk.
    pub disk: Option<DiskDecl>,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// Whether the agent is brought in (by an initial RAM disk of ours or over the CIDATA disk);
    /// otherwise the image starts its own `vmtest-agent`.
    pub agent: bool,
    /// Whether cloud-init in the guest reads the CIDATA disk.
    pub cloud_init: bool,
    /// A shell command that ends when the machine is ready; none where the agent's answer suffices.
    pub ready: Option<String>,
}

/// A disk of the user's: raw or qcow2, found by its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskDecl {
    /// A file here.
    Path(PathBuf),
    /// A file to be fetched.
    Url {
        /// `https://`, `http://` or `file://`.
        url: String,
        /// SHA-256 of its bytes, 64 lowercase hexadecimal digits.
        sha256: String,
    },
}

/// A snapshot declared by steps; who executes them computes its key too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDecl {
    /// The name that tests use.
    pub name: String,
    /// Where it was declared.
    pub origin: Origin,
    /// The declared snapshot of the same image that it is made from; otherwise the booted image.
    pub from: Option<String>,
    /// Memory, in MiB.
    pub memory_mib: Option<u32>,
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// Whether the steps have an uplink to the network.
    pub network: bool,
    /// The limit of all steps together.
    pub timeout: Option<Duration>,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// One step on the way to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Copies a file or a directory of this host into the guest. The key of the snapshot depends on the
    /// content and the modes, not on where it lies here.
    Copy {
        /// An absolute path here; checked when the step is executed.
        from: PathBuf,
        /// An absolute path in the guest.
        to: String,
    },
    /// Runs a shell text as root; its status must be 0.
    Run {
        /// The text.
        text: String,
        /// Its own limit.
        timeout: Option<Duration>,
    },
    /// Waits until something is there.
    Wait {
        /// What.
        what: WaitFor,
        /// Its own limit.
        timeout: Option<Duration>,
    },
}

/// What a step waits for in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// Something listens on this TCP port of the loopback.
    Port(u16),
    /// This systemd unit is active.
    Unit(String),
    /// This path exists.
    File(String),
    /// This shell text ends with status 0.
    Command(String),
}
