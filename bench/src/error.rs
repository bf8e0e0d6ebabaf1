//! What goes wrong here is only told.

use std::error::Error as StdError;

/// An error of any kind.
pub(crate) type Error = Box<dyn StdError + Send + Sync>;

/// What can go wrong.
pub(crate) type Result<T = ()> = std::result::Result<T, Error>;
