//! A WebSocket as a byte stream.
//!
//! Data is read straight into the reader's buffer and written straight from the writer's, behind a
//! head: a frame that the socket takes only in part is continued by the next write, since whoever
//! writes a byte stream offers the rest again. Only heads and answers to pings are ever held here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Refusals;
use super::frame::{self, Asked, Code, Decoder, Head, Violation};
use crate::carrier::Leaving;

/// A frame at most, so that one call's answer does not hold up a ping of the peer for long.
const LONGEST_FRAME: u16 = u16::MAX;
/// One write's slices, the head included; TLS seldom has more records ready.
const SLICES: usize = 9;

/// Inner TLS in the binary messages of `S`.
pub(crate) struct WebSocket<S> {
    socket: S,
    /// Read with the request that opened it.
    early: Bytes,
    decoder: Decoder,
    asked: Asked,
    /// Bytes that go out before any data: a head, or answers.
    ahead: Ahead,
    /// Of the frame whose head has gone out.
    frame_left: usize,
    state: State,
    leaving: Leaving,
    refusals: Arc<Refusals>,
}

/// Bytes to write before anything else.
#[derive(Debug, Default)]
struct Ahead {
    bytes: Vec<u8>,
    at: usize,
}

impl Ahead {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn advance(&mut self, by: usize) {
        self.at += by;
        if self.is_empty() {
            self.bytes.clear();
            self.at = 0;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// We have said the last word, or have nothing to say it with.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `early` was read behind the request.
    pub(super) fn new(socket: S, early: Bytes, leaving: Leaving, refusals: Arc<Refusals>) -> Self {
        Self {
            socket,
            early,
            decoder: Decoder::default(),
            asked: Asked::default(),
            ahead: Ahead::default(),
            frame_left: 0,
            state: State::Open,
            leaving,
            refusals,
        }
    }

    /// Writes what goes ahead of data. Between two frames that includes what the peer has asked for.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.ahead.is_empty() && self.frame_left == 0 && self.state == State::Open {
                if let Some(ping) = self.asked.ping.take() {
                    frame::pong(&ping, &mut self.ahead.bytes);
                }
                if let Some(close) = &self.asked.close {
                    frame::close_answer(close, &mut self.ahead.bytes);
                    self.state = State::Closed;
                }
            }
            if self.ahead.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let socket = Pin::new(&mut self.socket);
            let written = ready!(socket.poll_write(cx, self.ahead.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ahead.advance(written);
        }
    }

    /// Says why and gives up; whether it gets through is no matter.
    fn refuse(&mut self, cx: &mut Context<'_>, violation: Violation) -> io::Error {
        self.refusals.tell(violation);
        if self.frame_left == 0 && self.ahead.is_empty() && self.state == State::Open {
            self.ahead.bytes.extend(frame::close(violation.code()));
            self.state = State::Closed;
            let _ = self.poll_ahead(cx);
        }
        let _ = Pin::new(&mut self.socket).poll_shutdown(cx);
        io::Error::new(io::ErrorKind::InvalidData, violation)
    }

    /// Reads raw bytes into `raw`; `0` is the end.
    fn poll_raw(&mut self, cx: &mut Context<'_>, raw: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.early.has_remaining() {
            let length = raw.len().min(self.early.len());
            if let Some(into) = raw.get_mut(..length) {
                self.early.copy_to_slice(into);
            }
            return Poll::Ready(Ok(length));
        }
        let mut raw = ReadBuf::new(raw);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut raw))?;
        Poll::Ready(Ok(raw.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.asked.close.is_some() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let raw = buf.initialize_unfilled();
            let length = ready!(this.poll_raw(cx, raw))?;
            if length == 0 {
                return Poll::Ready(Ok(()));
            }
            let raw = raw.get_mut(..length).unwrap_or_default();
            let data = match this.decoder.decode(raw, &mut this.asked) {
                Ok(data) => data,
                Err(violation) => return Poll::Ready(Err(this.refuse(cx, violation))),
            };
            // A writer that waits is woken by the socket as well; whoever is polled first writes it.
            if this.asked.ping.is_some() || this.asked.close.is_some() {
                let _ = this.poll_ahead(cx)?;
            }
            if data > 0 {
                buf.advance(data);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        if this.frame_left == 0 {
            ready!(this.poll_ahead(cx))?;
            if this.state == State::Closed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let length = u16::try_from(total).unwrap_or(LONGEST_FRAME);
            this.ahead.bytes.extend(Head::binary(length).bytes());
            this.frame_left = usize::from(length);
        }
        loop {
            let ahead = this.ahead.rest();
            let mut slices = [IoSlice::new(&[]); SLICES];
            gather(&mut slices, ahead, bufs, this.frame_left);
            let socket = Pin::new(&mut this.socket);
            let written = ready!(socket.poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_ahead = written.min(ahead.len());
            this.ahead.advance(of_ahead);
            let data = written - of_ahead;
            this.frame_left -= data;
            if data > 0 {
                return Poll::Ready(Ok(data));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ahead(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_ahead(cx))?;
        if self.state == State::Open && self.frame_left == 0 {
            let code = if self.leaving.is_set() {
                Code::GoingAway
            } else {
                Code::Normal
            };
            self.ahead.bytes.extend(frame::close(code));
            self.state = State::Closed;
            ready!(self.poll_ahead(cx))?;
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Puts `ahead` and then at most `limit` bytes of `bufs` into `slices`.
fn gather<'a>(
    slices: &mut [IoSlice<'a>; SLICES],
    ahead: &'a [u8],
    bufs: &'a [IoSlice<'a>],
    mut limit: usize,
) {
    let [first, rest @ ..] = slices;
    *first = IoSlice::new(ahead);
    let full = bufs.iter().filter(|buf| !buf.is_empty());
    for (slice, buf) in rest.iter_mut().zip(full) {
        let taken = buf.get(..limit).unwrap_or(buf);
        limit -= taken.len();
        *slice = IoSlice::new(taken);
    }
}
