//! Proxies that keep the edge waiting for them: their connection ends with their credential all the same, and
//! nobody else's end is put off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use process::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;
use wire::{FromEdge, FromProxy, Value};

use super::access::said_to;
use super::fakes::{Wire, attach, attach_at};
use super::frames::{DATA, HEADERS, PING, PREFACE, SETTINGS, WHOLE, WINDOW, frame};
use super::hello::hello;
use super::stand::{OPEN, Stand, Tunnel};
use super::world::{World, sha256};
use crate::rig::{HOST, until, within};

/// A second, on a machine that has much else to do: far from the five that the edge gives a proxy to read a line.
const SOON: Duration = Duration::from_secs(3);
/// Of SETTINGS and PING.
const ACK: u8 = 1;
/// Of the control stream.
const CONTROL: u32 = 1;
const REFUSED: &str = "keyward_edge_refusals_total{reason=\"present\"}";

/// What the edge waits for.
#[derive(Clone, Copy, Debug)]
enum Delay {
    /// An answer to the control stream.
    Answer,
    /// Room for what it says there: one octet more each time.
    Window,
}

/// A proxy that keeps the edge waiting.
struct Slow {
    /// Resolves when the edge has ended the connection.
    over: oneshot::Receiver<()>,
    /// Streams of agents that it was given.
    given: Arc<AtomicU32>,
}

impl Slow {
    /// On an attached connection, whose credential is called `id`, until `tasks` are stopped.
    fn start(stream: impl Wire, id: &str, delay: Delay, tasks: &Tasks) -> Self {
        let (sender, over) = oneshot::channel();
        let given = Arc::new(AtomicU32::new(0));
        let (counted, id, stop) = (Arc::clone(&given), id.to_owned(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                _ = behave(stream, &id, delay, &counted) => {}
                () = stop.stopping() => {}
            }
            let _ = sender.send(());
        });
        Self { over, given }
    }
}

async fn behave(stream: impl Wire, id: &str, delay: Delay, given: &AtomicU32) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let bound = FromEdge::Bound {
        seq: 0,
        credential_id: id.to_owned(),
    };
    // Room for the first line, and for nothing after it.
    let room = u32::try_from(wire::line(&bound).unwrap().len()).unwrap();
    let window = [&[0, 4][..], &room.to_be_bytes()].concat();
    write.write_all(&frame(SETTINGS, 0, 0, &window)).await?;
    write.flush().await?;
    read.read_exact(&mut [0; PREFACE.len()]).await?;
    let write = Mutex::new(write);
    tokio::select! {
        ended = answer(read, &write, delay, given) => ended,
        ended = trickle(&write), if matches!(delay, Delay::Window) => ended,
    }
}

