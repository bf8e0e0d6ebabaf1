use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
#[test]
async fn libtest(_vm: Vm) {}

#[vm_test(image = "tiny")]
#[tokio::test]
async fn tokio(_vm: Vm) {}

#[vm_test(image = "tiny")]
#[rstest::rstest]
#[case(1)]
async fn rstest(_vm: Vm) {}

#[vm_test(image = "tiny")]
#[vm_test(image = "tiny")]
async fn twice(_vm: Vm) {}

fn main() {}
