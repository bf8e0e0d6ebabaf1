//! The options, as fields that are set: the compiler knows which there are.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens as _, quote, quote_spanned};
use syn::spanned::Spanned as _;

use crate::parse::{Argument, Arguments, limit};
use crate::validate::Errors;

/// A closure that evaluates all arguments to an options value.
pub(super) fn closure(
    root: &TokenStream,
    options_type: &str,
    arguments: &Arguments,
    errors: &mut Errors,
) -> TokenStream {
    let options_type = Ident::new(options_type, Span::call_site());
    // Hygienic: a user's expression cannot mean it.
    let options = Ident::new("options", Span::mixed_site());
    let assignments: Vec<_> = arguments
        .0
        .iter()
        .filter(|argument| argument.key != "crate")
        .filter_map(|argument| assignment(root, &options, argument, errors))
        .collect();
    quote! {
        || {
            let mut #options: #root::__private::#options_type =
                ::core::default::Default::default();
            #(#assignments)*
            #options
        }
    }
}

/// Spanned by the value, where a wrong type is to be reported; a wrong key is reported at the key.
fn assignment(
    root: &TokenStream,
    options: &Ident,
    argument: &Argument,
    errors: &mut Errors,
) -> Option<TokenStream> {
    let Argument { key, value } = argument;
    let value = match limit_literal(argument) {
        Ok(Some(literal)) => literal,
        Ok(None) => value.to_token_stream(),
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    Some(quote_spanned! {argument.value.span()=>
        #root::__private::set(&mut #options.#key, #value);
    })
}

/// The literal of a time limit is understood here, so that a wrong one does not compile.
fn limit_literal(argument: &Argument) -> syn::Result<Option<TokenStream>> {
    if argument.key != "timeout" {
        return Ok(None);
    }
    let literal = limit(&argument.value)?;
    Ok(literal.map(|milliseconds| quote!(::core::time::Duration::from_millis(#milliseconds))))
}
