//! The attributes of vmtest: `#[vm_test]`, also exported as `#[vmtest::test]`, and `#[vm_snapshot]`.
//!
//! They are thin. Each emits one static that describes the function, one registration of it and, for a
//! test, one real `#[test]` that hands the static to the runner. They know as little of the options as they can: a key
//! becomes a field assignment, so that the compiler reports a wrong one at its place and proposes the right one.
//! Use them through the crate `vmtest`, which documents them for its users.

mod expand;
mod fingerprint;
mod parse;
mod validate;

use proc_macro::TokenStream;

/// Makes a test of an async function: it gets a virtual machine to itself.
///
/// ```ignore
/// #[vm_test(image = "debian", snapshot = "ready", timeout = "30s")]
/// async fn serves_http(vm: Vm) -> Result {
///     vm.sh("curl -sf localhost").await?.check()?;
///     Ok(())
/// }
/// ```
///
/// # The function
///
/// It takes `vm: Vm`, `vm: &Vm`, or nothing (`Vm::current()` gives the machine), and returns `()` or
/// `Result<(), E>` where `E: Debug`. It need not be `Send`. It stands in a module, not in another function.
///
/// # Options
///
/// Each is an expression that is evaluated when the test is about to run.
///
/// | key | value | where it is left out |
/// | --- | --- | --- |
/// | `image` | name of an image | required |
/// | `snapshot` | name of a snapshot of that image | the image, freshly booted |
/// | `timeout` | limit of the body: `"500ms"`, `"30s"`, `"5m"`, `"1h"` or a `Duration` | the configuration's |
/// | `memory` | MiB | the snapshot's or the configuration's |
/// | `cpus` | number of virtual CPUs | the same |
/// | `network` | whether the machine reaches the network | `false` |
/// | `backend` | name of the only engine to be used | the first that works |
/// | `needs` | what engine and host must offer: `["kvm"]` | nothing |
/// | `crate` | path of the crate `vmtest`, if it is reached through another one | found in `Cargo.toml` |
///
/// # Other attributes
///
/// `#[ignore]`, `#[should_panic]` (judged on the panic of the body alone: an error of vmtest never satisfies it) and
/// `#[cfg]` mean what they mean for `#[test]`. All others go to the function itself.
///
/// # What becomes of it
///
/// A `#[test]` of the function's name, and an entry in `vmtest::cases()`. The entry exists without
/// `cfg(test)` too, so that a program can run the tests of a library: whoever can name the attribute
/// there has the dependency, and tests in `tests/` or below `#[cfg(test)]` cost an ordinary build nothing.
#[proc_macro_attribute]
pub fn vm_test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::test(arguments.into(), item.into()).into()
}

/// The same as [`macro@vm_test`], for those who write `#[vmtest::test]`; rstest and others know it by that name.
#[proc_macro_attribute]
pub fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::test(arguments.into(), item.into()).into()
}

/// Makes a snapshot of what an async function does to a machine.
///
/// ```ignore
/// #[vm_snapshot(image = "debian", name = "ready", inputs = ["schema/*.sql"])]
/// async fn ready(vm: Vm) -> Result {
///     vm.copy_in("schema", "/srv/schema").await?;
///     vm.sh("/srv/schema/load").await?.check()?;
///     Ok(())
/// }
/// ```
///
/// It is run once for all processes of a user, in a process of its own whose current folder is the package's, as a
/// test's is: `schema` above lies beside `Cargo.toml`. Its machine is then frozen, and each test gets a fork.
/// The function has the shapes that [`macro@vm_test`] allows, and cannot be called.
///
/// # Options
///
/// | key | value | where it is left out |
/// | --- | --- | --- |
/// | `image` | name of an image | required |
/// | `name` | what tests write behind `snapshot` | required |
/// | `from` | name of the snapshot it stands on | the image, freshly booted |
/// | `inputs` | globs, relative to the package: their contents belong to the key | none |
/// | `env` | names of environment variables: their values belong to the key | none |
/// | `version` | a text or number that belongs to the key | none |
/// | `timeout`, `memory`, `cpus`, `network`, `crate` | as for a test | as for a test |
///
/// # When it is built anew
///
/// When anything in its key changes: the image, the snapshot below, the options above, the function, the source file it
/// stands in. Functions of other files, macros, dependencies and the compiler are **not** tracked: raise `version`.
#[proc_macro_attribute]
pub fn vm_snapshot(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let source = fingerprint::of_source(proc_macro::Span::call_site());
    expand::snapshot(arguments.into(), item.into(), &source).into()
}
