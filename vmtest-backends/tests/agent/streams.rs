//! Many bytes, many streams, and readers that do not read.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use vmtest_backends::ErrorKind;
use vmtest_backends::session::{Exec, Exit, Session, Target};

use crate::host::{LIMIT, finish, run, session, sh};

/// In debug builds a quarter of what is moved otherwise.
const MANY: usize = if cfg!(debug_assertions) {
    256 << 20
} else {
    1 << 30
};

/// What an agent may need for one stream in flight and itself, in KiB.
const AGENT_PEAK_KIB: u64 = 4096;

async fn count(reader: &mut (impl AsyncRead + Unpin)) -> usize {
    let mut buf = vec![0; 256 * 1024];
    let mut sum = 0;
    loop {
        match reader.read(&mut buf).await.unwrap() {
            0 => return sum,
            count => sum += count,
        }
    }
}

#[tokio::test]
async fn gigabytes_pass_without_memory_growing() {
    let (agent, session) = session().await;
    let exec = Exec {
        args: vec!["-c".into(), MANY.to_string(), "/dev/zero".into()],
        ..Exec::new("head")
    };
    let mut process = session.spawn(exec).await.unwrap();
    assert_eq!(count(&mut process.stdout).await, MANY);
    assert_eq!(process.exit.await.unwrap().unwrap(), Exit::Code(0));
    let mut wc = Exec {
        args: vec!["-c".into()],
        ..Exec::new("wc")
    };
    wc.stdin = true;
    let mut process = session.spawn(wc).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..MANY >> 20 {
        stdin.write_all(&block).await.unwrap();
    }
    drop(stdin);
    assert_eq!(finish(process).await.stdout, format!("{MANY}\n"));
    assert!(agent.peak_kib() < AGENT_PEAK_KIB, "{} KiB", agent.peak_kib());
}

#[tokio::test]
async fn bytes_come_back_as_they_went_the_marker_among_them() {
    let (_agent, session) = session().await;
    let mut bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_769) >> 24) as u8)
        .collect();
    for at in [0, 65_530, 65_536, 1_000_001] {
        bytes[at..at + 16].copy_from_slice(&vmtest_agent::wire::MARKER);
    }
    let mut exec = Exec::new("cat");
    exec.stdin = true;
    let mut process = session.spawn(exec).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let (sent, mut got) = (bytes.clone(), Vec::new());
    let write = async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let both = async { tokio::join!(process.stdout.read_to_end(&mut got), write).0 };
    tokio::time::timeout(LIMIT, both)
        .await
        .expect("it did not end")
        .unwrap();
    assert!(got == bytes, "{} bytes came back", got.len());
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_nobody_else() {
    let (agent, session) = session().await;
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(
            session
                .spawn(sh("printf x; sleep 0.05; exec cat /dev/zero"))
                .await
                .unwrap(),
        );
    }
    let mut exec = sh("sleep 1000");
    exec.stdin = true;
    let mut unread = session.spawn(exec).await.unwrap();
    let mut stdin = unread.stdin.take().unwrap();
    let block = vec![0; 1 << 20];
    let full = tokio::time::timeout(Duration::from_millis(300), stdin.write_all(&block)).await;
    assert!(full.is_err(), "the writer was not held back");
    for _ in 0..20 {
        assert_eq!(run(&session, sh("echo fine")).await.stdout, "fine\n");
    }
    assert!(agent.peak_kib() < 2 * AGENT_PEAK_KIB, "{} KiB", agent.peak_kib());
}

#[tokio::test]
async fn a_dropped_reader_is_told_and_a_closed_input_too() {
    let (_agent, session) = session().await;
    let mut process = session.spawn(sh("cat /dev/zero; echo $? >&2")).await.unwrap();
    process.stdout.read_u8().await.unwrap();
    process.stdout = Box::new(tokio::io::empty());
    let output = tokio::time::timeout(LIMIT, finish(process)).await.unwrap();
    // 128 + SIGPIPE: signals are at their defaults.
    assert_eq!(output.stderr, "141\n");
    let mut exec = sh("exec <&-; sleep 1000");
    exec.stdin = true;
    let mut process = session.spawn(exec).await.unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let write = async {
        loop {
            if let Err(error) = stdin.write_all(b"x").await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::time::timeout(LIMIT, write).await.unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

/// Answers each connection with what it says, once it has said all.
async fn echo_late(listener: TcpListener) {
    loop {
        let (mut peer, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.unwrap();
            peer.write_all(&all).await.unwrap();
        });
    }
}

#[tokio::test]
async fn connections_are_many_and_half_closed() {
    let (_agent, session) = session().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(echo_late(listener));
    let session = std::sync::Arc::new(session);
    let talks = (0..100_u32).map(|number| {
        let session = std::sync::Arc::clone(&session);
        tokio::spawn(async move {
            let (mut reader, mut writer) = session.open(Target::Tcp(port)).await.unwrap();
            let said: Vec<u8> = number.to_le_bytes().repeat(50_000);
            writer.write_all(&said).await.unwrap();
            writer.shutdown().await.unwrap();
            let mut heard = Vec::new();
            reader.read_to_end(&mut heard).await.unwrap();
            assert!(heard == said);
        })
    });
    for talk in talks.collect::<Vec<_>>() {
        tokio::time::timeout(LIMIT, talk).await.unwrap().unwrap();
    }
    let session = std::sync::Arc::into_inner(session).unwrap();
    session.release().await.expect("a connection was left open");
}

#[tokio::test]
async fn the_other_side_may_end_first() {
    let (_agent, session) = session().await;
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut reader, mut writer) = session.open(Target::Tcp(port)).await.unwrap();
    let (mut peer, _): (TcpStream, _) = listener.accept().await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(count(&mut reader).await, 0);
    writer.write_all(b"still here").await.unwrap();
    drop((reader, writer));
    let mut heard = String::new();
    peer.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "still here");
}

#[tokio::test]
async fn unix_sockets_are_reached_and_nobody_there_is_an_error() {
    let (_agent, session) = session().await;
    let path = format!("{}/sock-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let listener = UnixListener::bind(&path).unwrap();
    let (mut reader, _writer) = session.open(Target::Unix(path.clone())).await.unwrap();
    let (mut peer, _) = listener.accept().await.unwrap();
    peer.write_all(b"hello").await.unwrap();
    drop(peer);
    assert_eq!(count(&mut reader).await, 5);
    drop(listener);
    let error = session.open(Target::Unix(path.clone())).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Exec);
    assert!(error.chain().contains("Connection refused"), "{}", error.chain());
    std::fs::remove_file(path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = session.open(Target::Tcp(port)).await.err().unwrap();
    assert!(
        error.chain().contains(&format!("port {port} in the guest")),
        "{}",
        error.chain()
    );
}
