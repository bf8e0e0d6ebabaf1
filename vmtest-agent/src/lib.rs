//! The guest agent of vmtest: its executable, and the protocol it speaks.
//!
//! The agent runs inside a machine, started as PID 1 of an initramfs or as a service, and starts processes and opens
//! byte streams there for the host, over the virtio-serial port named [`PORT`]. Its source is compiled by this
//! crate's build script, without any further target or download, and embedded as [`AGENT`].

pub mod wire;

/// The agent, a static Linux executable for the target of this build, the same bytes wherever it was built.
/// Empty when the target is not Linux with glibc.
pub static AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));

/// A digest of [`AGENT`], 32 hexadecimal digits, made when it was compiled: a test compiled without optimisation
/// would take 50 ms to make it.
pub const AGENT_KEY: &str = include_str!(concat!(env!("OUT_DIR"), "/agent.key"));

/// The name of the virtio-serial port on which the agent listens.
pub const PORT: &str = "vmtest.agent";
