//! Starting a QEMU process with its channels.

use std::fs::File as StdFile;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use crate::backend::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::process::Child;
use crate::qemu::accelerator::Accelerator;
use crate::qemu::argv::{self, Channels, File, Memory, Network};
use crate::qemu::binary::Binary;
use crate::qemu::machine::{QemuMachine, watch_over};
use crate::qemu::qmp::Qmp;
use crate::qemu::{files, overlay, uplink};
use crate::spec::{DiskFormat, Spec};

/// How long QEMU may take to load or save a state of devices; it is less than 2 MB.
pub(super) const LOAD_LIMIT: Duration = Duration::from_secs(60);

/// A machine about to be started.
pub(super) struct Launch<'a> {
    pub(super) binary: &'a Binary,
    pub(super) accelerator: &'a Accelerator,
    pub(super) spec: &'a Spec,
    pub(super) place: &'a Place,
    pub(super) memory: Memory,
    /// What lies below each disk's overlay, bottom first.
    pub(super) below: Vec<Vec<File>>,
    /// The state to load.
    pub(super) incoming: Option<StdFile>,
}

impl Launch<'_> {
    /// Starts the process; a booting one runs at once, a fork once its state is loaded.
    pub(super) async fn run(self, kind: ErrorKind) -> Result<QemuMachine> {
        let (machine, incoming) = self.spawn(kind).await?;
        machine.greet(incoming, kind).await?;
        Ok(machine)
    }

    /// Starts the process, which has not said a word yet; returns the state it is to load besides.
    pub(super) async fn spawn(self, kind: ErrorKind) -> Result<(QemuMachine, Option<String>)> {
        let folder = &self.place.folder;
        let chains = self.with_overlays()?;
        let uplink = if self.place.network {
            Some(uplink::start(folder).await?)
        } else {
            None
        };
        let (uplink, nic) = uplink.unzip();
        let io_failed = |cause| Error::new(kind, "QEMU's channels could not be made").because(cause);
        let (channels, ends) = channels(nic).map_err(io_failed)?;
        let version = self.binary.version;
        let incoming = self.incoming.map(OwnedFd::from);
        let argv = argv::build(
            version,
            self.accelerator,
            self.spec,
            &self.memory,
            &chains,
            channels,
            incoming,
        );

        let (events, event_queue) = mpsc::unbounded_channel();
        let (qmp, _greeting) = Qmp::connect(ends.monitor, events).map_err(io_failed)?;
        let mut command = Command::new(&self.binary.path);
        command
            .args(&argv.args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(files::log_file(&files::log_path(folder))?);
        let started = Child::start(command, argv.keep).await;
        let child = started.map_err(|cause| {
            Error::new(kind, format!("{} did not start", self.binary.path.display())).because(cause)
        })?;
        let watched = watch_over(ends.console, event_queue, &child, folder).map_err(io_failed)?;
        let machine = QemuMachine {
            folder: folder.clone(),
            version,
            purpose: self.place.purpose,
            memory: self.memory,
            nodes: (0..chains.len()).map(argv::disk_node).collect(),
            chains,
            child,
            uplink,
            qmp,
            watched,
            agent: Some(ends.agent),
        };
        Ok((machine, argv.incoming))
    }

    /// Each disk's chain with an empty overlay of this machine's own on top.
    fn with_overlays(&self) -> Result<Vec<Vec<File>>> {
        let mut chains = self.below.clone();
        for (index, (chain, disk)) in chains.iter_mut().zip(&self.spec.image.disks).enumerate() {
            let path = self.place.folder.join(format!("disk{index}.qcow2"));
            overlay::create(&path, disk.size)
                .map_err(|cause| files::unusable(&path, "cannot be created", cause))?;
            let format = DiskFormat::Qcow2;
            chain.push(File { path, format });
        }
        Ok(chains)
    }
}

impl QemuMachine {
    /// Opens the monitor and, for a fork, loads its state and lets it run. The commands are sent together,
    /// before QEMU is even up.
    pub(super) async fn greet(&self, incoming: Option<String>, kind: ErrorKind) -> Result<()> {
        let failed = |cause: Error| {
            let what = if incoming.is_some() {
                "QEMU did not load the snapshot"
            } else {
                "QEMU did not start"
            };
            match files::log_tail(&self.folder) {
                log if log.is_empty() => Error::new(kind, what).because(cause),
                log => Error::new(kind, what).because(format!("QEMU says: {log}")),
            }
        };
        let Some(uri) = &incoming else {
            return self
                .qmp
                .run("qmp_capabilities", json!({}))
                .await
                .map(|_| ())
                .map_err(failed);
        };
        let sent = tokio::try_join!(
            self.qmp.run("qmp_capabilities", json!({})),
            self.qmp.run("migrate-set-capabilities", state_only()),
            self.qmp.run("migrate-incoming", json!({"uri": uri})),
        );
        sent.map_err(failed)?;
        self.migrated(kind).await?;
        self.go_on();
        Ok(())
    }

    /// Lets the guest run. The answer is not waited for, the guest's own is: a refusal is noted in QEMU's log
    /// and ends the machine, which tells it to whoever waits.
    fn go_on(&self) {
        let (qmp, child, log) = (
            self.qmp.clone(),
            self.child.clone(),
            files::log_path(&self.folder),
        );
        tokio::spawn(async move {
            if let Err(refusal) = qmp.run("cont", json!({})).await {
                // The machine's end is told without its cause where even the log cannot be written.
                let _ = files::log_file(&log).map(|mut log| writeln!(log, "{}", refusal.chain()));
                child.kill_now();
            }
        });
    }
}

/// Memory stays in its file and is not part of the stream; QEMU tells when the stream has ended.
pub(super) fn state_only() -> serde_json::Value {
    json!({"capabilities": [
        {"capability": "x-ignore-shared", "state": true},
        {"capability": "events", "state": true},
    ]})
}

/// Our ends of a machine's channels.
struct Ends {
    monitor: UnixStream,
    console: OwnedFd,
    agent: UnixStream,
}

fn channels(nic: Option<OwnedFd>) -> std::io::Result<(Channels, Ends)> {
    let (our_monitor, monitor) = UnixStream::pair()?;
    let (our_console, console) = UnixStream::pair()?;
    let (our_agent, agent) = UnixStream::pair()?;
    let network = match nic {
        Some(nic) => Network::Uplink(nic),
        // The other end is closed at once: what the guest sends is lost, as on a pulled cable.
        None => Network::Unplugged(UnixDatagram::pair()?.0.into()),
    };
    let channels = Channels {
        monitor: monitor.into(),
        console: console.into(),
        agent: agent.into(),
        network,
    };
    let ends = Ends {
        monitor: our_monitor,
        console: our_console.into(),
        agent: our_agent,
    };
    Ok((channels, ends))
}
