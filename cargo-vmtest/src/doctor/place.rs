//! Our directories.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use vmtest::Result;
use vmtest::dirs::Dirs;

use super::Finding;
use crate::quantity;

/// Below this much free space an image of packages may not fit, in bytes.
const LITTLE_SPACE: u64 = 3 << 30;

/// The cache and the runtime directory: usable, on what, with how much space.
pub(super) fn directories(dirs: &Result<Dirs>) -> Vec<Finding> {
    let dirs = match dirs {
        Ok(dirs) => dirs,
        Err(error) => return vec![Finding::error("directories", error)],
    };
    // That they are 0700 and this user's was checked when they were opened.
    vec![cache(dirs.cache()), runtime(dirs.runtime())]
}

fn cache(path: &Path) -> Finding {
    let what = "cache";
    let shown = path.display();
    let free = match rustix::fs::statvfs(path) {
        Ok(stat) => stat.f_bavail * stat.f_frsize,
        Err(cause) => {
            return Finding::missing(what, format!("{shown} cannot be asked for its space: {cause}"));
        }
    };
    let text = match shares_blocks(path) {
        Err(cause) => return Finding::missing(what, format!("{shown} cannot be written to: {cause}")),
        Ok(true) => format!(
            "{shown}, mode 0700 and this user's, {} free, shares blocks between copies",
            quantity::bytes(free)
        ),
        Ok(false) => format!(
            "{shown}, mode 0700 and this user's, {} free, copies share no blocks",
            quantity::bytes(free)
        ),
    };
    match free < LITTLE_SPACE {
        false => Finding::good(what, text),
        true => Finding::lacking(
            what,
            format!("{text}; `cargo vmtest gc --all` makes space, VMTEST_DIR names another place"),
        ),
    }
}

fn runtime(path: &Path) -> Finding {
    let shown = path.display();
    match probe_file(path) {
        Ok(_) => Finding::good("sockets", format!("{shown}, mode 0700 and this user's")),
        Err(cause) => Finding::missing("sockets", format!("{shown} cannot be written to: {cause}")),
    }
}

/// Whether the file system can make a copy that shares its blocks, found by making one.
fn shares_blocks(folder: &Path) -> std::io::Result<bool> {
    let (one, other) = (
        probe_file(folder)?,
        folder.join(format!(".doctor-{}-copy", std::process::id())),
    );
    let copied = Command::new("cp")
        .arg("--reflink=always")
        .arg("--")
        .args([one.path(), &other])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let removed = fs::remove_file(&other);
    Ok(copied.is_ok_and(|status| status.success()) && removed.is_ok())
}

/// A file that was written, and goes again.
struct Probe(std::path::PathBuf);

impl Probe {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn probe_file(folder: &Path) -> std::io::Result<Probe> {
    let probe = Probe(folder.join(format!(".doctor-{}", std::process::id())));
    fs::File::create(probe.path())?.write_all(&[1; 8192])?;
    Ok(probe)
}
