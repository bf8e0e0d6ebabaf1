//! Images: found by content key, or made.

mod agent;
mod apt;
mod bootstrap;
mod built;
mod busybox;
mod cpio;
mod debian;
mod elf;
mod host;
mod initrd;
mod kernel;
mod key;
mod modules;
mod shelf;
mod sources;
mod tiny;
mod tool;
mod tree;

use std::path::Path;
use std::time::Instant;

use vmtest_backends::spec::Image;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::{Config, ImageDecl, Source};
use crate::dirs::Dirs;

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
    Tiny(Host),
    Debian(Host),
}

/// Plans the image that the configuration calls `name`. Reads files of the user's to know their content
/// the first time it sees them (the hash is remembered in the cache), and builds nothing.
pub fn plan(config: &Config, dirs: &Dirs, name: &str) -> Result<Plan> {
    let _ = dirs;
    let decl = config.image(name)?.clone();
    let (recipe, digest) = match &decl.source {
        Source::Tiny(tiny) => {
            let host = Host::detect()?;
            let digest = tiny::digest(&host, tiny);
            (Recipe::Tiny(host), digest)
        }
        Source::Debian(debian) => {
            let host = Host::detect()?;
            let digest = debian::digest(&host, debian);
            (Recipe::Debian(host), digest)
        }
        Source::Files(_) => {
            return Err(Error::new(
                ErrorKind::Image,
                format!("the image {name} cannot be made yet"),
            ));
        }
    };
    Ok(Plan { decl, digest, recipe })
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
        let failed =
            |cause: Error| Error::new(cause.kind(), format!("{what} could not be made")).because(cause);
        shelf
            .get(&self.digest, &what, &timed, &|folder| {
                self.fill(&shelf, dirs, folder, &timed)
            })
            .map_err(failed)?;
        let built = self.found(&shelf)?;
        built.ok_or_else(|| Error::new(ErrorKind::Store, format!("{what} vanished when it had been made")))
    }

    fn found(&self, shelf: &Shelf) -> Result<Option<Image>> {
        let image = built::find(shelf, &self.digest)?;
        Ok(image.map(|image| Image {
            name: self.decl.name.clone(),
            ..image
        }))
    }

    fn fill(&self, shelf: &Shelf, dirs: &Dirs, folder: &Path, say: Say<'_>) -> Result<()> {
        let image = match (&self.recipe, &self.decl.source) {
            (Recipe::Tiny(host), Source::Tiny(decl)) => tiny::build(shelf, dirs, host, decl, folder, say)?,
            (Recipe::Debian(host), Source::Debian(decl)) => {
                debian::build(shelf, dirs, host, decl, folder, say)?
            }
            _ => unreachable!("the recipe was made from this source"),
        };
        let image = Image {
            digest: self.digest.clone(),
            ..image
        };
        built::save(shelf, folder, &self.digest, image)?;
        say("ready");
        Ok(())
    }
}
