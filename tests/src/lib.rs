//! What tests of whole runs stand on: a state directory of their own, programs with a limit, the fixtures,
//! and a look for what was left behind.

pub mod files;
pub mod fixture;
pub mod lab;
pub mod program;
pub mod residue;

pub use fixture::Fixture;
pub use lab::Lab;
pub use program::{Ended, Running};
