//! Unit tests in a library.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, clippy::pedantic)]

/// Something to test.
#[must_use]
pub fn answer() -> u32 {
    private()
}

fn private() -> u32 {
    42
}

#[cfg(test)]
mod tests {
    use super::private;
    use vmtest::{Vm, vm_test};

    #[vm_test(image = "tiny")]
    async fn sees_what_is_private(_vm: Vm) {
        assert_eq!(private(), super::answer());
    }
}
