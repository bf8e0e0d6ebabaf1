//! The floor: the same engine with the same devices, driven by hand. Blocking calls of the standard library;
//! nothing of ours but the encoding of the agent's frames.

mod agent;
mod argv;
mod fork;
mod monitor;

pub(crate) use argv::Template;
pub(crate) use fork::{Machine, empty_overlays};
