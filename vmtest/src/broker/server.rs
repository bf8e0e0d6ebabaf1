//! The broker's side: a socket in front of a pool, and nothing more.

use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use vmtest_backends::backend::Life;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::message::{Answer, Ask, Hello, Reply, Request, Status};
use crate::broker::wire::{self, Reader, Writer};
use crate::broker::{Control, Leased};
use crate::pool::{Held, Pool, Want};
use crate::role::Service;

/// How long released machines may take to be gone when the broker ends.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How long is waited when a client cannot be let in.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until nobody has been connected for `idle`, or until told to stop.
pub(super) async fn serve(
    listener: StdListener,
    pool: Pool,
    service: &Service,
    idle: Duration,
) -> Result<()> {
    let failed = |cause| Error::new(ErrorKind::Broker, "the broker's socket broke").because(cause);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let server = Arc::new(Server {
        pool,
        clients: watch::Sender::new(0),
        stop: watch::Sender::new(false),
    });
    let mut clients = server.clients.subscribe();
    let mut stop = server.stop.subscribe();
    loop {
        let quiet = async {
            // Both ends live in this function: the wait cannot fail.
            let _ = clients.wait_for(|count| *count == 0).await.map(|_| ());
            tokio::time::sleep(idle).await;
        };
        let stopped = async { stop.wait_for(|stop| *stop).await.map(|_| ()) };
        tokio::select! {
            accepted = listener.accept() => {
                // For want of descriptors, say: that passes when a machine ends, and the client waits.
                match accepted.and_then(|(stream, _)| stream.into_std()) {
                    Ok(stream) => server.take(stream),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
            () = quiet => if server.may_end(&listener, service)? { break },
            _ = stopped => {
                let _lock = service.lock()?;
                service.unlink();
                break;
            }
        }
    }
    server.pool.drain(DRAIN_LIMIT).await?;
    // Whoever asked for the end waits for this.
    let _ = tokio::time::timeout(DRAIN_LIMIT, async {
        clients.wait_for(|count| *count == 0).await.map(|_| ())
    })
    .await;
    Ok(())
}

/// Serves one connection in this process, for a pool that is nobody else's.
pub(super) fn serve_here(stream: StdStream, pool: Pool) {
    let server = Server {
        pool,
        clients: watch::Sender::new(0),
        stop: watch::Sender::new(false),
    };
    Arc::new(server).take(stream);
}

#[derive(Debug)]
struct Server {
    pool: Pool,
    clients: watch::Sender<usize>,
    stop: watch::Sender<bool>,
}

impl Server {
    fn take(self: &Arc<Self>, stream: StdStream) {
        let server = Arc::clone(self);
        server.clients.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            // A connection that breaks is a lease that ends: there is nobody left to tell.
            let _ = server.converse(stream).await;
            server.clients.send_modify(|count| *count -= 1);
        });
    }

    /// Removes the socket if really nobody is there: a client that connected meanwhile must be served.
    fn may_end(self: &Arc<Self>, listener: &UnixListener, service: &Service) -> Result<bool> {
        let _lock = service.lock()?;
        let mut none = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(Ok((stream, _))) = listener.poll_accept(&mut none) {
            let broken = |cause| Error::new(ErrorKind::Broker, "a client's socket broke").because(cause);
            self.take(stream.into_std().map_err(broken)?);
            return Ok(false);
        }
        service.unlink();
        Ok(true)
    }

    async fn converse(&self, stream: StdStream) -> std::io::Result<()> {
        let (mut reader, mut writer) = wire::split(stream)?;
        if !writer.peer_is_us() {
            let error = Error::new(ErrorKind::Broker, "this broker belongs to another user");
            return writer.send(&Reply::Failed(error.report()), None).await;
        }
        let hello = match reader.next::<Hello>().await {
            Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
                let error = Error::new(ErrorKind::Broker, "what was asked of the broker cannot be had")
                    .because(cause);
                return writer.send(&Reply::Failed(error.report()), None).await;
            }
            hello => hello?,
        };
        match hello {
            Some(Hello::Lease(want)) => {
                let mut stop = self.stop.subscribe();
                tokio::select! {
                    served = self.lease(*want, &mut reader, &mut writer) => served,
                    // The holder learns of it by the end of its connection.
                    _ = stop.wait_for(|stop| *stop) => Ok(()),
                }
            }
            Some(Hello::Status) => writer.send(&Reply::Status(self.status()), None).await,
            Some(Hello::Stop) => {
                // Ends the leases; warm forks end by the draining.
                self.stop.send_replace(true);
                let report = self
                    .pool
                    .drain(DRAIN_LIMIT)
                    .await
                    .err()
                    .map(|error| error.report());
                writer
                    .send(&report.map_or(Reply::Done, Reply::Failed), None)
                    .await
            }
            None => Ok(()),
        }
    }

    fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            leases: self.clients.borrow().saturating_sub(1),
            warm: self.pool.warm(),
            sick: self.pool.sick(),
        }
    }

    async fn lease(&self, want: Want, reader: &mut Reader, writer: &mut Writer) -> std::io::Result<()> {
        let acquired = tokio::select! {
            acquired = self.pool.acquire(want) => acquired,
            // Nothing is asked before the machine is there: this is the client going away.
            _ = reader.next::<Request>() => return Ok(()),
        };
        let mut held = match acquired {
            Ok(held) => held,
            Err(error) => return writer.send(&Reply::Failed(error.report()), None).await,
        };
        match hand_over(&mut held, writer).await {
            Ok(life) => attend(held, life, reader, writer).await,
            Err(Handover::Ours(error)) => writer.send(&Reply::Failed(error.report()), None).await,
            Err(Handover::Socket(cause)) => Err(cause),
        }
    }
}

