//! From what people write behind a key to the option's own type.

use std::time::Duration;

use super::Version;

/// A value that may stand behind a key of the attributes, for an option of type `T`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value for this option, whose type is `{T}`",
    label = "not a value for this option",
    note = "names are text: `image = \"debian\"`",
    note = "limits are a `Duration` or a literal with its unit: `timeout = \"30s\"`",
    note = "sizes are whole numbers: `memory = 512` (MiB), `cpus = 2`; switches are `true` or `false`",
    note = "lists are arrays of text: `needs = [\"kvm\"]`"
)]
pub trait Setting<T> {
    /// The option's value.
    fn into_setting(self) -> T;
}

/// Sets an option to what stands in the attribute. The option decides the type, not the value.
pub fn set<T>(option: &mut T, value: impl Setting<T>) {
    *option = value.into_setting();
}

// The compiler is not to list the impls: the notes above say it better.
macro_rules! settings {
    ($($from:ty => $to:ty, $value:ident: $convert:expr;)*) => {$(
        #[diagnostic::do_not_recommend]
        impl Setting<$to> for $from {
            fn into_setting(self) -> $to {
                let $value = self;
                $convert
            }
        }
    )*};
}

settings! {
    &str => String, text: text.to_owned();
    String => String, text: text;
    &str => Option<String>, text: Some(text.to_owned());
    String => Option<String>, text: Some(text);
    Duration => Option<Duration>, limit: Some(limit);
    u32 => Option<u32>, count: Some(count);
    bool => Option<bool>, switch: Some(switch);
    &str => Option<Version>, text: Some(Version(text.to_owned()));
    i32 => Option<Version>, number: Some(Version(number.to_string()));
    u32 => Option<Version>, number: Some(Version(number.to_string()));
    u64 => Option<Version>, number: Some(Version(number.to_string()));
}

#[diagnostic::do_not_recommend]
impl<const N: usize> Setting<Vec<String>> for [&str; N] {
    fn into_setting(self) -> Vec<String> {
        self.map(str::to_owned).into()
    }
}

#[diagnostic::do_not_recommend]
impl Setting<Vec<String>> for &[&str] {
    fn into_setting(self) -> Vec<String> {
        self.iter().copied().map(str::to_owned).collect()
    }
}
