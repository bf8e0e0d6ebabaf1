//! The session through the agent, against the real agent on this host.

mod exec;
mod host;
