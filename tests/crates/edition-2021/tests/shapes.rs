//! Every shape that a test may have, beside ordinary tests.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic
)]

use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use vmtest::{Vm, vm_snapshot, vm_test};

const IMAGE: &str = "tiny";
const LIMIT: Duration = Duration::from_secs(20);

fn shared() -> u32 {
    42
}

#[test]
fn an_ordinary_test() {
    assert_eq!(shared(), 42);
}

#[vm_test(image = "tiny")]
async fn owned(vm: Vm) {
    assert_eq!(vm.sh("echo hello").await.unwrap().text(), "hello");
}

#[vm_test(image = "tiny")]
async fn borrowed(vm: &Vm) {
    assert!(vm.sh("true").await.unwrap().success());
}

#[vmtest::test(image = "tiny")]
async fn unnamed() {
    assert!(Vm::current().sh("true").await.unwrap().success());
}

#[vm_test(image = "tiny")]
async fn with_our_result(vm: Vm) -> vmtest::Result<()> {
    vm.sh("true").await?.check()?;
    Ok(())
}

#[vm_test(image = "tiny")]
async fn with_a_boxed_error(vm: Vm) -> Result<(), Box<dyn Error>> {
    vm.sh("true").await?.check()?;
    Ok(())
}

#[vm_test(image = "tiny")]
async fn with_a_boxed_error_for_threads(vm: Vm) -> Result<(), Box<dyn Error + Send + Sync>> {
    vm.sh("true").await?.check()?;
    Ok(())
}

#[vm_test(image = "tiny")]
async fn with_a_text_as_error(vm: Vm) -> Result<(), String> {
    vm.sh("true").await.map_err(|error| error.to_string())?;
    Ok(())
}

#[vm_test(
    image = IMAGE,
    timeout = LIMIT,
    memory = 128,
    cpus = 1,
    network = false,
    backend = "qemu",
    needs = ["memory-fork"],
)]
async fn with_all_options(_vm: Vm) {}

#[vm_snapshot(
    image = "tiny",
    name = "marked",
    inputs = ["Cargo.toml"],
    env = ["LANG"],
    version = 2,
    timeout = "2min",
    memory = 128,
    cpus = 1,
    network = false
)]
async fn marked(vm: Vm) -> vmtest::Result<()> {
    vm.sh("touch /run/marked").await?.check()?;
    Ok(())
}

#[vm_test(image = "tiny", snapshot = "marked", timeout = "30s")]
async fn from_a_snapshot(vm: Vm) {
    assert!(vm.sh("test -e /run/marked").await.unwrap().success());
}

/// The body need not be `Send`.
#[vm_test(image = "tiny")]
async fn holds_what_is_not_send(vm: Vm) {
    let count = Rc::new(1);
    vm.sh("true").await.unwrap();
    assert_eq!(Rc::strong_count(&count), 1);
}

#[vm_test(image = "tiny")]
#[ignore = "to be seen in the list"]
async fn ignored(_vm: Vm) {
    panic!("ignored tests do not run");
}

#[vm_test(image = "tiny")]
#[cfg_attr(target_family = "unix", ignore = "on a condition")]
async fn ignored_on_a_condition(_vm: Vm) {
    panic!("ignored tests do not run");
}

#[vm_test(image = "tiny")]
#[should_panic(expected = "as it should")]
async fn panics(_vm: Vm) {
    panic!("as it should");
}

#[should_panic]
#[vm_test(image = "tiny")]
async fn panics_anyhow(_vm: Vm) {
    panic!();
}

#[vm_test(image = "tiny")]
#[cfg_attr(target_os = "haiku", ignore, should_panic)]
#[cfg_attr(target_family = "unix", should_panic(expected = "on a condition"))]
async fn panics_on_a_condition(_vm: Vm) {
    panic!("on a condition");
}

#[vm_test(image = "tiny")]
#[cfg(target_os = "haiku")]
async fn not_there(_vm: NoSuchType) {}

#[cfg(target_os = "haiku")]
#[vm_test(image = "tiny")]
async fn not_there_either(_vm: NoSuchType) {}

#[vm_test(image = "tiny")]
#[expect(non_snake_case, reason = "to be told to the function, and not twice")]
async fn NamedOddly(_vm: Vm) {}

#[vm_test(image = "tiny")]
async fn vm(vm: Vm) {
    drop(vm);
}

#[vm_test(image = "tiny")]
async fn r#async(_vm: Vm) {}

mod nested {
    pub(crate) mod r#match {
        use vmtest::{Vm, vm_test};

        #[vm_test(image = "tiny")]
        async fn sees_its_ancestors(_vm: Vm) {
            assert_eq!(super::super::shared(), crate::shared());
        }

        #[vm_test(image = "tiny")]
        async fn r#async(_vm: Vm) {}
    }
}

