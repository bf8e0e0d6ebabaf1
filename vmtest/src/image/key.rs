//! Content keys: a digest over everything that goes in, each piece under its name.

/// The format of what is built: raised when the same inputs give something else.
const FORMAT: &str = "1";

/// The length of a key in hexadecimal digits: 128 bits.
const LENGTH: usize = 32;

/// A content key while its pieces are put in.
#[derive(Debug, Clone)]
pub(super) struct Key(blake3::Hasher);

impl Key {
    /// The key of a thing of the sort `what`.
    pub(super) fn new(what: &str) -> Self {
        Self(blake3::Hasher::new())
            .with("format", FORMAT)
            .with("what", what)
    }

    /// With a piece under its name. Lengths go in too, so that pieces cannot run into each other.
    pub(super) fn with(mut self, name: &str, piece: impl AsRef<[u8]>) -> Self {
        for part in [name.as_bytes(), piece.as_ref()] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// With a list of pieces.
    pub(super) fn with_all<P: AsRef<[u8]>>(self, name: &str, pieces: &[P]) -> Self {
        let counted = self.with(name, (pieces.len() as u64).to_le_bytes());
        pieces.iter().fold(counted, |key, piece| key.with("", piece))
    }

    /// The key, in hexadecimal.
    pub(super) fn finish(self) -> String {
        self.0.finalize().to_hex().as_str()[..LENGTH].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_run_into_each_other() {
        let of = |pieces: &[&str]| Key::new("x").with_all("list", pieces).finish();
        assert_eq!(of(&["a", "b"]).len(), LENGTH);
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab", ""]));
        assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(
            Key::new("x").with("a", "b").finish(),
            Key::new("x").with("ab", "").finish()
        );
    }
}
