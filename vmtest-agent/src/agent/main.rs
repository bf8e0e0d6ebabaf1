//! The guest agent of vmtest: starts processes and opens byte streams inside a machine, for its host.
//!
//! As PID 1 it is the whole of an initramfs (see [`init`]); otherwise a plain process:
//!
//! - `vmtest-agent`: waits for the virtio-serial port named `vmtest.agent` and serves it for ever;
//! - `vmtest-agent --fd N`: serves the inherited socket N until its other end is closed, and leaves the
//!   machine's clock and random generator alone;
//! - `vmtest-agent --version`.

mod channel;
mod epoch;
mod init;
mod outbox;
mod port;
mod server;
mod spawn;
mod sys;
#[path = "../wire/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the library's module; the host uses the rest"
)]
mod wire;

use std::io::{Error, Result, Write as _};

use server::{Link, Server};

/// The agent's build, as it tells the host.
const VERSION: &str = match option_env!("VMTEST_AGENT_VERSION") {
    Some(version) => version,
    None => "unversioned",
};

fn main() {
    if sys::is_init() {
        init::run();
    }
    sys::keep_descriptors();
    let ended = by_arguments();
    if let Err(error) = &ended {
        say(&format!("{error}"));
    }
    sys::leave(i32::from(ended.is_err()));
}

fn by_arguments() -> Result<()> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => serve_port(),
        (Some("--fd"), Some(number)) => {
            let number = number
                .parse()
                .map_err(|_| Error::other("--fd takes a descriptor's number"))?;
            Server::new(Link::Socket, sys::inherited(number)?)?.run()
        }
        (Some("--version"), None) => writeln!(std::io::stdout(), "vmtest-agent {VERSION}"),
        _ => Err(Error::other("usage: vmtest-agent [--fd N | --version]")),
    }
}

/// Serves the port of this machine; returns only when that cannot be done at all.
fn serve_port() -> Result<()> {
    epoch::protect_from_oom();
    let port = port::find()?;
    Server::new(Link::Port, port)?.run()
}

/// A line for whoever reads the console.
fn say(text: &str) {
    // There is nobody to tell that the console does not listen.
    let _ = writeln!(std::io::stderr(), "vmtest-agent: {text}");
}
