//! Runs programs of this host: with a limit, told line by line, dead when the builder dies.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use vmtest_backends::{Error, ErrorKind, Result};

/// How many of the last lines of a program that failed are shown.
const LAST_LINES: usize = 12;

/// The most that is kept of what a program prints on its standard output, in bytes.
const MOST_OUTPUT: usize = 64 << 20;

/// Where programs are looked for besides `PATH`: ordinary users often lack these.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A program of this host, about to be run.
#[derive(Debug)]
pub(super) struct Tool {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    folder: Option<PathBuf>,
    limit: Duration,
}

impl Tool {
    /// The program called `name`, which the Debian package `package` brings; it may run for `limit`.
    pub(super) fn new(name: &str, package: &str, limit: Duration) -> Result<Self> {
        let program = find(name).ok_or_else(|| {
            let text = format!("the program {name} is missing; install it with `apt-get install {package}`");
            Error::new(ErrorKind::Unavailable, text)
        })?;
        Ok(Self::at(program, limit))
    }

    /// The program that lies at `program`.
    pub(super) fn at(program: PathBuf, limit: Duration) -> Self {
        Self {
            name: program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            program,
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            limit,
        }
    }

    /// One more argument.
    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable.
    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The same program run by `wrapper`, which takes it and its arguments at its own end. Messages go on
    /// naming the program itself.
    pub(super) fn within(mut self, mut wrapper: Self) -> Self {
        wrapper.args.push(self.program.into());
        wrapper.args.append(&mut self.args);
        wrapper.env.append(&mut self.env);
        let Self {
            program, args, env, ..
        } = wrapper;
        Self {
            name: self.name,
            program,
            args,
            env,
            folder: self.folder,
            limit: self.limit,
        }
    }

    /// Run in `folder`.
    pub(super) fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Runs it and returns its standard output. A status other than 0 is an error with the last lines of its
    /// standard error.
    pub(super) fn output(self) -> Result<Vec<u8>> {
        let ran = self.run(&mut |_| ())?;
        if ran.status.success() {
            Ok(ran.stdout)
        } else {
            Err(ran.failure())
        }
    }

    /// The same, with every line of its standard error told to `line` when it comes.
    pub(super) fn told(self, line: &mut dyn FnMut(&str)) -> Result<Vec<u8>> {
        let ran = self.run(line)?;
        if ran.status.success() {
            Ok(ran.stdout)
        } else {
            Err(ran.failure())
        }
    }

