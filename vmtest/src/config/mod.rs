//! What `vmtest.toml` and the environment say: settings, images, snapshots declared by steps.

mod decl;
mod quantity;
mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;

use vmtest_backends::Result;

pub use decl::{
    DEFAULT_DISK_SIZE, DebianDecl, DiskDecl, FilesDecl, ImageDecl, Origin, SnapshotDecl, Source, Step,
    TinyDecl, WaitFor,
};
pub use settings::{Accel, BrokerUse, MemoryLimit, OnMissing, PoolLimits, Settings};

/// What `vmtest.toml` and the environment say.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    file: Option<PathBuf>,
    settings: Settings,
    images: BTreeMap<String, ImageDecl>,
}

impl Config {
    /// Reads the nearest `vmtest.toml`, then the environment.
    pub fn load() -> Result<Self> {
        let settings = Settings {
            idle: settings::default_idle(),
            ..Settings::default()
        }
        .overridden()?;
        Ok(Self {
            file: None,
            settings,
            images: BTreeMap::new(),
        })
    }

    /// The file that was read, if there is one.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.file.as_deref()
    }

    /// How tests are run here.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All images, by name; `tiny` and `debian` are always among them.
    pub fn images(&self) -> impl Iterator<Item = &ImageDecl> {
        self.images.values()
    }

    /// The image called `name`; the error lists the known ones.
    pub fn image(&self, name: &str) -> Result<&ImageDecl> {
        let known = || self.images.keys().cloned().collect::<Vec<_>>().join(", ");
        self.images.get(name).ok_or_else(|| {
            vmtest_backends::Error::new(
                vmtest_backends::ErrorKind::Invalid,
                format!("no image is called {name:?}; known are {}", known()),
            )
        })
    }

    /// The snapshot `name` declared for the image `image`, if there is one.
    pub fn snapshot(&self, image: &str, name: &str) -> Option<&SnapshotDecl> {
        self.images.get(image)?.snapshots.get(name)
    }
}
