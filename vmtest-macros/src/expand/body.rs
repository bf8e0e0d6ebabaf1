//! The user's function, and how it is called.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ReturnType;
use syn::spanned::Spanned as _;

use super::Usable;
use crate::validate::{Parameter, parameter};

/// A block whose value is a `fn(Vm) -> BodyFuture`. The function keeps its name and its place in it.
pub(super) fn block(usable: &Usable) -> TokenStream {
    let Usable {
        root,
        attributes,
        signature,
        body,
        ..
    } = usable;
    let attributes = &attributes.body;
    // Hygienic: the function may be called `vm`, too.
    let vm = Ident::new("vm", Span::mixed_site());
    let returned = returned(usable, &vm);
    quote! {{
        #(#attributes)*
        // It is async because it must be.
        #[allow(clippy::unused_async)]
        #signature #body

        |#vm: #root::__private::Vm| {
            #root::__private::boxed(async move {
                use #root::__private::{HoldsError as _, IsError as _, IsShown as _};
                #root::__private::outcome(#returned, |error| {
                    (&&&#root::__private::Raised(error)).as_std()
                })
            })
        }
    }}
}

/// The call, spanned as a whole by the return type: a wrong one is reported there.
fn returned(usable: &Usable, vm: &Ident) -> TokenStream {
    let root = &usable.root;
    let ident = &usable.signature.ident;
    let argument = argument(usable, vm);
    let span = match &usable.signature.output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let call = quote_spanned!(span=> #ident(#argument).await);
    quote_spanned!(span=> #root::__private::returned(#call))
}

/// The argument, spanned by the parameter's type: a wrong one is reported there.
fn argument(usable: &Usable, vm: &Ident) -> TokenStream {
    match parameter(&usable.signature) {
        Parameter::None => TokenStream::new(),
        Parameter::Owned(ty) => {
            let vm = at(vm, ty.span());
            quote!(#vm)
        }
        Parameter::Borrowed(ty) => {
            let vm = at(vm, ty.span());
            quote_spanned!(ty.span()=> &#vm)
        }
    }
}

fn at(ident: &Ident, span: Span) -> Ident {
    let mut ident = ident.clone();
    ident.set_span(ident.span().located_at(span));
    ident
}
