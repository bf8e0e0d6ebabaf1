//! The process that owns the machines, spoken to over a socket.

mod link;

pub use link::{Control, Leased, Link};
