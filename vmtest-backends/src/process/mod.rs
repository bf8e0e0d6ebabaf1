//! Processes of ours on the host: bound to our life, watched through a pidfd, never found by name.

mod child;
mod spawner;

pub use child::{Child, Ended, wait_for_end};
pub(crate) use spawner::spawn;
