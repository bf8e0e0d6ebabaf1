//! Making a machine ready to be handed over: reached, told who it is, and seen to run a program.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmtest_backends::backend::{Backend, Life, Machine, Place, Snapshot, Use};
use vmtest_backends::endpoint::Endpoint;
use vmtest_backends::session::{AgentSession, Exec, Exit, Hello, Session as _};
use vmtest_backends::spec::{Ready, Spec};
use vmtest_backends::{Error, ErrorKind, Result};

use crate::pool::capacity::Slot;
use crate::pool::unique;

/// How many lines of the console an error shows.
const TAIL: usize = 30;

/// A machine that has answered an exec.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) machine: Box<dyn Machine>,
    /// The agent's connection, idle, and the first channel number its next speaker may use.
    pub(super) agent: (UnixStream, u32),
    /// The engine and how it executes.
    pub(super) engine: String,
    pub(super) slot: Slot,
    pub(super) fork_id: [u8; 16],
    pub(super) phases: Vec<(String, Duration)>,
}

/// What a machine is made from.
#[derive(Debug, Clone)]
pub(super) enum Source<'a> {
    /// Booted.
    Boot(&'a Spec),
    /// Forked.
    Fork(&'a Snapshot),
}

/// How long the steps may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// From power-on until the image counts as ready.
    pub boot: Duration,
    /// From fork until the agent has answered, and as much again until it has run a program.
    pub fork: Duration,
}

/// Makes the machine; one that cannot be made ready, or that is `abandoned` meanwhile, has ended before the
/// error is told.
pub(super) async fn make(
    backend: &dyn Backend,
    source: Source<'_>,
    slot: Slot,
    purpose: Use,
    network: bool,
    limits: Limits,
    abandoned: impl Future<Output = ()>,
) -> Result<Fresh> {
    let place = Place {
        folder: slot.folder().to_owned(),
        purpose,
        network,
    };
    let begin = Instant::now();
    let (mut machine, phase) = match source {
        Source::Boot(spec) => (backend.start(spec, &place).await?, "start"),
        Source::Fork(snapshot) => (fork(backend, snapshot, &place).await?, "fork"),
    };
    let started = begin.elapsed();
    let fork_id = unique();
    let greeted = async {
        let greeted = greet(machine.as_mut(), &source, fork_id, limits).await?;
        Ok((greeted, engine(backend).await?))
    };
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = abandoned => Err(Error::new(ErrorKind::Exhausted, "nobody waits for the machine any more")),
    };
    match greeted {
        Ok(((agent, mut phases), engine)) => {
            phases.insert(0, (phase.to_owned(), started));
            Ok(Fresh {
                machine,
                agent,
                engine,
                slot,
                fork_id,
                phases,
            })
        }
        Err(error) => {
            let tail = machine.console().tail(TAIL);
            // The error that is told is the first one. A machine that will not die keeps its place.
            if machine.kill().await.is_err() {
                std::mem::forget(slot);
            }
            Err(error.with_console(tail))
        }
    }
}

/// A fork must be someone of its own: with its snapshot's clock or random numbers it would not be isolated.
fn check_identity(session: &AgentSession) -> Result<()> {
    let refused = |what: &str| {
        Err(Error::new(
            ErrorKind::Fork,
            format!("the fork is refused: {what}"),
        ))
    };
    match session.greeted() {
        Some(greeted) if !greeted.clock_set => refused("its guest's wall clock could not be set"),
        Some(greeted) if !greeted.reseeded && !greeted.has_vmgenid => {
            refused("its guest's random generator could not be seeded anew, and it sees no VM generation id")
        }
        _ => Ok(()),
    }
}

async fn engine(backend: &dyn Backend) -> Result<String> {
    // Asked before: the answer is at hand.
    let capabilities = backend.probe(None).await?;
    Ok(format!("{} ({})", capabilities.engine, capabilities.accelerator))
}

async fn fork(backend: &dyn Backend, snapshot: &Snapshot, place: &Place) -> Result<Box<dyn Machine>> {
    let name = &snapshot.manifest.name;
    let Some(snapshots) = backend.snapshots() else {
        let text = format!("{} cannot fork the snapshot {name}", backend.name());
        return Err(Error::new(ErrorKind::Unavailable, text));
    };
    let fork = snapshots.fork(snapshot, std::slice::from_ref(place)).await.pop();
    let lost = || Err(Error::new(ErrorKind::Fork, "the engine gave no answer"));
    fork.unwrap_or_else(lost).map_err(|cause| {
        Error::new(ErrorKind::Fork, format!("snapshot {name} did not come to life")).because(cause)
    })
}

