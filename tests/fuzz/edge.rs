//! What the edge reads before it knows who speaks, and what it reads from a proxy; and the other way round.

use ::edge::relay::hello::{ClientHello, HelloError, MAX_HELLO, Reader};
use wire::{FromEdge, FromProxy, LineError, Lines, MAX_LINE, Refused, Value};

use super::drive;
use crate::edge::hello;

/// In the place of a secret; no error may have it in its text.
const CANARY: &str = "canary-of-a-secret";

fn found(bytes: &[u8], cut: usize) -> Result<Option<ClientHello>, HelloError> {
    let mut reader = Reader::default();
    for piece in bytes.chunks(cut) {
        if let Some(hello) = reader.feed(piece)? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

#[test]
fn client_hellos() {
    let whole = hello("docs.t.example");
    let mut fragmented = Vec::new();
    for part in whole[5..].chunks(30) {
        fragmented.extend_from_slice(&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()]);
        fragmented.extend_from_slice(part);
    }
    let seeds = [
        whole,
        fragmented,
        hello("a.example"),
        vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff],
    ];
    drive("client_hellos", &seeds, |bytes| {
        let at_once = found(bytes, MAX_HELLO);
        let in_pieces = found(bytes, 7);
        if let Ok(Some(hello)) = &at_once {
            assert!(bytes.starts_with(&hello.bytes), "kept to the byte");
            assert!(hello.bytes.len() <= MAX_HELLO);
        }
        let name = |found: &Result<Option<ClientHello>, HelloError>| match found {
            Ok(Some(hello)) => hello.server_name.clone(),
            _ => None,
        };
        // Longer than one piece may be, it is refused as a whole, and found before that in pieces.
        if bytes.len() <= MAX_HELLO {
            assert_eq!(name(&at_once), name(&in_pieces), "however it comes");
        }
    });
}

fn lines<M>(bytes: &[u8])
where
    M: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let mut lines = Lines::default();
    for piece in bytes.chunks(11) {
        lines.push(piece);
        while let Some(message) = lines.take::<M>() {
            match message {
                Ok(message) => {
                    let Ok(line) = wire::line(&message) else {
                        continue;
                    };
                    let mut again = Lines::default();
                    again.push(&line);
                    assert_eq!(again.take::<M>(), Some(Ok(message)));
                }
                Err(error) => {
                    assert!(!error.to_string().contains(CANARY), "{error}");
                    if error == LineError::TooLong {
                        return;
                    }
                }
            }
        }
    }
}

#[test]
fn control_messages_of_edge_and_proxy() {
    let present = FromProxy::Present {
        seq: u64::MAX,
        credential: Value::new(CANARY.to_owned()),
    };
    let of_proxy = [
        wire::line(&present).unwrap().to_vec(),
        wire::line(&FromProxy::Draining).unwrap().to_vec(),
        vec![b' '; MAX_LINE + 1],
    ];
    drive("messages_of_proxies", &of_proxy, lines::<FromProxy>);
    let messages = [
        FromEdge::Bound {
            seq: 0,
            credential_id: "a".to_owned(),
        },
        FromEdge::Refused {
            seq: 1,
            reason: Refused::Credential,
        },
        FromEdge::CutAt { time: u64::MAX },
        FromEdge::Instances { count: 2 },
    ];
    let of_edge = messages.map(|message| wire::line(&message).unwrap().to_vec());
    drive("messages_of_edges", &of_edge, lines::<FromEdge>);
}
