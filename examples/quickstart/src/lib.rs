//! Things that need a whole machine, each tested in its own. There is nothing in this library: see the tests,
//! and `vmtest.toml` for the image and the snapshot that they name.
