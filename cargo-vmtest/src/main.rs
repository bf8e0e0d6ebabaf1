//! `cargo vmtest`: looks after what tests leave between their runs.

mod command;
mod doctor;
mod gc;
mod ls;
mod quantity;
mod say;
mod stop;

use std::env;
use std::process::ExitCode;

use vmtest::{Error, ErrorKind, Result};

use command::{Command, HELP};
use say::say;

/// The status when the command line makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    vmtest::init();
    let command = match Command::parse(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(text) => {
            eprintln!("cargo vmtest: {text}\n`cargo vmtest help` tells what there is");
            return ExitCode::from(MISUSED);
        }
    };
    match run(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|cause| Error::new(ErrorKind::Broker, "no runtime to be had").because(cause))?;
    runtime.block_on(async {
        match command {
            Command::Help => say(HELP),
            Command::Version => say(env!("CARGO_PKG_VERSION")),
            Command::Doctor => return doctor::run().await,
            Command::Ls => ls::run().await?,
            Command::Gc(choice) => gc::run(choice)?,
            Command::Stop => stop::run().await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
