//! The carrier `websocket`, byte by byte.

use control::Credential;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{Ca, Caller, Proxy, read_rest, read_until, within};

const OPEN: &str = "GET /any/path HTTP/1.1\r\nHost: x.t.example\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-Websocket-Version: 13\r\nCf-Ray: 1\r\n\r\n";
const MASK: [u8; 4] = [1, 2, 3, 4];

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    if payload.len() < 126 {
        bytes.push(0x80 | u8::try_from(payload.len()).unwrap());
    } else {
        bytes.push(0xfe);
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    }
    bytes.extend(MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// The next frame of the proxy: first byte and payload.
async fn next_frame(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    within("a frame", stream.read_exact(&mut head)).await.ok()?;
    let length = match head[1] {
        126 => stream.read_u16().await.ok()?.into(),
        length => usize::from(length),
    };
    assert!(length < 126 || head[1] == 126, "{head:?}");
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[0], payload))
}

async fn open(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.web).await.unwrap();
    stream.write_all(OPEN.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // Some connectors compare the whole of it.
    assert!(head.contains("\r\nconnection: Upgrade\r\n"), "{head}");
    // RFC 6455 section 1.3 gives this answer to this key.
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    stream
}

/// Runs inner TLS over a WebSocket: `size` bytes a frame, a ping before each, messages of three.
/// Gives the end on which the caller speaks plain TLS, and what to run meanwhile.
fn through(
    web: TcpStream,
    size: usize,
) -> (
    tokio::io::DuplexStream,
    impl Future<Output = (usize, Option<u16>)>,
) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let pump = async move {
        let (mut web_read, mut web_write) = web.into_split();
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let send = async {
            let mut buffer = vec![0; size];
            for n in 0_usize.. {
                let length = far_read.read(&mut buffer).await.unwrap_or(0);
                if length == 0 {
                    break;
                }
                let first = match n % 3 {
                    0 => 0x02,
                    1 => 0x00,
                    _ => 0x80,
                };
                let mut bytes = frame(0x89, &[u8::try_from(n % 256).unwrap()]);
                bytes.extend(frame(first, &buffer[..length]));
                if web_write.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let receive = async {
            let (mut pongs, mut code) = (0, None);
            while let Some((first, payload)) = next_frame(&mut web_read).await {
                match first {
                    0x82 => {
                        let _ = far_write.write_all(&payload).await;
                    }
                    0x8a => pongs += 1,
                    0x88 => code = payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
                    other => panic!("frame {other:#x}"),
                }
            }
            (pongs, code)
        };
        tokio::select! {
            result = receive => result,
            () = send => unreachable!("it never ends"),
        }
    };
    (near, pump)
}

#[tokio::test]
async fn a_call_goes_through_in_frames_of_any_size_and_pings_are_answered() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    for size in [1, 7, 1000, 60_000] {
        let (near, pump) = through(open(&proxy).await, size);
        let pump = Box::pin(pump);
        let calls = async {
            let mut stream = Caller::new(&[&ca]).connect(near).await.unwrap();
            proxy.ask(&mut stream).await;
            proxy.ask(&mut stream).await;
            stream.shutdown().await.unwrap();
        };
        let ((), (pongs, code)) = within("the calls", async { tokio::join!(calls, pump) }).await;
        assert!(pongs > 0, "in frames of {size}");
        assert_eq!(code, Some(1000), "in frames of {size}");
    }
}

#[tokio::test]
async fn a_large_answer_comes_whole_through_a_slow_reader() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let (near, pump) = through(open(&proxy).await, 1000);
    let pump = Box::pin(pump);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    let call = async {
        let mut stream = Caller::new(&[&ca]).connect(near).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: echo.t.example\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut upstream, _) = proxy.upstream.accept().await.unwrap();
        read_until(&mut upstream, "\r\n\r\n").await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let answer = async {
            upstream.write_all(head.as_bytes()).await.unwrap();
            upstream.write_all(&body).await.unwrap();
        };
        let read = async {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes).await;
            bytes
        };
        tokio::join!(answer, read).1
    };
    let (bytes, _) = within("the answer", async { tokio::join!(call, pump) }).await;
    assert!(bytes.ends_with(&body), "{} bytes", bytes.len());
}

#[tokio::test]
async fn a_generation_below_lowest_is_left_with_going_away() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let (near, pump) = through(open(&proxy).await, 1000);
    let pump = Box::pin(pump);
    let call = async {
        let mut stream = Caller::new(&[&ca]).connect(near).await.unwrap();
        proxy.ask(&mut stream).await;
        let next = Credential {
            lowest: 2,
            ..ca.credential(2)
        };
        proxy.offer(&next).settled().await;
        read_rest(&mut stream).await
    };
    let (rest, (_, code)) = within("the end", async { tokio::join!(call, pump) }).await;
    assert_eq!((rest.as_str(), code), ("", Some(1001)));
}

#[tokio::test]
async fn a_text_frame_is_refused_and_a_close_is_answered() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    for (sent, expected) in [
        (frame(0x81, b"hello"), vec![0x03, 0xeb]),
        (frame(0x88, &[0x03, 0xe8, b'x']), vec![0x03, 0xe8]),
        (frame(0xc2, b"reserved"), vec![0x03, 0xea]),
    ] {
        let mut stream = open(&proxy).await;
        stream.write_all(&sent).await.unwrap();
        assert_eq!(next_frame(&mut stream).await, Some((0x88, expected)));
        assert_eq!(read_rest(&mut stream).await, "");
    }
}

#[tokio::test]
async fn what_opens_no_websocket_gets_a_short_answer_in_plaintext() {
    let proxy = Proxy::start().await;
    let plain = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned();
    for (request, status) in [
        (plain, "426"),
        (OPEN.replace("Version: 13", "Version: 8"), "426"),
        (OPEN.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), "400"),
        (OPEN.replace("GET", "POST"), "426"),
        // What curl https:// sends: it then says "wrong version number".
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}".to_owned(), "400"),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(40_000)),
            "431",
        ),
    ] {
        let mut stream = TcpStream::connect(proxy.web).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_rest(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {answer}"
        );
    }
}

#[tokio::test]
async fn bytes_that_come_behind_the_request_are_not_lost() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = TcpStream::connect(proxy.web).await.unwrap();
    let mut bytes = OPEN.as_bytes().to_vec();
    bytes.extend(frame(0x89, b"early"));
    stream.write_all(&bytes).await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(
        next_frame(&mut stream).await,
        Some((0x8a, b"early".to_vec()))
    );
}
