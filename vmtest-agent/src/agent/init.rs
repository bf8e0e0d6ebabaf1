//! PID 1 of an initramfs.
//!
//! Mounts the kernel's file systems, loads the modules listed in `/modules/list`, then either enters the system
//! named by `root=` on the kernel's command line, whose own init takes over as PID 1 beside an agent that stays, or,
//! without `root=`, stays PID 1 and keeps an agent running.

mod mounts;
mod root;

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd as _, IntoRawFd as _};
use std::time::{Duration, Instant};

use crate::sys::{self, Power};
use crate::{say, serve_port};

const MODULES: &str = "/modules/list";

/// An agent that ran for less than this waits before it is started again.
const HASTE: Duration = Duration::from_secs(1);

/// How long it then waits, in milliseconds.
const HASTE_PAUSE_MS: i32 = 100;

/// Boots the machine. Never returns.
pub(crate) fn run() -> ! {
    mounts::kernel();
    open_console();
    load_modules();
    if let Err(error) = sys::loopback_up() {
        say(&format!("the loopback interface does not come up: {error}"));
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(device) = option(&line, "root") {
        // It only comes back with a reason.
        let problem = root::enter(&root::Root {
            device,
            kind: option(&line, "rootfstype").unwrap_or("ext4"),
            read_only: flag(&line, "ro") && !flag(&line, "rw"),
            init: option(&line, "init").unwrap_or("/sbin/init"),
        });
        give_up(&problem);
    }
    mounts::diskless();
    if let Some(name) = option(&line, "vmtest.hostname").and_then(|name| CString::new(name).ok()) {
        sys::set_hostname(&name);
    }
    supervise()
}

/// The value of `name=value`, the last one given.
fn option<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = |word: &'a str| word.strip_prefix(name)?.strip_prefix('=');
    line.split_ascii_whitespace().filter_map(value).next_back()
}

fn flag(line: &str, name: &str) -> bool {
    line.split_ascii_whitespace().any(|word| word == name)
}

/// Standard streams, where the kernel could not give any for lack of a device file.
fn open_console() {
    while !sys::is_open(2) {
        let console = OpenOptions::new().read(true).write(true).open("/dev/console");
        let Ok(file) = console.or_else(|_| OpenOptions::new().read(true).write(true).open("/dev/null"))
        else {
            return;
        };
        if file.as_raw_fd() > 2 {
            return;
        }
        let _ = file.into_raw_fd();
    }
}

/// One path a line, in the order in which they are to be loaded.
fn load_modules() {
    for path in fs::read_to_string(MODULES)
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .filter(|path| !path.is_empty())
    {
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/modules/{path}")
        };
        let loaded = File::open(&path).and_then(|file| sys::load_module(&file.into()));
        match loaded {
            Err(error) if error.raw_os_error() != Some(sys::EEXIST) => {
                say(&format!("the kernel module {path} does not load: {error}"));
            }
            _ => {}
        }
    }
}

/// Without PID 1 the kernel panics, which is how the host learns of it; what it reads before is the reason.
fn give_up(problem: &str) -> ! {
    say(problem);
    sys::leave(1)
}

/// Keeps an agent running, buries orphans, and does what `reboot` and `poweroff` ask of an init.
fn supervise() -> ! {
    let watched = [sys::SIGCHLD, sys::SIGTERM, sys::SIGUSR1, sys::SIGUSR2];
    sys::block_only(&watched);
    let mut agent = start_agent();
    let mut begun = Instant::now();
    loop {
        match sys::wait_signal(&watched) {
            sys::SIGTERM => power(Power::Restart),
            sys::SIGUSR1 | sys::SIGUSR2 => power(Power::Off),
            _ => {}
        }
        while let Some((pid, status)) = sys::reap() {
            if agent == Some(pid) {
                say(&format!(
                    "the agent ended with wait status {status:#x} and is started again"
                ));
                if begun.elapsed() < HASTE {
                    sys::pause(HASTE_PAUSE_MS);
                }
                agent = start_agent();
                begun = Instant::now();
            }
        }
    }
}

fn start_agent() -> Option<i32> {
    match sys::fork() {
        Ok(None) => be_agent(),
        Ok(pid) => pid,
        Err(error) => {
            say(&format!("the agent cannot be started: {error}"));
            None
        }
    }
}

/// In a child of PID 1: the agent, in a session of its own.
fn be_agent() -> ! {
    sys::block_only(&[]);
    sys::new_session();
    sys::set_name(c"vmtest-agent");
    if let Err(error) = serve_port() {
        say(&error.to_string());
    }
    sys::leave(1)
}

fn power(how: Power) {
    sys::sync();
    if let Err(error) = sys::power(how) {
        say(&format!("{how:?}: {error}"));
    }
}
