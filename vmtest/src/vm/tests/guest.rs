//! A guest that is a process of the host: the agent, spoken to over a socket.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use vmtest_backends::Result;
use vmtest_backends::backend::Life;
use vmtest_backends::session::{AgentSession, Hello};
use vmtest_backends::spec::Ready;

use super::Scratch;
use crate::broker::{Control, Leased, Link};
use crate::vm::{Origin, Vm};

/// How long the agent may take to answer.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// The I/O thread, which these tests share as the tests of a process do.
static IO: LazyLock<Handle> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        sender.send(runtime.handle().clone()).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    receiver.recv().unwrap()
});

/// What the broker would tell of the machine.
#[derive(Debug)]
struct Host(watch::Sender<Life>);

#[async_trait]
impl Link for Host {
    fn life(&self) -> watch::Receiver<Life> {
        self.0.subscribe()
    }

    async fn console(&self) -> Result<String> {
        Ok("booting\nthe console's last words\n".into())
    }

    async fn control(&self, _control: Control) -> Result<()> {
        Ok(())
    }
}

pub(super) struct Guest {
    pub(super) vm: Vm,
    pub(super) scratch: Scratch,
    host: Arc<Host>,
    agent: Child,
}

impl Guest {
    pub(super) async fn start() -> Self {
        let scratch = Scratch::new();
        let (ours, its) = UnixStream::pair().unwrap();
        let agent = spawn(executable(&scratch), its);
        let connecting = AgentSession::connect(ours, Hello::default(), HELLO_LIMIT);
        let session = IO.spawn(connecting).await.unwrap().unwrap();
        let host = Arc::new(Host(watch::Sender::new(Life::Running)));
        let vm = Vm::new(Arc::new(session), host.clone(), leased(), origin(), IO.clone());
        Self {
            vm,
            scratch,
            host,
            agent,
        }
    }

    /// The host says that the machine has ended.
    pub(super) fn ends(&self, how: Life) {
        self.host.0.send_replace(how);
    }

    /// The guest goes without a word.
    pub(super) fn kill(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }
}

impl Deref for Guest {
    type Target = Vm;

    fn deref(&self) -> &Vm {
        &self.vm
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

fn executable(scratch: &Scratch) -> PathBuf {
    let path = scratch.join("agent");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .unwrap();
    file.write_all(vmtest_agent::AGENT).unwrap();
    path
}

/// A child that another thread makes at the same moment holds the file open for writing until its own exec.
fn spawn(executable: PathBuf, socket: UnixStream) -> Child {
    let socket = OwnedFd::from(socket);
    loop {
        let stdin = Stdio::from(socket.try_clone().unwrap());
        match Command::new(&executable).args(["--fd", "0"]).stdin(stdin).spawn() {
            Ok(agent) => return agent,
            Err(cause) if cause.kind() == io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
            Err(cause) => panic!("the agent cannot be started: {cause}"),
        }
    }
}

fn leased() -> Leased {
    Leased {
        machine: "m1".into(),
        fork_id: "0".repeat(32),
        engine: "this host".into(),
        warm: false,
        owner: std::process::id(),
        first: false,
        next_channel: 1,
        phases: Vec::new(),
    }
}

fn origin() -> Origin {
    Origin {
        image: "host".into(),
        snapshot: None,
        ready: Ready::Agent,
        network: false,
        patience: 1.0,
    }
}

/// Whether the process is there and no zombie.
pub(super) fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// Waits until the process has gone.
pub(super) async fn gone(pid: &str) {
    const LIMIT: Duration = Duration::from_secs(5);
    let end = async {
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, end)
        .await
        .unwrap_or_else(|_| panic!("process {pid} is still there"));
}
