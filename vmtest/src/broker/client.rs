//! The test's side: a lease, which is a connection.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};
use vmtest_backends::backend::{Frozen, Life, Then};
use vmtest_backends::error::Report;
use vmtest_backends::session::AgentSession;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::message::{Answer, Ask, Hello, Reply, Request};
use crate::broker::wire::{self, Reader, Writer};
use crate::broker::{Control, Leased, Link};

/// How long the broker may take to answer a request; a commit copies at most the guest's memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// A leased machine. Dropping it ends the lease, and with it the machine; nothing is waited for.
#[derive(Debug)]
pub struct Lease {
    leased: Leased,
    session: Arc<AgentSession>,
    holder: Arc<Holder>,
    reading: tokio::task::JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Ends the reader's half of the connection; the writer's goes with the holder.
        self.reading.abort();
        self.holder.close();
    }
}

/// Why no machine was leased.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The broker went away before it said anything: another one may be asked.
    Gone(io::Error),
    /// Told by the broker, or broken later.
    Error(Error),
}

impl Lease {
    /// Asks on `stream` and waits for the machine.
    pub(super) async fn ask(stream: StdStream, hello: &Hello) -> Result<Self, Refusal> {
        let (mut reader, mut writer) = wire::split(stream).map_err(Refusal::Gone)?;
        writer.send(hello, None).await.map_err(Refusal::Gone)?;
        let broken = |what: &str| Refusal::Error(Error::new(ErrorKind::Broker, what));
        let leased = match reader.next::<Reply>().await {
            Ok(Some(Reply::Leased(leased))) => *leased,
            Ok(Some(Reply::Failed(report))) => return Err(Refusal::Error(report.into())),
            Ok(Some(_)) => return Err(broken("the broker said something else than was asked")),
            Ok(None) => return Err(Refusal::Gone(io::ErrorKind::UnexpectedEof.into())),
            Err(cause) => return Err(Refusal::Gone(cause)),
        };
        let fd = reader
            .take_fd()
            .ok_or_else(|| broken("the broker gave no way into the guest"))?;
        let session = AgentSession::adopt(fd.into(), leased.next_channel).map_err(Refusal::Error)?;
        let session = Arc::new(session);
        let (tell, life) = watch::channel(Life::Running);
        let waiting = Waiting::default();
        let reading = tokio::spawn(read(reader, Arc::clone(&waiting), tell));
        let writer = tokio::sync::Mutex::new(Some(writer));
        let holder = Arc::new(Holder {
            writer,
            waiting,
            next: AtomicU64::new(0),
            life,
        });
        Ok(Self {
            leased,
            session,
            holder,
            reading,
        })
    }

    /// What is known of the machine.
    pub fn leased(&self) -> &Leased {
        &self.leased
    }

    /// The way into the guest.
    pub fn session(&self) -> &Arc<AgentSession> {
        &self.session
    }

    /// The machine's host.
    pub fn link(&self) -> Arc<dyn Link> {
        Arc::clone(&self.holder) as _
    }

    /// Whether the broker went away, and the machine with it.
    pub(super) fn is_lost(&self) -> bool {
        self.reading.is_finished()
    }

    /// Ends the machine and returns when it is gone.
    pub(super) async fn release(self) -> Result<()> {
        self.holder.request(Ask::Release).await.map(|_| ())
    }

    /// Freezes the machine into the folder `to`; its disks must have been synced.
    pub async fn commit(&self, to: &Path, then: Then) -> Result<Frozen> {
        match self
            .holder
            .request(Ask::Commit {
                to: to.to_owned(),
                then,
            })
            .await?
        {
            Answer::Frozen { disks, files } => Ok(Frozen { disks, files }),
            _ => Err(Error::new(
                ErrorKind::Broker,
                "the broker answered a commit with something else",
            )),
        }
    }
}

type Waiting = Arc<Mutex<Open>>;

#[derive(Debug, Default)]
struct Open {
    requests: HashMap<u64, oneshot::Sender<Result<Answer, Report>>>,
    closed: bool,
}

#[derive(Debug)]
struct Holder {
    /// `None` once the lease has ended, whoever still holds the machine's handle.
    writer: tokio::sync::Mutex<Option<Writer>>,
    waiting: Waiting,
    next: AtomicU64,
    life: watch::Receiver<Life>,
}

impl Holder {
    fn close(&self) {
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.take();
        }
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .close();
    }

    async fn request(&self, ask: Ask) -> Result<Answer> {
        let lost = || Error::new(ErrorKind::Broker, "the lease has ended");
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        if !self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open(id, tell)
        {
            return Err(lost());
        }
        {
            let mut writer = self.writer.lock().await;
            let writer = writer.as_mut().ok_or_else(lost)?;
            writer
                .send(&Request { id, ask }, None)
                .await
                .map_err(|cause| lost().because(cause))?;
        }
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(report))) => Err(report.into()),
            Ok(Err(_)) => Err(lost()),
            Err(_) => {
                let text = format!("the broker did not answer within {} s", ANSWER_LIMIT.as_secs());
                Err(Error::new(ErrorKind::Broker, text))
            }
        }
    }
}

impl Open {
    fn open(&mut self, id: u64, tell: oneshot::Sender<Result<Answer, Report>>) -> bool {
        if !self.closed {
            self.requests.insert(id, tell);
        }
        !self.closed
    }

    fn close(&mut self) {
        self.closed = true;
        self.requests.clear();
    }
}

#[async_trait]
impl Link for Holder {
    fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }

    async fn console(&self) -> Result<String> {
        match self.request(Ask::Console).await? {
            Answer::Console(text) => Ok(text),
            _ => Err(Error::new(
                ErrorKind::Broker,
                "the broker answered a look at the console with something else",
            )),
        }
    }

    async fn control(&self, control: Control) -> Result<()> {
        self.request(Ask::Control(control)).await.map(|_| ())
    }
}

/// Reads until the end of the lease: a broker that dies is noticed at once.
async fn read(mut reader: Reader, waiting: Waiting, life: watch::Sender<Life>) {
    let why = loop {
        match reader.next::<Reply>().await {
            Ok(Some(Reply::Life(now))) => {
                life.send_replace(now);
            }
            Ok(Some(Reply::Answer { id, answer })) => {
                let open = waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .requests
                    .remove(&id);
                if let Some(tell) = open {
                    // Whoever asked has stopped waiting.
                    let _ = tell.send(answer);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break "the broker, which owned the machine, is gone".to_owned(),
            Err(cause) => break format!("the connection to the broker broke: {cause}"),
        }
    };
    waiting.lock().unwrap_or_else(PoisonError::into_inner).close();
    life.send_if_modified(|life| {
        let running = *life == Life::Running;
        if running {
            *life = Life::Exited(why);
        }
        running
    });
}
