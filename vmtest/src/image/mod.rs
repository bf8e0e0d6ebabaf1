//! Images: found by content key, or made.

mod agent;
mod apt;
mod bootstrap;
mod built;
mod busybox;
mod cpio;
mod debian;
mod disk;
mod elf;
mod fetch;
mod files;
mod hashes;
mod host;
mod initrd;
mod kernel;
mod key;
mod modules;
mod needs;
mod seed;
mod shelf;
mod shelved;
mod sources;
mod tiny;
mod tool;
mod tree;

use std::path::Path;
use std::time::Instant;

use vmtest_backends::spec::Image;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::{Config, DebianDecl, FilesDecl, ImageDecl, Source, TinyDecl};
use crate::dirs::Dirs;

pub use needs::{Need, can_make_trees, needs};
pub use shelved::{Condition, Shelved, is_there, remove_fetched, shelved};

use host::Host;
use shelf::Shelf;

/// Where the progress of a build is told, a line at a time; may be called from any thread.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// What is to be done to have an image.
#[derive(Debug, Clone)]
pub struct Plan {
    decl: ImageDecl,
    digest: String,
    recipe: Recipe,
}

/// How the image is made.
#[derive(Debug, Clone)]
enum Recipe {
    Tiny(Host, TinyDecl),
    Debian(Host, DebianDecl),
    Files(FilesDecl),
}

/// Plans the image that the configuration calls `name`, and builds nothing. Files of the user's are read to
/// know their content the first time they are seen; the hash is remembered in the cache.
pub fn plan(config: &Config, dirs: &Dirs, name: &str) -> Result<Plan> {
    let decl = config.image(name)?.clone();
    let recipe = match &decl.source {
        Source::Tiny(tiny) => Recipe::Tiny(Host::detect()?, tiny.clone()),
        Source::Debian(debian) => Recipe::Debian(Host::detect()?, debian.clone()),
        Source::Files(files) => Recipe::Files(files.clone()),
    };
    let digest = recipe.digest(dirs, &decl)?;
    Ok(Plan { decl, digest, recipe })
}

impl Recipe {
    fn digest(&self, dirs: &Dirs, decl: &ImageDecl) -> Result<String> {
        match self {
            Self::Tiny(host, tiny) => Ok(tiny::digest(host, tiny)),
            Self::Debian(host, debian) => Ok(debian::digest(host, debian)),
            Self::Files(files) => files::digest(dirs, decl, files),
        }
    }
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
        self.found(&Shelf::open(dirs)?)
    }

    /// Builds the image, or waits for the process that does, and returns it. Blocks for seconds to minutes;
    /// may be killed at any time, the next builder sweeps what is left. `say` gets the progress, a line each.
    pub fn build(&self, dirs: &Dirs, say: Say<'_>) -> Result<Image> {
        let shelf = Shelf::open(dirs)?;
        let what = format!("the image {}", self.decl.name);
        let begin = Instant::now();
        let timed = |line: &str| {
            say(&format!(
                "[{:6.1} s] {what}: {line}",
                begin.elapsed().as_secs_f64()
            ))
        };
        let usable = || self.found(&shelf).is_ok_and(|image| image.is_some());
        let fill = |folder: &Path| self.fill(&shelf, dirs, folder, &timed);
        shelf
            .get_usable(&self.digest, &what, &timed, &usable, &fill)
            .map_err(|cause| Error::new(cause.kind(), format!("{what} could not be made")).because(cause))?;
        let built = self.found(&shelf)?;
        built.ok_or_else(|| Error::new(ErrorKind::Store, format!("{what} vanished when it had been made")))
    }

    fn found(&self, shelf: &Shelf) -> Result<Option<Image>> {
        let image = built::find(shelf, &self.digest)?;
        let name = self.decl.name.clone();
        Ok(image.map(|image| Image { name, ..image }))
    }

    fn fill(&self, shelf: &Shelf, dirs: &Dirs, folder: &Path, say: Say<'_>) -> Result<()> {
        let image = match &self.recipe {
            Recipe::Tiny(host, decl) => tiny::build(shelf, dirs, host, decl, folder, say)?,
            Recipe::Debian(host, decl) => debian::build(shelf, dirs, host, decl, folder, say)?,
            Recipe::Files(decl) => files::build(shelf, dirs, decl, &self.digest, folder, say)?,
        };
        if self.recipe.digest(dirs, &self.decl)? != self.digest {
            return Err(Error::new(
                ErrorKind::Image,
                "its files changed while they were copied",
            ));
        }
        let digest = self.digest.clone();
        built::save(shelf, folder, &self.digest, Image { digest, ..image })?;
        say("ready");
        Ok(())
    }
}
