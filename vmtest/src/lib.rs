//! Tests that each get a real virtual machine to themselves.

pub mod broker;
pub mod config;
pub mod dirs;
pub mod image;
pub mod vm;

pub use vmtest_backends::{Error, ErrorKind, Result};
