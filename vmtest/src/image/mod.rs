//! Images: found by content key, or made.

use vmtest_backends::spec::Image;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::{Config, ImageDecl};
use crate::dirs::Dirs;

/// Where the progress of a build is told, a line at a time; may be called from any thread.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// What is to be done to have an image.
#[derive(Debug, Clone)]
pub struct Plan {
    decl: ImageDecl,
    digest: String,
}

/// Plans the image that the configuration calls `name`. Reads files of the user's to know their content
/// the first time it sees them (the hash is remembered in the cache), and builds nothing.
pub fn plan(config: &Config, dirs: &Dirs, name: &str) -> Result<Plan> {
    let _ = dirs;
    let decl = config.image(name)?.clone();
    Ok(Plan {
        decl,
        digest: String::new(),
    })
}

impl Plan {
    /// The name that tests use.
    pub fn name(&self) -> &str {
        &self.decl.name
    }

    /// The content key of the image, hexadecimal; equal to the digest of the image found or built.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The image, if it has been built and is intact. Takes well under a millisecond.
    pub fn find(&self, dirs: &Dirs) -> Result<Option<Image>> {
        let _ = dirs;
        Ok(None)
    }

    /// Builds the image, or waits for the process that does, and returns it. Blocks for seconds to minutes;
    /// may be killed at any time, the next builder sweeps what is left. `say` gets the progress, a line each.
    pub fn build(&self, dirs: &Dirs, say: Say<'_>) -> Result<Image> {
        let _ = (dirs, say);
        Err(Error::new(
            ErrorKind::Image,
            format!("the image {} cannot be made yet", self.decl.name),
        ))
    }
}
