//! The machine's handle over a real agent, which runs on the host instead of in a guest: what it runs and writes is on
//! the host. So nothing here reboots, sets up networks or lets keys in.

mod command;
mod copy;
mod death;
mod file;
mod forward;
mod guest;
mod scratch;
mod wait;

use guest::Guest;

pub(crate) use scratch::Scratch;
