//! Which QEMU this is, what it can do, and how it executes guests here.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};
use crate::process::Child;
use crate::qemu::qmp::Qmp;

/// How long QEMU may take to say which version it is.
const GREETING_LIMIT: Duration = Duration::from_secs(20);

/// The program, when nothing else is named.
const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU program and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binary {
    pub(super) path: PathBuf,
    pub(super) version: Version,
    /// The distribution's name of the build.
    pub(super) package: String,
    /// Size and time of the program's file: another build, another answer.
    stamp: (u64, i64, i64),
}

/// Major, minor, micro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Version(pub(super) u64, pub(super) u64, pub(super) u64);

impl Version {
    /// The oldest that is known to work.
    const OLDEST: Self = Self(7, 2, 0);

    /// Read-only RAM files that behave as RAM came with 8.2.
    pub(super) fn has_rom_option(self) -> bool {
        self >= Self(8, 2, 0)
    }

    /// `file:` on a passed descriptor; from 9.1 on it replaces `fd:`, which is deprecated for files.
    pub(super) fn has_file_migration(self) -> bool {
        self >= Self(9, 1, 0)
    }
}

impl Binary {
    /// Finds the program (`named`, else in `PATH`) and asks it, unless `cache` has its answer.
    pub(super) async fn find(named: Option<&Path>, cache: &Path) -> Result<Self> {
        let path = locate(named)?;
        let stamp = stamp(&path)?;
        let note = cache.join("qemu.json");
        if let Some(known) = fs::read(&note)
            .ok()
            .and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            && known.path == path
            && known.stamp == stamp
        {
            return Ok(known);
        }
        let binary = ask(path, stamp).await?;
        if binary.version < Version::OLDEST {
            let text = format!(
                "{} is QEMU {}, at least 7.2 is needed",
                binary.path.display(),
                binary.number()
            );
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        binary.remember(&note);
        Ok(binary)
    }

    /// A cache only: whoever cannot read it asks again.
    fn remember(&self, note: &Path) {
        let partial = note.with_extension(format!("partial-{}", std::process::id()));
        if let Ok(text) = serde_json::to_vec(self)
            && fs::write(&partial, text).is_ok()
        {
            let _ = fs::rename(&partial, note);
        }
    }

    /// `10.0.2`.
    pub(super) fn number(&self) -> String {
        let Version(major, minor, micro) = self.version;
        format!("{major}.{minor}.{micro}")
    }

    /// The build, exactly.
    pub(super) fn greeting_text(&self) -> String {
        format!("QEMU {} {}", self.number(), self.package.trim())
    }
}

fn locate(named: Option<&Path>) -> Result<PathBuf> {
    let missing = |text: String| Err(Error::new(ErrorKind::Unavailable, text));
    if let Some(named) = named {
        return if named.is_file() {
            Ok(named.to_owned())
        } else {
            missing(format!("VMTEST_QEMU names {}, which is no file", named.display()))
        };
    }
    match in_path(PROGRAM) {
        Some(path) => Ok(path),
        None => missing(format!(
            "{PROGRAM} is not in PATH; on Debian or Ubuntu: sudo apt-get install qemu-system-x86 \
             (or VMTEST_QEMU names one)"
        )),
    }
}

/// The first executable file of that name in `PATH`.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0))
}

fn stamp(path: &Path) -> Result<(u64, i64, i64)> {
    let meta = fs::metadata(path).map_err(|cause| {
        Error::new(ErrorKind::Unavailable, format!("looked at {}", path.display())).because(cause)
    })?;
    Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

async fn ask(path: PathBuf, stamp: (u64, i64, i64)) -> Result<Binary> {
    let failed = |what: &str| {
        Error::new(
            ErrorKind::Unavailable,
            format!("asked {} for its version: {what}", path.display()),
        )
    };
    let io_failed = |cause: std::io::Error| failed("it did not start").because(cause);
    let (ours, theirs) = UnixStream::pair().map_err(io_failed)?;
    let theirs = std::os::fd::OwnedFd::from(theirs);
    let number = std::os::fd::AsRawFd::as_raw_fd(&theirs);
    let mut command = Command::new(&path);
    command
        .args([
            "-machine",
            "none",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ])
        .args(["-chardev", &format!("socket,id=monitor,fd={number}")])
        .args(["-mon", "chardev=monitor,mode=control"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (events, _) = mpsc::unbounded_channel();
    let (_monitor, greeting) = Qmp::connect(ours, events).map_err(io_failed)?;
    let child = Child::start(command, vec![theirs]).await.map_err(io_failed)?;
    let greeting = match tokio::time::timeout(GREETING_LIMIT, greeting).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(_)) => return Err(failed("it ended without a greeting")),
        Err(_) => {
            return Err(failed(&format!(
                "no greeting within {} s",
                GREETING_LIMIT.as_secs()
            )));
        }
    };
    child
        .kill()
        .await
        .map_err(|cause| failed("it cannot be ended").because(cause))?;
    let (major, minor, micro) = greeting.version;
    Ok(Binary {
        path: path.clone(),
        version: Version(major, minor, micro),
        package: greeting.package,
        stamp,
    })
}
