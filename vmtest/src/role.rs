//! What this process is: a test, or one of the processes that serve tests. The broker and the builders are
//! the very program that holds the tests, started again under a role.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{self, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use vmtest_backends::{Error, ErrorKind, Result, console};

use crate::dirs::Dirs;
use crate::sys;

/// The variable that names the role. It is believed only when the process was also given a listening
/// socket, so that a stray one does no harm.
const VARIABLE: &str = "VMTEST_ROLE";

/// The longest path a unix socket can have, in bytes.
const SOCKET_PATH_LIMIT: usize = 107;

/// What this process is besides a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Owns the machines.
    Broker,
    /// Makes one image or snapshot.
    Build,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Build => "build",
        }
    }
}

/// The role this process was started in, with its socket. To be asked once, before anything else.
pub fn take() -> Option<(Role, UnixListener)> {
    let role = match env::var(VARIABLE).ok()?.as_str() {
        "broker" => Role::Broker,
        "build" => Role::Build,
        _ => return None,
    };
    Some((role, sys::inherited_listener()?))
}

/// How this program is started again so that it asks for its role: the arguments it needs for that.
static ENTRY: OnceLock<Vec<OsString>> = OnceLock::new();

/// Says that this program, started with `args`, asks for its role first. The first word counts.
pub fn enter_by(args: Vec<OsString>) {
    // Every later entry leads to the same question.
    let _ = ENTRY.set(args);
}

/// Whether processes with a role can be started from this one.
pub fn can_start() -> bool {
    ENTRY.get().is_some()
}

/// A process with a role, found by its socket.
#[derive(Debug, Clone)]
pub struct Service {
    role: Role,
    name: String,
    folder: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl Service {
    /// The service `name` of that role; `env` is what it gets to know when it is started.
    pub fn new(dirs: &Dirs, role: Role, name: &str, env: Vec<(OsString, OsString)>) -> Self {
        let folder = dirs.runtime().to_owned();
        Self {
            role,
            name: name.to_owned(),
            folder,
            env,
        }
    }

    /// A connection to the service if it runs.
    pub fn find(&self) -> Option<UnixStream> {
        UnixStream::connect(self.socket()).ok()
    }

    /// A connection to the service, which is started if it does not run; however many processes ask at
    /// once, one is started.
    pub fn connect(&self) -> Result<UnixStream> {
        let failed = |what: &str| {
            Error::new(
                ErrorKind::Broker,
                format!("the {} process {what}", self.role.as_str()),
            )
        };
        if let Some(stream) = self.find() {
            return Ok(stream);
        }
        let _lock = self.lock()?;
        if let Some(stream) = self.find() {
            return Ok(stream);
        }
        let listener = self.bind()?;
        self.start(&listener)
            .map_err(|cause| failed("could not be started").because(cause))?;
        // It need not even be up: the socket listens already.
        UnixStream::connect(self.socket()).map_err(|cause| failed("could not be reached").because(cause))
    }

    /// Takes the right to start or to end the service; given back by the kernel with the file.
    pub fn lock(&self) -> Result<File> {
        crate::store::lock(&self.folder.join(format!("{}.lock", self.name)))
    }

    /// Removes the socket; the lock must be held.
    pub fn unlink(&self) {
        // It may be gone already.
        let _ = fs::remove_file(self.socket());
    }

    /// Removes the socket if nobody listens on it any more; tells whether there was one to remove.
    pub fn clear_if_dead(&self) -> Result<bool> {
        let _lock = self.lock()?;
        let dead = self.find().is_none() && self.socket().exists();
        if dead {
            self.unlink();
        }
        Ok(dead)
    }

    /// Removes socket, log and lock of a service that does not run; returns how many files. `None` when it
    /// runs or is being started.
    pub fn forget_if_dead(&self) -> Result<Option<usize>> {
        let lock_path = self.folder.join(format!("{}.lock", self.name));
        let known = lock_path.exists();
        let Some(_lock) = crate::store::try_lock(&lock_path)? else {
            return Ok(None);
        };
        if self.find().is_some() {
            return Ok(None);
        }
        let files = [self.socket(), self.log()];
        let gone = files.iter().filter(|path| fs::remove_file(path).is_ok()).count();
        // Last: whoever waits for the lock sees that its file is no longer there.
        let lock_gone = fs::remove_file(&lock_path).is_ok() && known;
        Ok(Some(gone + usize::from(lock_gone)))
    }

    /// All services that have left something in the runtime directory.
    pub fn all(dirs: &Dirs) -> Result<Vec<Self>> {
        let failed = |cause| crate::store::unusable(dirs.runtime(), "cannot be listed", cause);
        let mut names = std::collections::BTreeSet::new();
        for entry in fs::read_dir(dirs.runtime()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let stem = name.to_str().and_then(|name| name.rsplit_once('.'));
            if let Some((stem, "sock" | "log" | "lock")) = stem {
                names.insert(stem.to_owned());
            }
        }
        let role = |name: &str| match name.starts_with("build-") {
            true => Role::Build,
            false => Role::Broker,
        };
        Ok(names
            .into_iter()
            .map(|name| Self::new(dirs, role(&name), &name, Vec::new()))
            .collect())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the process writes what it has to say.
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}.sock", self.name))
    }

