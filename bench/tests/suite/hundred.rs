//! One test, a hundred times.

macro_rules! hundred {
    ($image:tt) => {
        crate::hundred::tens!($image; a b c d e f g h i j);
    };
}

macro_rules! tens {
    ($image:tt; $($ten:ident)*) => {
        $(
            mod $ten {
                crate::hundred::ones!($image; t0 t1 t2 t3 t4 t5 t6 t7 t8 t9);
            }
        )*
    };
}

macro_rules! ones {
    ($image:tt; $($name:ident)*) => {
        $(
            #[vmtest::vm_test(image = $image)]
            #[ignore = "measured by `cargo xtask bench`"]
            async fn $name(vm: vmtest::Vm) -> vmtest::Result<()> {
                vm.command("true").await?.check().map(|_| ())
            }
        )*
    };
}

pub(crate) use {hundred, ones, tens};
