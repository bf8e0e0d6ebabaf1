//! Calls of the operating system, Linux.
