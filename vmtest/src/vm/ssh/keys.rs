//! A key made for one SSH connection, in a private folder that goes with it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tokio::process::Command;
use tokio::time::timeout;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::dirs::{Dirs, make};

/// How long `ssh-keygen` may take.
const KEYGEN_LIMIT: Duration = Duration::from_secs(10);

/// The longest path of the folder, in bytes: ssh makes a control socket in it whose name, with what ssh and
/// openssh append, takes up to 47 of the 107 that a socket's path may have.
const FOLDER_LIMIT: usize = 60;

/// The most host keys that are taken from a guest.
const HOST_KEYS: usize = 16;

/// How the folders of all processes begin.
const PREFIX: &str = "ssh-";

/// A key pair and the folder it lies in, which is removed with it.
#[derive(Debug)]
pub(super) struct Keys {
    folder: PathBuf,
    public: String,
    /// Locked as long as its process lives: another one removes the folder of a process that was killed.
    _lock: OwnedFd,
}

impl Keys {
    /// Makes a new pair. To be polled on the I/O runtime.
    pub(super) async fn make() -> Result<Self> {
        let places = places()?;
        places.iter().for_each(|place| sweep(place));
        let fits = |place: &&PathBuf| place.as_os_str().len() + PREFIX.len() + 16 <= FOLDER_LIMIT;
        let place = places.iter().find(fits).unwrap_or(&places[0]);
        let (folder, lock) = locked(place)?;
        let mut keys = Self {
            folder,
            public: String::new(),
            _lock: lock,
        };
        generate(&keys.private()).await?;
        let public = fs::read_to_string(keys.folder.join("key.pub"));
        keys.public = public
            .map_err(|cause| unusable(&keys.folder, cause))?
            .trim()
            .to_owned();
        Ok(keys)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn public(&self) -> &str {
        &self.public
    }

    pub(super) fn private(&self) -> PathBuf {
        self.folder.join("key")
    }

    pub(super) fn known_hosts(&self) -> PathBuf {
        self.folder.join("known_hosts")
    }

    /// Makes the guest's host keys those of `port` on this host's loopback.
    pub(super) fn know(&self, port: u16, host_keys: &str) -> Result<()> {
        let lines = known_hosts(port, host_keys);
        if lines.is_empty() {
            return Err(Error::new(
                ErrorKind::Exec,
                "the guest's sshd has no host key in /etc/ssh",
            ));
        }
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.known_hosts());
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|cause| unusable(&self.folder, cause))
    }

    /// Removes what only logging in needs.
    pub(super) fn forget(&self) {
        for file in [self.private(), self.known_hosts(), self.folder.join("key.pub")] {
            // Gone at the latest with its folder.
            let _ = fs::remove_file(file);
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A destructor has nobody to tell; the next connection sweeps.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where folders may be: the directory for sockets, and one with a short path for when that is too long.
fn places() -> Result<Vec<PathBuf>> {
    let runtime = Dirs::from_env()?.runtime().to_owned();
    let short = PathBuf::from(format!("/tmp/vmtest-{}", rustix::process::geteuid().as_raw()));
    if runtime.as_os_str().as_bytes().len() + PREFIX.len() + 16 <= FOLDER_LIMIT || runtime == short {
        return Ok(vec![runtime]);
    }
    make(&short)?;
    Ok(vec![runtime, short])
}

/// A new folder, locked.
fn locked(place: &Path) -> Result<(PathBuf, OwnedFd)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = place.join(format!("{PREFIX}{}-{number}", std::process::id()));
        make(&folder)?;
        // Somebody who sweeps can come between the two; then there is nothing at the path any more.
        match lock(&folder) {
            Ok(Some(lock)) if is_at(&lock, &folder) => return Ok((folder, lock)),
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(unusable(&folder, cause)),
        }
    }
}

/// The folder's lock, unless another process has it.
fn lock(folder: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty())?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(opened)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}

fn is_at(lock: &OwnedFd, folder: &Path) -> bool {
    let (Ok(held), Ok(found)) = (rustix::fs::fstat(lock), fs::symlink_metadata(folder)) else {
        return false;
    };
    (held.st_dev, held.st_ino) == (found.dev(), found.ino())
}

/// Removes folders whose processes were killed.
fn sweep(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        if let Ok(Some(_held)) = lock(&entry.path()) {
            // Another one may have swept it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

async fn generate(private: &Path) -> Result<()> {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "vmtest", "-f"])
        .arg(private);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(KEYGEN_LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(cause)) => {
            let what = "the program `ssh-keygen` could not be run on this host (package openssh-client)";
            return Err(Error::new(ErrorKind::Unavailable, what).because(cause));
        }
        Err(_) => {
            let what = format!("ssh-keygen had made no key after {KEYGEN_LIMIT:?}");
            return Err(Error::new(ErrorKind::TimedOut, what));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("ssh-keygen made no key: {said}"),
    ))
}

/// The lines of a known_hosts file; what a guest says that is no key is left out.
fn known_hosts(port: u16, host_keys: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+/=-@.".contains(c);
    let lines = host_keys.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (kind, key) = (words.next()?, words.next()?);
        let is_key = kind.contains('-') && [kind, key].iter().all(|word| word.chars().all(plain));
        is_key.then(|| format!("[127.0.0.1]:{port} {kind} {key}\n"))
    });
    lines.take(HOST_KEYS).collect()
}

fn unusable(folder: &Path, cause: io::Error) -> Error {
    Error::new(
        ErrorKind::Store,
        format!("the folder {} for an SSH key is unusable", folder.display()),
    )
    .because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_become_known_hosts() {
        let said = "ssh-ed25519 AAAA+/= root@debian\n\nnonsense\n* AAAA\nssh-rsa A,B\n";
        assert_eq!(known_hosts(4022, said), "[127.0.0.1]:4022 ssh-ed25519 AAAA+/=\n");
        let many = "ssh-rsa AAAA\n".repeat(100);
        assert_eq!(known_hosts(22, &many).lines().count(), HOST_KEYS);
    }
}
