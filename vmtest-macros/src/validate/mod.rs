//! What cannot be, said at its place; all at once, not one by one.

mod attributes;
mod keys;
mod signature;

pub(crate) use attributes::{foreign_attributes, no_test_attributes};
pub(crate) use keys::keys;
pub(crate) use signature::{Parameter, parameter, signature};

/// The errors found so far.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    /// Adds one.
    pub(crate) fn push(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Adds one at the tokens it is about.
    pub(crate) fn at(&mut self, tokens: impl quote::ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    /// The value, or none and one more error.
    pub(crate) fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// All of them.
    pub(crate) fn into_inner(self) -> Option<syn::Error> {
        self.0
    }
}
