//! Ports of the host that lead into the guest.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use vmtest_backends::session::{ANSWER_LIMIT, Session, Target};
use vmtest_backends::{Error, ErrorKind, Result};

use super::Vm;
use super::lifeline::Lifeline;
use super::task::Task;

/// How many connections of one forward are open at once; more wait to be accepted.
const CONNECTIONS: usize = 1024;

/// How long no connection is accepted after that failed: nothing tells when file descriptors are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How much is moved at once, in bytes.
const PIECE: usize = 64 * 1024;

/// A port of the host's loopback that leads into the guest, made by [`Vm::forward`]; a cheap handle.
///
/// It is served by a thread of its own, so a synchronous client may block the test's thread on it. It ends,
/// and its connections with it, when its last handle or the last handle of the machine is dropped. It
/// survives a reboot; its connections do not.
///
/// ```no_run
/// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
/// let web = vm.forward(80).await?;
/// let mut client = std::net::TcpStream::connect(web.addr()).expect("the forward accepts");
/// println!("try {}/index.html", web.url());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Forward(Arc<Served>);

#[derive(Debug)]
struct Served {
    addr: SocketAddr,
    target: Target,
    _accepting: Task<()>,
}

impl Forward {
    /// Where it listens: 127.0.0.1 and a port that was free.
    pub fn addr(&self) -> SocketAddr {
        self.0.addr
    }

    /// The port of the host that it listens on.
    pub fn port(&self) -> u16 {
        self.0.addr.port()
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.addr)
    }

    /// What it leads to.
    pub fn target(&self) -> &Target {
        &self.0.target
    }
}

impl Vm {
    /// A port of the host's loopback that leads to TCP port `port` on the guest's loopback.
    ///
    /// It need not be listened on yet: a connection made then is reset at once; [`Vm::wait_for`] with
    /// [`Port`](super::Port) waits for it. Errors: [`ErrorKind::Exec`] when the host has no port left.
    pub async fn forward(&self, port: u16) -> Result<Forward> {
        self.noted(self.forward_to(Target::Tcp(port)))
    }

    /// A port of the host's loopback that leads to the unix socket at `path` in the guest.
    ///
    /// ```no_run
    /// # async fn body(vm: vmtest::vm::Vm) -> vmtest::Result<()> {
    /// let docker = vm.forward_unix("/run/docker.sock").await?;
    /// println!("DOCKER_HOST=tcp://{}", docker.addr());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn forward_unix(&self, path: impl Into<String>) -> Result<Forward> {
        self.noted(self.forward_to(Target::Unix(path.into())))
    }

    fn forward_to(&self, target: Target) -> Result<Forward> {
        let (listener, addr) = self.listen().map_err(|cause| {
            let what = format!("no port of the host could be opened for {}", named(&target));
            Error::new(ErrorKind::Unavailable, what).because(cause)
        })?;
        let way = Way {
            session: self.0.session.clone(),
            lifeline: self.0.lifeline.clone(),
            target: target.clone(),
        };
        let held = self.0.held.subscribe();
        let accepting = self.on_io(async move {
            accept(listener, Arc::new(way), held).await;
            Ok(())
        });
        Ok(Forward(Arc::new(Served {
            addr,
            target,
            _accepting: accepting,
        })))
    }

    fn listen(&self) -> io::Result<(TcpListener, SocketAddr)> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        // Bound to the runtime that will serve it.
        let _io = self.0.io.enter();
        Ok((TcpListener::from_std(listener)?, addr))
    }
}

/// `port 80`, `the socket /run/x`.
pub(super) fn named(target: &Target) -> String {
    match target {
        Target::Tcp(port) => format!("port {port}"),
        Target::Unix(path) => format!("the socket {path}"),
    }
}

/// The way into the guest. It holds no handle of the machine, whose last one ends the forward.
struct Way {
    session: Arc<dyn Session>,
    lifeline: Lifeline,
    target: Target,
}

async fn accept(listener: TcpListener, way: Arc<Way>, mut held: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = held.changed() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((host, _)) => drop(connections.spawn(serve(host, way.clone()))),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn serve(mut host: TcpStream, way: Arc<Way>) {
    // Only latency is lost where this fails.
    let _ = host.set_nodelay(true);
    if carry(&mut host, &way).await.is_err() {
        // Then dropping it resets the connection: a client sees that this was no orderly end.
        let _ = host.set_zero_linger();
    }
}

async fn carry(host: &mut TcpStream, way: &Way) -> Result<()> {
    let what = format!("while a forward to {} was opened", named(&way.target));
    let opening = timeout(ANSWER_LIMIT, way.session.open(way.target.clone()));
    let opening = async {
        opening
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "no answer"))?
    };
    let (from_guest, to_guest) = way.lifeline.race(&what, opening).await?;
    let (from_host, to_host) = host.split();
    let both = async { tokio::try_join!(pump(from_host, to_guest), pump(from_guest, to_host)) };
    let broken =
        |cause| Error::new(ErrorKind::Disconnected, "a forwarded connection broke off").because(cause);
    both.await.map(drop).map_err(broken)
}

/// Moves one direction and passes on its end, so that the other one can go on.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE);
    while from.read_buf(&mut piece).await? > 0 {
        to.write_all(&piece).await?;
        piece.clear();
    }
    to.shutdown().await
}