async fn answer<S: Wire>(
    mut read: ReadHalf<S>,
    write: &Mutex<WriteHalf<S>>,
    delay: Delay,
    given: &AtomicU32,
) -> io::Result<()> {
    loop {
        let (kind, flags, number, payload) = next(&mut read).await?;
        match (kind, number) {
            (SETTINGS, _) if flags & ACK == 0 => say(write, frame(SETTINGS, ACK, 0, &[])).await?,
            (PING, _) if flags & ACK == 0 => say(write, frame(PING, ACK, 0, &payload)).await?,
            (HEADERS, CONTROL) if matches!(delay, Delay::Window) => {
                say(
                    write,
                    [frame(HEADERS, WHOLE, CONTROL, &[0x88]), wrong(1)].concat(),
                )
                .await?;
            }
            (HEADERS, CONTROL) => {}
            (HEADERS, _) => {
                given.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

async fn trickle<S: Wire>(write: &Mutex<WriteHalf<S>>) -> io::Result<()> {
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        say(write, frame(WINDOW, 0, CONTROL, &1_u32.to_be_bytes())).await?;
    }
}

async fn say<S: Wire>(write: &Mutex<WriteHalf<S>>, bytes: Vec<u8>) -> io::Result<()> {
    let mut write = write.lock().await;
    write.write_all(&bytes).await?;
    write.flush().await
}

/// A credential that nobody has, presented on the control stream.
fn wrong(seq: u64) -> Vec<u8> {
    let message = FromProxy::Present {
        seq,
        credential: Value::new("wrong".to_owned()),
    };
    frame(DATA, 0, CONTROL, &wire::line(&message).unwrap())
}

/// Kind, flags, stream and payload.
async fn next<S: Wire>(read: &mut ReadHalf<S>) -> io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut header = [0; 9];
    read.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    let mut payload = vec![0; length];
    read.read_exact(&mut payload).await?;
    let [.., a, b, c, d] = header;
    let number = u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff;
    Ok((header[3], header[4], number, payload))
}

#[tokio::test]
async fn a_proxy_that_keeps_the_edge_waiting_is_cut_within_a_second_and_gets_no_other_stream() {
    let removed = Tunnel {
        secrets: vec![("b", "secret-b".to_owned(), "")],
        ..Tunnel::open_to(OPEN)
    };
    let suspended = Tunnel {
        suspended: true,
        ..Tunnel::open_to(OPEN)
    };
    for delay in [Delay::Window, Delay::Answer] {
        for (what, said) in [
            ("removed", Some(&removed)),
            ("suspended", Some(&suspended)),
            ("archived", None),
        ] {
            let (stand, tasks) = (Stand::start(0, OPEN).await, Tasks::new());
            let stream = attach(&stand, "secret-a").await.ok().unwrap();
            let mut slow = Slow::start(stream, "a", delay, &tasks);
            match delay {
                // The edge wants to say so, and has no room.
                Delay::Window => {
                    until("a refusal", async || {
                        (stand.edge.metric(REFUSED).await == 1).then_some(())
                    })
                    .await;
                }
                Delay::Answer => stand.edge.logs("proxy connected", 1).await,
            }
            assert!(slow.over.try_recv().is_err(), "{delay:?}");
            let began = Instant::now();
            match said {
                Some(said) => stand.tell(said),
                None => stand.replace("tunnels.yaml", "tunnels: []\n"),
            }
            stand.edge.logs("tunnels taken", 2).await;
            let before = slow.given.load(Ordering::SeqCst);
            said_to(&stand, &hello(HOST)).await;
            within("its end", &mut slow.over).await.unwrap();
            let took = began.elapsed();
            assert!(took < SOON, "{what}, waiting for {delay:?}: {took:?}");
            assert_eq!(slow.given.load(Ordering::SeqCst), before, "{what}");
            assert_eq!(stand.edge.metric("keyward_edge_links").await, 0);
            tasks.stop();
        }
    }
}

#[tokio::test]
async fn a_proxy_that_takes_a_line_by_the_octet_is_ended_though_its_credential_stands() {
    let (stand, tasks) = (Stand::start(0, OPEN).await, Tasks::new());
    let stream = attach(&stand, "secret-a").await.ok().unwrap();
    let slow = Slow::start(stream, "a", Delay::Window, &tasks);
    within("its end", slow.over).await.unwrap();
    let why = "the proxy does not read the control stream";
    stand.edge.logs(why, 1).await;
    tasks.stop();
}

#[tokio::test]
async fn a_proxy_that_presents_one_wrong_credential_after_the_other_is_ended_and_fills_no_log() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    for number in 1..=3 {
        let stream = attach(&stand, "secret-a").await.ok().unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let mut said = frame(SETTINGS, 0, 0, &[]);
        said.extend(frame(HEADERS, WHOLE, CONTROL, &[0x88]));
        said.extend((1..=200).flat_map(wrong));
        let mut first = [0; PREFACE.len()];
        within("the edge's first bytes", read.read_exact(&mut first))
            .await
            .unwrap();
        // Not before the edge has opened the stream.
        let kind = async { while next(&mut read).await.unwrap().0 != HEADERS {} };
        within("the control stream", kind).await;
        write.write_all(&said).await.unwrap();
        let end = async { while next(&mut read).await.is_ok() {} };
        within("its end", end).await;
        stand
            .edge
            .logs("too many presented credentials were refused", number)
            .await;
    }
    let refused = stand.edge.metric(REFUSED).await;
    assert!((18..=21).contains(&refused), "{refused}");
    let log = stand.edge.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("presented credential refused"));
    assert_eq!(lines.count(), 1, "{log}");
    stand.links(2).await;
}

#[tokio::test]
async fn twenty_slow_proxies_that_are_cut_put_off_nobody_elses_cut() {
    let (world, tasks) = (World::start().await, Tasks::new());
    let front = world.file("front-ca.pem");
    let mut slow = Vec::new();
    for number in 1..=20 {
        let tunnel = world.command(&["tunnel", "create"]).await;
        let tunnel = tunnel["id"].as_str().unwrap().to_owned();
        let secret = world
            .command(&["secret", "add", &tunnel, &sha256("s")])
            .await;
        let stream = attach_at(world.address, &front, &tunnel, "s").await;
        let id = secret["id"].as_str().unwrap();
        let one = Slow::start(stream.ok().unwrap(), id, Delay::Window, &tasks);
        until("a refusal", async || {
            (world.edge.metric(REFUSED).await >= number).then_some(())
        })
        .await;
        slow.push((tunnel, one));
    }
    let innocent = world.tunnel().await;
    let secret = world
        .command(&["secret", "add", &innocent.0, &sha256("own")])
        .await;
    let proxy = world.proxy("innocent", &innocent, "own").await;
    proxy.ready().await;
    let links = async |most: u64| {
        until("connections", async || {
            (world.edge.metric("keyward_edge_links").await <= most).then_some(())
        })
        .await;
    };
    let words: Vec<_> = slow
        .iter()
        .map(|(tunnel, _)| ["tunnel", "archive", tunnel.as_str()])
        .collect();
    join_all(words.iter().map(|words| world.command(words))).await;
    let began = Instant::now();
    let secret = secret["id"].as_str().unwrap();
    let cut = world
        .command(&["secret", "archive", &innocent.0, secret])
        .await;
    assert_eq!(cut["enforced"]["of"], 1, "{cut}");
    links(0).await;
    let took = began.elapsed();
    assert!(took < SOON, "{took:?}");
    for (_, one) in slow {
        within("its end", one.over).await.unwrap();
    }
    tasks.stop();
}
