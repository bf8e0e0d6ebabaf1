//! What stands in the parentheses of an attribute.

use proc_macro2::Ident;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, LitStr, Result, Token};

/// `key = value, ...`.
pub(crate) struct Arguments(pub(crate) Vec<Argument>);

/// `key = value`, of any meaning.
pub(crate) struct Argument {
    pub(crate) key: Ident,
    pub(crate) value: Expr,
}

impl Arguments {
    /// The first argument of that key.
    pub(crate) fn get(&self, key: &str) -> Option<&Argument> {
        self.0.iter().find(|argument| argument.key == key)
    }
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let arguments = Punctuated::<Argument, Token![,]>::parse_terminated(input)?;
        Ok(Self(arguments.into_iter().collect()))
    }
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if input.peek(LitStr) {
            let value: LitStr = input.parse()?;
            let message = format!("a value without a key; write `image = {:?}`", value.value());
            return Err(Error::new(value.span(), message));
        }
        // `crate` is a keyword.
        let key = input.call(Ident::parse_any)?;
        parse_equals(input, &key)?;
        let value = input.parse()?;
        Ok(Self { key, value })
    }
}

fn parse_equals(input: ParseStream<'_>, key: &Ident) -> Result<()> {
    if input.peek(Token![=]) {
        input.parse::<Token![=]>()?;
        return Ok(());
    }
    let message = match key.to_string().as_str() {
        "ignore" | "should_panic" => {
            format!("`{key}` is an attribute of its own: write `#[{key}]` below")
        }
        _ => format!("`{key}` needs a value: `{key} = ...`"),
    };
    Err(Error::new(key.span(), message))
}
