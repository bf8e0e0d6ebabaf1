use vmtest::{Vm, vm_test};

#[vm_test(image = "tiny")]
async fn boots(_vm: Vm) {
    vmtest::skip!("it returns nothing");
}

fn main() {}
