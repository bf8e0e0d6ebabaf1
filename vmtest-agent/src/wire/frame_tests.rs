use super::super::{HEAD, MARKER};
use super::*;

fn all() -> Vec<Frame<'static>> {
    let identity = Identity {
        instance: 77,
        fork_id: [8; 16],
    };
    vec![
        Frame::Hello(Hello {
            nonce: [1; 16],
            epoch: 2,
            fork_id: [3; 16],
            clock: 4,
            seed: [5; 64],
            ..Hello::default()
        }),
        Frame::HelloAck(HelloAck {
            protocol: 1,
            min: 1,
            max: 2,
            nonce: [6; 16],
            instance: 7,
            clock_set: true,
            reseeded: false,
            has_vmgenid: true,
            version: "0.1.0",
        }),
        Frame::Spawn(Spawn {
            stdin: true,
            detach: false,
            program: "sh",
            cwd: "/tmp",
            args: vec!["-c", "true", ""],
            env: vec![("A", "b"), ("C", "")],
        }),
        Frame::Open(Target::Tcp(5432)),
        Frame::Open(Target::Unix("/run/x")),
        Frame::Data {
            stream: 2,
            bytes: b"abc",
        },
        Frame::Eof {
            stream: 1,
            errno: 104,
        },
        Frame::Credit {
            stream: 0,
            bytes: 65536,
        },
        Frame::Deaf { stream: 1 },
        Frame::Signal(15),
        Frame::Close,
        Frame::Ping(9),
        Frame::Sync(10),
        Frame::Started(11, identity),
        Frame::Opened,
        Frame::Refused(Refusal::Cwd, 2),
        Frame::Exit(Ended::Code(3)),
        Frame::Exit(Ended::Signal(9)),
        Frame::Pong(12, identity),
        Frame::Synced(13),
        Frame::Fault("what?"),
    ]
}

#[test]
fn every_frame_comes_back_as_it_was() {
    for frame in all() {
        let mut bytes = Vec::new();
        frame.encode(0x0102_0304, &mut bytes).unwrap();
        assert_eq!(bytes[1..5], [4, 3, 2, 1]);
        assert_eq!(bytes.last(), Some(&END));
        let payload = &bytes[HEAD..bytes.len() - 1];
        assert_eq!(Frame::decode(bytes[0], payload), Ok(frame));
    }
}

#[test]
fn no_payload_cut_short_or_made_longer_is_believed() {
    for frame in all() {
        // These take whatever they are given.
        let open_ended = matches!(
            frame,
            Frame::Data { .. } | Frame::Fault(_) | Frame::Hello(_) | Frame::HelloAck(_)
        );
        let mut bytes = Vec::new();
        frame.encode(1, &mut bytes).unwrap();
        let payload = &bytes[HEAD..bytes.len() - 1];
        for length in 0..payload.len() {
            if !open_ended {
                assert!(
                    Frame::decode(bytes[0], &payload[..length]).is_err(),
                    "{frame:?} cut to {length}"
                );
            }
        }
        let longer = [payload, &[0]].concat();
        assert!(
            open_ended || Frame::decode(bytes[0], &longer).is_err(),
            "{frame:?} made longer"
        );
    }
}

#[test]
fn what_may_not_be_sent_leaves_nothing_behind() {
    let mut out = vec![1, 2, 3];
    let long = "x".repeat(FRAME_LIMIT);
    let problem = Frame::Open(Target::Unix(&long)).encode(1, &mut out);
    assert!(matches!(problem, Err(Unsendable::TooLong(_))));
    let bytes = [&[0; 5], &MARKER[..]].concat();
    let frame = Frame::Data {
        stream: 0,
        bytes: &bytes,
    };
    assert_eq!(frame.encode(1, &mut out), Err(Unsendable::Marker));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn the_ranges_stand_where_every_version_looks_for_them() {
    let mut bytes = Vec::new();
    all()[0].encode(0, &mut bytes).unwrap();
    assert_eq!(bytes[HEAD..HEAD + 4], [1, 0, 1, 0]);
    assert_eq!(bytes[HEAD + 4..HEAD + 20], [1; 16]);
}
