//! The other attributes of the function, sorted by what they are about.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::Parser as _;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Attribute, Error, Expr, ExprLit, Lit, LitStr, Meta, Result, Token, parse_quote};

/// The attributes below ours.
#[derive(Default)]
pub(crate) struct Attributes {
    /// Whether there is anything at all: they go on all we emit.
    pub(crate) gates: Vec<Attribute>,
    /// What the `#[test]` is told.
    pub(crate) wrapper: Vec<Attribute>,
    /// What the function is told.
    pub(crate) body: Vec<Attribute>,
    /// The reasons of `#[ignore]`.
    pub(crate) ignore: Vec<When>,
    /// The texts of `#[should_panic]`, which the wrapper never sees: our own errors must not satisfy it.
    pub(crate) should_panic: Vec<When>,
}

/// A text that holds on a condition.
pub(crate) struct When {
    predicate: Option<TokenStream>,
    text: LitStr,
    pub(crate) span: Span,
}

impl Attributes {
    /// Sorts `attributes`, and those inside `cfg_attr` one by one.
    pub(crate) fn sort(attributes: &[Attribute]) -> Result<Self> {
        let mut sorted = Self::default();
        for attribute in attributes {
            if attribute.path().is_ident("cfg_attr") {
                for (predicate, meta) in conditional(attribute)? {
                    sorted.add(Some(predicate), meta)?;
                }
            } else {
                sorted.add(None, attribute.meta.clone())?;
            }
        }
        Ok(sorted)
    }

    fn add(&mut self, predicate: Option<TokenStream>, meta: Meta) -> Result<()> {
        let name = meta.path().get_ident().map(ToString::to_string);
        let attribute = written(predicate.as_ref(), &meta);
        match name.as_deref().unwrap_or_default() {
            "cfg" => self.gates.push(attribute),
            "ignore" => {
                let text = ignore_text(&meta);
                self.ignore.push(When::new(predicate, text, &meta));
                self.wrapper.push(attribute);
            }
            "should_panic" => {
                let text = should_panic_text(&meta)?;
                self.should_panic.push(When::new(predicate, text, &meta));
            }
            // Of both: the function's name is that of the wrapper too.
            "doc" | "allow" | "warn" | "deny" | "forbid" => {
                self.wrapper.push(attribute.clone());
                self.body.push(attribute);
            }
            // An expectation is fulfilled once, in the function; the wrapper is not to break it.
            "expect" => {
                self.wrapper.extend(as_allow(predicate.as_ref(), &meta));
                self.body.push(attribute);
            }
            _ => self.body.push(attribute),
        }
        Ok(())
    }
}

impl When {
    fn new(predicate: Option<TokenStream>, text: LitStr, meta: &Meta) -> Self {
        Self {
            predicate,
            text,
            span: meta.span(),
        }
    }

    /// An expression of type `Option<&'static str>`: the text of the first whose condition holds.
    pub(crate) fn first_of(whens: &[Self]) -> TokenStream {
        let none = quote!(::core::option::Option::None);
        whens.iter().rev().fold(none, |otherwise, when| {
            let text = &when.text;
            let some = quote!(::core::option::Option::Some(#text));
            match &when.predicate {
                Some(predicate) => {
                    quote!(if ::core::cfg!(#predicate) { #some } else { #otherwise })
                }
                None => some,
            }
        })
    }
}

/// `#[cfg_attr(predicate, one, two)]` as its parts.
fn conditional(attribute: &Attribute) -> Result<Vec<(TokenStream, Meta)>> {
    let list = attribute.meta.require_list()?;
    let parts = Punctuated::<Meta, Token![,]>::parse_terminated.parse2(list.tokens.clone())?;
    let mut parts = parts.into_iter();
    let predicate = parts.next();
    let predicate = quote!(#predicate);
    Ok(parts.map(|meta| (predicate.clone(), meta)).collect())
}

fn written(predicate: Option<&TokenStream>, meta: &Meta) -> Attribute {
    match predicate {
        Some(predicate) => parse_quote!(#[cfg_attr(#predicate, #meta)]),
        None => parse_quote!(#[#meta]),
    }
}

fn as_allow(predicate: Option<&TokenStream>, meta: &Meta) -> Option<Attribute> {
    let Meta::List(list) = meta else {
        return None;
    };
    let lints = &list.tokens;
    let allow: Meta = parse_quote!(allow(#lints));
    Some(written(predicate, &allow))
}

fn ignore_text(meta: &Meta) -> LitStr {
    match meta {
        Meta::NameValue(pair) => text_of(&pair.value),
        _ => None,
    }
    .unwrap_or_else(|| LitStr::new("", meta.span()))
}

fn should_panic_text(meta: &Meta) -> Result<LitStr> {
    let text = match meta {
        Meta::Path(path) => Some(LitStr::new("", path.span())),
        Meta::NameValue(pair) => text_of(&pair.value),
        Meta::List(list) => list
            .parse_args::<syn::MetaNameValue>()
            .ok()
            .filter(|pair| pair.path.is_ident("expected"))
            .and_then(|pair| text_of(&pair.value)),
    };
    text.ok_or_else(|| {
        let message = "write `#[should_panic]` or `#[should_panic(expected = \"...\")]`";
        Error::new_spanned(meta, message)
    })
}

fn text_of(value: &Expr) -> Option<LitStr> {
    match value {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text), ..
        }) => Some(text.clone()),
        _ => None,
    }
}
