//! A hundred trivial tests on `debian`, for the figure `suite_100`; ignored otherwise.

#[path = "suite/hundred.rs"]
mod hundred;

hundred::hundred!("debian");
