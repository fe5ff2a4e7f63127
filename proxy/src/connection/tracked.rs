//! A stream that says when it is dropped: HTTP may end on it long before, by an upgrade. And one whose reads are short, so
//! that an idle connection holds little.

use std::io::{IoSlice, Result};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// hyper reads HTTP/1.1 into a buffer that doubles when a read fills it, up to 400 KiB, and holds one of that size while it
/// waits for the next request. A read that never fills the first one, of 8 KiB, leaves it at that.
const SHORT: usize = (8 << 10) - 1;

/// Adds nothing to `S` but that its end is seen, and that reads may be short.
pub(super) struct Tracked<S> {
    stream: S,
    short: bool,
    /// Dropped with the stream, which is what the other half waits for.
    _alive: oneshot::Sender<()>,
}

impl<S> Tracked<S> {
    /// `short`: for HTTP/1.1.
    pub(super) fn new(stream: S, alive: oneshot::Sender<()>, short: bool) -> Self {
        Self {
            stream,
            short,
            _alive: alive,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if !self.short || buf.remaining() <= SHORT {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let mut space = [MaybeUninit::uninit(); SHORT];
        let mut part = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// How many bytes one read of many gives.
    async fn one_read(short: bool) -> usize {
        let bytes = vec![7; 64 << 10];
        let (alive, _gone) = oneshot::channel();
        let mut tracked = Tracked::new(&*bytes, alive, short);
        let mut buffer = vec![0; 64 << 10];
        let length = tracked.read(&mut buffer).await.unwrap();
        assert!(buffer.iter().take(length).all(|&byte| byte == 7));
        length
    }

    #[tokio::test]
    async fn a_short_read_never_fills_the_buffer_that_http_begins_with() {
        assert!(one_read(true).await < 8 << 10);
        assert_eq!(one_read(false).await, 64 << 10);
    }
}
