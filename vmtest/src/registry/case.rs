//! A registered test.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::Options;
use crate::outcome::Outcome;
use crate::vm::Vm;

/// A body under way. It is not `Send`: it stays on the thread of its test.
pub type BodyFuture = Pin<Box<dyn Future<Output = Outcome>>>;

/// A test as its attribute registered it.
pub struct Case(CaseParts);

/// What [`Case`] is made of; filled in by the attribute.
#[derive(Clone, Copy)]
pub struct CaseParts {
    /// `module_path!()`, so with the crate.
    pub module: &'static str,
    /// The function's name, with `r#` where it has one.
    pub ident: &'static str,
    /// `file!()`.
    pub file: &'static str,
    /// The line of the function's name.
    pub line: u32,
    /// The reason of `#[ignore]`; empty where it has none.
    pub ignore: Option<&'static str>,
    /// The text that the panic must contain; empty where any panic will do.
    pub should_panic: Option<&'static str>,
    /// Evaluates what stands in the attribute.
    pub options: fn() -> Options,
    /// Starts the body.
    pub body: fn(Vm) -> BodyFuture,
}

impl Case {
    /// For the attribute alone.
    #[doc(hidden)]
    pub const fn new(parts: CaseParts) -> Self {
        Self(parts)
    }

    /// The name as `--list` shows it: the path inside its crate, raw identifiers with their `r#`.
    pub fn name(&self) -> String {
        match self.0.module.split_once("::") {
            Some((_, module)) => format!("{module}::{}", self.0.ident),
            None => self.0.ident.to_owned(),
        }
    }

    /// The crate it was written in; for an integration test, the name of its file.
    pub fn crate_name(&self) -> &'static str {
        self.0
            .module
            .split_once("::")
            .map_or(self.0.module, |(name, _)| name)
    }

    /// The source file, as the compiler names it: relative to the workspace, as a rule.
    pub fn file(&self) -> &'static str {
        self.0.file
    }

    /// The line of the function's name.
    pub fn line(&self) -> u32 {
        self.0.line
    }

    /// The reason of `#[ignore]`, empty where none was given; `None` where the test is not ignored.
    pub fn ignore(&self) -> Option<&'static str> {
        self.0.ignore
    }

    /// What the body's panic must contain, empty where any panic will do; `None` where it must not panic.
    pub fn should_panic(&self) -> Option<&'static str> {
        self.0.should_panic
    }

    /// What the attribute asks for. Its expressions are evaluated anew by each call, and may panic.
    pub fn options(&self) -> Options {
        (self.0.options)()
    }

    /// The body on `vm`: nothing of it has run yet. It may panic when polled.
    ///
    /// The caller sets what [`Vm::current`] gives.
    pub fn body(&self, vm: Vm) -> BodyFuture {
        (self.0.body)(vm)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name())
            .field("file", &self.0.file)
            .field("line", &self.0.line)
            .field("ignore", &self.0.ignore)
            .field("should_panic", &self.0.should_panic)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CaseParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Case(*self).fmt(f)
    }
}
