//! Attributes that do not go together with ours.

use quote::ToTokens as _;
use syn::Attribute;

use super::Errors;
use crate::parse::Attributes;

/// Refuses attributes below ours that make tests, too.
pub(crate) fn foreign_attributes(attributes: &[Attribute], ours: &str, errors: &mut Errors) {
    for attribute in attributes {
        let path = attribute.path().to_token_stream().to_string().replace(' ', "");
        match path.rsplit("::").next().unwrap_or_default() {
            "rstest" | "test_case" => errors.at(
                attribute.path(),
                format!("`#[{path}]` goes above, with `#[vmtest::test(...)]` below it"),
            ),
            "test" | "bench" | "vm_test" | "vm_snapshot" => errors.at(
                attribute.path(),
                format!("`#[{path}]` and `#[{ours}]` do not go on one function: remove one"),
            ),
            _ => {}
        }
    }
}

/// Refuses, on a snapshot function, what belongs to tests.
pub(crate) fn no_test_attributes(attributes: &Attributes, errors: &mut Errors) {
    for when in attributes.ignore.iter().chain(&attributes.should_panic) {
        let message = "a snapshot function is no test";
        errors.push(syn::Error::new(when.span, message));
    }
}
