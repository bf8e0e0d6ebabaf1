//! An agent on this host, at the other end of a socket: the real executable, without a machine around it.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use vmtest_backends::session::{AgentSession, Exec, Exit, Hello, Process, Session};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// How long an agent may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Ends when the connection is closed, and kills what it has started; killed when it does not.
pub(crate) struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let begin = Instant::now();
        while begin.elapsed() < END_LIMIT && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::yield_now();
        }
        self.kill();
    }
}

impl Agent {
    /// An agent, and the host's end of the connection to it.
    pub(crate) fn start() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // With a descriptor that is not the agent's, and that no process of the agent's may see.
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" --fd 0 7</dev/null"])
            .arg(executable())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        (Self(child), ours)
    }

    /// As if the machine were gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The most memory it has used so far, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// Written once for each test process.
pub(crate) fn executable() -> PathBuf {
    static WRITTEN: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    WRITTEN
        .get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
            let path = folder.join(format!("agent-{}", std::process::id()));
            let target = folder.join("agent");
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o755)
                .open(&path)
                .unwrap();
            file.write_all(vmtest_agent::AGENT).unwrap();
            drop(file);
            std::fs::rename(&path, &target).unwrap();
            target
        })
        .clone()
}

pub(crate) async fn session() -> (Agent, AgentSession) {
    let (agent, stream) = Agent::start();
    let session = AgentSession::connect(stream, Hello::default(), LIMIT)
        .await
        .unwrap();
    (agent, session)
}

pub(crate) fn sh(script: &str) -> Exec {
    Exec {
        args: vec!["-c".into(), script.into()],
        ..Exec::new("sh")
    }
}

pub(crate) struct Output {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) async fn finish(process: Process) -> Output {
    let Process {
        stdin,
        mut stdout,
        mut stderr,
        exit,
        signals,
    } = process;
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    let (a, b) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
    a.unwrap();
    b.unwrap();
    let exit = exit.await.unwrap().unwrap();
    drop(signals);
    Output {
        exit,
        stdout: out,
        stderr: err,
    }
}

pub(crate) async fn run(session: &AgentSession, exec: Exec) -> Output {
    let process = session.spawn(exec).await.unwrap();
    tokio::time::timeout(LIMIT, finish(process))
        .await
        .expect("the command did not end")
}
