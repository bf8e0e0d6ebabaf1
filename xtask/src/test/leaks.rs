//! The leak check: once the broker has ended, no process, socket, machine folder or lock of ours is left.
//!
//! It asks the kernel, not the library: what refers to the state directory is ours, whoever lost it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::child::{cargo, show};
use crate::error::{Error, Result};
use crate::stop::Stop;
use crate::test::suite::set_place;
use crate::workspace::Workspace;

/// `cargo vmtest stop`, which may have to be compiled first.
const STOP_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The broker's idle time in CI (10 s) and the 5 s within which all that it owned must be gone.
const GONE_LIMIT: Duration = Duration::from_secs(15);
/// The end of a process of somebody else's is no event for us: /proc has to be read again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The folder in the cache with one folder per running machine: empty when none runs.
const MACHINES: &str = "cache/machines";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Leak {
    Process {
        pid: u32,
        command: String,
        refers_by: &'static str,
    },
    Socket(PathBuf),
    Machine(PathBuf),
    Lock {
        line: String,
        file: PathBuf,
    },
    /// The broker could not be asked to end.
    Broker(String),
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process {
                pid,
                command,
                refers_by,
            } => {
                write!(f, "process {pid} ({command}), by its {refers_by}")
            }
            Self::Socket(path) => write!(f, "socket {}", path.display()),
            Self::Machine(path) => write!(f, "machine folder {}", path.display()),
            Self::Lock { line, file } => write!(f, "lock on {} ({line})", file.display()),
            Self::Broker(why) => write!(f, "broker: {why}"),
        }
    }
}

/// Ends the broker and returns what is still there when all should be gone.
pub(crate) async fn check(workspace: &Workspace, stop: &Stop) -> Result<BTreeSet<Leak>> {
    let refused = end_broker(workspace, stop).await?;
    let state = workspace.state_dir();
    let spared = own_line()?;
    let deadline = Instant::now() + GONE_LIMIT;
    let mut looks = interval(LOOK_AGAIN);
    loop {
        looks.tick().await;
        stop.check()?;
        let mut found = scan(&state, &spared).map_err(Error::at("cannot look for what was left behind"))?;
        if found.is_empty() || Instant::now() >= deadline {
            found.extend(refused);
            return Ok(found);
        }
    }
}

async fn end_broker(workspace: &Workspace, stop: &Stop) -> Result<Option<Leak>> {
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--package",
        "cargo-vmtest",
        "--",
        "vmtest",
        "stop",
    ]);
    set_place(&mut command, workspace);
    let end = show(command, STOP_LIMIT, stop).await?;
    Ok((!end.success()).then(|| Leak::Broker(format!("`cargo vmtest stop`: {}", end.reason(STOP_LIMIT)))))
}

/// All that refers to `state`, but for the processes `spared`.
pub(crate) fn scan(state: &Path, spared: &BTreeSet<u32>) -> io::Result<BTreeSet<Leak>> {
    let mut leaks = processes(state, spared)?;
    let mut files = Vec::new();
    walk(state, &mut files)?;
    leaks.extend(
        files
            .iter()
            .filter(|(_, meta)| meta.file_type().is_socket())
            .map(|(path, _)| Leak::Socket(path.clone())),
    );
    leaks.extend(bound_sockets(state)?);
    leaks.extend(locks(&files, spared)?);
    match fs::read_dir(state.join(MACHINES)) {
        // The ledger belongs to no machine, and stays.
        Ok(machines) => leaks.extend(
            machines
                .flatten()
                .filter(|entry| entry.file_name() != "ledger")
                .map(|entry| Leak::Machine(entry.path())),
        ),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(cause),
    }
    Ok(leaks)
}

/// This process and those that started it: a shell may well have the state directory in its environment.
fn own_line() -> Result<BTreeSet<u32>> {
    let mut line = BTreeSet::new();
    let mut pid = std::process::id();
    while pid != 0 && line.insert(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(Error::at("cannot read /proc"))?;
        // The name in brackets may hold anything: the fields are counted from its end.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(1));
        pid = parent.and_then(|parent| parent.parse().ok()).unwrap_or(0);
    }
    Ok(line)
}

fn processes(state: &Path, spared: &BTreeSet<u32>) -> io::Result<BTreeSet<Leak>> {
    let mut leaks = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if spared.contains(&pid) {
            continue;
        }
        if let Some(refers_by) = reference(&entry.path(), state) {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command)
                .replace('\0', " ")
                .trim()
                .to_owned();
            leaks.insert(Leak::Process {
                pid,
                command,
                refers_by,
            });
        }
    }
    Ok(leaks)
}

/// By what the process refers to `state`. What cannot be read belongs to somebody else, or has just ended.
fn reference(process: &Path, state: &Path) -> Option<&'static str> {
    let path = state.as_os_str().as_bytes();
    let holds = |file: &str, what: &[u8]| fs::read(process.join(file)).is_ok_and(|text| names(&text, what));
    let links = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(state));
    if holds("cmdline", path) {
        return Some("command line");
    }
    if holds("environ", &[b"VMTEST_DIR=", path].concat()) {
        return Some("environment");
    }
    if links(process.join("exe")) {
        return Some("executable");
    }
    if links(process.join("cwd")) {
        return Some("working directory");
    }
    let mut open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if open.any(|fd| links(fd.path())) {
        return Some("open files");
    }
    holds("maps", path).then_some("mapped files")
}

