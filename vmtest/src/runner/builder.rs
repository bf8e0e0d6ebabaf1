//! A builder: the process that makes one image or snapshot, alive while anybody waits for it.

use std::collections::HashSet;
use std::env;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use vmtest_backends::{Error, ErrorKind, Result};

use crate::broker::wire;
use crate::role::Service;
use crate::runner::build;
use crate::runner::io;
use crate::runner::setup::Setup;
use crate::runner::target::{self, Failures, News, TARGET, Target, Wait};
use crate::sys;

/// How long the work goes on while nobody waits: a runner that kills a test at its limit soon starts the next.
const ALONE: Duration = Duration::from_secs(20);

/// How long waiters may take to hear the result.
const TELL_LIMIT: Duration = Duration::from_secs(5);

/// Makes the target of this process, tells everybody who waits, and returns.
pub(super) fn run(listener: StdListener) -> Result<()> {
    enter_package()?;
    let setup = Setup::load()?;
    let target = env::var(TARGET).unwrap_or_default();
    let target: Target = serde_json::from_str(&target)
        .map_err(|cause| Error::new(ErrorKind::Build, format!("{TARGET} names no target")).because(cause))?;
    let service = target::service(&setup, &target)?;
    let io = io::handle()?;
    let desk = Arc::new(Desk::new());
    let failed = |cause| Error::new(ErrorKind::Build, "the builder's socket broke").because(cause);
    listener.set_nonblocking(true).map_err(failed)?;
    let accepting = {
        let _runtime = io.enter();
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        io.spawn(Arc::clone(&desk).accept(listener))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let say = {
        let desk = Arc::clone(&desk);
        move |line: &str| desk.tell(News::Progress(line.to_owned()))
    };
    io.spawn(end_when_deserted(Arc::clone(&desk), service.clone()));
    let finish = Finish {
        setup: setup.clone(),
        target: target.clone(),
        service,
        desk,
        accepting: accepting.abort_handle(),
    };
    let blocked: Arc<dyn Fn(Error) + Send + Sync> = {
        let (finish, io) = (finish.clone(), io.clone());
        Arc::new(move |error| finish.blocked(&io, error))
    };
    let made = runtime.block_on(build::make(&setup, &target, &say, &blocked));
    io.block_on(finish.tell(made))
}

/// Snapshot functions name files as tests do: from their package's folder.
fn enter_package() -> Result<()> {
    let Some(package) = env::var_os("CARGO_MANIFEST_DIR") else {
        return Ok(());
    };
    env::set_current_dir(&package).map_err(|cause| {
        let text = format!("the package's folder {} cannot be entered", package.display());
        Error::new(ErrorKind::Build, text).because(cause)
    })
}

/// Ends this process when nobody waits any more, whatever it is doing: its tools and machines end with it, and
/// what was committed on the way is kept.
async fn end_when_deserted(desk: Arc<Desk>, service: Service) {
    desk.deserted().await;
    // Without the lock the next one to ask removes the socket.
    drop(service.lock().map(|_lock| service.unlink()));
    crate::role::discard_empty_log();
    sys::end_at_once(0);
}

/// The end of a builder.
#[derive(Debug, Clone)]
struct Finish {
    setup: Setup,
    target: Target,
    service: Service,
    desk: Arc<Desk>,
    accepting: AbortHandle,
}

impl Finish {
    /// Tells everybody who waits what came of it.
    async fn tell(&self, made: Result<()>) -> Result<()> {
        let lock = self.service.lock()?;
        self.service.unlink();
        self.accepting.abort();
        let news = note(&self.setup, &self.target, &self.desk, made)?;
        drop(lock);
        self.desk.tell(news);
        self.desk.everybody_gone(TELL_LIMIT).await;
        Ok(())
    }

    /// Ends the process, for a function blocks its thread beyond its limit.
    fn blocked(&self, io: &Handle, error: Error) {
        let finish = self.clone();
        io.spawn(async move {
            // It ends either way.
            let _ = finish.tell(Err(error)).await;
            sys::end_at_once(1);
        });
    }
}

/// Remembers a failure for the runs that waited.
fn note(setup: &Setup, target: &Target, desk: &Desk, made: Result<()>) -> Result<News> {
    let failures = Failures::of(setup, &target.key)?;
    match made {
        Ok(()) => {
            failures.forget();
            Ok(News::Built)
        }
        Err(error) => {
            let report = error.report();
            let runs = desk.runs();
            failures.remember(runs, &report).map_err(|cause| {
                Error::new(ErrorKind::Store, "a failed build could not be noted").because(cause)
            })?;
            Ok(News::Failed(report))
        }
    }
}

/// Where waiters wait.
#[derive(Debug)]
struct Desk {
    news: broadcast::Sender<News>,
    last: Mutex<Option<News>>,
    waiters: watch::Sender<usize>,
    runs: Mutex<HashSet<String>>,
}

impl Desk {
    fn new() -> Self {
        Self {
            news: broadcast::Sender::new(256),
            last: Mutex::default(),
            waiters: watch::Sender::new(0),
            runs: Mutex::default(),
        }
    }

    fn tell(&self, news: News) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(news.clone());
        // Nobody may be listening; the last news is kept for whoever comes.
        let _ = self.news.send(news);
    }

    fn runs(&self) -> Vec<String> {
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    async fn accept(self: Arc<Self>, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let desk = Arc::clone(&self);
            desk.waiters.send_modify(|count| *count += 1);
            tokio::spawn(async move {
                if let Ok(stream) = stream.into_std() {
                    // A waiter that is gone needs no news.
                    let _ = desk.serve(stream).await;
                }
                desk.waiters.send_modify(|count| *count -= 1);
            });
        }
    }

    async fn serve(&self, stream: StdStream) -> std::io::Result<()> {
        let (mut reader, mut writer) = wire::split(stream)?;
        if !writer.peer_is_us() {
            return Ok(());
        }
        let Some(wait) = reader.next::<Wait>().await? else {
            return Ok(());
        };
        self.runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(wait.run);
        let (mut news, last) = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            (self.news.subscribe(), last.clone())
        };
        let mut next = last;
        loop {
            if let Some(news) = next.take() {
                let end = !matches!(news, News::Progress(_));
                writer.send(&news, None).await?;
                if end {
                    return Ok(());
                }
            }
            tokio::select! {
                heard = news.recv() => match heard {
                    Ok(heard) => next = Some(heard),
                    // Lines that came too fast for this waiter are only progress.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                // A waiter says nothing more: this is its end.
                _ = reader.next::<Wait>() => return Ok(()),
            }
        }
    }

    /// Returns when nobody has waited for a while.
    async fn deserted(&self) {
        let mut waiters = self.waiters.subscribe();
        loop {
            if waiters.wait_for(|count| *count == 0).await.is_err() {
                return;
            }
            let somebody = async { waiters.wait_for(|count| *count > 0).await.map(|_| ()) };
            if tokio::time::timeout(ALONE, somebody).await.is_err() {
                return;
            }
        }
    }

    async fn everybody_gone(&self, limit: Duration) {
        let mut waiters = self.waiters.subscribe();
        let gone = async { waiters.wait_for(|count| *count == 0).await.map(|_| ()) };
        // Whoever has not heard by then asks again and finds the result.
        let _ = tokio::time::timeout(limit, gone).await;
    }
}
