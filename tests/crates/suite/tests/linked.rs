//! A program that names the library has its tests.
#![forbid(unsafe_code)]

use vmtest_tests_suite as _;

#[test]
fn the_librarys_tests_are_here() {
    let cases = vmtest::cases();
    let [answers] = cases[..] else { panic!("{cases:?}") };
    assert_eq!(answers.name(), "answers");
    assert_eq!(answers.crate_name(), "vmtest_tests_suite");
    assert_eq!(vmtest::snapshots().len(), 1);
}
