//! The tool itself, run as cargo runs it.

mod doctor;
mod gc;
mod home;
mod stop;