/// Whether `text` names `path` itself or something below it, not a longer name.
fn names(text: &[u8], path: &[u8]) -> bool {
    let ends = |rest: &[u8]| {
        rest.first()
            .is_none_or(|next| !next.is_ascii_alphanumeric() && !b"-_.".contains(next))
    };
    let mut windows = text.windows(path.len()).enumerate();
    windows.any(|(at, window)| window == path && ends(&text[at + path.len()..]))
}

fn walk(folder: &Path, files: &mut Vec<(PathBuf, fs::Metadata)>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => walk(&path, files)?,
            Ok(meta) => files.push((path, meta)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// Sockets that somebody still listens on, even if their file is gone.
fn bound_sockets(state: &Path) -> io::Result<BTreeSet<Leak>> {
    let table = fs::read_to_string("/proc/net/unix")?;
    let paths = table
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .map(PathBuf::from);
    Ok(paths
        .filter(|path| path.starts_with(state))
        .map(Leak::Socket)
        .collect())
}

/// `1: FLOCK  ADVISORY  WRITE 708 08:01:12345 0 EOF`
fn locks(files: &[(PathBuf, fs::Metadata)], spared: &BTreeSet<u32>) -> io::Result<BTreeSet<Leak>> {
    let mut leaks = BTreeSet::new();
    for line in fs::read_to_string("/proc/locks")?.lines() {
        let words = line
            .split_whitespace()
            .filter(|word| *word != "->")
            .collect::<Vec<_>>();
        let (Some(pid), Some(place)) = (words.get(4), words.get(5)) else {
            continue;
        };
        if pid.parse().is_ok_and(|pid| spared.contains(&pid)) {
            continue;
        }
        let inode = place
            .rsplit(':')
            .next()
            .and_then(|inode| inode.parse::<u64>().ok());
        // By inode alone: layered file systems show another device here than to stat.
        let file = files
            .iter()
            .find(|(_, meta)| Some(meta.ino()) == inode && meta.is_file());
        leaks.extend(file.map(|(file, _)| Leak::Lock {
            line: line.to_owned(),
            file: file.clone(),
        }));
    }
    Ok(leaks)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A state directory of the test's own, gone with it.
    struct State(PathBuf);

    impl State {
        fn new(name: &str) -> Self {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/leak-check-tests");
            let path = path.join(format!("{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("cache")).unwrap();
            Self(path.canonicalize().unwrap())
        }

        fn leaks(&self) -> BTreeSet<Leak> {
            scan(&self.0, &BTreeSet::new()).unwrap()
        }
    }

    impl Drop for State {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    /// A process that ends with the test.
    struct Running(Child);

    impl Running {
        fn start(command: &mut Command) -> Self {
            Self(
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap(),
            )
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ended = self.0.kill().and_then(|()| self.0.wait());
        }
    }

    fn refers_by(leaks: &BTreeSet<Leak>) -> Vec<&'static str> {
        let process = |leak: &Leak| match leak {
            Leak::Process { refers_by, .. } => Some(*refers_by),
            _ => None,
        };
        leaks.iter().filter_map(process).collect()
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let state = State::new("nothing");
        fs::write(state.0.join("cache/image"), "kept").unwrap();
        assert_eq!(state.leaks(), BTreeSet::new());
    }

    #[test]
    fn processes_are_found_by_what_they_refer_to() {
        let state = State::new("processes");
        let by_environment = Running::start(Command::new("cat").env("VMTEST_DIR", &state.0));
        assert_eq!(refers_by(&state.leaks()), ["environment"]);
        drop(by_environment);
        let by_folder = Running::start(Command::new("cat").current_dir(&state.0));
        assert_eq!(refers_by(&state.leaks()), ["working directory"]);
        drop(by_folder);
        let file = fs::File::create(state.0.join("overlay")).unwrap();
        let by_file = Running::start(Command::new("cat").stderr(file));
        assert_eq!(refers_by(&state.leaks()), ["open files"]);
        drop(by_file);
        assert_eq!(state.leaks(), BTreeSet::new());
    }

    #[test]
    fn sockets_machines_and_locks_are_found() {
        let state = State::new("files");
        let socket = state.0.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(state.leaks().contains(&Leak::Socket(socket.clone())));
        fs::remove_file(&socket).unwrap();
        assert!(
            state.leaks().contains(&Leak::Socket(socket)),
            "its file is gone, but it is still bound"
        );
        drop(listener);

        let machine = state.0.join(MACHINES).join("m1");
        fs::create_dir_all(&machine).unwrap();
        assert_eq!(state.leaks(), BTreeSet::from([Leak::Machine(machine.clone())]));
        fs::remove_dir(&machine).unwrap();

        let file = fs::File::create(state.0.join("lock")).unwrap();
        file.lock().unwrap();
        let locked = |leaks: &BTreeSet<Leak>| leaks.iter().any(|leak| matches!(leak, Leak::Lock { .. }));
        assert!(locked(&state.leaks()), "{:?}", state.leaks());
        drop(file);
        assert_eq!(state.leaks(), BTreeSet::new());
    }

    #[test]
    fn a_longer_name_is_another_name() {
        assert!(names(b"x /a/state/run", b"/a/state"));
        assert!(names(b"/a/state\0y", b"/a/state"));
        assert!(!names(b"/a/state-2/run", b"/a/state"));
    }
}