    /// Runs it to its end, whatever its status.
    pub(super) fn run(self, line: &mut dyn FnMut(&str)) -> Result<Ran> {
        let name = self
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let failed = |cause: io::Error| {
            Error::new(ErrorKind::Image, format!("the program {name} cannot be run")).because(cause)
        };
        let deadline = Instant::now() + self.limit;
        let mut running = Running::start(&self).map_err(failed)?;
        while !running.step(deadline, line).map_err(failed)? {
            if Instant::now() >= deadline {
                running.kill();
                let text = format!("the program {name} did not end within {} s", self.limit.as_secs());
                return Err(Error::new(ErrorKind::TimedOut, text).because(running.last_lines()));
            }
        }
        let status = running.child.wait().map_err(failed)?;
        let last = running.last_lines();
        Ok(Ran {
            name,
            status,
            stdout: running.stdout.take().unwrap_or_default(),
            last,
        })
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ran {
    name: String,
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    last: String,
}

impl Ran {
    /// The last lines of its standard error.
    pub(super) fn last_lines(&self) -> &str {
        &self.last
    }

    /// Its bad end as an error with its last lines.
    pub(super) fn failure(&self) -> Error {
        let full = self.last.contains("No space left on device");
        let (kind, hint) = match full {
            true => (ErrorKind::Store, "no space is left on the disk: "),
            false => (ErrorKind::Image, ""),
        };
        let error = Error::new(
            kind,
            format!("{hint}the program {} failed ({})", self.name, self.status),
        );
        if self.last.is_empty() {
            error
        } else {
            error.because(self.last.clone())
        }
    }
}

struct Running {
    child: Child,
    pidfd: rustix::fd::OwnedFd,
    stdout: Option<Vec<u8>>,
    partial: Vec<u8>,
    last: VecDeque<String>,
    out_open: bool,
    err_open: bool,
}

impl Running {
    fn start(tool: &Tool) -> io::Result<Self> {
        // The kernel kills it when this thread ends, which waits for it: a killed builder leaves nothing.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&tool.program)
            .args(&tool.args);
        command.env("PATH", search_path()).env("LC_ALL", "C.UTF-8");
        command.envs(tool.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &tool.folder {
            command.current_dir(folder);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = command.spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        for pipe in [
            child.stdout.as_ref().map(AsFd::as_fd),
            child.stderr.as_ref().map(AsFd::as_fd),
        ] {
            let pipe = pipe.ok_or_else(|| io::Error::other("a pipe is missing"))?;
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        let (stdout, partial, last) = (Some(Vec::new()), Vec::new(), VecDeque::new());
        Ok(Self {
            child,
            pidfd,
            stdout,
            partial,
            last,
            out_open: true,
            err_open: true,
        })
    }

    /// Waits for something to happen and takes it; true when the program has ended and all is read.
    fn step(&mut self, deadline: Instant, line: &mut dyn FnMut(&str)) -> io::Result<bool> {
        let ended = self.wait(deadline)?;
        self.take_stdout()?;
        self.take_stderr(line)?;
        if ended && !self.partial.is_empty() {
            let rest = std::mem::take(&mut self.partial);
            self.line(&rest, line);
        }
        Ok(ended)
    }

    fn wait(&self, deadline: Instant) -> io::Result<bool> {
        let mut watched = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        let out = self
            .child
            .stdout
            .as_ref()
            .filter(|_| self.out_open)
            .map(AsFd::as_fd);
        let err = self
            .child
            .stderr
            .as_ref()
            .filter(|_| self.err_open)
            .map(AsFd::as_fd);
        watched.extend(
            [out, err]
                .into_iter()
                .flatten()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::Error::other("the limit is too long"))?;
        match poll(&mut watched, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!watched[0].revents().is_empty()),
            Err(cause) => Err(cause.into()),
        }
    }

    fn take_stdout(&mut self) -> io::Result<()> {
        let (Some(pipe), Some(kept)) = (self.child.stdout.as_mut(), self.stdout.as_mut()) else {
            return Ok(());
        };
        let fresh = read_now(pipe, &mut self.out_open)?;
        kept.extend_from_slice(&fresh);
        if kept.len() > MOST_OUTPUT {
            return Err(io::Error::other("it prints without end"));
        }
        Ok(())
    }

    fn take_stderr(&mut self, line: &mut dyn FnMut(&str)) -> io::Result<()> {
        let Some(pipe) = self.child.stderr.as_mut() else {
            return Ok(());
        };
        let fresh = read_now(pipe, &mut self.err_open)?;
        self.partial.extend_from_slice(&fresh);
        while let Some(end) = self.partial.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let whole: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(&whole, line);
        }
        Ok(())
    }

    fn line(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        line(text);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text.to_owned());
    }

    fn last_lines(&self) -> String {
        self.last
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn kill(&mut self) {
        // The group has its leader's number until the leader is waited for, so no other can be hit.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What can be read without waiting.
fn read_now(pipe: &mut impl Read, open: &mut bool) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut piece = [0; 16 << 10];
    while *open {
        match pipe.read(&mut piece) {
            Ok(0) => *open = false,
            Ok(count) => all.extend_from_slice(&piece[..count]),
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(all)
}

/// Where the program called `name` lies, if it does.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

fn search_path() -> OsString {
    let set = env::var_os("PATH").unwrap_or_default();
    let all = env::split_paths(&set).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    env::join_paths(all).unwrap_or(set.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sh(text: &str, limit: Duration) -> Tool {
        Tool::new("sh", "dash", limit)
            .expect("every host has it")
            .arg("-c")
            .arg(text)
    }

    #[test]
    fn output_is_kept_apart_from_the_lines_told() {
        let mut lines = Vec::new();
        let out = sh("echo a; echo b >&2; printf 'c\\rd' >&2", 9 * SECOND)
            .told(&mut |line| lines.push(line.to_owned()));
        assert_eq!(out.expect("it ends well"), b"a\n");
        assert_eq!(lines, ["b", "c", "d"]);
    }

    #[test]
    fn a_failure_shows_status_and_last_lines() {
        let error = sh(
            "for i in $(seq 30); do echo line $i >&2; done; exit 3",
            9 * SECOND,
        )
        .output()
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(
            error.message().contains("the program sh failed (exit status: 3)"),
            "{error}"
        );
        let cause = &error.report().causes[0];
        assert!(
            cause.starts_with("line 19\n") && cause.ends_with("line 30"),
            "{cause}"
        );
        let full = sh("echo 'tar: x: No space left on device' >&2; exit 1", 9 * SECOND)
            .output()
            .unwrap_err();
        assert_eq!(full.kind(), ErrorKind::Store);
    }

    #[test]
    fn a_program_is_killed_at_its_limit_with_all_it_started() {
        let begin = Instant::now();
        let error = sh("echo begun >&2; sleep 60 & sleep 60", SECOND / 5)
            .output()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.report().causes, ["begun"]);
        assert!(begin.elapsed() < 5 * SECOND);
    }

    #[test]
    fn a_process_left_behind_does_not_hold_the_end() {
        let begin = Instant::now();
        sh("sleep 3 & echo done", 9 * SECOND)
            .output()
            .expect("it ends well");
        assert!(begin.elapsed() < 2 * SECOND);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Tool::new("no-such-program", "some-package", SECOND).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("`apt-get install some-package`"));
    }
}
