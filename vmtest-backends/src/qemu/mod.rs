//! QEMU: memory is shared copy-on-write through a file, devices travel in a small state file, disks are
//! qcow2 overlays.
//!
//! A machine's life: `launch` starts the process on a command line from `argv`, with all its channels
//! (`qmp` monitor, console, agent) as inherited sockets, so that no path is waited for and nothing lies
//! about; `machine` watches and ends it; `commit` freezes it; `fork` launches from what was frozen.

mod accelerator;
mod argv;
mod binary;
mod commit;
mod engine;
mod files;
mod fork;
mod launch;
mod machine;
mod overlay;
mod qmp;
mod trial;
mod uplink;

pub use accelerator::Preference;
pub use engine::{Qemu, Settings, UNTRIED};
