//! Bytes between an agent and a stream, both ways, until both have ended.
//!
//! A buffer exists while bytes move and not while a connection is idle: reading is into the stack, what
//! comes from the proxy stays in the frame that it came in. The window of the stream is given back only
//! when the agent has taken the bytes, so that whoever stops reading holds one window and no more.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::link::Stream;

/// An agent may go on speaking to a proxy that has left for this long.
const LINGER: Duration = Duration::from_secs(2);
/// Read at a time.
const PIECE: usize = 16 << 10;

/// Why a stream ended before both sides had said everything.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("the agent's connection broke")]
    Agent(#[source] io::Error),
    #[error("the proxy's stream broke")]
    Proxy(#[source] h2::Error),
    #[error("the proxy's stream was closed")]
    Closed,
    #[error("a write made no progress")]
    Stalled,
}

/// Moves bytes until both directions have ended. Dropping the future resets the stream.
pub(super) async fn pump<R, W>(
    (mut read, mut write): (R, W),
    stream: Stream,
    stall: Duration,
) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Stream {
        send,
        mut receive,
        load: _load,
    } = stream;
    let mut half = Half { send, ended: false };
    tokio::try_join!(
        up(&mut read, &mut half.send, stall),
        down(&mut receive, &mut write, stall),
    )?;
    half.ended = true;
    Ok(())
}

/// What goes to the proxy. Given up, it is reset, whatever still waits to be sent; ended, what waits is
/// still sent.
struct Half {
    send: SendStream<Bytes>,
    ended: bool,
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.ended {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

async fn up<R: AsyncRead + Unpin>(
    agent: &mut R,
    send: &mut SendStream<Bytes>,
    stall: Duration,
) -> Result<(), Broken> {
    loop {
        let piece = tokio::select! {
            piece = read(agent) => piece.map_err(Broken::Agent)?,
            _ = poll_fn(|cx| send.poll_reset(cx)) => return linger(agent).await,
        };
        let last = piece.is_empty();
        let given = if last {
            send.send_data(piece, true).map_err(Broken::Proxy)
        } else {
            give(send, piece, stall).await
        };
        match given {
            Ok(()) if last => return Ok(()),
            Ok(()) => {}
            Err(Broken::Stalled) => return Err(Broken::Stalled),
            Err(_) => return linger(agent).await,
        }
    }
}

/// The proxy takes nothing more. What it has said may still be on its way to the agent, and an agent that
/// is closed while it speaks loses what it has not read yet: its words are thrown away for a while.
async fn linger<R: AsyncRead + Unpin>(agent: &mut R) -> Result<(), Broken> {
    let quiet = async {
        while let Ok(piece) = read(agent).await {
            if piece.is_empty() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, quiet).await;
    Ok(())
}

/// Some bytes; none at the end.
async fn read<R: AsyncRead + Unpin>(agent: &mut R) -> io::Result<Bytes> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *agent).poll_read(cx, &mut buffer))?;
        Ok(Bytes::copy_from_slice(buffer.filled())).into()
    })
    .await
}

/// Sends all of `data` as the peer's window allows.
async fn give(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    stall: Duration,
) -> Result<(), Broken> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = match send.capacity() {
            0 => {
                let room = poll_fn(|cx| send.poll_capacity(cx));
                let room = tokio::time::timeout(stall, room).await;
                let room = room.map_err(|_| Broken::Stalled)?;
                room.ok_or(Broken::Closed)?.map_err(Broken::Proxy)?
            }
            room => room,
        };
        let part = data.split_to(room.min(data.len()));
        if !part.is_empty() {
            send.send_data(part, false).map_err(Broken::Proxy)?;
        }
    }
    Ok(())
}

async fn down<W: AsyncWrite + Unpin>(
    receive: &mut RecvStream,
    agent: &mut W,
    stall: Duration,
) -> Result<(), Broken> {
    while let Some(data) = receive.data().await {
        let data = match data {
            Ok(data) => data,
            // A proxy that is done with a call says so by a reset; what it said has come.
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            Err(error) => return Err(Broken::Proxy(error)),
        };
        let length = data.len();
        write(agent, &data, stall).await?;
        let _ = receive.flow_control().release_capacity(length);
    }
    agent.shutdown().await.map_err(Broken::Agent)
}

async fn write<W: AsyncWrite + Unpin>(
    agent: &mut W,
    mut data: &[u8],
    stall: Duration,
) -> Result<(), Broken> {
    let stalled = |_| Broken::Stalled;
    while !data.is_empty() {
        let written = tokio::time::timeout(stall, agent.write(data)).await;
        let written = written.map_err(stalled)?.map_err(Broken::Agent)?;
        if written == 0 {
            return Err(Broken::Agent(io::ErrorKind::WriteZero.into()));
        }
        data = data.get(written..).unwrap_or_default();
    }
    let flushed = tokio::time::timeout(stall, agent.flush()).await;
    flushed.map_err(stalled)?.map_err(Broken::Agent)
}