    fn bind(&self) -> Result<UnixListener> {
        let path = self.socket();
        if path.as_os_str().len() > SOCKET_PATH_LIMIT {
            let text = format!(
                "the socket path {} is longer than {SOCKET_PATH_LIMIT} bytes; a shorter VMTEST_DIR or \
                 XDG_RUNTIME_DIR helps",
                path.display()
            );
            return Err(Error::new(ErrorKind::Broker, text));
        }
        self.unlink();
        UnixListener::bind(&path).map_err(|cause| crate::store::unusable(&path, "cannot be bound", cause))
    }

    fn start(&self, listener: &UnixListener) -> io::Result<()> {
        let args = ENTRY
            .get()
            .ok_or_else(|| io::Error::other("this program takes no roles: call vmtest::init() first"))?;
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.log())?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(format!("vmtest-{}", self.role.as_str()))
            .args(args)
            .env_clear()
            .envs(environment(env::vars_os(), &self.env));
        command.env(VARIABLE, self.role.as_str()).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        sys::detach(&mut command, listener);
        let status = command.spawn()?.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other("it could not be detached"))
        }
    }
}

/// What a process with a role may know of the environment it was started from: where things are, how the
/// network is reached, and what lets a CI runner find and end it.
const INHERITED: [&str; 24] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "VMTEST_DIR",
    "RUNNER_TRACKING_ID",
    "RUST_BACKTRACE",
    "APT_CONFIG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// The variables that hold one path each. It may be relative, and a process with a role works elsewhere.
const PLACES: [&str; 12] = [
    "HOME",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "VMTEST_DIR",
    "VMTEST_CONFIG",
    "VMTEST_QEMU",
    "VMTEST_REPORT",
    "CARGO_MANIFEST_DIR",
    "APT_CONFIG",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
];

/// The environment of a process with a role: what it inherits of ours, and what it is told in `told`.
fn environment(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    told: &[(OsString, OsString)],
) -> Vec<(OsString, OsString)> {
    let inherited = ours
        .into_iter()
        .filter(|(name, _)| INHERITED.iter().any(|known| name == known));
    let mut env: Vec<_> = inherited.chain(told.iter().cloned()).map(placed).collect();
    // Coverage data of a process that is killed would be damaged.
    env.push(("LLVM_PROFILE_FILE".into(), "/dev/null".into()));
    env
}

fn placed((name, value): (OsString, OsString)) -> (OsString, OsString) {
    let is_place = PLACES.iter().any(|known| name == *known) && !value.is_empty();
    // Without a working directory a relative path leads nowhere, here and there.
    let absolute = path::absolute(&value).ok().filter(|_| is_place);
    (name, absolute.map_or(value, PathBuf::into_os_string))
}

/// The end of a service's log, for an error about it.
pub fn log_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    console::tail(&text, 10)
}

/// Removes this process's log if nothing was written to it.
pub fn discard_empty_log() {
    let empty = fs::metadata("/proc/self/fd/2").is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    if let Ok(log) = fs::read_link("/proc/self/fd/2")
        && empty
    {
        // Another process of the same name may have removed it.
        let _ = fs::remove_file(log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(vars: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        vars.iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    fn value<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
        let (_, value) = env.iter().rev().find(|(known, _)| known == name)?;
        value.to_str()
    }

    #[test]
    fn a_role_gets_places_as_absolute_paths() {
        let ours = pairs(&[("XDG_CACHE_HOME", "cache"), ("TMPDIR", ""), ("LANG", "C")]);
        let told = pairs(&[("VMTEST_DIR", "state"), ("VMTEST_MEMORY", "512")]);
        let env = environment(ours, &told);
        let here = env::current_dir().unwrap();
        let below = |name: &str| here.join(name).to_str().map(str::to_owned);
        assert_eq!(value(&env, "XDG_CACHE_HOME"), below("cache").as_deref());
        assert_eq!(value(&env, "VMTEST_DIR"), below("state").as_deref());
        assert_eq!(value(&env, "TMPDIR"), Some(""));
        assert_eq!(value(&env, "LANG"), Some("C"));
        assert_eq!(value(&env, "VMTEST_MEMORY"), Some("512"));
    }

    #[test]
    fn a_role_reaches_the_network_as_we_do_and_learns_no_secrets() {
        let ours = pairs(&[
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("no_proxy", "localhost"),
            ("SSL_CERT_FILE", "/etc/ssl/own.pem"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
        ]);
        let env = environment(ours, &[]);
        assert_eq!(value(&env, "HTTPS_PROXY"), Some("http://proxy:3128"));
        assert_eq!(value(&env, "no_proxy"), Some("localhost"));
        assert_eq!(value(&env, "SSL_CERT_FILE"), Some("/etc/ssl/own.pem"));
        assert_eq!(value(&env, "AWS_SECRET_ACCESS_KEY"), None);
    }
}
