//! What is left of a state directory: asked of the kernel, not of the library under test.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, interval};

/// The end of a process of somebody else's is no event for us: /proc has to be read again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What is left when nothing is any more, or when `limit` is over: a line each.
pub async fn after(folder: &Path, limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    let mut looks = interval(LOOK_AGAIN);
    loop {
        looks.tick().await;
        let left = now(folder).unwrap_or_else(|cause| vec![format!("cannot look: {cause}")]);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
    }
}

/// What is there now.
///
/// # Errors
///
/// When the kernel's tables or the folder cannot be read.
pub fn now(folder: &Path) -> io::Result<Vec<String>> {
    let mut left = processes(folder)?;
    let mut files = Vec::new();
    walk(folder, &mut files)?;
    let sockets = files.iter().filter(|(_, meta)| meta.file_type().is_socket());
    left.extend(sockets.map(|(path, _)| format!("socket {}", path.display())));
    let listening = fs::read_to_string("/proc/net/unix")?;
    let listening = listening
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7));
    let ours = listening.filter(|path| Path::new(path).starts_with(folder));
    left.extend(ours.map(|path| format!("open socket {path}")));
    let machines = fs::read_dir(folder.join("cache/machines"))
        .into_iter()
        .flatten()
        .flatten();
    // The ledger belongs to no machine, and stays.
    let machines = machines.filter(|entry| entry.file_name() != "ledger");
    left.extend(machines.map(|entry| format!("machine {}", entry.path().display())));
    left.extend(locks(&files)?);
    Ok(left)
}

/// The processes that refer to `folder`, by a line each; not this one.
///
/// # Errors
///
/// When /proc cannot be read.
pub fn processes(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_none_or(|pid| pid == std::process::id()) {
            continue;
        }
        if refers(&entry.path(), folder) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("process {} ({})", name.to_string_lossy(), command.trim()));
        }
    }
    Ok(found)
}

/// What cannot be read belongs to somebody else, or has just ended.
fn refers(process: &Path, folder: &Path) -> bool {
    let text = folder.as_os_str().as_bytes();
    let holds = |file: &str| {
        let content = fs::read(process.join(file)).unwrap_or_default();
        content.windows(text.len()).any(|window| window == text)
    };
    let points = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(folder));
    let mut open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    ["cmdline", "environ", "maps"].into_iter().any(holds)
        || points(process.join("cwd"))
        || open.any(|fd| points(fd.path()))
}

fn walk(folder: &Path, files: &mut Vec<(PathBuf, fs::Metadata)>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => walk(&path, files)?,
            Ok(meta) => files.push((path, meta)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// `1: FLOCK  ADVISORY  WRITE 708 08:01:12345 0 EOF`
fn locks(files: &[(PathBuf, fs::Metadata)]) -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/locks")?;
    let held: BTreeSet<u64> = table
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.matches(':').count() == 2)?
                .rsplit(':')
                .next()
        })
        .filter_map(|inode| inode.parse().ok())
        .collect();
    let ours = files
        .iter()
        .filter(|(_, meta)| meta.nlink() == 1 && held.contains(&meta.ino()));
    Ok(ours
        .map(|(path, _)| format!("lock on {}", path.display()))
        .collect())
}
