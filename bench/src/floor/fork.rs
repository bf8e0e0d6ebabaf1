//! A machine of the floor: made, frozen and ended by hand.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::error::Result;
use crate::floor::agent::Agent;
use crate::floor::argv::{Numbers, Template};
use crate::floor::monitor::{Monitor, STATE_ONLY};
use crate::sys;

/// A step of a fork's making and the milliseconds from its request to the step's end.
type Phase = (&'static str, f64);

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    folder: PathBuf,
    child: Child,
    monitor: Monitor,
    pub(crate) agent: Agent,
    pub(crate) phases: Vec<Phase>,
}

impl Machine {
    /// A fork that has answered an exec. `empty` are prepared empty overlays, one for each disk.
    pub(crate) fn fork(template: &Template, empty: &[PathBuf], folder: &Path) -> Result<Self> {
        let begin = Instant::now();
        let state = File::open(template.snapshot()?.join("state"))?;
        let mut machine = Self::start(template, empty, folder, Some(state.into()))?;
        machine.note("spawn", begin);
        machine.monitor.send(&[
            r#"{"execute":"qmp_capabilities"}"#,
            STATE_ONLY,
            r#"{"execute":"migrate-incoming","arguments":{"uri":"file:/dev/fdset/1"}}"#,
        ])?;
        machine.monitor.migrated()?;
        machine.note("load", begin);
        machine.monitor.send(&[r#"{"execute":"cont"}"#])?;
        machine.agent.hello()?;
        machine.note("hello", begin);
        machine.agent.exec("true", &[])?;
        machine.note("exec", begin);
        Ok(machine)
    }

    /// A machine that was booted until it has run `ready`.
    pub(crate) fn boot(
        template: &Template,
        empty: &[PathBuf],
        folder: &Path,
        ready: &[String],
    ) -> Result<Self> {
        let mut machine = Self::start(template, empty, folder, None)?;
        machine.monitor.send(&[r#"{"execute":"qmp_capabilities"}"#])?;
        // The first one waits for the guest, and its clock is late when it is heard.
        machine.agent.hello()?;
        machine.agent.hello()?;
        let args: Vec<&str> = ready.iter().skip(1).map(String::as_str).collect();
        let program = ready.first().map_or("true", String::as_str);
        machine.agent.exec(program, &args)?;
        Ok(machine)
    }

    fn start(template: &Template, empty: &[PathBuf], folder: &Path, state: Option<OwnedFd>) -> Result<Self> {
        fs::create_dir(folder)?;
        for (index, empty) in empty.iter().enumerate() {
            fs::copy(empty, folder.join(format!("disk{index}.qcow2")))?;
        }
        let (our_monitor, monitor) = UnixStream::pair()?;
        let (our_console, console) = UnixStream::pair()?;
        let (our_agent, agent) = UnixStream::pair()?;
        let network = UnixDatagram::pair()?.0;
        let numbers = Numbers {
            monitor: monitor.as_raw_fd(),
            console: console.as_raw_fd(),
            agent: agent.as_raw_fd(),
            network: network.as_raw_fd(),
            state: state.as_ref().map(|fd| fd.as_raw_fd()),
        };
        let args = match state {
            Some(_) => template.fork(folder, &numbers)?,
            None => template.boot(folder, &numbers)?,
        };
        let mut keep: Vec<OwnedFd> = vec![monitor.into(), console.into(), agent.into(), network.into()];
        keep.extend(state);
        let mut command = Command::new(template.program());
        command
            .args(args)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("qemu.log"))?);
        sys::inherit(&mut command, &keep);
        let child = command.spawn()?;
        drop(keep);
        std::thread::spawn(move || drain(our_console));
        Ok(Self {
            folder: folder.to_owned(),
            child,
            monitor: Monitor::new(our_monitor)?,
            agent: Agent::new(our_agent)?,
            phases: Vec::new(),
        })
    }

    fn note(&mut self, phase: &'static str, begin: Instant) {
        self.phases.push((phase, begin.elapsed().as_secs_f64() * 1e3));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Freezes it into the folder `to`, and ends it.
    pub(crate) fn commit(mut self, to: &Path) -> Result {
        fs::create_dir(to)?;
        let state = to.join("state");
        let migrate = format!(
            r#"{{"execute":"migrate","arguments":{{"uri":"file:{}"}}}}"#,
            state.display()
        );
        self.monitor.send(&[
            STATE_ONLY,
            r#"{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":0}}"#,
            &migrate,
        ])?;
        self.monitor.migrated()?;
        self.monitor.send(&[r#"{"execute":"quit"}"#])?;
        self.child.wait()?;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name() != "qemu.log" {
                fs::rename(entry.path(), to.join(entry.file_name()))?;
            }
        }
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }

    /// Waits until the monitor has answered everything: the machine is idle.
    pub(crate) fn settle(&mut self) -> Result {
        self.monitor.settle()
    }

    /// Ends it and returns when its process is gone.
    pub(crate) fn kill(mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

/// Prepares the empty overlays that forks copy: one for each disk, of the size of the snapshot's.
pub(crate) fn empty_overlays(template: &Template, folder: &Path, sizes: &[u64]) -> Result<Vec<PathBuf>> {
    if sizes.len() != template.disks() {
        return Err("the machine has other disks than its manifest says".into());
    }
    let mut overlays = Vec::new();
    for (index, size) in sizes.iter().enumerate() {
        let path = folder.join(format!("empty{index}.qcow2"));
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&path)
            .arg(size.to_string())
            .status()?;
        if !made.success() {
            return Err(format!("qemu-img create: {made}").into());
        }
        overlays.push(path);
    }
    Ok(overlays)
}

fn drain(mut console: UnixStream) {
    let mut buffer = [0; 4096];
    while matches!(console.read(&mut buffer), Ok(1..)) {}
}
