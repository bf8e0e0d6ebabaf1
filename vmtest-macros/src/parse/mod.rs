//! From tokens to what was written, without a judgement.

mod arguments;
mod attributes;
mod function;
mod limit;

pub(crate) use arguments::{Argument, Arguments};
pub(crate) use attributes::{Attributes, When};
pub(crate) use function::Function;
pub(crate) use limit::limit;
