//! A test: its static, its registration, its `#[test]`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;

use super::{Usable, body};
use crate::parse::When;

pub(super) fn tokens(usable: &Usable) -> TokenStream {
    let Usable {
        root,
        options,
        attributes,
        signature,
        ..
    } = usable;
    let ident = &signature.ident;
    let name = ident.to_string();
    let case = format_ident!("__VM_TEST_{}", ident.unraw(), span = Span::call_site());
    let file = quote_spanned!(ident.span()=> ::core::file!());
    let line = quote_spanned!(ident.span()=> ::core::line!());
    let ignore = When::first_of(&attributes.ignore);
    let should_panic = When::first_of(&attributes.should_panic);
    let body = body::block(usable);
    // `self` is the module: this does not compile in a function, where the compiler runs no test.
    let here = quote_spanned!(ident.span()=> self::#case);
    let gates = &attributes.gates;
    let wrapper = &attributes.wrapper;
    quote! {
        #(#gates)*
        #[doc(hidden)]
        static #case: #root::__private::Case =
            #root::__private::Case::new(#root::__private::CaseParts {
                module: ::core::module_path!(),
                ident: #name,
                file: #file,
                line: #line,
                ignore: #ignore,
                should_panic: #should_panic,
                options: #options,
                body: #body,
            });

        #(#gates)*
        #root::__private::submit! { #root::__private::CaseEntry(&#here) }

        #(#gates)*
        #[::core::prelude::v1::test]
        #(#wrapper)*
        fn #ident() {
            #root::__private::run_libtest(&#case)
        }
    }
}
