//! A real SSH connection into the guest.

mod keys;

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use openssh::{KnownHosts, SessionBuilder};
use tokio::time::timeout;
use vmtest_backends::{Error, ErrorKind, Result};

use super::{Forward, Port, Vm};
use keys::Keys;

/// How long logging in may take, with hardware virtualisation.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);

/// The status by which the script below tells that there is no sshd.
const NO_SSHD: i32 = 77;

/// Lets the public key `$1` in for root, sees to it that sshd runs, and prints the guest's host keys.
const ADMIT: &str = r#"
command -v sshd >/dev/null || exit 77
umask 077
folder=${HOME:-/root}/.ssh
mkdir -p "$folder" && echo "$1" >>"$folder/authorized_keys" || exit 1
if [ -d /run/systemd/system ]; then
    systemctl start ssh.service 2>/dev/null || systemctl start sshd.service || exit 1
elif [ ! -s /run/sshd.pid ]; then
    ssh-keygen -A >/dev/null && mkdir -p /run/sshd && "$(command -v sshd)" || exit 1
fi
cat /etc/ssh/ssh_host_*_key.pub
"#;

/// An SSH connection into the guest as root, made by [`Vm::ssh`]: an [`openssh::Session`], with the forward and
/// the key it needs. Dropping it ends the connection; [`close`](Ssh::close) also tells whether that went well.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> Result<(), Box<dyn std::error::Error>> {
/// let ssh = vm.ssh().await?;
/// let output = ssh.command("whoami").output().await?;
/// assert_eq!(output.stdout, b"root\n");
/// ssh.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct Ssh {
    // Dropped in this order: the connection, what it goes through, where its control socket lies.
    session: openssh::Session,
    forward: Forward,
    keys: Keys,
}

impl Ssh {
    /// Ends the connection.
    pub async fn close(self) -> Result<()> {
        let Self {
            session,
            forward,
            keys,
        } = self;
        let closed = session.close().await;
        drop((forward, keys));
        closed.map_err(|cause| {
            Error::new(ErrorKind::Disconnected, "the SSH connection ended badly").because(cause)
        })
    }

    /// The port of the host's loopback that leads to the guest's sshd.
    pub fn forward(&self) -> &Forward {
        &self.forward
    }
}

impl Deref for Ssh {
    type Target = openssh::Session;

    fn deref(&self) -> &openssh::Session {
        &self.session
    }
}

impl fmt::Debug for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssh")
            .field("forward", &self.forward)
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// Connects to the guest's sshd as root, with a key made for this connection and the guest's host keys
    /// known beforehand; neither the user's configuration nor keys or agents of the user are looked at. sshd
    /// is started where it does not run.
    ///
    /// Errors: [`ErrorKind::Unavailable`] when the image has no sshd or this host no `ssh` and `ssh-keygen`;
    /// [`ErrorKind::Disconnected`] when logging in fails; [`ErrorKind::TimedOut`] after 30 s, longer without
    /// hardware virtualisation.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> Result<(), Box<dyn std::error::Error>> {
    /// let status = vm.ssh().await?.command("true").status().await?;
    /// assert!(status.success());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ssh(&self) -> Result<Ssh> {
        self.noted(self.log_in().await)
    }

    async fn log_in(&self) -> Result<Ssh> {
        let keys = self.on_io(Keys::make()).await?;
        let admitted = self
            .script(ADMIT, [keys.public()])
            .label("admit an SSH key")
            .output()
            .await?;
        if admitted.code() == Some(NO_SSHD) {
            let what = format!("the image {} has no sshd, which ssh() needs", self.image());
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        let host_keys = admitted.check()?;
        self.wait_for(Port(22)).await?;
        let forward = self.forward(22).await?;
        keys.know(forward.port(), &host_keys.text())?;
        let limit = self.scaled(LOGIN_LIMIT);
        let builder = login(&keys, forward.port(), limit);
        let lifeline = self.0.lifeline.clone();
        let session = self
            .on_io(async move {
                lifeline
                    .race("while ssh logged in", connect(builder, limit))
                    .await
            })
            .await?;
        keys.forget();
        Ok(Ssh {
            session,
            forward,
            keys,
        })
    }
}

fn login(keys: &Keys, port: u16, limit: Duration) -> SessionBuilder {
    let mut builder = SessionBuilder::default();
    builder
        .user("root".to_owned())
        .port(port)
        .keyfile(keys.private())
        .user_known_hosts_file(keys.known_hosts())
        .known_hosts_check(KnownHosts::Strict)
        .control_directory(keys.folder())
        .config_file("/dev/null")
        .connect_timeout(limit);
    builder
}

async fn connect(builder: SessionBuilder, limit: Duration) -> Result<openssh::Session> {
    match timeout(limit, builder.connect("127.0.0.1")).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(openssh::Error::Connect(cause))) if cause.kind() == std::io::ErrorKind::NotFound => {
            let what = "the program `ssh` is missing on this host (package openssh-client)";
            Err(Error::new(ErrorKind::Unavailable, what).because(cause))
        }
        Ok(Err(cause)) => Err(Error::new(ErrorKind::Disconnected, "ssh could not log in").because(cause)),
        Err(_) => Err(Error::new(
            ErrorKind::TimedOut,
            format!("ssh had not logged in after {limit:?}"),
        )),
    }
}
