//! A running QEMU, watched.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use crate::backend::{Controls, Freeze, Life, Machine, Use};
use crate::console::Console;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::process::{Child, Ended};
use crate::qemu::argv::{File, Memory};
use crate::qemu::binary::Version;
use crate::qemu::files;
use crate::qemu::launch::LOAD_LIMIT;
use crate::qemu::qmp::{Event, Qmp};

/// What the guest's kernel writes when it panics.
const PANIC: &str = "Kernel panic - not syncing";

/// The longest console line that is looked at, in bytes.
const LINE_LIMIT: usize = 4096;

/// A running QEMU.
#[derive(Debug)]
pub(super) struct QemuMachine {
    pub(super) folder: PathBuf,
    pub(super) version: Version,
    pub(super) purpose: Use,
    pub(super) memory: Memory,
    /// Each disk's files, bottom first; the last is this machine's own overlay.
    pub(super) chains: Vec<Vec<File>>,
    /// Each disk's active block node.
    pub(super) nodes: Vec<String>,
    pub(super) child: Child,
    pub(super) uplink: Option<Child>,
    pub(super) qmp: Qmp,
    pub(super) watched: Watched,
    pub(super) agent: Option<StdStream>,
}

/// What is known of a machine by watching it.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) console: Console,
    pub(super) life: watch::Receiver<Life>,
    /// The status of the last migration, as QEMU tells it.
    pub(super) migration: watch::Receiver<String>,
}

impl QemuMachine {
    pub(super) fn error(&self, kind: ErrorKind, what: &str) -> Error {
        error(kind, what, &self.folder, &self.watched.console)
    }

    /// Waits until the migration that was just begun has ended; an error when it failed or QEMU died.
    pub(super) async fn migrated(&self, kind: ErrorKind) -> Result<()> {
        let mut migration = self.watched.migration.clone();
        let mut ended = self.child.ended();
        let over = |status: &String| status == "completed" || status == "failed";
        let moved = async {
            migration
                .wait_for(over)
                .await
                .is_ok_and(|status| *status == "completed")
        };
        let died = async { ended.wait_for(Option::is_some).await.map(|_| ()) };
        tokio::select! {
            completed = moved => if completed { Ok(()) } else { Err(self.migration_error(kind).await) },
            _ = died => Err(self.error(kind, "QEMU ended while its state was moved")),
            () = tokio::time::sleep(LOAD_LIMIT) => {
                let what = format!("QEMU's state was not moved within {} s", LOAD_LIMIT.as_secs());
                Err(self.error(ErrorKind::TimedOut, &what))
            }
        }
    }

    async fn migration_error(&self, kind: ErrorKind) -> Error {
        let why = self.qmp.run("query-migrate", json!({})).await;
        let why = why
            .ok()
            .and_then(|info| info["error-desc"].as_str().map(str::to_owned));
        self.error(
            kind,
            &format!("QEMU's state could not be moved: {}", why.unwrap_or_default()),
        )
    }

    async fn run(&self, command: &str) -> Result<()> {
        self.qmp.run(command, json!({})).await.map(|_| ())
    }
}

pub(super) fn error(kind: ErrorKind, what: &str, folder: &Path, console: &Console) -> Error {
    let error = Error::new(kind, what).with_console(console.tail(20));
    match files::log_tail(folder) {
        log if log.is_empty() => error,
        log => error.because(format!("QEMU says: {log}")),
    }
}

