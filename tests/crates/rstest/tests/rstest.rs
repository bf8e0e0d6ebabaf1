//! Cases and fixtures of rstest, each in a machine of its own.
#![forbid(unsafe_code)]

use rstest::{fixture, rstest};
use vmtest::Vm;

#[fixture]
async fn vm() -> Vm {
    Vm::current()
}

#[rstest]
#[case(1)]
#[case::named(2)]
#[vmtest::test(image = "tiny")]
async fn cases(#[case] status: i32) -> vmtest::Result<()> {
    let output = Vm::current().sh(format!("exit {status}")).await?;
    assert_eq!(output.code(), Some(status));
    Ok(())
}

#[rstest]
#[vmtest::test(image = "tiny")]
async fn values(#[values("a", "b")] text: &str) {
    let output = Vm::current().command("echo").arg(text).await.unwrap();
    assert_eq!(output.text(), text);
}

#[rstest]
#[vmtest::test(image = "tiny")]
async fn from_a_fixture(#[future(awt)] vm: Vm) {
    assert!(vm.sh("true").await.unwrap().success());
}

#[test]
fn each_case_is_a_test() {
    let names: Vec<_> = vmtest::cases().iter().map(|case| case.name()).collect();
    assert_eq!(
        names,
        [
            "cases::case_1",
            "cases::case_2_named",
            "from_a_fixture",
            "values::text_1___a__",
            "values::text_2___b__",
        ]
    );
}
