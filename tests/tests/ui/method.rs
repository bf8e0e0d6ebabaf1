use vmtest::{Vm, vm_test};

struct Suite;

impl Suite {
    #[vm_test(image = "tiny")]
    async fn boots(&self, _vm: Vm) {}
}

fn main() {}
