//! The shape of the function.

use quote::quote;
use syn::{FnArg, Safety, Signature, Type};

use super::Errors;

/// What the function is handed.
pub(crate) enum Parameter<'a> {
    /// Nothing: it asks for the current machine itself.
    None,
    /// The machine, as its own.
    Owned(&'a Type),
    /// The machine, by reference.
    Borrowed(&'a Type),
}

/// Refuses everything but a plain `async fn` of one parameter at most.
pub(crate) fn signature(signature: &Signature, errors: &mut Errors) {
    modifiers(signature, errors);
    let generics = &signature.generics;
    if !generics.params.is_empty() {
        errors.at(generics, "this function can have no generics");
    }
    if let Some(clause) = &generics.where_clause {
        errors.at(clause, "this function can have no `where` clause");
    }
    if let Some(variadic) = &signature.variadic {
        errors.at(variadic, "this function can have no variadic parameter");
    }
    inputs(signature, errors);
}

fn modifiers(signature: &Signature, errors: &mut Errors) {
    if signature.asyncness.is_none() {
        errors.at(signature.fn_token, "this function must be `async`");
    }
    if let Some(token) = signature.constness {
        errors.at(token, "this function cannot be `const`");
    }
    if let Safety::Unsafe(token) = signature.safety {
        errors.at(token, "this function cannot be `unsafe`: use a block inside it");
    }
    if let Some(abi) = &signature.abi {
        errors.at(abi, "this function cannot be `extern`");
    }
}

fn inputs(signature: &Signature, errors: &mut Errors) {
    if let Some(receiver) = signature.receiver() {
        errors.at(
            receiver,
            "this attribute goes on a free function, not on a method: take `vm: Vm`",
        );
        return;
    }
    let surplus: Vec<_> = signature.inputs.iter().skip(1).collect();
    if !surplus.is_empty() {
        errors.at(
            quote!(#(#surplus),*),
            "this function takes one parameter at most, the machine; for others, put `#[rstest]` above",
        );
    }
}

/// What a function that passed [`signature`] is handed. A reference is known by its `&`, not by a name for it.
pub(crate) fn parameter(signature: &Signature) -> Parameter<'_> {
    match signature.inputs.first() {
        Some(FnArg::Typed(input)) if is_reference(&input.ty) => Parameter::Borrowed(&input.ty),
        Some(FnArg::Typed(input)) => Parameter::Owned(&input.ty),
        _ => Parameter::None,
    }
}

fn is_reference(ty: &Type) -> bool {
    match ty {
        Type::Reference(_) => true,
        Type::Group(group) => is_reference(&group.elem),
        Type::Paren(paren) => is_reference(&paren.elem),
        _ => false,
    }
}
