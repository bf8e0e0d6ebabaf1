//! Trees of files as a stream: packed from the host's files, and unpacked from a guest that is not trusted.

mod bridge;
mod entry;
mod name;
mod pack;
mod root;
#[cfg(test)]
mod tests;
mod unpack;

pub(super) use bridge::{Piece, PieceReader, PieceWriter, pieces};
pub(super) use entry::Refusal;
pub(super) use pack::{Exact, pack};
pub(super) use unpack::unpack;
