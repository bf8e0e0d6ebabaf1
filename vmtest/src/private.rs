//! What the attributes' output calls. Not for people: it changes without notice.

use std::error::Error as StdError;
use std::fmt;

use crate::outcome::{Outcome, Returned};

pub use crate::registry::{
    BodyFuture, Case, CaseEntry, CaseParts, Options, SnapshotEntry, SnapshotFn, SnapshotOptions,
    SnapshotParts, setting, submit,
};
pub use crate::vm::Vm;

/// Runs a case as the `#[test]` function it is in libtest: panics unless it passed.
pub fn run_libtest(case: &'static Case) {
    panic!("runner missing: {}", case.name());
}

/// A body under way, without its type.
pub fn boxed(body: impl Future<Output = Outcome> + 'static) -> BodyFuture {
    Box::pin(body)
}

/// What a body returned, as a result: the place where a wrong return type is reported.
pub fn returned<R: Returned>(value: R) -> Result<(), R::Error> {
    value.into_result()
}

/// The outcome of what a body returned; `as_std` is written by the attribute, where the type is known.
pub fn outcome<E: fmt::Debug + 'static>(
    returned: Result<(), E>,
    as_std: impl for<'a> FnOnce(&'a E) -> Option<&'a (dyn StdError + 'static)>,
) -> Outcome {
    Outcome::of_returned(returned, as_std)
}

/// A body's error, whose standard form is found by method resolution on `&&&Raised(&error)`: the
/// error itself, else what it dereferences to as `anyhow::Error` and `Box<dyn Error>` do, else none.
#[derive(Debug)]
pub struct Raised<'a, E>(pub &'a E);

/// It is a standard error.
pub trait IsError<'a> {
    /// The error.
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)>;
}

impl<'a, E: StdError + 'static> IsError<'a> for &&Raised<'a, E> {
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)> {
        Some(self.0)
    }
}

/// It holds a standard error.
pub trait HoldsError<'a> {
    /// The error.
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)>;
}

impl<'a, E: AsRef<dyn StdError + Send + Sync + 'static>> HoldsError<'a> for &Raised<'a, E> {
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)> {
        Some(self.0.as_ref())
    }
}

/// Anything else that can be shown.
pub trait IsShown<'a> {
    /// None, but for a boxed error that crosses no threads.
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)>;
}

impl<'a, E: 'static> IsShown<'a> for Raised<'a, E> {
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)> {
        (self.0 as &dyn std::any::Any)
            .downcast_ref::<Box<dyn StdError>>()
            .map(|error| &**error)
    }
}
