//! From what was written to Rust.

mod body;
mod case;
mod options;
mod refused;
mod root;
mod snapshot;

use proc_macro2::TokenStream;
use syn::Signature;

use crate::parse::{Arguments, Attributes, Function};
use crate::validate::{self, Errors};

/// The function below an attribute, found to be usable.
struct Usable {
    root: TokenStream,
    options: TokenStream,
    attributes: Attributes,
    signature: Signature,
    body: proc_macro2::Group,
}

/// Which attribute it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Test,
    Snapshot,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "vm_test",
            Self::Snapshot => "vm_snapshot",
        }
    }

    fn required(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Test => &[("image", "debian")],
            Self::Snapshot => &[("image", "debian"), ("name", "ready")],
        }
    }

    fn options_type(self) -> &'static str {
        match self {
            Self::Test => "Options",
            Self::Snapshot => "SnapshotOptions",
        }
    }
}

/// `#[vm_test(...)]`.
pub(crate) fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match usable(Kind::Test, arguments, item) {
        Ok(usable) => case::tokens(&usable),
        Err(refused) => refused,
    }
}

/// `#[vm_snapshot(...)]`; `source` is the digest of the source file.
pub(crate) fn snapshot(arguments: TokenStream, item: TokenStream, source: &str) -> TokenStream {
    let function = item.to_string();
    match usable(Kind::Snapshot, arguments, item) {
        Ok(usable) => snapshot::tokens(&usable, &function, source),
        Err(refused) => refused,
    }
}

/// What is needed to expand, or what to emit instead: all errors, and the function as it was.
fn usable(kind: Kind, arguments: TokenStream, item: TokenStream) -> Result<Usable, TokenStream> {
    let mut errors = Errors::default();
    let arguments = errors.take(syn::parse2::<Arguments>(arguments));
    let function = match syn::parse2::<Function>(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            errors.push(error);
            return Err(refused::item(errors, item));
        }
    };
    validate::foreign_attributes(&function.attributes, kind.name(), &mut errors);
    validate::signature(&function.signature, &mut errors);
    let attributes = errors.take(Attributes::sort(&function.attributes));
    if let Some(attributes) = &attributes
        && kind == Kind::Snapshot
    {
        validate::no_test_attributes(attributes, &mut errors);
    }
    let parts = arguments.and_then(|arguments| {
        validate::keys(&arguments, kind.required(), &mut errors);
        let root = errors.take(root::path(&arguments))?;
        let options = options::closure(&root, kind.options_type(), &arguments, &mut errors);
        Some((root, options))
    });
    match (errors.into_inner(), attributes, parts) {
        (None, Some(attributes), Some((root, options))) => Ok(Usable {
            root,
            options,
            attributes,
            signature: function.signature,
            body: function.body,
        }),
        (errors, _, parts) => Err(refused::function(errors, parts, kind, &function)),
    }
}
