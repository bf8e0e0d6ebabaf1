//! Starting processes.

use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{Error, Result, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use crate::sys;
use crate::wire::{Refusal, Spawn};

/// What every process finds in its environment, unless it was told otherwise.
const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
    ("USER", "root"),
    ("SHELL", "/bin/sh"),
];

/// What stays open from one start to the next.
pub(crate) struct Spawner {
    null: OwnedFd,
    /// Our own score against being killed for lack of memory, which a child inherits while it is 0.
    score: Option<File>,
}

/// A process that runs, and our ends of its pipes.
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Why there is no process.
pub(crate) struct Refused(pub(crate) Refusal, pub(crate) i32);

impl Refused {
    fn of(refusal: Refusal) -> impl Fn(Error) -> Self {
        move |error| Self(refusal, error.raw_os_error().unwrap_or(22))
    }
}

impl Spawner {
    pub(crate) fn new(protected: bool) -> Result<Self> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?
            .into();
        let score = protected
            .then(|| {
                OpenOptions::new()
                    .write(true)
                    .open("/proc/self/oom_score_adj")
                    .ok()
            })
            .flatten();
        Ok(Self { null, score })
    }

    pub(crate) fn start(&self, spawn: &Spawn<'_>) -> std::result::Result<Child, Refused> {
        let cwd = directory(spawn.cwd).map_err(Refused::of(Refusal::Cwd))?;
        let strings = Strings::of(spawn).map_err(Refused::of(Refusal::Program))?;
        let pipes = |wanted: bool| if wanted { pipe().map(Some) } else { Ok(None) };
        let streams = || Ok((pipes(spawn.stdin)?, pipes(!spawn.detach)?, pipes(!spawn.detach)?));
        let (stdin, stdout, stderr) = streams().map_err(Refused::of(Refusal::Pipes))?;
        let stdin = stdin.map(|(read, write)| (write, read));
        self.set_score("0");
        let pid = sys::start(&sys::Start {
            path: &strings.path,
            argv: &strings.argv(),
            envp: &strings.env.iter().map(CString::as_c_str).collect::<Vec<_>>(),
            cwd: &cwd,
            streams: [
                theirs(&stdin, &self.null),
                theirs(&stdout, &self.null),
                theirs(&stderr, &self.null),
            ],
        });
        self.set_score("-1000");
        let ours = |pair: Option<(OwnedFd, OwnedFd)>| {
            pair.map(|(ours, _)| ours).inspect(|fd| {
                // A pipe can always be made non-blocking.
                let _ = sys::set_nonblocking(fd);
            })
        };
        Ok(Child {
            pid: pid.map_err(Refused::of(Refusal::Program))?,
            stdin: ours(stdin),
            stdout: ours(stdout),
            stderr: ours(stderr),
        })
    }

    fn set_score(&self, score: &str) {
        if let Some(mut file) = self.score.as_ref() {
            // Without the right to do so nothing is lost but the protection.
            let _ = file.write_all(score.as_bytes());
        }
    }
}

fn theirs<'a>(pair: &'a Option<(OwnedFd, OwnedFd)>, null: &'a OwnedFd) -> &'a OwnedFd {
    pair.as_ref().map_or(null, |(_, theirs)| theirs)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    sys::pipe()
}

fn directory(path: &str) -> Result<OwnedFd> {
    const O_PATH: i32 = 0o10_000_000;
    const O_DIRECTORY: i32 = 0o200_000;
    let path = if path.is_empty() { "/" } else { path };
    Ok(OpenOptions::new()
        .read(true)
        .custom_flags(O_PATH | O_DIRECTORY)
        .open(path)?
        .into())
}

struct Strings {
    path: CString,
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Strings {
    fn of(spawn: &Spawn<'_>) -> Result<Self> {
        let kept = ENVIRONMENT
            .iter()
            .filter(|(name, _)| !spawn.env.iter().any(|(given, _)| given == name));
        let env: Vec<(&str, &str)> = kept.chain(&spawn.env).copied().collect();
        let path = env
            .iter()
            .rev()
            .find(|(name, _)| *name == "PATH")
            .map_or("", |(_, path)| path);
        Ok(Self {
            path: look_up(spawn.program, path)?,
            program: CString::new(spawn.program)?,
            args: spawn
                .args
                .iter()
                .map(|arg| CString::new(*arg))
                .collect::<std::result::Result<_, _>>()?,
            env: env
                .iter()
                .map(|(name, value)| CString::new(format!("{name}={value}")))
                .collect::<std::result::Result<_, _>>()?,
        })
    }

    fn argv(&self) -> Vec<&CStr> {
        [&self.program]
            .into_iter()
            .chain(&self.args)
            .map(CString::as_c_str)
            .collect()
    }
}

/// The file to be executed: as given when it has a slash, else the first executable one on the path.
fn look_up(program: &str, path: &str) -> Result<CString> {
    if program.contains('/') {
        return Ok(CString::new(program)?);
    }
    let mut errno = sys::ENOENT;
    for directory in path.split(':').filter(|_| !program.is_empty()) {
        let directory = if directory.is_empty() { "." } else { directory };
        let file = format!("{directory}/{program}");
        match std::fs::metadata(&file) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
                return Ok(CString::new(file)?);
            }
            Ok(_) => errno = sys::EACCES,
            Err(_) => {}
        }
    }
    Err(Error::from_raw_os_error(errno))
}
