//! How a test ended, and whose fault it is.

use std::any::Any;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;

use vmtest_backends::{Error, ErrorKind};

/// How a test ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// As it should.
    Passed,
    /// An assertion, or the body's own error: the test or what it tests is to blame. The text says why.
    Failed(String),
    /// The machine or vmtest broke; the test said nothing either way.
    Errored(Error),
    /// It was not to be run here, for this reason.
    Skipped(String),
}

/// Whether an error of this kind, returned by a body, is the test's own.
///
/// A body that returns one of these asked for something that the guest did not do: a command that
/// failed or is not there, a wait of its own that reached its limit. Of all other kinds, the machine or
/// vmtest is to blame. Errors from before and after the body never come here: those are ours.
pub fn blames_test(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CommandFailed | ErrorKind::Exec | ErrorKind::Invalid | ErrorKind::TimedOut
    )
}

/// What a body may return: `()`, or a `Result<(), E>` whose error can be shown.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a test or snapshot function returns",
    label = "not `()` or `Result<(), E>`",
    note = "it returns `()` or `Result<(), E>`, where `E` is `Debug` and borrows nothing"
)]
pub trait Returned<E> {
    /// As a result.
    fn into_result(self) -> Result<(), E>;
}

impl Returned<Infallible> for () {
    fn into_result(self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<E: fmt::Debug + 'static> Returned<E> for Result<(), E> {
    fn into_result(self) -> Self {
        self
    }
}

impl Outcome {
    /// Of a body's error: `text` is what it shows, `error` is there where it is a standard one.
    ///
    /// The outermost error of ours in its chain decides: an error that merely wraps one of ours is
    /// ours too, if that is.
    pub(crate) fn of_error(text: String, error: Option<&(dyn StdError + 'static)>) -> Self {
        match error.map_or(Blame::Test, blame) {
            Blame::Test => Self::Failed(text),
            Blame::Ours(error) => Self::Errored(error),
            Blame::Nobody(reason) => Self::Skipped(reason),
        }
    }

    /// Of the end of a body, where `Err` is the payload of its panic, and `should_panic` what
    /// [`Case::should_panic`](crate::registry::Case::should_panic) says.
    ///
    /// Only a panic of the body satisfies `should_panic`: an error, ours or its own, never does.
    pub fn judged(end: Result<Self, Box<dyn Any + Send>>, should_panic: Option<&str>) -> Self {
        match (end, should_panic) {
            (Err(payload), None) => Self::Failed(panic_text(&*payload)),
            (Err(payload), Some(expected)) => Self::of_expected_panic(&*payload, expected),
            (Ok(Self::Passed), Some(_)) => Self::Failed("the body was to panic, and did not".into()),
            (Ok(Self::Failed(text)), Some(_)) => Self::Failed(format!(
                "the body was to panic, and returned an error instead: {text}"
            )),
            (Ok(outcome), _) => outcome,
        }
    }

    fn of_expected_panic(payload: &(dyn Any + Send), expected: &str) -> Self {
        let text = panic_text(payload);
        if text.contains(expected) {
            Self::Passed
        } else {
            Self::Failed(format!("the body's panic does not contain {expected:?}: {text}"))
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "the body panicked with a value that is not text".into()
    }
}

/// Whose an error is.
enum Blame {
    Test,
    Ours(Error),
    Nobody(String),
}

fn blame(error: &(dyn StdError + 'static)) -> Blame {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(skip) = cause.downcast_ref::<Skip>() {
            return Blame::Nobody(skip.0.clone());
        }
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return blame_ours(error, ours);
        }
        next = cause.source();
    }
    Blame::Test
}

fn blame_ours(outermost: &(dyn StdError + 'static), ours: &Error) -> Blame {
    if let Some(skip) = skip_in(ours) {
        return Blame::Nobody(skip.0.clone());
    }
    if blames_test(ours.kind()) {
        return Blame::Test;
    }
    let copy = Error::from(ours.report());
    if outermost.is::<Error>() {
        return Blame::Ours(copy);
    }
    Blame::Ours(Error::new(ours.kind(), outermost.to_string()).because(copy))
}

/// A skip that went through our own error type, which can carry it only as a cause.
fn skip_in(ours: &Error) -> Option<&Skip> {
    ours.source()?.downcast_ref()
}

/// The error by which a body says that it is not to be run here. Made by [`skip!`](crate::skip).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip(String);

impl Skip {
    /// With its reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl StdError for Skip {}

/// So that a body that returns [`vmtest::Result`](crate::Result) can skip.
impl From<Skip> for Error {
    fn from(skip: Skip) -> Self {
        Self::new(ErrorKind::Unavailable, "the test skips itself").because(skip)
    }
}

/// Ends the body: the test is skipped, with a reason that is formatted as by [`format!`].
///
/// It returns a [`Skip`] from the body, whose error type must take one: [`vmtest::Error`](crate::Error),
/// `Box<dyn Error>`, `anyhow::Error` and [`Skip`] itself do. libtest and nextest cannot show a
/// run-time skip: there the test counts as passed, and a line `SKIPPED` tells the reason.
///
/// ```no_run
/// # fn main() {}
/// use vmtest::prelude::*;
///
/// #[vm_test(image = "debian")]
/// async fn loads_a_module(vm: Vm) -> Result {
///     if !vm.sh("test -s /proc/modules").await?.success() {
///         vmtest::skip!("this kernel has no modules");
///     }
///     vm.command("modprobe").arg("dummy").await?.check()?;
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        return ::core::result::Result::Err(::core::convert::Into::into(
            $crate::Skip::new(::std::format!($($reason)+)),
        ))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapping(Error);

    impl fmt::Display for Wrapping {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("while creating the table")
        }
    }

    impl StdError for Wrapping {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    fn of<E: StdError + 'static>(error: E) -> Outcome {
        Outcome::of_error(format!("{error:?}"), Some(&error))
    }

    #[test]
    fn a_lost_machine_is_errored_and_keeps_its_chain() {
        let lost = Error::new(ErrorKind::Died, "the guest's kernel panicked")
            .because(std::io::Error::other("end of stream"))
            .with_console("Kernel panic - not syncing");
        let chain = lost.chain();
        let Outcome::Errored(error) = of(lost) else {
            panic!("not errored")
        };
        assert_eq!(error.chain(), chain);
    }

    #[test]
    fn what_the_test_asked_of_the_guest_is_failed() {
        for kind in [
            ErrorKind::CommandFailed,
            ErrorKind::Exec,
            ErrorKind::Invalid,
            ErrorKind::TimedOut,
        ] {
            let outcome = of(Error::new(kind, "ran pg_isready"));
            assert!(
                matches!(&outcome, Outcome::Failed(text) if text.contains("ran pg_isready")),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn a_wrapped_error_is_judged_by_ours_inside() {
        let lost = Error::new(ErrorKind::Disconnected, "read a frame");
        let Outcome::Errored(error) = of(Wrapping(lost)) else {
            panic!("not errored")
        };
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert_eq!(error.message(), "while creating the table");
        assert_eq!(error.report().causes, ["connection to the guest: read a frame"]);

        let own = of(Wrapping(Error::new(ErrorKind::Exec, "ran true")));
        assert!(matches!(own, Outcome::Failed(_)), "{own:?}");
    }

    #[test]
    fn a_skip_is_found_bare_wrapped_and_in_our_error() {
        let skip = || Skip::new("no IPv6");
        for outcome in [of(skip()), of(Error::from(skip())), of(Wrapping(skip().into()))] {
            assert!(
                matches!(&outcome, Outcome::Skipped(reason) if reason == "no IPv6"),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn only_the_bodys_panic_satisfies_should_panic() {
        let panicked = |text: &'static str| Err(Box::new(text) as Box<dyn Any + Send>);
        let lost = || Ok(Outcome::Errored(Error::new(ErrorKind::Fork, "fork")));
        let returned = || Ok(Outcome::Failed("no such table".into()));

        let is = |outcome: Outcome| match outcome {
            Outcome::Passed => "passed",
            Outcome::Failed(_) => "failed",
            Outcome::Errored(_) => "errored",
            Outcome::Skipped(_) => "skipped",
        };
        assert_eq!(is(Outcome::judged(panicked("boom"), None)), "failed");
        assert_eq!(is(Outcome::judged(panicked("boom"), Some(""))), "passed");
        assert_eq!(is(Outcome::judged(panicked("boom"), Some("oo"))), "passed");
        assert_eq!(is(Outcome::judged(panicked("boom"), Some("x"))), "failed");
        assert_eq!(is(Outcome::judged(Ok(Outcome::Passed), Some(""))), "failed");
        assert_eq!(is(Outcome::judged(returned(), Some(""))), "failed");
        assert_eq!(is(Outcome::judged(lost(), Some(""))), "errored");
        assert_eq!(is(Outcome::judged(Ok(Outcome::Passed), None)), "passed");
    }
}
