//! How a snapshot is made: its steps, the snapshots below it, and the key of everything that goes into it.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmtest_backends::manifest::FORMAT;
use vmtest_backends::spec::Spec;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::config::{Config, SnapshotDecl, Step};
use crate::registry::{self, SnapshotFn};
use crate::store::unusable;

/// The snapshot every image has: booted and ready, nothing done to it.
pub(super) const BOOTED: &str = "booted";

/// How one snapshot is made.
#[derive(Debug, Clone)]
pub(super) enum Recipe {
    /// By booting.
    Boot,
    /// By a function, on a fork of its parent.
    Function(&'static SnapshotFn),
    /// By steps, on a fork of its parent.
    Steps(SnapshotDecl),
}

impl Recipe {
    /// Its name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Boot => BOOTED.to_owned(),
            Self::Function(function) => function.options().name,
            Self::Steps(decl) => decl.name.clone(),
        }
    }

    fn from(&self) -> Option<String> {
        match self {
            Self::Boot => None,
            Self::Function(function) => function.options().from,
            Self::Steps(decl) => decl.from.clone(),
        }
    }

    /// Where it is written.
    fn place(&self) -> String {
        match self {
            Self::Boot => "built in".to_owned(),
            Self::Function(function) => format!("{}:{}", function.file(), function.line()),
            Self::Steps(decl) => decl.origin.to_string(),
        }
    }

    /// Memory in MiB and virtual CPUs, where it says so.
    fn shape(&self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Boot => (None, None),
            Self::Function(function) => (function.options().memory, function.options().cpus),
            Self::Steps(decl) => (decl.memory_mib, decl.cpus),
        }
    }

    /// Whether its steps use the network.
    pub(super) fn network(&self) -> bool {
        match self {
            Self::Boot => false,
            Self::Function(function) => function.options().network.unwrap_or(false),
            Self::Steps(decl) => decl.network,
        }
    }

    /// How long its steps may take, where it says so.
    pub(super) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Boot => None,
            Self::Function(function) => function.options().timeout,
            Self::Steps(decl) => decl.timeout,
        }
    }

    /// Everything it does that can be tracked.
    fn fingerprint(&self, print: &mut Print) -> Result<()> {
        match self {
            Self::Boot => Ok(()),
            Self::Function(function) => fingerprint_of_function(function, print),
            Self::Steps(decl) => fingerprint_of_steps(decl, print),
        }
    }
}