macro_rules! generated {
    ($($name:ident: $vm:ty;)*) => {$(
        #[vm_test(image = "tiny")]
        async fn $name(vm: $vm) {
            assert!(vm.sh("true").await.unwrap().success());
        }
    )*};
}

generated! {
    generated_owned: Vm;
    generated_borrowed: &Vm;
}

mod registry {
    use std::process::Command;
    use std::time::Duration;
    use std::{env, io};

    use vmtest::Case;

    fn case(name: &str) -> &'static Case {
        let found = vmtest::cases().into_iter().find(|case| case.name() == name);
        found.unwrap_or_else(|| panic!("{name} is not registered"))
    }

    fn listed(flags: &[&str]) -> io::Result<Vec<String>> {
        let output = Command::new(env::current_exe()?)
            .args(["--list", "--format", "terse"])
            .args(flags)
            .output()?;
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let ordinary = |name: &&str| !name.starts_with("registry::") && *name != "an_ordinary_test";
        let names = text.lines().map(|line| line.strip_suffix(": test").unwrap());
        let mut names: Vec<_> = names.filter(ordinary).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn names_are_those_of_the_list() -> io::Result<()> {
        let cases = vmtest::cases();
        let names: Vec<_> = cases.iter().map(|case| case.name()).collect();
        assert_eq!(names, listed(&[])?);
        assert!(names.contains(&"nested::r#match::r#async".to_owned()));

        let ignored = cases.iter().filter(|case| case.ignore().is_some());
        let ignored: Vec<_> = ignored.map(|case| case.name()).collect();
        assert_eq!(ignored, listed(&["--ignored"])?);
        assert_eq!(ignored, ["ignored", "ignored_on_a_condition"]);
        Ok(())
    }

    #[test]
    fn options_are_what_was_written() {
        let options = case("with_all_options").options();
        assert_eq!(options.image, "tiny");
        assert_eq!(options.snapshot, None);
        assert_eq!(options.timeout, Some(Duration::from_secs(20)));
        assert_eq!(options.memory, Some(128));
        assert_eq!(options.cpus, Some(1));
        assert_eq!(options.network, Some(false));
        assert_eq!(options.backend.as_deref(), Some("qemu"));
        assert_eq!(options.needs, ["memory-fork"]);

        let options = case("from_a_snapshot").options();
        assert_eq!(options.snapshot.as_deref(), Some("marked"));
        assert_eq!(options.timeout, Some(Duration::from_secs(30)));
        assert_eq!(options.memory, None);
    }

    #[test]
    fn the_place_is_that_of_the_function() {
        let source = include_str!("shapes.rs");
        for (name, text) in [
            ("with_all_options", "async fn with_all_options("),
            ("ignored_on_a_condition", "async fn ignored_on_a_condition("),
        ] {
            let line = source.lines().position(|line| line.contains(text)).unwrap();
            let case = case(name);
            assert_eq!(case.line() as usize, line + 1, "{name}");
            assert_eq!(case.file(), file!());
            assert_eq!(case.crate_name(), "shapes");
        }
    }

    #[test]
    fn harness_attributes_are_kept() {
        assert_eq!(case("ignored").ignore(), Some("to be seen in the list"));
        assert_eq!(case("ignored_on_a_condition").ignore(), Some("on a condition"));
        assert_eq!(case("owned").ignore(), None);
        assert_eq!(case("panics").should_panic(), Some("as it should"));
        assert_eq!(case("panics_anyhow").should_panic(), Some(""));
        assert_eq!(case("owned").should_panic(), None);
        let conditional = case("panics_on_a_condition");
        assert_eq!(conditional.ignore(), None);
        assert_eq!(conditional.should_panic(), Some("on a condition"));
    }

    #[test]
    fn a_snapshot_function_tells_its_source() {
        let snapshots = vmtest::snapshots();
        let [marked] = snapshots[..] else {
            panic!("{snapshots:?}")
        };
        assert_eq!(marked.path(), "shapes::marked");
        assert_eq!(marked.package(), Some(env!("CARGO_MANIFEST_DIR")));
        let options = marked.options();
        assert_eq!((&*options.image, &*options.name), ("tiny", "marked"));
        assert_eq!(options.from, None);
        assert_eq!(options.inputs, ["Cargo.toml"]);
        assert_eq!(options.env, ["LANG"]);
        assert_eq!(options.version.unwrap().as_str(), "2");
        assert_eq!(options.timeout, Some(Duration::from_secs(120)));

        let fingerprint = marked.fingerprint();
        assert!(fingerprint.contains("touch /run/marked"), "{fingerprint}");
        let digest = fingerprint
            .lines()
            .next()
            .unwrap()
            .strip_prefix("source ")
            .unwrap();
        assert_eq!(digest.len(), 64, "{fingerprint}");
    }
}