enum Handover {
    Ours(Error),
    Socket(std::io::Error),
}

async fn hand_over(held: &mut Held, writer: &mut Writer) -> Result<watch::Receiver<Life>, Handover> {
    let life = held.machine().map_err(Handover::Ours)?.life();
    let taken = || {
        Handover::Ours(Error::new(
            ErrorKind::Disconnected,
            "the guest's connection was given out before",
        ))
    };
    let (stream, next_channel) = held.agent().ok_or_else(taken)?;
    let leased = Leased {
        machine: held.id().to_owned(),
        fork_id: held.fork_id(),
        engine: held.engine().to_owned(),
        warm: held.warm(),
        owner: std::process::id(),
        first: held.first(),
        next_channel,
        phases: held.phases().to_vec(),
    };
    writer
        .send(&Reply::Leased(Box::new(leased)), Some(stream.as_fd()))
        .await
        .map_err(Handover::Socket)?;
    Ok(life)
}

/// Answers the holder's requests and tells it of the machine's life, until it lets go.
async fn attend(
    mut held: Held,
    mut life: watch::Receiver<Life>,
    reader: &mut Reader,
    writer: &mut Writer,
) -> std::io::Result<()> {
    let mut watching = true;
    loop {
        tokio::select! {
            request = reader.next::<Request>() => {
                let Some(Request { id, ask }) = request? else { return Ok(()) };
                if matches!(ask, Ask::Release) {
                    let answer = held.release().await.map(|()| Answer::Done).map_err(|error| error.report());
                    return writer.send(&Reply::Answer { id, answer }, None).await;
                }
                let answer = answer(&mut held, ask).await.map_err(|error| error.report());
                writer.send(&Reply::Answer { id, answer }, None).await?;
            }
            changed = life.changed(), if watching => {
                watching = changed.is_ok();
                let now = life.borrow_and_update().clone();
                if watching {
                    writer.send(&Reply::Life(now), None).await?;
                }
            }
        }
    }
}

async fn answer(held: &mut Held, ask: Ask) -> Result<Answer> {
    let machine = held.machine()?;
    match ask {
        Ask::Console => Ok(Answer::Console(machine.console().text())),
        Ask::Control(control) => {
            let cannot = || Error::new(ErrorKind::Unavailable, "this engine has no such control");
            let controls = machine.controls().ok_or_else(cannot)?;
            match control {
                Control::Pause => controls.pause().await?,
                Control::Resume => controls.resume().await?,
                Control::Reset => controls.reset().await?,
            }
            Ok(Answer::Done)
        }
        // Answered where the machine is owned.
        Ask::Release => Ok(Answer::Done),
        Ask::Commit { to, then } => {
            let cannot = || Error::new(ErrorKind::Commit, "this machine was not made to be frozen");
            let frozen = machine.freezer().ok_or_else(cannot)?.commit(&to, then).await?;
            Ok(Answer::Frozen {
                disks: frozen.disks,
                files: frozen.files,
            })
        }
    }
}
