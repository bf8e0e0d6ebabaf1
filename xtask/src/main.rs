//! Set-up, demo and test of vmtest: `cargo xtask`.

mod bench;
mod child;
mod demo;
mod error;
mod report;
mod say;
mod setup;
mod stop;
mod test;
mod workspace;

use std::env;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::say::say;
use crate::stop::Stop;
use crate::workspace::Workspace;

const USAGE: &str = "\
cargo xtask setup                         install the programs that vmtest calls, where they are missing
cargo xtask demo                          set up, then run the quickstart's tests in real machines
cargo xtask test [--full] [--only SUITE]  set up, then format, lints, every test, the leak check
                                          (--full: what is heavier, too; --only: may be given several times)
cargo xtask bench [--json FILE]           measure, each figure beside the engine driven by hand";

/// The status of a shell's child that was ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words = env::args().skip(1).collect::<Vec<_>>();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Interrupted) => {
            say("interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> Result {
    let stop = Stop::listen()?;
    match words {
        ["setup"] => setup::run(&Workspace::find(&stop).await?.setup_dir(), &stop).await,
        ["demo"] => demo::run(&Workspace::find(&stop).await?, &stop).await,
        ["test", options @ ..] => {
            let options = test::Options::parse(options)?;
            test::run(&Workspace::find(&stop).await?, &options, &stop).await
        }
        ["bench", options @ ..] => bench::run(options, &stop).await,
        [] | ["help" | "--help" | "-h"] => {
            say(USAGE);
            Ok(())
        }
        [unknown, ..] => Err(Error::new(format!("`{unknown}` is not known here\n\n{USAGE}"))),
    }
}
