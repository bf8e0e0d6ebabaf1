//! The path of the crate `vmtest`, as its user knows it.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens as _, quote};
use syn::{Error, Expr, Result};

use crate::parse::Arguments;

/// What `crate = ...` says, else the name in the user's `Cargo.toml`, else `::vmtest`.
pub(super) fn path(arguments: &Arguments) -> Result<TokenStream> {
    match arguments.get("crate").map(|argument| &argument.value) {
        Some(Expr::Path(path)) => Ok(path.to_token_stream()),
        Some(other) => {
            let message = "`crate` is a path, such as `crate = ::machines`";
            Err(Error::new_spanned(other, message))
        }
        None => Ok(found()),
    }
}

/// Inside vmtest itself, and where there is no `Cargo.toml`, the plain name is the best one.
fn found() -> TokenStream {
    let name = match crate_name("vmtest") {
        Ok(FoundCrate::Name(name)) => Ident::new(&name, Span::call_site()),
        Ok(FoundCrate::Itself) | Err(_) => Ident::new("vmtest", Span::call_site()),
    };
    quote!(::#name)
}
