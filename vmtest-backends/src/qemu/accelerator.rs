//! Whether guests are executed by the processor or by translation.

use std::fmt;
use std::fs;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::qemu::binary::Version;

/// Which accelerator the user wants (`VMTEST_ACCEL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// KVM where a guest has been seen to run on it, else TCG, and that is said.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG.
    Tcg,
}

impl FromStr for Preference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => {
                let text = format!("VMTEST_ACCEL is `{other}`; it can be kvm, tcg or auto");
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }
}

/// How guest code is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the processor; the text is the processor's model.
    Kvm(String),
    /// By translation.
    Tcg,
}

impl Accelerator {
    pub(super) fn kvm() -> Self {
        Self::Kvm(cpu_model())
    }

    /// The name QEMU knows it by.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Kvm(_) => "kvm",
            Self::Tcg => "tcg",
        }
    }

    pub(super) fn cpu(&self, version: Version) -> &'static str {
        match self {
            Self::Kvm(_) => "host",
            // QEMU 7.2 corrupts a kernel that uses cmpxchg16b (Linux 6.12 dies in its allocator).
            Self::Tcg if version < Version(8, 0, 0) => "max,-cx16",
            Self::Tcg => "max",
        }
    }
}

/// With KVM the guest sees the host's processor: another model, another snapshot.
impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm(model) => write!(f, "kvm on {model}"),
            Self::Tcg => f.write_str("tcg"),
        }
    }
}

/// Model and features of the host's first processor, as one line.
fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        let line = first
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value.trim())
    };
    let features = ["model", "stepping", "microcode", "flags"].map(field).join("\n");
    format!(
        "{} {}",
        field("model name"),
        &blake3::hash(features.as_bytes()).to_hex()[..16]
    )
}

/// Why KVM certainly does not work here, from what can be read without starting anything; `None` when a
/// trial is worth it.
pub(super) fn kvm_excluded() -> Option<String> {
    if let Err(cause) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened ({cause})"));
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    if flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm")
    {
        return None;
    }
    Some("the processor shows neither vmx nor svm, so guests do not run on /dev/kvm".into())
}
