//! The engines of vmtest. Each one starts, commits and forks *one machine at a time*;
//! pools, brokers and tests live above and are unknown here.
//!
//! Floors, lowest first: [`error`], [`spec`], [`manifest`], [`endpoint`]; then [`session`];
//! then [`backend`] and the engines.

pub mod backend;
pub mod console;
pub mod endpoint;
pub mod error;
pub mod manifest;
pub mod process;
#[cfg(feature = "qemu")]
pub mod qemu;
pub mod session;
pub mod spec;
mod sys;

pub use error::{Error, ErrorKind, Result};
