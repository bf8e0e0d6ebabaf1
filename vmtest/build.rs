//! Gives the sources a name, so that processes of different builds, which may not understand each other,
//! do not meet: a broker outlives the test run that started it.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let own = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    for folder in ["src", "../vmtest-backends/src"] {
        let folder = Path::new(&own).join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        if folder.is_dir() {
            hash(&folder, &mut hasher)?;
        }
    }
    println!("cargo::rustc-env=VMTEST_SOURCES={:016x}", hasher.finish());
    Ok(())
}

fn hash(folder: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    let entries: io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
    let mut paths: Vec<_> = entries?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        path.file_name().hash(hasher);
        if path.is_dir() {
            hash(&path, hasher)?;
        } else {
            fs::read(&path)?.hash(hasher);
        }
    }
    Ok(())
}
