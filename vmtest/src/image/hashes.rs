//! The content of the user's files, hashed once: remembered by everything that changes when a file does.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use vmtest_backends::{Error, ErrorKind, Result};

use super::key::Key;
use super::shelf::unusable;
use super::tool::Tool;
use crate::dirs::Dirs;

/// The limit of hashing one file.
const HASH_LIMIT: Duration = Duration::from_secs(900);

/// The SHA-256 of the file, in hexadecimal.
pub(super) fn of(dirs: &Dirs, path: &Path) -> Result<String> {
    let meta = fs::metadata(path).map_err(|cause| unusable(path, "cannot be read", cause))?;
    let known = dirs.in_cache("hashes")?.join(identity(path, &meta));
    if let Ok(sum) = fs::read_to_string(&known)
        && sum.len() == 64
    {
        return Ok(sum);
    }
    let sum = compute(path)?;
    let partial = known.with_extension(std::process::id().to_string());
    fs::write(&partial, &sum)
        .and_then(|()| fs::rename(&partial, &known))
        .map_err(|cause| unusable(&known, "cannot be written", cause))?;
    Ok(sum)
}

/// The SHA-256 of the file as it is now. By a program, for a disk of gigabytes takes minutes in a library
/// that was compiled without optimisation, as tests are.
pub(super) fn compute(path: &Path) -> Result<String> {
    let output = Tool::new("sha256sum", "coreutils", HASH_LIMIT)?
        .args(["--zero", "--"])
        .arg(path)
        .output()?;
    let text = String::from_utf8_lossy(&output);
    match text.get(..64) {
        Some(sum) if sum.bytes().all(|digit| digit.is_ascii_hexdigit()) => Ok(sum.to_owned()),
        _ => Err(Error::new(
            ErrorKind::Image,
            format!("sha256sum said {text:?} of {}", path.display()),
        )),
    }
}

fn identity(path: &Path, meta: &Metadata) -> String {
    let numbers = [
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime().cast_unsigned(),
        meta.mtime_nsec().cast_unsigned(),
        meta.ctime().cast_unsigned(),
        meta.ctime_nsec().cast_unsigned(),
    ];
    numbers
        .iter()
        .fold(
            Key::new("file").with("path", path.as_os_str().as_bytes()),
            |key, number| key.with("", number.to_le_bytes()),
        )
        .finish()
}
