//! Why a task did not reach its end.

use std::{error, fmt, io, result};

pub(crate) type Result<T = ()> = result::Result<T, Error>;

#[derive(Debug)]
pub(crate) enum Error {
    /// A step failed: which one, and why.
    Failed { step: String, cause: Option<io::Error> },
    /// The user or the system asked us to end.
    Interrupted,
}

impl Error {
    pub(crate) fn new(step: impl Into<String>) -> Self {
        Self::Failed {
            step: step.into(),
            cause: None,
        }
    }

    /// For `map_err`: the step that failed, around the operating system's reason.
    pub(crate) fn at(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |cause| Self::Failed {
            step,
            cause: Some(cause),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { step, cause: None } => f.write_str(step),
            Self::Failed {
                step,
                cause: Some(cause),
            } => write!(f, "{step}: {cause}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Failed {
                cause: Some(cause), ..
            } => Some(cause),
            _ => None,
        }
    }
}
