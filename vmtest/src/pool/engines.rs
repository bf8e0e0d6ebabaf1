//! The engines there are: the one place above the backends that lists them.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmtest_backends::backend::Backend;
use vmtest_backends::{Error, ErrorKind, Result, qemu};

use crate::config::Accel;
use crate::dirs::Dirs;

/// Which engine is meant, as one process tells another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EngineChoice {
    /// Its name.
    pub backend: String,
    /// How it is to execute guests; resolved before it is told to others.
    pub accel: Accel,
    /// Its program, where the user names one.
    pub program: Option<PathBuf>,
}

/// The names of all engines, in the order in which they are tried.
pub fn names() -> &'static [&'static str] {
    &["qemu"]
}

/// The engine of that choice.
pub fn engine(choice: &EngineChoice, dirs: &Dirs) -> Result<Arc<dyn Backend>> {
    match choice.backend.as_str() {
        "qemu" => Ok(Arc::new(qemu::Qemu::new(qemu::Settings {
            program: choice.program.clone(),
            accelerator: match choice.accel {
                Accel::Auto => qemu::Preference::Auto,
                Accel::Kvm => qemu::Preference::Kvm,
                Accel::Tcg => qemu::Preference::Tcg,
            },
            cache: dirs.in_cache("host")?,
        }))),
        other => {
            let text = format!("there is no backend `{other}`; there are: {}", names().join(", "));
            Err(Error::new(ErrorKind::Invalid, text))
        }
    }
}
