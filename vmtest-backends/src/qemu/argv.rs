//! The command line of a machine, made in one place for booting and forking alike: what differs between
//! the two would load "successfully" and be dead.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::qemu::accelerator::Accelerator;
use crate::qemu::binary::{Binary, Version};
use crate::spec::{DiskFormat, Spec};

/// The name of the agent's port inside the guest.
pub(super) const AGENT_PORT: &str = "vmtest.agent";

/// What tells the kernel where its console is.
const CONSOLE: &str = "console=ttyS0";

/// The block node and device of disk `index`.
pub(super) fn disk_node(index: usize) -> String {
    format!("disk{index}")
}

/// A file of a disk's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) format: DiskFormat,
}

/// Where the guest's memory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Memory {
    /// In a file of this machine alone, which a commit can keep.
    Own(PathBuf),
    /// In a snapshot's file, mapped copy-on-write.
    CopyOnWrite(PathBuf),
}

/// The guest's ends of its channels, as inherited descriptors.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) monitor: OwnedFd,
    pub(super) console: OwnedFd,
    pub(super) agent: OwnedFd,
    pub(super) network: Network,
}

/// What the NIC is plugged into. Never QEMU's own `user` network: its state would be part of the snapshot.
#[derive(Debug)]
pub(super) enum Network {
    /// A datagram socket with nobody at the other end.
    Unplugged(OwnedFd),
    /// A stream socket with an uplink at the other end.
    Uplink(OwnedFd),
}

/// A command line and the descriptors it names.
#[derive(Debug)]
pub(super) struct Argv {
    pub(super) args: Vec<String>,
    pub(super) keep: Vec<OwnedFd>,
    /// Where the state to load is found.
    pub(super) incoming: Option<String>,
}

/// What must match between a snapshot and its forks: everything of the command line that is not a path or
/// a descriptor, and who executes it.
pub(super) fn identity(binary: &Binary, accelerator: &Accelerator, spec: &Spec) -> String {
    let mut parts = vec![binary.greeting_text(), accelerator.to_string()];
    parts.extend(machine(binary.version, accelerator, spec));
    parts.extend(devices(spec));
    parts.push(cmdline(spec));
    parts.join(" ")
}

/// The whole command line. `chains` holds each disk's files, bottom first; `incoming` is the state to load.
pub(super) fn build(
    version: Version,
    accelerator: &Accelerator,
    spec: &Spec,
    memory: &Memory,
    chains: &[Vec<File>],
    channels: Channels,
    incoming: Option<OwnedFd>,
) -> Argv {
    let mut argv = Argv {
        args: strings(&[
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-msg",
            "timestamp=off",
        ]),
        keep: Vec::new(),
        incoming: None,
    };
    argv.args.extend(machine(version, accelerator, spec));
    argv.add("-object", memory_backend(version, spec, memory));
    argv.boot(spec);
    argv.channels(channels);
    for (index, chain) in chains.iter().enumerate() {
        argv.add("-blockdev", block_graph(&disk_node(index), chain).to_string());
    }
    if let Some(folder) = &spec.image.seed {
        argv.add("-blockdev", seed_graph(folder).to_string());
    }
    argv.args.extend(devices(spec));
    if let Some(state) = incoming {
        argv.args.extend(strings(&["-incoming", "defer"]));
        let fd = argv.keep_fd(state);
        if version.has_file_migration() {
            argv.add("-add-fd", format!("fd={fd},set=1"));
            argv.incoming = Some("file:/dev/fdset/1".into());
        } else {
            argv.incoming = Some(format!("fd:{fd}"));
        }
    }
    argv
}

impl Argv {
    fn add(&mut self, option: &str, value: String) {
        self.args.push(option.into());
        self.args.push(value);
    }

    fn keep_fd(&mut self, fd: OwnedFd) -> i32 {
        let number = fd.as_raw_fd();
        self.keep.push(fd);
        number
    }

    fn boot(&mut self, spec: &Spec) {
        let image = &spec.image;
        if let Some(kernel) = &image.kernel {
            self.add("-kernel", text(kernel));
            self.add("-append", cmdline(spec));
        }
        if let Some(initrd) = &image.initrd {
            self.add("-initrd", text(initrd));
        }
    }

