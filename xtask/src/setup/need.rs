//! The programs that vmtest calls, and the Debian packages that bring them.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Need {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

const fn need(program: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        program,
        package,
        why,
    }
}

pub(crate) const QEMU: &str = "qemu-system-x86_64";

pub(crate) const NEEDS: [Need; 9] = [
    need(QEMU, "qemu-system-x86", "runs the machines"),
    need("qemu-img", "qemu-utils", "makes their disks"),
    need("mmdebstrap", "mmdebstrap", "builds the Debian image"),
    need("newuidmap", "uidmap", "lets an ordinary user build it"),
    need(
        "passt",
        "passt",
        "gives a machine network where a test asks for it",
    ),
    need("ssh", "openssh-client", "opens SSH sessions into machines"),
    need("ssh-keygen", "openssh-client", "makes the keys for them"),
    need("mkfs.ext4", "e2fsprogs", "makes file systems"),
    need("xz", "xz-utils", "unpacks kernel modules"),
];

/// The packages of one source package that must have one version.
pub(crate) const QEMU_PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

pub(crate) fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| find(need.program).is_none()).collect()
}

/// Each once, in the order of the needs.
pub(crate) fn packages(missing: &[&Need]) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    missing
        .iter()
        .map(|need| need.package)
        .filter(|package| seen.insert(*package))
        .collect()
}

/// In PATH, and in the folders of system programs that an ordinary user's PATH leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut folders = env::split_paths(&path).chain(system);
    folders.find_map(|folder| Some(folder.join(program)).filter(|file| is_executable(file)))
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-at-all").is_none());
    }

    #[test]
    fn a_package_is_named_once() {
        let both = NEEDS
            .iter()
            .filter(|need| need.package == "openssh-client")
            .collect::<Vec<_>>();
        assert_eq!(both.len(), 2);
        assert_eq!(packages(&both), ["openssh-client"]);
    }
}
