//! What `vmtest.toml` and the environment say: settings, images, snapshots declared by steps.

mod check;
mod decl;
mod quantity;
mod raw;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmtest_backends::{Error, ErrorKind, Result};

pub use decl::{
    DEFAULT_DISK_SIZE, DebianDecl, DiskDecl, FilesDecl, ImageDecl, Origin, SnapshotDecl, Source, Step,
    TinyDecl, WaitFor,
};
pub use settings::{Accel, BrokerUse, MemoryLimit, OnMissing, PoolLimits, Settings, stretched};

/// The name of the file that is looked for.
pub const FILE: &str = "vmtest.toml";

/// What `vmtest.toml` and the environment say.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    file: Option<PathBuf>,
    settings: Settings,
    images: BTreeMap<String, ImageDecl>,
}

impl Config {
    /// Reads the file that `VMTEST_CONFIG` names, else the nearest `vmtest.toml` upwards from the folder in
    /// `CARGO_MANIFEST_DIR` (at run time; else from the current folder), else none; then the environment.
    ///
    /// An error names the place in the file and what was expected there.
    pub fn load() -> Result<Self> {
        match find()? {
            Some(file) => Self::read(&file),
            None => Self::build(None, defaults(), BTreeMap::new()),
        }
    }

    /// Reads this file, then the environment.
    pub fn read(file: &Path) -> Result<Self> {
        let unreadable = |cause: io::Error| {
            Error::new(ErrorKind::Invalid, format!("{} cannot be read", file.display())).because(cause)
        };
        let file = std::path::absolute(file).map_err(unreadable)?;
        let text = fs::read_to_string(&file).map_err(unreadable)?;
        let (settings, images) = check::Document::new(&file, &text).read(defaults())?;
        Self::build(Some(file), settings, images)
    }

    fn build(
        file: Option<PathBuf>,
        settings: Settings,
        mut images: BTreeMap<String, ImageDecl>,
    ) -> Result<Self> {
        for image in built_in() {
            images.entry(image.name.clone()).or_insert(image);
        }
        Ok(Self {
            file,
            settings: settings.overridden()?,
            images,
        })
    }

    /// The file that was read, if there was one.
    pub fn file(&self) -> Option<&Path> {
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
        self.images.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.images.keys().map(String::as_str).collect();
            let file = match &self.file {
                Some(file) => format!(" (from {})", file.display()),
                None => format!(" (there is no {FILE})"),
            };
            let text = format!(
                "no image is called {name:?}; known are {}{file}",
                known.join(", ")
            );
            Error::new(ErrorKind::Invalid, text)
        })
    }

    /// The snapshot `name` declared for the image `image`, if there is one.
    pub fn snapshot(&self, image: &str, name: &str) -> Option<&SnapshotDecl> {
        self.images.get(image)?.snapshots.get(name)
    }
}

fn defaults() -> Settings {
    Settings {
        idle: settings::default_idle(),
        ..Settings::default()
    }
}

fn built_in() -> [ImageDecl; 2] {
    let named = |name: &str, source| ImageDecl {
        name: name.to_owned(),
        origin: None,
        source,
        memory_mib: None,
        cpus: None,
        snapshots: BTreeMap::new(),
    };
    let debian = DebianDecl {
        packages: Vec::new(),
        disk_size: DEFAULT_DISK_SIZE,
    };
    [
        named("tiny", Source::Tiny(TinyDecl::default())),
        named("debian", Source::Debian(debian)),
    ]
}

fn find() -> Result<Option<PathBuf>> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(named) = set("VMTEST_CONFIG") {
        return Ok(Some(named));
    }
    let start = match set("CARGO_MANIFEST_DIR") {
        Some(folder) => folder,
        None => env::current_dir()
            .map_err(|cause| Error::new(ErrorKind::Invalid, "there is no current folder").because(cause))?,
    };
    Ok(start
        .ancestors()
        .map(|folder| folder.join(FILE))
        .find(|file| file.is_file()))
}
