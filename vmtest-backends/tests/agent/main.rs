//! The session through the agent, against the real agent on this host.

mod epochs;
mod exec;
mod host;
mod streams;