    fn channels(&mut self, channels: Channels) {
        let monitor = self.keep_fd(channels.monitor);
        self.add("-chardev", format!("socket,id=monitor,fd={monitor}"));
        self.add("-mon", "chardev=monitor,mode=control".into());
        let console = self.keep_fd(channels.console);
        self.add("-chardev", format!("socket,id=console,fd={console}"));
        let agent = self.keep_fd(channels.agent);
        self.add("-chardev", format!("socket,id=agent,fd={agent}"));
        let network = match channels.network {
            Network::Unplugged(fd) => format!("dgram,id=net0,local.type=fd,local.str={}", self.keep_fd(fd)),
            Network::Uplink(fd) => format!(
                "stream,id=net0,server=off,addr.type=fd,addr.str={}",
                self.keep_fd(fd)
            ),
        };
        self.add("-netdev", network);
    }
}

fn cmdline(spec: &Spec) -> String {
    format!("{CONSOLE} {}", spec.image.cmdline)
}

fn machine(version: Version, accelerator: &Accelerator, spec: &Spec) -> Vec<String> {
    // What a test machine never uses is left out: each device costs a fork time.
    let machine = "q35,memory-backend=pc.ram,sata=off,smbus=off,usb=off,graphics=off,vmport=off";
    let mut args = strings(&[
        "-machine",
        machine,
        "-accel",
        accelerator.name(),
        "-cpu",
        accelerator.cpu(version),
    ]);
    args.extend(["-smp".into(), spec.cpus.to_string()]);
    args.extend(["-m".into(), spec.memory_mib.to_string()]);
    args
}

fn devices(spec: &Spec) -> Vec<String> {
    let mut devices = vec![
        "virtio-serial-pci,addr=0x3".to_owned(),
        format!("virtserialport,chardev=agent,name={AGENT_PORT}"),
        "virtio-net-pci,addr=0x4,netdev=net0,mac=52:54:00:12:34:56,romfile=".to_owned(),
        "vmgenid,guid=auto".to_owned(),
    ];
    for index in 0..spec.image.disks.len() {
        let slot = 5 + index;
        devices.push(format!(
            "virtio-blk-pci,addr={slot:#x},drive={}",
            disk_node(index)
        ));
    }
    if spec.image.seed.is_some() {
        let slot = 5 + spec.image.disks.len();
        devices.push(format!("virtio-blk-pci,addr={slot:#x},drive=seed"));
    }
    let mut args = strings(&["-serial", "chardev:console"]);
    for device in devices {
        args.extend(["-device".into(), device]);
    }
    args
}

fn memory_backend(version: Version, spec: &Spec, memory: &Memory) -> String {
    let (path, sharing) = match memory {
        Memory::Own(path) => (path, "share=on"),
        // Without rom=off a read-only file freezes the guest; before QEMU 8.2 the option does not exist.
        Memory::CopyOnWrite(path) if version.has_rom_option() => (path, "share=off,readonly=on,rom=off"),
        Memory::CopyOnWrite(path) => (path, "share=off"),
    };
    let path = text(path).replace(',', ",,");
    format!(
        "memory-backend-file,id=pc.ram,size={}M,mem-path={path},{sharing}",
        spec.memory_mib
    )
}

/// The block graph of a chain, bottom first; the top is written to. No image file's own idea of its
/// backing file is ever followed.
fn block_graph(node: &str, chain: &[File]) -> Value {
    let mut below = Value::Null;
    let last = chain.len().saturating_sub(1);
    for (index, file) in chain.iter().enumerate() {
        let top = index == last;
        let mut layer = json!({
            "driver": file.format.as_str(),
            "read-only": !top,
            "file": {"driver": "file", "filename": text(&file.path), "read-only": !top},
        });
        if top {
            layer["node-name"] = node.into();
            layer["discard"] = "unmap".into();
            // The overlay of a machine is gone with it, and a commit closes it first.
            layer["cache"] = json!({"direct": false, "no-flush": true});
        }
        if file.format == DiskFormat::Qcow2 {
            layer["backing"] = below;
        }
        below = layer;
    }
    below
}

fn seed_graph(folder: &Path) -> Value {
    json!({"driver": "vvfat", "node-name": "seed", "read-only": true, "dir": text(folder), "label": "CIDATA"})
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}

/// Paths of ours are made of what is checked to be UTF-8 when a machine is asked for.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
