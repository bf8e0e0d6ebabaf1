//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use crate::quantity;

/// What `cargo vmtest help` says.
pub(crate) const HELP: &str = "\
Looks after the machines, images and snapshots of tests with vmtest.

Usage: cargo vmtest <command>

Commands:
  doctor     Checks what tests in machines need on this host; tells the cause and the
             cure of what is missing. Ends with status 1 if something must be there.
  ls         Lists images, snapshots, machines and the broker's state.
  gc         Removes what nobody uses: what dead processes have left, damaged things,
             snapshots whose image is gone, downloads not touched for 30 days.
    --all                 also all images and snapshots not in use right now
    --older-than <AGE>    also those not used for that long: 90m, 36h, 7d, 2w
  stop       Ends the broker and all its machines, also those that tests hold, and
             waits until they are gone.
  help       Prints this.

Images, snapshots and machines lie in $VMTEST_DIR, else in $XDG_CACHE_HOME/vmtest or
~/.cache/vmtest. Images are named in vmtest.toml, looked for from the current folder
upwards.";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Doctor,
    Ls,
    Gc(Choice),
    Stop,
    Help,
    Version,
}

/// What `gc` is to remove besides what nobody uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Everything that is not in use right now.
    pub(crate) all: bool,
    /// Everything not used for so long.
    pub(crate) older_than: Option<Duration>,
}

impl Command {
    /// The words after the program's name. Cargo gives a subcommand its own name first.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut words = words
            .into_iter()
            .map(|word| {
                word.into_string()
                    .map_err(|word| format!("{word:?} is no command"))
            })
            .collect::<Result<Vec<String>, String>>()?;
        if words.first().is_some_and(|word| word == "vmtest") {
            words.remove(0);
        }
        let asks = |word: &String| matches!(word.as_str(), "-h" | "--help" | "help");
        if words.is_empty() || words.iter().any(asks) {
            return Ok(Self::Help);
        }
        let rest = &words[1..];
        let command = match words[0].as_str() {
            "doctor" => Self::Doctor,
            "ls" => Self::Ls,
            "stop" => Self::Stop,
            "-V" | "--version" => Self::Version,
            "gc" => return Choice::parse(rest).map(Self::Gc),
            other => return Err(format!("there is no command {other:?}")),
        };
        match rest.first() {
            None => Ok(command),
            Some(word) => Err(format!("`{}` takes no {word:?}", words[0])),
        }
    }
}

impl Choice {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut choice = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), None),
            };
            match (name, value) {
                ("--all", None) => choice.all = true,
                ("--older-than", value) => {
                    let age = value.or_else(|| words.next().map(String::as_str));
                    choice.older_than = Some(quantity::age(age.unwrap_or_default())?);
                }
                _ => return Err(format!("`gc` takes no {word:?}")),
            }
        }
        Ok(choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Command, String> {
        Command::parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn commands_are_read_with_and_without_cargos_word() {
        assert_eq!(parse("vmtest doctor"), Ok(Command::Doctor));
        assert_eq!(parse("doctor"), Ok(Command::Doctor));
        assert_eq!(parse("vmtest"), Ok(Command::Help));
        assert_eq!(parse("gc --help"), Ok(Command::Help));
        let week = Choice {
            all: false,
            older_than: Some(Duration::from_secs(7 * 86400)),
        };
        assert_eq!(parse("gc --older-than 7d"), Ok(Command::Gc(week.clone())));
        assert_eq!(parse("vmtest gc --older-than=1w"), Ok(Command::Gc(week)));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in [
            "gcc",
            "gc --everything",
            "gc --all=no",
            "ls all",
            "gc --older-than",
            "gc --older-than 7",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
