//! Connections that end and begin anew, versions, and agents that cannot be trusted.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use vmtest_agent::wire::{self, Ended, Frame, HelloAck, Identity, MARKER, Parser};
use vmtest_backends::session::{AgentSession, Exec, Exit, Hello, Session};
use vmtest_backends::{Error, ErrorKind};

use crate::exec::{alive, gone};
use crate::host::{Agent, LIMIT, run, session, sh};

/// What another host would have sent to start a script.
fn spawn(channel: u32, script: &str, detach: bool) -> Vec<u8> {
    let spawn = wire::Spawn {
        stdin: false,
        detach,
        program: "sh",
        cwd: "",
        args: vec!["-c", script],
        env: Vec::new(),
    };
    frames(&[(channel, Frame::Spawn(spawn))])
}

/// The number that a script writes to a file.
async fn pid_in(path: &str) -> u32 {
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.ends_with('\n') {
            return text.trim().parse().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_new_epoch_kills_what_is_attached_and_spares_what_is_detached() {
    let (_agent, mut stream) = Agent::start();
    let path = |name| format!("{}/{name}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let (one, two) = (path("attached"), path("detached"));
    let script = |path| format!("echo $$ > {path}; sleep 1000; true");
    let bytes = [
        hello(),
        spawn(1, &script(&one), false),
        spawn(2, &script(&two), true),
    ]
    .concat();
    stream.write_all(&bytes).unwrap();
    let (attached, detached) = (pid_in(&one).await, pid_in(&two).await);
    assert!(alive(attached) && alive(detached));
    let session = AgentSession::connect(stream, Hello::default(), LIMIT)
        .await
        .unwrap();
    gone(&[attached]).await;
    assert!(alive(detached));
    run(&session, sh(&format!("kill -9 -{detached}"))).await;
    gone(&[detached]).await;
    std::fs::remove_file(one).unwrap();
    std::fs::remove_file(two).unwrap();
}

fn frames(list: &[(u32, Frame<'_>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (channel, frame) in list {
        frame.encode(*channel, &mut bytes).unwrap();
    }
    bytes
}

fn hello() -> Vec<u8> {
    [
        MARKER.to_vec(),
        frames(&[(0, Frame::Hello(wire::Hello::default()))]),
    ]
    .concat()
}

#[tokio::test]
async fn the_agent_finds_a_hello_wherever_the_last_host_stopped() {
    let spawn = frames(&[(
        1,
        Frame::Spawn(wire::Spawn {
            stdin: true,
            detach: false,
            program: "cat",
            cwd: "",
            args: Vec::new(),
            env: Vec::new(),
        }),
    )]);
    let data = frames(&[(
        1,
        Frame::Data {
            stream: 0,
            bytes: &[b'x'; 5000],
        },
    )]);
    let whole = [hello(), spawn, data].concat();
    for cut in [
        1,
        16,
        20,
        140,
        150,
        whole.len() - 5000,
        whole.len() - 1,
        whole.len(),
    ] {
        let (_agent, mut stream) = Agent::start();
        stream.write_all(&vec![0xf6; 3000]).unwrap();
        stream.write_all(&whole[..cut]).unwrap();
        let session = AgentSession::connect(stream, Hello::default(), LIMIT).await;
        let session = session.unwrap_or_else(|error| panic!("cut at {cut}: {error:?}"));
        assert_eq!(
            run(&session, sh("echo fine")).await.stdout,
            "fine\n",
            "cut at {cut}"
        );
    }
}

#[tokio::test]
async fn the_host_finds_the_answer_behind_half_a_frame() {
    let (_agent, mut stream) = Agent::start();
    let mut spawn = hello();
    spawn.extend(frames(&[(
        1,
        Frame::Spawn(wire::Spawn {
            stdin: false,
            detach: false,
            program: "cat",
            cwd: "",
            args: vec!["/dev/urandom"],
            env: Vec::new(),
        }),
    )]));
    stream.write_all(&spawn).unwrap();
    // Somewhere in the middle of what it sends.
    let mut some = vec![0; 100_003];
    stream.read_exact(&mut some).unwrap();
    let session = AgentSession::connect(stream, Hello::default(), LIMIT)
        .await
        .unwrap();
    assert_eq!(run(&session, sh("echo fine")).await.stdout, "fine\n");
}

#[tokio::test]
async fn a_released_connection_goes_on_elsewhere() {
    let (_agent, session) = session().await;
    assert_eq!(run(&session, sh("echo one")).await.stdout, "one\n");
    let instance = session.instance();
    let (stream, next) = session.release().await.unwrap();
    assert_eq!(next, 2);
    let session = AgentSession::adopt(stream, next).unwrap();
    assert_eq!(session.instance(), None);
    assert_eq!(run(&session, sh("echo two")).await.stdout, "two\n");
    assert_eq!(session.instance(), instance);
    let busy = session.spawn(sh("sleep 1000")).await.unwrap();
    let error = session.release().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    drop(busy);
}

#[tokio::test]
async fn a_session_is_used_from_other_runtimes() {
    let (_agent, session) = session().await;
    let session = std::sync::Arc::new(session);
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let session = std::sync::Arc::clone(&session);
            tokio::task::spawn_blocking(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                for _ in 0..20 {
                    let output = runtime.block_on(run(&session, sh(&format!("echo {number}"))));
                    assert_eq!(output.stdout, format!("{number}\n"));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.await.unwrap();
    }
}

#[tokio::test]
async fn ping_and_sync_are_answered() {
    let (_agent, session) = session().await;
    session.ping(LIMIT).await.unwrap();
    session.sync_disks(LIMIT).await.unwrap();
    let greeted = session.greeted().unwrap();
    // Nothing of this host was touched.
    assert_eq!(
        (greeted.clock_set, greeted.reseeded, greeted.protocol),
        (false, false, 1)
    );
}

/// An agent played by this thread: gets the hello, and what the host says after its answer.
fn stand_in(
    stream: UnixStream,
    act: impl FnOnce(&mut UnixStream, &mut Parser, wire::Hello) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = stream;
        let mut parser = Parser::lost();
        let hello = match heard(&mut stream, &mut parser) {
            Some((_, bytes, kind)) => match Frame::decode(kind, &bytes).unwrap() {
                Frame::Hello(hello) => hello,
                other => panic!("{other:?}"),
            },
            None => return,
        };
        act(&mut stream, &mut parser, hello);
        // Until the host has closed it.
        while heard(&mut stream, &mut parser).is_some() {}
    })
}

fn heard(stream: &mut UnixStream, parser: &mut Parser) -> Option<(u32, Vec<u8>, u8)> {
    loop {
        if let Some(raw) = parser.next_frame().unwrap() {
            return Some((raw.channel, parser.payload(&raw).to_vec(), raw.kind));
        }
        match stream.read(parser.room()) {
            Ok(0) | Err(_) => return None,
            Ok(count) => parser.received(count),
        }
    }
}

fn ack(hello: &wire::Hello, protocol: u16) -> Vec<u8> {
    let ack = Frame::HelloAck(HelloAck {
        protocol,
        min: 3,
        max: 4,
        nonce: hello.nonce,
        instance: 1,
        clock_set: true,
        reseeded: true,
        has_vmgenid: false,
        version: "stand-in",
    });
    [MARKER.to_vec(), frames(&[(0, ack)])].concat()
}

#[tokio::test]
async fn versions_that_do_not_meet_are_both_named() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = stand_in(theirs, |stream, _, hello| {
        stream.write_all(&ack(&hello, 0)).unwrap()
    });
    let error = AgentSession::connect(ours, Hello::default(), LIMIT)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(
        error
            .message()
            .contains("(stand-in) speaks protocols 3 to 4, this host 1 to 1"),
        "{error}"
    );
    thread.join().unwrap();
    // And the real agent says so too.
    let (_agent, mut stream) = Agent::start();
    let newer = wire::Hello {
        min: 7,
        max: 9,
        ..wire::Hello::default()
    };
    let bytes = [
        MARKER.to_vec(),
        frames(&[(0, Frame::Hello(newer)), (0, Frame::Ping(1))]),
    ]
    .concat();
    stream.write_all(&bytes).unwrap();
    let (_, bytes, kind) = heard(&mut stream, &mut Parser::lost()).unwrap();
    match Frame::decode(kind, &bytes).unwrap() {
        Frame::HelloAck(ack) => assert_eq!((ack.protocol, ack.min, ack.max), (0, 1, 1)),
        other => panic!("{other:?}"),
    }
    AgentSession::connect(stream, Hello::default(), LIMIT)
        .await
        .unwrap();
}

/// The error that the host ends the session with when the agent answers a spawn with `bytes`.
async fn verdict(bytes: Vec<u8>) -> Error {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = stand_in(theirs, move |stream, parser, hello| {
        stream.write_all(&ack(&hello, 1)).unwrap();
        heard(stream, parser).unwrap();
        stream
            .write_all(&frames(&[(1, Frame::Started(1, Identity::default()))]))
            .unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let session = AgentSession::connect(ours, Hello::default(), LIMIT)
        .await
        .unwrap();
    let error = match session.spawn(Exec::new("x")).await {
        Ok(process) => tokio::time::timeout(LIMIT, process.exit)
            .await
            .expect("it went on")
            .unwrap()
            .unwrap_err(),
        Err(error) => error,
    };
    drop(session);
    thread.join().unwrap();
    error
}

#[tokio::test]
async fn an_agent_that_breaks_the_rules_ends_the_session() {
    let exit = || Frame::Exit(Ended::Code(0));
    let data = |stream| Frame::Data { stream, bytes: b"x" };
    let flood = Frame::Data {
        stream: 1,
        bytes: &[0; wire::WINDOW as usize + 1],
    };
    let credit = Frame::Credit { stream: 0, bytes: 1 };
    let cases: [(Vec<u8>, &str); 10] = [
        (vec![5, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f], "above the limit"),
        (vec![0xff; 9], "no frame is of kind"),
        (vec![5, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0], "ends with"),
        (vec![16, 1, 0, 0, 0, 1, 0, 0, 0, 9, wire::END], "makes no sense"),
        (frames(&[(2, exit())]), "channel 2, which never was"),
        (frames(&[(1, data(7))]), "no stream 7"),
        (frames(&[(1, flood)]), "more bytes than it may"),
        (frames(&[(1, credit)]), "more credit than there is"),
        (
            frames(&[(1, Frame::Started(1, Identity::default()))]),
            "begun twice",
        ),
        (frames(&[(1, Frame::Close)]), "cannot be told"),
    ];
    for (bytes, expected) in cases {
        let error = verdict(bytes).await;
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(
            error.chain().contains(expected),
            "{expected:?} is missing in: {}",
            error.chain()
        );
    }
}

#[tokio::test]
async fn a_guest_that_only_talks_is_given_up() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = stand_in(
        theirs,
        |stream, _, _| while stream.write_all(&[0xf6; 65536]).is_ok() {},
    );
    let error = AgentSession::connect(ours, Hello::default(), LIMIT)
        .await
        .unwrap_err();
    assert!(
        error.message().contains("without an answer to the hello"),
        "{error}"
    );
    thread.join().unwrap();
    // Whole answers, but to other hellos.
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = stand_in(theirs, |stream, _, _| {
        let wrong = ack(&wire::Hello::default(), 1).repeat(1000);
        while stream.write_all(&wrong).is_ok() {}
    });
    let error = AgentSession::connect(ours, Hello::default(), LIMIT)
        .await
        .unwrap_err();
    assert!(
        error.message().contains("without an answer to the hello"),
        "{error}"
    );
    thread.join().unwrap();
}

#[tokio::test]
async fn a_guest_that_never_answers_meets_the_limit() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = AgentSession::connect(ours, Hello::default(), Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_restart_is_another_instance_and_loses_what_was_open() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = stand_in(theirs, |stream, parser, hello| {
        // The old guest answers twice; then another one is there.
        stream.write_all(&ack(&hello, 1)).unwrap();
        heard(stream, parser).unwrap();
        stream
            .write_all(&frames(&[(
                1,
                Frame::Started(
                    1,
                    Identity {
                        instance: 1,
                        fork_id: [3; 16],
                    },
                ),
            )]))
            .unwrap();
        for instance in [1, 2] {
            let (_, bytes, kind) = heard(stream, parser).unwrap();
            let Frame::Hello(again) = Frame::decode(kind, &bytes).unwrap() else {
                panic!("no hello")
            };
            assert_eq!((again.fork_id, again.epoch), ([3; 16], 1));
            let mut answer = ack(&again, 1);
            // Behind the marker and the head: three numbers and the nonce, then the instance.
            let at = 16 + 9 + 6 + 16;
            answer[at..at + 8].copy_from_slice(&u64::to_le_bytes(instance));
            stream.write_all(&[0x42; 77]).unwrap();
            stream.write_all(&answer).unwrap();
        }
        heard(stream, parser).unwrap();
        let ended = [
            (2, Frame::Started(1, Identity::default())),
            (2, Frame::Eof { stream: 1, errno: 0 }),
            (2, Frame::Eof { stream: 2, errno: 0 }),
            (2, Frame::Exit(Ended::Code(6))),
        ];
        stream.write_all(&frames(&ended)).unwrap();
    });
    let session = AgentSession::connect(ours, Hello::default(), LIMIT)
        .await
        .unwrap();
    let mut process = session.spawn(Exec::new("reboot")).await.unwrap();
    session.restarted(LIMIT).await.unwrap();
    assert_eq!(session.instance(), Some(2));
    let read = process.stdout.read_u8().await.unwrap_err();
    assert!(read.to_string().contains("the guest was restarted"), "{read}");
    assert_eq!(
        process.exit.await.unwrap().unwrap_err().kind(),
        ErrorKind::Disconnected
    );
    assert_eq!(run(&session, Exec::new("x")).await.exit, Exit::Code(6));
    drop((process.signals, process.stdout, process.stderr, session));
    thread.join().unwrap();
}
