//! The keys of an attribute. Which there are is known to the compiler alone.

use std::collections::HashSet;

use proc_macro2::Span;
use syn::Error;

use super::Errors;
use crate::parse::Arguments;

/// Refuses a key that stands twice, and the lack of a required one (with an example of its value).
pub(crate) fn keys(arguments: &Arguments, required: &[(&str, &str)], errors: &mut Errors) {
    let mut seen = HashSet::new();
    for argument in &arguments.0 {
        if !seen.insert(argument.key.to_string()) {
            let message = format!("`{}` stands here twice", argument.key);
            errors.at(&argument.key, message);
        }
    }
    for (key, example) in required {
        if !seen.contains(*key) {
            let message = format!("`{key}` is missing: write `{key} = \"{example}\"`");
            errors.push(Error::new(Span::call_site(), message));
        }
    }
}
