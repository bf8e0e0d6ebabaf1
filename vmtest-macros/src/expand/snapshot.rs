//! A snapshot function: its static and its registration.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt as _;

use super::{Usable, body};

pub(super) fn tokens(usable: &Usable, function: &str, source: &str) -> TokenStream {
    let Usable {
        root,
        options,
        attributes,
        signature,
        ..
    } = usable;
    let ident = &signature.ident;
    let name = ident.to_string();
    let snapshot = format_ident!("__VM_SNAPSHOT_{}", ident.unraw(), span = Span::call_site());
    let file = quote_spanned!(ident.span()=> ::core::file!());
    let line = quote_spanned!(ident.span()=> ::core::line!());
    let body = body::block(usable);
    // `self` is the module: in a function, this does not compile, as for a test.
    let here = quote_spanned!(ident.span()=> self::#snapshot);
    let gates = &attributes.gates;
    quote! {
        #(#gates)*
        #[doc(hidden)]
        static #snapshot: #root::__private::SnapshotFn =
            #root::__private::SnapshotFn::new(#root::__private::SnapshotParts {
                module: ::core::module_path!(),
                ident: #name,
                file: #file,
                line: #line,
                package: ::core::option_env!("CARGO_MANIFEST_DIR"),
                tokens: #function,
                source: #source,
                options: #options,
                body: #body,
            });

        #(#gates)*
        #root::__private::submit! { #root::__private::SnapshotEntry(&#here) }
    }
}
