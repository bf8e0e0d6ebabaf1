use vmtest::{Vm, vm_test};

// The compiler runs no test that stands in a function: silence would hide that.
pub fn outer() {
    #[vm_test(image = "tiny")]
    async fn boots(_vm: Vm) {}
}

fn main() {}