async fn greet(
    machine: &mut dyn Machine,
    source: &Source<'_>,
    fork_id: [u8; 16],
    limits: Limits,
) -> Result<((UnixStream, u32), Vec<(String, Duration)>)> {
    let Some(Endpoint::Agent(stream)) = machine.endpoint() else {
        return Err(Error::new(
            ErrorKind::Disconnected,
            "the engine gave no way into the guest",
        ));
    };
    let (kind, limit) = match source {
        Source::Boot(_) => (ErrorKind::Start, limits.boot),
        Source::Fork(_) => (ErrorKind::Fork, limits.fork),
    };
    let mut phases = Vec::new();
    let begin = Instant::now();
    let hello = AgentSession::connect(stream, Hello { fork_id, epoch: 1 }, limit);
    let session = alive(machine, kind, "the agent was awaited", hello).await?;
    if let Source::Fork(_) = source {
        check_identity(&session)?;
    }
    phases.push(("connect".to_owned(), begin.elapsed()));
    let begin = Instant::now();
    let (what, exec) = match source {
        Source::Boot(spec) => ready(spec),
        Source::Fork(_) => ("exec", Exec::new("true")),
    };
    let ran = run(&session, exec, limit, kind);
    alive(machine, kind, "a first program ran", ran).await?;
    phases.push((what.to_owned(), begin.elapsed()));
    Ok((session.release().await?, phases))
}

fn ready(spec: &Spec) -> (&'static str, Exec) {
    match &spec.image.ready {
        Ready::Command(words) if !words.is_empty() => {
            let mut exec = Exec::new(words[0].clone());
            exec.args = words[1..].to_vec();
            ("ready", exec)
        }
        _ => ("exec", Exec::new("true")),
    }
}

async fn run(session: &AgentSession, exec: Exec, limit: Duration, kind: ErrorKind) -> Result<()> {
    let program = exec.program.clone();
    let attempt = async {
        let process = session.spawn(exec).await?;
        let lost = || Err(Error::new(ErrorKind::Disconnected, "the exit was never told"));
        process.exit.await.unwrap_or_else(|_| lost())
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(Exit::Code(_))) => Ok(()),
        Ok(Ok(Exit::Signal(signal))) => Err(Error::new(
            kind,
            format!("the first program, `{program}`, was killed by signal {signal}"),
        )),
        Ok(Err(cause)) => {
            Err(Error::new(kind, format!("the first program, `{program}`, did not run")).because(cause))
        }
        Err(_) => {
            let text = format!(
                "the first program, `{program}`, did not end within {} s",
                limit.as_secs()
            );
            Err(Error::new(ErrorKind::TimedOut, text))
        }
    }
}

/// Races a step with the machine's death.
async fn alive<T>(
    machine: &dyn Machine,
    kind: ErrorKind,
    step: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut life = machine.life();
    let died = async {
        life.wait_for(|life| *life != Life::Running)
            .await
            .map(|life| life.clone())
    };
    tokio::select! {
        // A machine that died takes its connection along; the death is the better explanation.
        biased;
        life = died => Err(death(kind, step, life.ok())),
        done = work => match done {
            Err(cause) if cause.kind() == ErrorKind::Disconnected => {
                let mut life = machine.life();
                let late = async { life.wait_for(|life| *life != Life::Running).await.map(|life| life.clone()) };
                match tokio::time::timeout(Duration::from_millis(200), late).await {
                    Ok(life) => Err(death(kind, step, life.ok()).because(cause)),
                    Err(_) => Err(cause),
                }
            }
            done => done,
        },
    }
}

fn death(kind: ErrorKind, step: &str, life: Option<Life>) -> Error {
    let how = match life {
        Some(Life::Panicked(text)) => format!("the guest's kernel panicked: {text}"),
        Some(Life::Exited(why)) => why,
        _ => "the machine is gone".into(),
    };
    Error::new(kind, format!("the machine died while {step}: {how}"))
}