/// Watches console, monitor events and process until they end.
pub(super) fn watch_over(
    console_end: OwnedFd,
    mut events: mpsc::UnboundedReceiver<Event>,
    child: &Child,
    folder: &Path,
) -> std::io::Result<Watched> {
    let stream = StdStream::from(console_end);
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let console = Console::default();
    let (tell, life) = watch::channel(Life::Running);
    let (told, migration) = watch::channel(String::new());
    tokio::spawn(read_console(stream, console.clone(), tell.clone()));
    let mut ended = child.ended();
    let folder = folder.to_owned();
    tokio::spawn(async move {
        let mut powered_off = false;
        let end = loop {
            tokio::select! {
                Some(event) = events.recv() => powered_off |= take_event(&event, &told),
                end = ended.wait_for(Option::is_some) => break end.ok().and_then(|end| end.clone()),
            }
        };
        while let Ok(event) = events.try_recv() {
            powered_off |= take_event(&event, &told);
        }
        let why = if powered_off {
            "the guest powered off".into()
        } else {
            cause_of_end(end, &folder)
        };
        tell.send_if_modified(|life| {
            let first = *life == Life::Running;
            if first {
                *life = Life::Exited(why);
            }
            first
        });
    });
    Ok(Watched {
        console,
        life,
        migration,
    })
}

/// Notes a migration's status; tells whether the guest powered off.
fn take_event(event: &Event, migration: &watch::Sender<String>) -> bool {
    match event.name.as_str() {
        "MIGRATION" => {
            migration.send_replace(event.data["status"].as_str().unwrap_or_default().to_owned());
            false
        }
        "SHUTDOWN" => event.data["guest"] == Value::Bool(true),
        _ => false,
    }
}

fn cause_of_end(end: Option<Ended>, folder: &Path) -> String {
    let status = end.and_then(|end| end.status);
    let mut text = match status.map(|status| (status.signal(), status.code())) {
        Some((Some(7), _)) => "QEMU was killed by a bus error: no space for the guest's memory?".to_owned(),
        Some((Some(signal), _)) => format!("QEMU was killed by signal {signal}"),
        Some((_, Some(code))) => format!("QEMU ended with status {code}"),
        _ => "QEMU ended".to_owned(),
    };
    let log = files::log_tail(folder);
    if let Some(last) = log.lines().last() {
        text.push_str(": ");
        text.push_str(last);
    }
    text
}

async fn read_console(mut stream: UnixStream, console: Console, life: watch::Sender<Life>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut line = Vec::new();
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let bytes = &buffer[..count];
        console.push(bytes);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || line.len() > LINE_LIMIT {
                notice_panic(&line, &life);
                line.clear();
            }
        }
    }
}

fn notice_panic(line: &[u8], life: &watch::Sender<Life>) {
    let line = String::from_utf8_lossy(line);
    if let Some(at) = line.find(PANIC) {
        let text = line[at..].trim().to_owned();
        // The kernel repeats itself at the end of its report: the first line is the one that says why.
        life.send_if_modified(|life| {
            let first = !matches!(life, Life::Panicked(_));
            if first {
                *life = Life::Panicked(text);
            }
            first
        });
    }
}

#[async_trait]
impl Machine for QemuMachine {
    fn endpoint(&mut self) -> Option<Endpoint> {
        self.agent.take().map(Endpoint::Agent)
    }

    fn console(&self) -> Console {
        self.watched.console.clone()
    }

    fn life(&self) -> watch::Receiver<Life> {
        self.watched.life.clone()
    }

    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        match (self.purpose, &self.memory) {
            (Use::Parent, Memory::Own(_)) => Some(self),
            _ => None,
        }
    }

    fn controls(&self) -> Option<&dyn Controls> {
        Some(self)
    }

    fn pid(&self) -> Option<u32> {
        Some(self.child.pid())
    }

    async fn kill(&mut self) -> Result<()> {
        let failed = |cause| Error::new(ErrorKind::Teardown, "QEMU cannot be ended").because(cause);
        if let Some(uplink) = &self.uplink {
            uplink.kill_now();
        }
        self.child.kill().await.map_err(failed)?;
        if let Some(uplink) = self.uplink.take() {
            uplink.kill().await.map_err(failed)?;
        }
        match fs::remove_dir_all(&self.folder) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(files::unusable(&self.folder, "cannot be removed", cause))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Controls for QemuMachine {
    async fn pause(&self) -> Result<()> {
        self.run("stop").await
    }

    async fn resume(&self) -> Result<()> {
        self.run("cont").await
    }

    async fn reset(&self) -> Result<()> {
        self.run("system_reset").await
    }
}
