use vmtest::{Vm, vm_test};

#[tokio::test]
#[vm_test(image = "tiny")]
async fn boots(_vm: Vm) {}

fn main() {}
