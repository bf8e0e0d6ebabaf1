//! What to boot, and how big.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to boot: kernel, initrd and disks that lie ready on this host, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The name that tests use.
    pub name: String,
    /// Content key of everything below; hexadecimal.
    pub digest: String,
    /// The kernel to boot directly; without one the firmware boots the first disk.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, without what the engine adds for its console.
    pub cmdline: String,
    /// The disks, in order; never written to.
    pub disks: Vec<Disk>,
    /// A folder offered to the guest as a small read-only disk labelled CIDATA (cloud-init's NoCloud source).
    pub seed: Option<PathBuf>,
    /// How programs are run inside.
    pub access: Access,
    /// When the booted machine counts as ready.
    pub ready: Ready,
}

/// A disk of an image; read-only, and never with a backing file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where it lies.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Its size as the guest sees it, in bytes; a multiple of 512.
    pub size: u64,
}

/// The format of a disk file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl DiskFormat {
    /// The name QEMU knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// How programs are run inside a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// By our agent over its own serial port.
    Agent,
}

/// When a booted machine counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// When its agent answers.
    Agent,
    /// When, besides, this program ends; its status does not matter (`systemctl is-system-running --wait`
    /// reports a degraded system by a non-zero one).
    Command(Vec<String>),
}

/// A machine to be: an image and a shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// What to boot.
    pub image: Image,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Number of virtual CPUs.
    pub cpus: u32,
}
