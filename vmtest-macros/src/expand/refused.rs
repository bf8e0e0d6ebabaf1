//! What is emitted where something is wrong: the errors, and the function as it was, so that the
//! editor still completes in it and nothing else is reported.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::{Error, Signature};

use super::Kind;
use crate::parse::Function;
use crate::validate::Errors;

/// An item that is no function.
pub(super) fn item(errors: Errors, item: TokenStream) -> TokenStream {
    let errors = errors.into_inner().map(Error::into_compile_error);
    quote!(#errors #item)
}

/// A function. Its options are checked all the same: a misspelt key may be the cause of a missing one.
pub(super) fn function(
    errors: Option<Error>,
    parts: Option<(TokenStream, TokenStream)>,
    kind: Kind,
    function: &Function,
) -> TokenStream {
    let errors = errors.map(Error::into_compile_error);
    let options = parts
        .filter(|_| function.signature.receiver().is_none())
        .map(|(root, options)| {
            let options_type = Ident::new(kind.options_type(), Span::call_site());
            quote!(const _: fn() -> #root::__private::#options_type = #options;)
        });
    let Function {
        attributes,
        visibility,
        signature,
        body,
    } = function;
    // The compiler has its own opinion of those, and one is enough.
    let signature = Signature {
        constness: None,
        ..signature.clone()
    };
    let attributes = attributes.iter().filter(|attribute| !is_for_tests(attribute));
    quote! {
        #errors
        #options
        #(#attributes)*
        #[allow(dead_code)]
        #visibility #signature #body
    }
}

/// Those would bring errors of their own to a function that is no test now.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|segment| {
        [
            "test",
            "bench",
            "rstest",
            "case",
            "test_case",
            "vm_test",
            "vm_snapshot",
            "ignore",
            "should_panic",
        ]
        .iter()
        .any(|name| segment.ident == name)
    })
}
