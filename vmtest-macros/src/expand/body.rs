//! The user's function, and how it is called.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
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
    let ident = &signature.ident;
    let argument = argument(usable, &vm);
    let future = Ident::new("future", Span::mixed_site());
    let outcome = outcome(usable, &future);
    let mut generated = signature.clone();
    if let Some(token) = &mut generated.asyncness {
        token.span = Span::call_site().located_at(token.span);
    }
    quote! {{
        #(#attributes)*
        #generated #body

        |#vm: #root::__private::Vm| {
            #root::__private::boxed(async move {
                use #root::__private::{HoldsError as _, IsError as _, IsShown as _};
                let #future = #ident(#argument);
                #outcome
            })
        }
    }}
}

/// Spanned throughout by the return type: a wrong one is reported there, and once.
fn outcome(usable: &Usable, future: &Ident) -> TokenStream {
    let root = &usable.root;
    let span = match &usable.signature.output {
        ReturnType::Default => usable.signature.ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let future = at(future, span);
    let root: TokenStream = root
        .clone()
        .into_iter()
        .map(|token| located(token, span))
        .collect();
    // Ours, though it lies there: lints are not to judge it.
    quote_spanned! {Span::call_site().located_at(span)=>
        #root::__private::outcome(#root::__private::returned(#future.await), |error| {
            (&&&#root::__private::Found(error)).as_std()
        })
    }
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
            quote_spanned!(Span::call_site().located_at(ty.span())=> &#vm)
        }
    }
}

fn at(ident: &Ident, span: Span) -> Ident {
    let mut ident = ident.clone();
    ident.set_span(ident.span().located_at(span));
    ident
}

fn located(mut token: TokenTree, span: Span) -> TokenTree {
    token.set_span(token.span().located_at(span));
    token
}
