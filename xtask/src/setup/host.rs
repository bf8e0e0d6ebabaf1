//! Which distribution this is, and how to become root on it.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use crate::child::{capture, command};
use crate::error::{Error, Result};
use crate::setup::need::find;
use crate::stop::Stop;

/// `sudo -n true` answers at once.
const SUDO_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Distribution {
    /// `bookworm`
    pub(crate) codename: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub(crate) name: String,
    pub(crate) debian: bool,
}

impl Distribution {
    pub(crate) fn detect() -> Result<Self> {
        let text = fs::read_to_string("/etc/os-release").map_err(Error::at("cannot read /etc/os-release"))?;
        let distribution = Self::parse(&text);
        if distribution.codename.is_empty() || find("apt-get").is_none() {
            let name = distribution.name;
            return Err(Error::new(format!(
                "{name} is not known here: only Debian 12 and 13 and Ubuntu 24.04 are"
            )));
        }
        Ok(distribution)
    }

    fn parse(os_release: &str) -> Self {
        let field = |name: &str| {
            let value = os_release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_default().trim_matches('"').to_owned()
        };
        Self {
            codename: field("VERSION_CODENAME"),
            name: field("PRETTY_NAME"),
            debian: field("ID") == "debian",
        }
    }
}

/// How commands that need root are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// We are root.
    Already,
    /// `sudo`, which asks nothing.
    Sudo,
    /// `sudo`, which asks for a password on the terminal.
    SudoAsks,
}

impl Root {
    /// Nothing when there is no way to become root.
    pub(crate) async fn find(stop: &Stop) -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::Already);
        }
        find("sudo")?;
        let mut quiet = command("sudo");
        quiet.args(["-n", "true"]);
        match capture(quiet, SUDO_LIMIT, stop).await {
            Ok(_) => Some(Self::Sudo),
            Err(_) if io::stdin().is_terminal() => Some(Self::SudoAsks),
            Err(_) => None,
        }
    }

    pub(crate) fn prefix(self) -> &'static [&'static str] {
        match self {
            Self::Already => &[],
            Self::Sudo => &["sudo", "-n"],
            Self::SudoAsks => &["sudo"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let read = Distribution::parse(text);
        assert_eq!((read.codename.as_str(), read.debian), ("bookworm", true));
        assert_eq!(read.name, "Debian GNU/Linux 12 (bookworm)");
        let other = Distribution::parse("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n");
        assert_eq!((other.codename.as_str(), other.debian), ("noble", false));
    }
}
