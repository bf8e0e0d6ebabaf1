//! A registered snapshot function.

use std::fmt;

use super::{BodyFuture, SnapshotOptions};
use crate::vm::Vm;

/// A function that turns a machine into what a snapshot is to hold, as its attribute registered it.
pub struct SnapshotFn(SnapshotParts);

/// What [`SnapshotFn`] is made of; filled in by the attribute.
#[derive(Clone, Copy)]
pub struct SnapshotParts {
    /// `module_path!()`, so with the crate.
    pub module: &'static str,
    /// The function's name, with `r#` where it has one.
    pub ident: &'static str,
    /// `file!()`.
    pub file: &'static str,
    /// The line of the function's name.
    pub line: u32,
    /// The package's `CARGO_MANIFEST_DIR` at compile time, where cargo compiles.
    pub package: Option<&'static str>,
    /// The function's tokens, as text, without its `inputs`, `env` and the like.
    pub tokens: &'static str,
    /// The digest of the source file; empty where the compiler did not tell which file that is.
    pub source: &'static str,
    /// Evaluates what stands in the attribute.
    pub options: fn() -> SnapshotOptions,
    /// Starts the body.
    pub body: fn(Vm) -> BodyFuture,
}

impl SnapshotFn {
    /// For the attribute alone.
    #[doc(hidden)]
    pub const fn new(parts: SnapshotParts) -> Self {
        Self(parts)
    }

    /// The path of the function, with its crate.
    pub fn path(&self) -> String {
        format!("{}::{}", self.0.module, self.0.ident)
    }

    /// The source file, as the compiler names it: relative to the workspace, as a rule.
    pub fn file(&self) -> &'static str {
        self.0.file
    }

    /// The line of the function's name.
    pub fn line(&self) -> u32 {
        self.0.line
    }

    /// The folder that `inputs` are relative to: the package it was compiled in. The one at run time
    /// (`CARGO_MANIFEST_DIR`) is to be preferred where it is set, for the program may have moved.
    pub fn package(&self) -> Option<&'static str> {
        self.0.package
    }

    /// What the snapshot's key takes from the code: the function's tokens and a digest of the whole
    /// source file.
    ///
    /// Not in it: functions in other files, macros, dependencies, the compiler. Whoever changes
    /// those raises `version`, or names files in `inputs`. Where the compiler does not tell
    /// which file it reads (some build tools remap paths), the tokens stand alone.
    pub fn fingerprint(&self) -> String {
        format!("source {}\ntokens {}", self.0.source, self.0.tokens)
    }

    /// What the attribute asks for. Its expressions are evaluated anew by each call, and may panic.
    pub fn options(&self) -> SnapshotOptions {
        (self.0.options)()
    }

    /// The body on `vm`: nothing of it has run yet. It may panic when polled.
    pub fn body(&self, vm: Vm) -> BodyFuture {
        (self.0.body)(vm)
    }
}

impl fmt::Debug for SnapshotFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotFn")
            .field("path", &self.path())
            .field("file", &self.0.file)
            .field("line", &self.0.line)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SnapshotParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SnapshotFn(*self).fmt(f)
    }
}
