//! What of the source goes into the key of a snapshot.

use std::fs;

use proc_macro::Span;

/// The digest of the file that `span` lies in, in hexadecimal; empty where the compiler does not tell which file that is.
pub(crate) fn of_source(span: Span) -> String {
    span.local_file()
        .and_then(|path| fs::read(path).ok())
        .map(|bytes| blake3::hash(&bytes).to_hex().to_string())
        .unwrap_or_default()
}
