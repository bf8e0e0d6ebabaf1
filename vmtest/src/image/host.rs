//! Which system this host is: guests are made from the same archive.

use std::fs;

use vmtest_backends::{Error, ErrorKind, Result};

/// A Debian or Ubuntu host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// `debian` or `ubuntu`.
    pub(super) id: String,
    /// The release, such as `bookworm`.
    pub(super) codename: String,
    /// The architecture as Debian calls it.
    pub(super) architecture: &'static str,
}

impl Host {
    /// The host we run on. Other systems are refused: their archives are not known.
    pub(super) fn detect() -> Result<Self> {
        let text = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .map_err(|cause| refused("there is no /etc/os-release").because(cause))?;
        Self::parse(&text, architecture())
    }

    fn parse(text: &str, architecture: Option<&'static str>) -> Result<Self> {
        let id = field(text, "ID").unwrap_or_default();
        if !matches!(id.as_str(), "debian" | "ubuntu") {
            return Err(refused(&format!("this one is {id:?}")));
        }
        let codename =
            field(text, "VERSION_CODENAME").ok_or_else(|| refused("this one has no VERSION_CODENAME"))?;
        let architecture =
            architecture.ok_or_else(|| refused("this processor is neither amd64 nor arm64"))?;
        Ok(Self {
            id,
            codename,
            architecture,
        })
    }

    /// Whether release files with this `Origin` are its own archive's.
    pub(super) fn is_origin(&self, origin: &str) -> bool {
        match self.id.as_str() {
            "ubuntu" => origin == "Ubuntu",
            _ => matches!(origin, "Debian" | "Debian Backports"),
        }
    }

    /// The package that always needs the newest kernel for virtual machines.
    pub(super) fn kernel_package(&self) -> String {
        match self.id.as_str() {
            "ubuntu" => "linux-image-virtual".to_owned(),
            _ => format!("linux-image-cloud-{}", self.architecture),
        }
    }

    /// The suite whose kernel is better than the release's own: that of Debian 12 has no VM generation id.
    pub(super) fn kernel_suite(&self) -> Option<&'static str> {
        (self.codename == "bookworm").then_some("bookworm-backports")
    }
}

fn architecture() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("amd64"),
        "aarch64" => Some("arm64"),
        _ => None,
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

fn refused(why: &str) -> Error {
    let text = format!("images of packages can be made on Debian 12 and 13 and on Ubuntu 24.04: {why}");
    Error::new(ErrorKind::Unavailable, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID=\"12\"\n";
        let host = Host::parse(text, Some("amd64")).expect("this is Debian");
        assert_eq!((host.id.as_str(), host.codename.as_str()), ("debian", "bookworm"));
        assert_eq!(host.kernel_package(), "linux-image-cloud-amd64");
        assert_eq!(host.kernel_suite(), Some("bookworm-backports"));
        assert!(host.is_origin("Debian Backports") && !host.is_origin("Third Party"));
        let other = Host::parse("ID=\"fedora\"\n", Some("amd64")).expect_err("no Debian");
        assert_eq!(other.kind(), ErrorKind::Unavailable);
        assert!(other.message().contains("\"fedora\""), "{other}");
    }
}
