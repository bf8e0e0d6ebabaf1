//! How a tree of files that belong to many users is made and removed: as root, or as an ordinary user in a
//! user namespace of its own.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use vmtest_backends::{Error, ErrorKind, Result};

use super::shelf::unusable;
use super::tool::{Tool, find};

/// The limit of finding out whether namespaces can be had.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// The limit of removing a tree.
const REMOVE_LIMIT: Duration = Duration::from_secs(120);

/// Who programs that make trees run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// As root, with mounts and processes of their own.
    Root,
    /// As root of a user namespace: this user is its root, further users come from `/etc/subuid`.
    Namespace,
}

impl Maker {
    /// What is possible here, found by doing it; or what to do so that it is.
    pub(super) fn probe() -> Result<Self> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::Root);
        }
        let maker = Self::Namespace;
        if find("newuidmap").is_none() {
            let text = "an ordinary user needs the program newuidmap to make the image's files belong to \
                        several users; install it with `apt-get install uidmap`";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        // First without a map: where the kernel refuses, some versions of unshare leave the process behind that
        // they started to write it.
        Tool::new("unshare", "util-linux", PROBE_LIMIT)?
            .args([
                "--user",
                "--mount",
                "--propagation",
                "unchanged",
                "--pid",
                "--fork",
            ])
            .args(["--kill-child", "--", "true"])
            .output()
            .map_err(|cause| no_namespace().because(cause))?;
        // A second user is taken on: without a range of users only root would exist in there.
        let probe = Tool::new("sh", "dash", PROBE_LIMIT)?.args(["-c", "chroot --userspec=33:33 / true"]);
        maker
            .run(probe, PROBE_LIMIT)?
            .output()
            .map_err(|cause| no_namespace().because(cause))?;
        Ok(maker)
    }

    /// `tool`, run so that it can make trees. Whatever it starts ends with it.
    pub(super) fn run(self, tool: Tool, limit: Duration) -> Result<Tool> {
        let wrapper = Tool::new("unshare", "util-linux", limit)?;
        let wrapper = match self {
            Self::Root => wrapper,
            Self::Namespace => wrapper.args(["--user", "--map-root-user", "--map-auto"]),
        };
        // In a chroot whose root is no mount nothing can be made private; mmdebstrap unmounts what it mounts.
        let propagation = if root_is_a_mount() { "private" } else { "unchanged" };
        let wrapper = wrapper.args(["--mount", "--propagation", propagation]);
        Ok(tool.within(wrapper.args(["--pid", "--fork", "--kill-child", "--"])))
    }
}

/// Whether `/` is the root of a mount; otherwise we are in a chroot. Unknown counts as a mount.
fn root_is_a_mount() -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.is_empty() || table.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

/// Removes a tree, if it is there; also one whose files belong to users of a namespace.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            let tool = Tool::new("rm", "coreutils", REMOVE_LIMIT)?
                .args(["-rf", "--"])
                .arg(path);
            Maker::probe()?.run(tool, REMOVE_LIMIT)?.output()?;
            Ok(())
        }
        Err(cause) => Err(unusable(path, "cannot be removed", cause)),
    }
}

fn no_namespace() -> Error {
    let uid = rustix::process::getuid().as_raw();
    let on = |path: &str, bad: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == bad);
    let cure = if on("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "the kernel forbids user namespaces; allow them with `sysctl -w kernel.unprivileged_userns_clone=1`"
            .to_owned()
    } else if on("/proc/sys/user/max_user_namespaces", "0") {
        "the kernel allows no user namespaces; allow them with `sysctl -w user.max_user_namespaces=15000`"
            .to_owned()
    } else if on("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor forbids user namespaces; allow them with \
         `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            .to_owned()
    } else if !has_range("/etc/subuid", uid) || !has_range("/etc/subgid", uid) {
        format!(
            "user {uid} has no range of further users in /etc/subuid and /etc/subgid; give it one with \
             `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 \"$(id -un {uid})\"` as root"
        )
    } else {
        "the kernel, a chroot or the container around us refuses one; make the image once as root, or outside"
            .to_owned()
    };
    let text = format!("an ordinary user needs a user namespace to make an image of packages: {cure}");
    Error::new(ErrorKind::Unavailable, text)
}

/// Whether the file gives the user a range of at least 65536.
fn has_range(file: &str, uid: u32) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let name = user_name(uid);
    text.lines().any(|line| {
        let mut fields = line.split(':');
        let who = fields.next().unwrap_or_default();
        let mine = who == uid.to_string() || name.as_deref() == Some(who);
        mine && fields
            .nth(1)
            .and_then(|count| count.trim().parse::<u64>().ok())
            .is_some_and(|count| count >= 65536)
    })
}

fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid.to_string()))?;
    line.split(':').next().map(str::to_owned)
}
