//! The entries of a guest's archive, one after the other, with their whole names and within limits.

use std::ffi::OsString;
use std::io::{self, Read};

use tar::{Archive, Entries, Entry, EntryType, PaxExtensions};
use vmtest_backends::{Error, ErrorKind};

use super::name::{parts, shown};

/// The longest name or link target, in bytes.
const NAME_LIMIT: u64 = 64 * 1024;

/// The largest block of extended attributes, in bytes.
const PAX_LIMIT: u64 = 1024 * 1024;

/// The most entries of one archive.
const ENTRY_LIMIT: u64 = 2_000_000;

/// Why an archive was not unpacked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The host does not do what it asks for, or could not.
    Refused(Error),
    /// The archive ended early or makes no sense: the guest's tool may know why.
    Broken(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(cause: io::Error) -> Self {
        Self::Broken(cause)
    }
}

/// An archive that asks for what is not done.
pub(super) fn refused(why: &str) -> Refusal {
    Refusal::Refused(Error::new(
        ErrorKind::Exec,
        format!("the guest's archive is refused: {why}"),
    ))
}

/// An entry with its whole name.
pub(super) struct Named<'a, R: Read> {
    pub(super) entry: Entry<'a, R>,
    pub(super) kind: EntryType,
    /// Checked: none for the top folder itself.
    pub(super) parts: Vec<OsString>,
    /// The target of a link, as it stands there.
    pub(super) link: Vec<u8>,
    name: Vec<u8>,
}

impl<R: Read> Named<'_, R> {
    /// The refusal of this entry.
    pub(super) fn refuse(&self, why: &str) -> Refusal {
        refused(&format!("entry {}: {why}", shown(&self.name)))
    }

    /// The host could not do what this entry asks for.
    pub(super) fn failed(&self, cause: io::Error) -> Refusal {
        let what = format!(
            "entry {} of the guest's archive could not be unpacked",
            shown(&self.name)
        );
        Refusal::Refused(Error::new(ErrorKind::Exec, what).because(cause))
    }

    /// Its mode without the bits that would give a guest's program rights on the host.
    pub(super) fn mode(&self) -> Result<u32, Refusal> {
        Ok(self.entry.header().mode()? & 0o777)
    }
}

/// The entries of an archive. Those that only carry a long name are read here, where their lengths are bounded.
pub(super) struct Names<'a, R: Read> {
    entries: Entries<'a, R>,
    seen: u64,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<'a, R: Read> Names<'a, R> {
    pub(super) fn new(archive: &'a mut Archive<R>) -> io::Result<Self> {
        Ok(Self {
            entries: archive.entries()?.raw(true),
            seen: 0,
            name: None,
            link: None,
        })
    }

    /// The next entry; `None` after the end mark.
    pub(super) fn next(&mut self) -> Result<Option<Named<'a, R>>, Refusal> {
        while let Some(entry) = self.entries.next() {
            let mut entry = entry?;
            self.seen += 1;
            if self.seen > ENTRY_LIMIT {
                return Err(refused(&format!("it has more than {ENTRY_LIMIT} entries")));
            }
            match entry.header().entry_type() {
                EntryType::GNULongName => self.name = Some(bounded_name(&mut entry)?),
                EntryType::GNULongLink => self.link = Some(bounded_name(&mut entry)?),
                EntryType::XHeader => self.extend(&bounded(&mut entry, PAX_LIMIT)?)?,
                EntryType::XGlobalHeader => {}
                kind => return self.named(entry, kind).map(Some),
            }
        }
        Ok(None)
    }

    fn named(&mut self, entry: Entry<'a, R>, kind: EntryType) -> Result<Named<'a, R>, Refusal> {
        let header = entry.header();
        let name = self
            .name
            .take()
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = self
            .link
            .take()
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let parts = parts(&name).map_err(|why| refused(&format!("entry {}: {why}", shown(&name))))?;
        Ok(Named {
            entry,
            kind,
            parts,
            link: link.unwrap_or_default(),
            name,
        })
    }

    fn extend(&mut self, block: &[u8]) -> Result<(), Refusal> {
        for extension in PaxExtensions::new(block) {
            let extension = extension?;
            match extension.key_bytes() {
                b"path" => self.name = Some(extension.value_bytes().to_owned()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_owned()),
                key if key == b"size" || key.starts_with(b"GNU.sparse") => {
                    return Err(refused(&format!("the extension {} is not supported", shown(key))));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn bounded_name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, Refusal> {
    let mut name = bounded(entry, NAME_LIMIT)?;
    if name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn bounded(entry: &mut Entry<'_, impl Read>, limit: u64) -> Result<Vec<u8>, Refusal> {
    if entry.size() > limit {
        return Err(refused(&format!(
            "a name in it has {} bytes, {limit} are allowed",
            entry.size()
        )));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}