/// The recipes from booting to `snapshot`, in the order in which they are followed.
pub(super) fn lineage(config: &Config, image: &str, snapshot: Option<&str>) -> Result<Vec<Recipe>> {
    let mut lineage = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut next = snapshot.map(str::to_owned);
    while let Some(name) = next.filter(|name| name != BOOTED) {
        let recipe = find(config, image, &name)?;
        if names.contains(&name) {
            names.push(name);
            let text = format!(
                "the snapshots {} of image {image} form a cycle ({})",
                names.join(" -> "),
                recipe.place()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        names.push(name);
        next = recipe.from();
        lineage.push(recipe);
    }
    lineage.push(Recipe::Boot);
    lineage.reverse();
    Ok(lineage)
}

fn find(config: &Config, image: &str, name: &str) -> Result<Recipe> {
    let functions = registry::snapshots()
        .into_iter()
        .filter(|function| function.options().image == image);
    let mut found: Vec<Recipe> = functions
        .filter(|function| function.options().name == name)
        .map(Recipe::Function)
        .collect();
    found.extend(config.snapshot(image, name).cloned().map(Recipe::Steps));
    match (found.pop(), found.pop()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(other)) => {
            let text = format!(
                "the snapshot {name} of image {image} is defined twice: at {} and at {}",
                other.place(),
                one.place()
            );
            Err(Error::new(ErrorKind::Invalid, text))
        }
        (None, _) => Err(unknown(config, image, name)),
    }
}

fn unknown(config: &Config, image: &str, name: &str) -> Error {
    let mut known = vec![BOOTED.to_owned()];
    for function in registry::snapshots() {
        let options = function.options();
        if options.image == image {
            known.push(options.name);
        }
    }
    if let Ok(image) = config.image(image) {
        known.extend(image.snapshots.keys().cloned());
    }
    let text = format!(
        "image {image} has no snapshot {name:?}; it has {} (from #[vm_snapshot] functions linked into this \
         program and [image.{image}.snapshot.*] tables)",
        known.join(", ")
    );
    Error::new(ErrorKind::Invalid, text)
}

/// What the machine is to be like: the test's word counts, then the nearest snapshot's, then the image's.
pub(super) fn shape(
    config: &Config,
    image: &str,
    lineage: &[Recipe],
    asked: (Option<u32>, Option<u32>),
) -> Result<(u32, u32)> {
    let decl = config.image(image)?;
    let settings = config.settings();
    let (mut memory, mut cpus) = asked;
    for recipe in lineage.iter().rev() {
        let (own_memory, own_cpus) = recipe.shape();
        memory = memory.or(own_memory);
        cpus = cpus.or(own_cpus);
    }
    let memory = memory
        .or(settings.memory_mib)
        .unwrap_or_else(|| decl.default_memory_mib());
    let cpus = cpus.or(settings.cpus).or(decl.cpus).unwrap_or(1);
    if memory < 64 || cpus == 0 || cpus > 255 {
        let text =
            format!("a machine with {memory} MiB and {cpus} CPUs cannot be: at least 64 MiB, 1 to 255 CPUs");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    Ok((memory, cpus))
}

/// The key of each recipe's snapshot, in the order of the lineage: of everything that went into it.
pub(super) fn keys(lineage: &[Recipe], spec: &Spec, backend: &str, identity: &str) -> Result<Vec<String>> {
    let mut print = Print::new("vmtest snapshot");
    print.part("format", FORMAT.to_string());
    print.part("image", &spec.image.digest);
    for disk in &spec.image.disks {
        print.part("disk", made(&disk.path)?);
    }
    print.part("memory", spec.memory_mib.to_string());
    print.part("cpus", spec.cpus.to_string());
    print.part("backend", backend);
    print.part("identity", identity);
    let mut keys = Vec::new();
    for recipe in lineage {
        if let Some(parent) = keys.last() {
            print = Print::new("vmtest snapshot");
            print.part("parent", parent);
        }
        print.part("name", recipe.name());
        print.part("network", recipe.network().to_string());
        recipe.fingerprint(&mut print)?;
        keys.push(print.key());
    }
    Ok(keys)
}

/// Which making of a disk this is. One made anew by the same recipe has other blocks, and is not to lie below
/// what was frozen on the old one.
fn made(path: &Path) -> Result<String> {
    let meta =
        fs::metadata(path).map_err(|cause| unusable(path, "cannot be read for a snapshot's key", cause))?;
    Ok(format!("{} bytes of {}", meta.len(), meta.mtime()))
}

fn fingerprint_of_function(function: &SnapshotFn, print: &mut Print) -> Result<()> {
    let options = function.options();
    print.part("function", function.path());
    print.part("source", function.fingerprint());
    print.part(
        "version",
        options.version.as_ref().map_or("", |version| version.as_str()),
    );
    for name in &options.env {
        let value = env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        print.part("variable", format!("{name}={value:?}"));
    }
    let root = PathBuf::from(function.package().unwrap_or("."));
    for pattern in &options.inputs {
        let place = || {
            format!(
                "inputs = [{pattern:?}] at {}:{}",
                function.file(),
                function.line()
            )
        };
        let full = root.join(pattern);
        let invalid = |cause: glob::PatternError| Error::new(ErrorKind::Invalid, place()).because(cause);
        let mut matched = 0;
        for path in glob::glob(&full.to_string_lossy()).map_err(invalid)? {
            let path = path.map_err(|cause| Error::new(ErrorKind::Invalid, place()).because(cause))?;
            print.tree(&root, &path)?;
            matched += 1;
        }
        if matched == 0 {
            let text = format!("{} matches nothing below {}", place(), root.display());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
    }
    Ok(())
}

fn fingerprint_of_steps(decl: &SnapshotDecl, print: &mut Print) -> Result<()> {
    for step in &decl.steps {
        // Debug text holds every field of a step, and nothing else.
        print.part("step", format!("{step:?}"));
        if let Step::Copy { from, .. } = step {
            let root = from.parent().unwrap_or(Path::new("/"));
            print.tree(root, from)?;
        }
    }
    Ok(())
}

/// A digest of named parts; no two lists of parts have the same bytes.
struct Print(blake3::Hasher);

impl Print {
    fn new(what: &str) -> Self {
        let mut print = Self(blake3::Hasher::new());
        print.part("what", what);
        print
    }

    fn part(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update(&(bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
    }

    /// Names, kinds, modes and contents of a file or of a whole folder.
    fn tree(&mut self, root: &Path, path: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |cause| unusable(path, "cannot be read for a snapshot's key", cause);
        let meta = fs::symlink_metadata(path).map_err(failed)?;
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
        self.part("path", name.as_bytes());
        self.part("mode", meta.permissions().mode().to_string());
        if meta.is_symlink() {
            let target = fs::read_link(path).map_err(failed)?;
            self.part("link", target.to_string_lossy().as_bytes());
        } else if meta.is_dir() {
            let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(failed)?.collect();
            let mut entries: Vec<PathBuf> = entries.map_err(failed)?.iter().map(fs::DirEntry::path).collect();
            entries.sort();
            for entry in entries {
                self.tree(root, &entry)?;
            }
        } else {
            let mut hasher = blake3::Hasher::new();
            let file = fs::File::open(path).map_err(failed)?;
            hasher.update_reader(file).map_err(failed)?;
            self.part("content", hasher.finalize().as_bytes());
        }
        Ok(())
    }

    fn key(&self) -> String {
        // 128 bits: unique among all snapshots there will ever be, and short enough for a path.
        self.0.finalize().to_hex()[..32].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_the_shape_that_the_nearest_word_gives_it() {
        // Beside this program: a folder that is the build's own.
        let program = env::current_exe().expect("this program has a path");
        let file = program.with_file_name(format!("shape-{}.toml", std::process::id()));
        let text = "settings = { memory = 300, cpus = 3 }\nimage.tiny = { memory = 200, cpus = 2 }\n";
        fs::write(&file, text).expect("the folder can be written");
        let config = Config::read(&file).expect("it is a configuration");
        fs::remove_file(&file).expect("it can be removed");
        let booted = [Recipe::Boot];

        let of = |asked| shape(&config, "tiny", &booted, asked).expect("a machine can be so");
        assert_eq!(of((Some(100), Some(1))), (100, 1));
        assert_eq!(of((None, None)), (300, 3), "the settings count before the image");
    }
}
