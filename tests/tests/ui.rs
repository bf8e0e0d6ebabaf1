//! What the compiler says about wrong uses of the attributes, and that it says nothing about right ones.
//!
//! The texts are those of one compiler; `TRYBUILD=overwrite` writes them anew.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/*.rs");
}
