//! What making images needs of this host.

use std::path::PathBuf;

use vmtest_backends::Result;

use super::tool::find;
use super::tree::Maker;

/// A program that making images needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The program.
    pub program: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    /// Whether another program can stand in for it.
    pub optional: bool,
    /// Where it lies, if it does.
    pub found: Option<PathBuf>,
}

/// The programs that making images needs, found or not, as the builder looks for them.
pub fn needs() -> Vec<Need> {
    let need = |program, package, purpose| Need {
        program,
        package,
        purpose,
        optional: false,
        found: find(program),
    };
    let optional = |need: Need| Need {
        optional: true,
        ..need
    };
    let mut all = vec![
        need("apt-get", "apt", "fetches packages"),
        need("apt-cache", "apt", "knows which packages there are"),
        need("apt-config", "apt", "knows the host's way to its archive"),
        need("dpkg-deb", "dpkg", "unpacks packages"),
        need("setpriv", "util-linux", "ends programs with whoever started them"),
        need("unshare", "util-linux", "keeps mounts and processes apart"),
        need("mkfs.ext4", "e2fsprogs", "writes disks"),
        need("fallocate", "util-linux", "keeps disks sparse"),
        need("sha256sum", "coreutils", "checks what was fetched"),
    ];
    let bootstrap = need("mmdebstrap", "mmdebstrap", "installs packages into disks");
    // It is a script of perl's, and fetched where it is missing.
    match bootstrap.found.is_none() && find("perl").is_none() {
        true => all.push(bootstrap),
        false => all.push(optional(bootstrap)),
    }
    all.push(optional(need("curl", "curl", "fetches cloud images")));
    all
}

/// Whether this user can make files that belong to several users, found by doing it; the error has the cure.
pub fn can_make_trees() -> Result<()> {
    Maker::probe().map(drop)
}
