//! What the attributes' output calls. Not for people: it changes without notice.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;

use crate::outcome::{Outcome, Returned};

pub use crate::registry::{
    BodyFuture, Case, CaseEntry, CaseParts, Options, SnapshotEntry, SnapshotFn, SnapshotOptions,
    SnapshotParts, set, submit,
};
pub use crate::runner::run_libtest;
pub use crate::vm::Vm;

/// A body under way, without its type.
pub fn boxed(body: impl Future<Output = Outcome> + 'static) -> BodyFuture {
    Box::pin(body)
}

/// The error of a body, and what it shows.
#[derive(Debug)]
pub struct Raised<E> {
    error: E,
    text: String,
}

/// What a body returned, as a result: the only place where a wrong return type is reported.
pub fn returned<E: fmt::Debug>(value: impl Returned<E>) -> Result<(), Raised<E>> {
    value.into_result().map_err(|error| Raised {
        text: format!("{error:?}"),
        error,
    })
}

/// The outcome of a body. `as_std` gives its error as a standard one, where it is one: the attribute
/// writes that, for it takes the method that fits the type.
pub fn outcome<E>(
    returned: Result<(), Raised<E>>,
    as_std: impl for<'a> FnOnce(&'a E) -> Option<&'a (dyn StdError + 'static)>,
) -> Outcome {
    match returned {
        Ok(()) => Outcome::Passed,
        Err(raised) => Outcome::of_error(raised.text, as_std(&raised.error)),
    }
}

/// A body's error, whose standard form is found by method resolution on `&&&Found(&error)`: the error
/// itself, else the one it holds as `anyhow::Error` and `Box<dyn Error>` do, else none.
#[derive(Debug)]
pub struct Found<'a, E>(pub &'a E);

/// It is a standard error.
pub trait IsError<'a> {
    /// The error.
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)>;
}

impl<'a, E: StdError + 'static> IsError<'a> for &&Found<'a, E> {
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)> {
        Some(self.0)
    }
}

/// It holds a standard error.
pub trait HoldsError<'a> {
    /// The error.
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)>;
}

impl<'a, E: AsRef<dyn StdError + Send + Sync + 'static>> HoldsError<'a> for &Found<'a, E> {
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)> {
        Some(self.0.as_ref())
    }
}

/// Anything else that can be shown.
pub trait IsShown<'a> {
    /// None, but for a boxed error that crosses no threads.
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)>;
}

impl<'a, E: 'static> IsShown<'a> for Found<'a, E> {
    fn as_std(&self) -> Option<&'a (dyn StdError + 'static)> {
        (self.0 as &dyn Any)
            .downcast_ref::<Box<dyn StdError>>()
            .map(|error| &**error)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use vmtest_backends::{Error, ErrorKind};

    use super::*;
    use crate::outcome::Skip;

    /// As the attribute writes it: the method is resolved where the type is known.
    macro_rules! outcome_of {
        ($value:expr) => {
            outcome(returned($value), |error| (&&&Found(error)).as_std())
        };
    }

    /// Of the shape of `anyhow::Error`: it is no standard error, and holds one.
    struct Opaque(Box<dyn StdError + Send + Sync>);

    impl<E: StdError + Send + Sync + 'static> From<E> for Opaque {
        fn from(error: E) -> Self {
            Self(error.into())
        }
    }

    impl AsRef<dyn StdError + Send + Sync> for Opaque {
        fn as_ref(&self) -> &(dyn StdError + Send + Sync + 'static) {
            &*self.0
        }
    }

    impl fmt::Debug for Opaque {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&self.0, f)
        }
    }

    fn lost() -> Error {
        Error::new(ErrorKind::Disconnected, "read a frame")
    }

    fn is_lost(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Errored(error) if error.kind() == ErrorKind::Disconnected)
    }

    #[test]
    fn what_is_ours_is_found_in_every_kind_of_error() {
        let outcomes = [
            outcome_of!(Err(lost())),
            outcome_of!(Err(Box::<dyn StdError>::from(lost()))),
            outcome_of!(Err(Box::<dyn StdError + Send + Sync>::from(lost()))),
            outcome_of!(Err(Opaque::from(lost()))),
        ];
        for outcome in outcomes {
            assert!(is_lost(&outcome), "{outcome:?}");
        }
        let skipped = outcome_of!(Err(Opaque::from(Skip::new("no IPv6"))));
        assert!(matches!(skipped, Outcome::Skipped(_)), "{skipped:?}");
    }

    #[test]
    fn what_is_the_tests_is_shown_as_it_shows_itself() {
        let outcomes = [
            outcome_of!(Err("no such table")),
            outcome_of!(Err(String::from("no such table"))),
            outcome_of!(Err(Box::<dyn StdError>::from("no such table"))),
            outcome_of!(Err(std::io::Error::other("no such table"))),
            outcome_of!(Err(Opaque::from(std::io::Error::other("no such table")))),
        ];
        for outcome in outcomes {
            assert!(
                matches!(&outcome, Outcome::Failed(text) if text.contains("no such table")),
                "{outcome:?}"
            );
        }
        assert!(matches!(outcome_of!(()), Outcome::Passed));
        assert!(matches!(outcome_of!(Ok::<(), String>(())), Outcome::Passed));
    }
}
