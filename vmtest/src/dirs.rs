//! Where things of ours live: directories of mode 0700, owned by the effective user, refused otherwise.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{self, Path, PathBuf};

use vmtest_backends::{Error, ErrorKind, Result};

/// The two places: one file system for everything that is moved into each other, one for sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    cache: PathBuf,
    runtime: PathBuf,
}

impl Dirs {
    /// `VMTEST_DIR` (both places inside it), else `$XDG_CACHE_HOME/vmtest` (or `~/.cache/vmtest`) and
    /// `$XDG_RUNTIME_DIR/vmtest` (or `/tmp/vmtest-UID`). Both are made when missing. A relative one counts from
    /// the working directory.
    pub fn from_env() -> Result<Self> {
        Self::named_by(&|name| env::var_os(name))
    }

    fn named_by(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let set = |name| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        match set("VMTEST_DIR") {
            Some(both) => Self::under(&both),
            None => {
                let cache = default_cache(set("XDG_CACHE_HOME"), set("HOME"))?;
                Self::made(cache, default_runtime(set("XDG_RUNTIME_DIR")))
            }
        }
    }

    /// Both places inside `both`, which is made when missing (its parent must exist).
    pub fn under(both: &Path) -> Result<Self> {
        make(both)?;
        Self::made(both.join("cache"), both.join("run"))
    }

    /// Both are kept as absolute paths: the processes that are told of them work in another directory.
    fn made(cache: PathBuf, runtime: PathBuf) -> Result<Self> {
        make(&cache)?;
        make(&runtime)?;
        let absolute = |path: &Path| path::absolute(path).map_err(|cause| cannot_make(path, cause));
        Ok(Self {
            cache: absolute(&cache)?,
            runtime: absolute(&runtime)?,
        })
    }

    /// Images, snapshots, machine folders, locks.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Sockets.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// A directory inside the cache, made when missing.
    pub fn in_cache(&self, name: &str) -> Result<PathBuf> {
        let path = self.cache.join(name);
        make(&path)?;
        Ok(path)
    }
}

fn default_cache(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf> {
    let base = xdg
        .or_else(|| home.map(|home| home.join(".cache")))
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Store,
                "neither VMTEST_DIR, XDG_CACHE_HOME nor HOME says where the cache is to be",
            )
        })?;
    fs::create_dir_all(&base).map_err(|cause| cannot_make(&base, cause))?;
    Ok(base.join("vmtest"))
}

fn default_runtime(xdg: Option<PathBuf>) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    match xdg {
        Some(base) if fs::metadata(&base).is_ok_and(|meta| meta.uid() == uid) => base.join("vmtest"),
        _ => PathBuf::from(format!("/tmp/vmtest-{uid}")),
    }
}

/// Makes `path` (parents must exist, but for a relative one) as mode 0700, or checks that it is so.
pub(crate) fn make(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => check(path),
        Err(cause) => Err(cannot_make(path, cause)),
    }
}

fn check(path: &Path) -> Result<()> {
    let refused = |why: String| {
        Err(Error::new(
            ErrorKind::Store,
            format!("{} is refused: {why}", path.display()),
        ))
    };
    let meta = fs::symlink_metadata(path).map_err(|cause| cannot_make(path, cause))?;
    let uid = rustix::process::geteuid().as_raw();
    if !meta.is_dir() {
        return refused("it is not a directory (symlinks are not followed)".into());
    }
    if meta.uid() != uid {
        return refused(format!("it belongs to user {}, not to user {uid}", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return refused(format!(
            "its mode is {mode:o}, others could reach into it; `chmod 700` it"
        ));
    }
    Ok(())
}

fn cannot_make(path: &Path, cause: io::Error) -> Error {
    Error::new(
        ErrorKind::Store,
        format!("the directory {} cannot be made", path.display()),
    )
    .because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder inside the working directory of tests, with its relative path.
    struct Here(PathBuf);

    impl Here {
        fn new(name: &str) -> Self {
            let path = PathBuf::from(format!("../target/test-dirs-{name}-{}", std::process::id()));
            fs::create_dir_all("../target").unwrap();
            make(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Here {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn relative_places_become_absolute() {
        let here = Here::new("relative");
        let variables: [&[(&str, &str)]; 3] = [
            &[("VMTEST_DIR", "both")],
            &[("XDG_CACHE_HOME", "xdg"), ("XDG_RUNTIME_DIR", "")],
            &[("HOME", "home"), ("XDG_RUNTIME_DIR", "")],
        ];
        for set in variables {
            let variable = |name: &str| {
                let (_, value) = set.iter().find(|(known, _)| *known == name)?;
                Some(here.0.join(value).into_os_string())
            };
            let dirs = Dirs::named_by(&variable).unwrap();
            for place in [dirs.cache(), dirs.runtime()] {
                assert!(place.is_absolute(), "{set:?} gave {}", place.display());
                assert!(place.is_dir());
            }
        }
    }
}
