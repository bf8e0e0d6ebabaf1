//! Files from elsewhere, by checksum: fetched once, whole or not there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmtest_backends::{Error, ErrorKind, Result};

use super::Say;
use super::hashes;
use super::shelf::{Lock, unusable};
use super::tool::Tool;
use crate::dirs::Dirs;

/// The limit of fetching one file.
const FETCH_LIMIT: Duration = Duration::from_secs(3600);

/// How long a server may say nothing, in seconds.
const SILENCE_LIMIT: &str = "60";

/// Where apt keeps its own downloader, which every Debian has.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// The file at `url`, whose SHA-256 is `sha256`: a read-only file in the cache.
pub(super) fn get(dirs: &Dirs, url: &str, sha256: &str, say: Say<'_>) -> Result<PathBuf> {
    let folder = dirs.in_cache("downloads")?;
    let whole = folder.join(sha256);
    if whole.exists() {
        return Ok(whole);
    }
    let _lock = Lock::take(folder.join(format!("{sha256}.lock")), url, say)?;
    if whole.exists() {
        return Ok(whole);
    }
    let partial = folder.join(format!("{sha256}.partial"));
    bring(url, &partial, say)?;
    say("checking the checksum");
    let found = hashes::compute(&partial)?;
    if found != sha256 {
        // Not gone on with next time: it is something else.
        let _ = fs::remove_file(&partial);
        let text = format!("the checksum of {url} is wrong: expected SHA-256 {sha256}, found {found}");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let failed = |cause| unusable(&whole, "cannot be made", cause);
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o444)).map_err(failed)?;
    fs::rename(&partial, &whole).map_err(failed)?;
    Ok(whole)
}

fn bring(url: &str, to: &Path, say: Say<'_>) -> Result<()> {
    if let Some(path) = url.strip_prefix("file://") {
        return copy(Path::new(path), to);
    }
    say(&format!("fetching {url}"));
    let mut tenth = 0;
    let mut told = |line: &str| {
        if let Some(now) = percent(line)
            && now / 10 > tenth
        {
            tenth = now / 10;
            say(&format!("fetched {now} %"));
        }
    };
    downloader(url, to)?
        .told(&mut told)
        .map(drop)
        .map_err(|cause| Error::new(cause.kind(), format!("{url} could not be fetched")).because(cause))
}

/// What fetches: curl, which goes on where it was cut off, else apt's own.
fn downloader(url: &str, to: &Path) -> Result<Tool> {
    if let Ok(curl) = Tool::new("curl", "curl", FETCH_LIMIT) {
        return Ok(curl
            .args([
                "--fail",
                "--location",
                "--progress-bar",
                "--continue-at",
                "-",
                "--retry",
                "3",
            ])
            .args([
                "--speed-time",
                SILENCE_LIMIT,
                "--speed-limit",
                "1",
                "--proto-redir",
                "=http,https",
            ])
            .arg("--output")
            .arg(to)
            .args(["--", url]));
    }
    if Path::new(APT_HELPER).exists() {
        let tool = Tool::at(APT_HELPER.into(), FETCH_LIMIT);
        return Ok(tool
            .args(["-o", "APT::Sandbox::User=root", "download-file", url])
            .arg(to));
    }
    let text = "neither curl nor apt is here to fetch files; install one with `apt-get install curl`";
    Err(Error::new(ErrorKind::Unavailable, text))
}

/// Copies a file and its holes, sharing its blocks where the file system can.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let tool = Tool::new("cp", "coreutils", FETCH_LIMIT)?.args(["--sparse=always", "--reflink=auto", "--"]);
    tool.args([from, to]).output().map(drop)
}

fn percent(line: &str) -> Option<u32> {
    let word = line.rsplit(' ').next()?.strip_suffix('%')?;
    word.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        assert_eq!(percent("######          42.7%"), Some(42));
        assert_eq!(percent("curl: (6) no such host"), None);
    }
}
