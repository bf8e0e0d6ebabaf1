//! Forwards, used as a test uses them: by blocking clients on its own thread.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use super::Guest;

/// No read of these tests takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(10);

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Answers each connection, once all of it has come, with the number of bytes.
fn count_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                write!(stream, "{}", all.len()).unwrap();
            });
        }
    });
    port
}

fn ask(addr: SocketAddr, bytes: usize) -> String {
    let mut client = connect(addr);
    client.write_all(&vec![b'x'; bytes]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_blocking_client_on_the_test_s_thread_is_served() {
    let guest = Guest::start().await;
    let forward = guest.forward(count_server()).await.unwrap();
    assert!(forward.addr().ip().is_loopback());
    assert_eq!(forward.url(), format!("http://127.0.0.1:{}", forward.port()));
    // The end of one direction is passed on, and the other one still works.
    assert_eq!(ask(forward.addr(), 3), "3");
    assert_eq!(ask(forward.addr(), 20_000_000), "20000000");
}

#[tokio::test]
async fn many_connections_at_once() {
    let guest = Guest::start().await;
    let forward = guest.forward(count_server()).await.unwrap();
    let addr = forward.addr();
    let clients: Vec<_> = (0..100)
        .map(|number| thread::spawn(move || ask(addr, number * 1000)))
        .collect();
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().unwrap(), (number * 1000).to_string());
    }
}

#[tokio::test]
async fn an_idle_connection_holds_up_no_other() {
    let guest = Guest::start().await;
    let forward = guest.forward(count_server()).await.unwrap();
    let idle = connect(forward.addr());
    assert_eq!(ask(forward.addr(), 5), "5");
    drop(idle);
}

#[tokio::test]
async fn where_nobody_listens_the_connection_is_reset() {
    let guest = Guest::start().await;
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let forward = guest.forward(free).await.unwrap();
    let error = connect(forward.addr()).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn unix_sockets_are_reached_too() {
    let guest = Guest::start().await;
    let path = guest.scratch.text("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"from a socket").unwrap();
        }
    });
    let forward = guest.forward_unix(path).await.unwrap();
    // Often: a server that has gone before its answer was read is a matter of luck.
    for _ in 0..200 {
        let mut answer = String::new();
        connect(forward.addr()).read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "from a socket");
    }
}

/// Waits until nobody listens at `addr`, and a connection that was open there has ended.
fn assert_ends(addr: SocketAddr, mut open: TcpStream) {
    let ended = open.read(&mut [0]);
    assert!(
        matches!(ended, Ok(0))
            || ended
                .as_ref()
                .is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
        "{ended:?}"
    );
    assert_eq!(
        TcpStream::connect(addr).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let guest = Guest::start().await;
    let forward = guest.forward(count_server()).await.unwrap();
    let (addr, open) = (forward.addr(), connect(forward.addr()));
    let other = forward.clone();
    drop(forward);
    assert_eq!(ask(addr, 2), "2");
    drop(other);
    assert_ends(addr, open);
}

#[tokio::test]
async fn it_ends_with_the_machine_s_last_handle() {
    let guest = Guest::start().await;
    let forward = guest.forward(count_server()).await.unwrap();
    let (addr, open) = (forward.addr(), connect(forward.addr()));
    assert_eq!(ask(addr, 2), "2");
    drop(guest);
    assert_ends(addr, open);
}
