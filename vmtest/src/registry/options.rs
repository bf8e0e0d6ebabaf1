//! What stands in the attributes.

use std::fmt;
use std::time::Duration;

/// What a test asks for: the keys of `#[vm_test(...)]`. What is not set is decided by the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The image to boot. Required.
    pub image: String,
    /// The snapshot to fork; without one, the image as it is once booted.
    pub snapshot: Option<String>,
    /// How long the body may take. In the attribute, a [`Duration`] or a literal such as `"30s"`.
    pub timeout: Option<Duration>,
    /// Memory, in MiB.
    pub memory: Option<u32>,
    /// Number of virtual CPUs.
    pub cpus: Option<u32>,
    /// Whether the machine reaches the network.
    pub network: Option<bool>,
    /// The engine to use, and no other.
    pub backend: Option<String>,
    /// What engine and host must offer, such as `"kvm"` or `"memory-fork"`.
    pub needs: Vec<String>,
}

/// What a snapshot function asks for: the keys of `#[vm_snapshot(...)]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotOptions {
    /// The image it stands on. Required.
    pub image: String,
    /// The name that tests use, unique in its image. Required.
    pub name: String,
    /// The snapshot of the same image it stands on; without one, the image as it is once booted.
    pub from: Option<String>,
    /// Files whose contents belong to the key: globs, relative to the package's folder.
    pub inputs: Vec<String>,
    /// Environment variables whose values belong to the key.
    pub env: Vec<String>,
    /// Belongs to the key: to be changed when something changed that nothing else tells of.
    pub version: Option<Version>,
    /// How long the body may take. In the attribute, a [`Duration`] or a literal such as `"30s"`.
    pub timeout: Option<Duration>,
    /// Memory, in MiB.
    pub memory: Option<u32>,
    /// Number of virtual CPUs.
    pub cpus: Option<u32>,
    /// Whether the machine reaches the network while it is built.
    pub network: Option<bool>,
}

/// The `version` of a snapshot function: a text or a number, compared as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub(super) String);

impl Version {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
