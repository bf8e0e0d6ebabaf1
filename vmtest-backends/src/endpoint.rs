//! How a guest is reached: data, not behaviour.

use std::os::unix::net::UnixStream;

/// How the guest of a machine is reached.
#[derive(Debug)]
#[non_exhaustive]
pub enum Endpoint {
    /// A byte stream to our agent; nobody has spoken on it since the machine started.
    Agent(UnixStream),
}
