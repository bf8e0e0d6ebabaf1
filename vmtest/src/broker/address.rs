//! The brokers that run: of this build and of others, each at a socket of its own.

use std::fs;
use std::io;
use std::time::Duration;

use vmtest_backends::process::wait_for_end;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::message::{Hello, Reply, Status};
use crate::broker::wire;
use crate::dirs::Dirs;
use crate::role::{Role, Service};
use crate::store::unusable;

/// What the names of all brokers begin with.
pub(super) const PREFIX: &str = "broker-";

/// How long a broker may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// How long a broker may take to end all machines and itself.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// A place where a broker of this user listens, or has listened.
#[derive(Debug, Clone)]
pub struct Address {
    name: String,
    service: Service,
}

/// All of them: brokers of different builds of this crate run beside each other.
pub fn addresses(dirs: &Dirs) -> Result<Vec<Address>> {
    let failed = |cause| unusable(dirs.runtime(), "cannot be listed", cause);
    let mut found = Vec::new();
    for entry in fs::read_dir(dirs.runtime()).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(".sock"));
        if let Some(name) = name.filter(|name| name.starts_with(PREFIX)) {
            let service = Service::new(dirs, Role::Broker, name, Vec::new());
            let name = name.to_owned();
            found.push(Address { name, service });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

impl Address {
    /// Its name, which tells protocol, engines and build.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the broker is; `None` when none listens there any more. Takes at most 5 s.
    pub async fn status(&self) -> Result<Option<Status>> {
        match self.within(STATUS_LIMIT, self.ask(&Hello::Status)).await? {
            None => Ok(None),
            Some(Reply::Status(status)) => Ok(Some(status)),
            Some(_) => Err(Error::new(
                ErrorKind::Broker,
                format!("{} said something else than was asked", self.name),
            )),
        }
    }

    /// Ends the broker and all its machines, also those that tests hold, and waits until its process is
    /// gone, at most 25 s. Tells whether one ran.
    pub async fn stop(&self) -> Result<bool> {
        let Some(status) = self.status().await? else {
            return Ok(false);
        };
        let stopped = async {
            let said = self.ask(&Hello::Stop).await?;
            wait_for_end(status.pid).await?;
            Ok(said)
        };
        match self.within(STOP_LIMIT, stopped).await? {
            Some(Reply::Failed(report)) => Err(report.into()),
            _ => Ok(true),
        }
    }

    /// Removes the socket of a broker that is gone; tells whether there was one to remove.
    pub fn clear_if_dead(&self) -> Result<bool> {
        self.service.clear_if_dead()
    }

    async fn within<T>(&self, limit: Duration, talk: impl Future<Output = io::Result<T>>) -> Result<T> {
        match tokio::time::timeout(limit, talk).await {
            Ok(said) => said.map_err(|cause| {
                Error::new(ErrorKind::Broker, format!("{} was asked", self.name)).because(cause)
            }),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("{} did not answer within {} s", self.name, limit.as_secs()),
            )),
        }
    }

    /// What it says; `None` when nobody is there.
    async fn ask(&self, hello: &Hello) -> io::Result<Option<Reply>> {
        let Some(stream) = self.service.find() else {
            return Ok(None);
        };
        let asked = async {
            let (mut reader, mut writer) = wire::split(stream)?;
            writer.send(hello, None).await?;
            reader.next::<Reply>().await
        };
        match asked.await {
            Ok(Some(reply)) => Ok(Some(reply)),
            // It ended just now.
            _ if self.service.find().is_none() => Ok(None),
            Ok(None) => Err(io::Error::other("it hung up: it is of another version")),
            Err(cause) => Err(cause),
        }
    }
}
