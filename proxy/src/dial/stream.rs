//! A stream that the edge opened, as bytes that are read and written.
//!
//! HTTP/2 is spoken directly, not through hyper's upgrade: that one keeps the frame that was read last for as long as the
//! connection lives, up to 64 KiB of which an idle connection has no use, and passes each write through a task.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of one stream. Dropped, what was written is still sent, and what comes is refused.
pub(crate) struct Tunnelled {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What of the last frame was not read yet.
    held: Bytes,
    ended: bool,
}

impl Tunnelled {
    pub(super) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            held: Bytes::new(),
            ended: false,
        }
    }

    /// Waits until some of `wanted` bytes may be sent: how many.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize>> {
        let wanted = wanted.min(wire::MAX_FRAME as usize);
        self.send.reserve_capacity(wanted);
        let mut room = self.send.capacity();
        while room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(room) => room.map_err(broken)?,
                None => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            };
        }
        Poll::Ready(Ok(room.min(wanted)))
    }

    fn give(&mut self, data: Bytes) -> Result<usize> {
        let length = data.len();
        self.send.send_data(data, false).map_err(broken)?;
        Ok(length)
    }

    /// Says once that nothing more comes.
    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            // A stream that was reset has ended already.
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        self.end();
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = &mut *self;
        while this.held.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => this.held = data,
                // The edge is done with the call, and so is the agent.
                Some(Err(error)) => {
                    let done = [Some(Reason::NO_ERROR), Some(Reason::CANCEL)];
                    let ended = done.contains(&error.reason());
                    return Poll::Ready(if ended { Ok(()) } else { Err(broken(error)) });
                }
            }
        }
        let length = this.held.len().min(buf.remaining());
        buf.put_slice(this.held.get(..length).unwrap_or_default());
        this.held.advance(length);
        if this.held.is_empty() {
            // Even an empty part keeps the frame that it was cut from.
            this.held = Bytes::new();
        }
        let _ = this.receive.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, buf.len()))?;
        let part = Bytes::copy_from_slice(buf.get(..room).unwrap_or(buf));
        Poll::Ready(self.give(part))
    }

    /// Records of TLS become one frame.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let whole = bufs.iter().map(|part| part.len()).sum();
        if whole == 0 {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, whole))?;
        let mut data = Vec::with_capacity(room);
        for part in bufs {
            let length = part.len().min(room - data.len());
            data.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        Poll::Ready(self.give(data.into()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written is with HTTP/2, which sends it as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

fn broken(error: h2::Error) -> Error {
    match error.reason() {
        Some(Reason::STREAM_CLOSED) => Error::new(ErrorKind::BrokenPipe, error),
        _ => Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use h2::client::{ResponseFuture, SendRequest};
    use http::{Method, Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A stream as the proxy has it, and both halves of it as the edge does.
    struct Pair {
        proxy: Tunnelled,
        send: SendStream<Bytes>,
        receive: RecvStream,
        sender: SendRequest<Bytes>,
        tasks: process::Tasks,
    }

    async fn pair() -> Pair {
        let tasks = process::Tasks::new();
        let (near, far) = tokio::io::duplex(64 << 10);
        let client = h2::client::Builder::new()
            .initial_window_size(wire::STREAM_WINDOW)
            .initial_connection_window_size(wire::CONNECTION_WINDOW)
            .max_frame_size(wire::MAX_FRAME)
            .handshake::<_, Bytes>(far);
        let server = h2::server::Builder::new()
            .initial_window_size(wire::STREAM_WINDOW)
            .initial_connection_window_size(wire::CONNECTION_WINDOW)
            .max_frame_size(wire::MAX_FRAME)
            .handshake::<_, Bytes>(near);
        let (client, server) = tokio::join!(client, server);
        let ((mut sender, connection), mut server) = (client.unwrap(), server.unwrap());
        tasks.spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = "up.t.example:443".parse().unwrap();
        let (answer, send): (ResponseFuture, _) = sender.send_request(request, false).unwrap();
        let (request, mut answering) = server.accept().await.unwrap().unwrap();
        let stopping = tasks.clone();
        tasks.spawn(async move {
            // The connection goes on only while it is asked for streams.
            loop {
                tokio::select! {
                    accepted = server.accept() => if accepted.is_none() { return },
                    () = stopping.stopping() => break,
                }
            }
            server.graceful_shutdown();
            while server.accept().await.is_some() {}
        });
        let far = answering.send_response(Response::new(()), false).unwrap();
        Pair {
            proxy: Tunnelled::new(far, request.into_body()),
            send,
            receive: answer.await.unwrap().into_body(),
            sender,
            tasks,
        }
    }

    #[tokio::test]
    async fn what_the_edge_sends_is_read_in_order_and_nothing_of_it_is_kept() {
        let mut pair = pair().await;
        let sent: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        pair.send.send_data(sent.clone().into(), true).unwrap();
        let (mut read, mut space) = (Vec::new(), [0; 999]);
        loop {
            let length = pair.proxy.read(&mut space).await.unwrap();
            if length == 0 {
                break;
            }
            read.extend_from_slice(&space[..length]);
        }
        assert_eq!(read, sent);
        assert_eq!(
            pair.proxy.held.as_ptr(),
            Bytes::new().as_ptr(),
            "no part of a frame"
        );
    }

    #[tokio::test]
    async fn parts_that_are_written_together_are_one_frame() {
        let mut pair = pair().await;
        let parts = [
            IoSlice::new(b"one "),
            IoSlice::new(b""),
            IoSlice::new(b"frame"),
        ];
        assert!(pair.proxy.is_write_vectored());
        assert_eq!(pair.proxy.write_vectored(&parts).await.unwrap(), 9);
        assert_eq!(pair.receive.data().await.unwrap().unwrap(), "one frame");
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_window_and_loses_nothing_when_it_is_dropped() {
        let Pair {
            mut proxy,
            mut receive,
            send: _send,
            sender: _sender,
            tasks: _tasks,
        } = pair().await;
        let whole = vec![7; 3 * wire::STREAM_WINDOW as usize];
        let writing = async move {
            proxy.write_all(&whole).await.unwrap();
            // Dropped without a word.
        };
        let counting = async {
            let mut length = 0;
            while let Some(data) = receive.data().await {
                let data = data.unwrap();
                length += data.len();
                receive.flow_control().release_capacity(data.len()).unwrap();
            }
            length
        };
        let ((), length) = tokio::join!(writing, counting);
        assert_eq!(length, 3 * wire::STREAM_WINDOW as usize);
    }

    #[tokio::test]
    async fn an_agent_that_hung_up_reads_as_an_end_and_takes_nothing_more() {
        let mut pair = pair().await;
        pair.send.send_reset(Reason::CANCEL);
        assert_eq!(pair.proxy.read(&mut [0; 9]).await.unwrap(), 0);
        assert!(pair.proxy.write_all(b"too late").await.is_err());
    }

    #[tokio::test]
    async fn whoever_does_not_read_stops_the_edge_at_one_window_and_lets_it_go_on_by_reading() {
        let mut pair = pair().await;
        let (window, whole) = (
            wire::STREAM_WINDOW as usize,
            3 * wire::STREAM_WINDOW as usize,
        );
        let mut send = pair.send;
        send.reserve_capacity(whole);
        let mut passed = 0;
        while passed < window {
            let room = room(&mut send).await.expect("room for one window");
            send.send_data(vec![7; room].into(), false).unwrap();
            passed += room;
        }
        assert_eq!(passed, window);
        // What has come without being read gives nothing back.
        let mut first = [0];
        pair.proxy.read_exact(&mut first).await.unwrap();
        assert_eq!(send.capacity(), 0, "more than a window under way");
        let filling = async {
            while passed < whole {
                let room = room(&mut send).await.expect("room again");
                send.send_data(vec![7; room].into(), false).unwrap();
                passed += room;
            }
            send.send_data(Bytes::new(), true).unwrap();
        };
        let mut back = Vec::new();
        let reading = pair.proxy.read_to_end(&mut back);
        let ((), read) = tokio::join!(filling, reading);
        assert_eq!(read.unwrap(), whole - first.len());
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let mut pair = pair().await;
        // The agent's first ...
        pair.send.send_data("last".into(), true).unwrap();
        let mut read = String::new();
        pair.proxy.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "last");
        pair.proxy.write_all(b"still answered").await.unwrap();
        assert_eq!(
            pair.receive.data().await.unwrap().unwrap(),
            "still answered"
        );
        pair.proxy.shutdown().await.unwrap();
        assert_eq!(rest(&mut pair.receive).await, b"");

        // ... and the proxy's first.
        let mut pair = self::pair().await;
        pair.proxy.shutdown().await.unwrap();
        assert_eq!(rest(&mut pair.receive).await, b"");
        pair.send.send_data("still read".into(), true).unwrap();
        let mut read = String::new();
        pair.proxy.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "still read");
    }

    #[tokio::test]
    async fn dropped_it_tells_the_edge_that_nothing_more_is_read() {
        let mut pair = pair().await;
        drop(pair.proxy);
        assert_eq!(rest(&mut pair.receive).await, b"", "an orderly end");
        let reason = poll_fn(|cx| pair.send.poll_reset(cx)).await.unwrap();
        assert!([Reason::CANCEL, Reason::NO_ERROR].contains(&reason));
    }

    #[tokio::test]
    async fn a_stream_that_runs_when_the_proxy_takes_no_more_loses_nothing() {
        let mut pair = pair().await;
        pair.proxy.write_all(b"before, ").await.unwrap();
        pair.tasks.stop();
        let refused = async {
            // As soon as the edge knows.
            while let Ok(ready) = pair.sender.clone().ready().await {
                drop(ready);
                tokio::task::yield_now().await;
            }
        };
        refused.await;
        pair.proxy.write_all(b"after").await.unwrap();
        pair.proxy.shutdown().await.unwrap();
        assert_eq!(rest(&mut pair.receive).await, b"before, after");
        pair.send.send_data("and back".into(), true).unwrap();
        let mut back = String::new();
        pair.proxy.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "and back");
    }

    /// What comes until the end.
    async fn rest(receive: &mut RecvStream) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(data) = receive.data().await {
            read.extend_from_slice(&data.unwrap());
        }
        read
    }

    /// Waits for room to send in: how much; `None`: never again.
    async fn room(send: &mut SendStream<Bytes>) -> Option<usize> {
        loop {
            match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(0)) => {}
                Some(Ok(room)) => return Some(room),
                _ => return None,
            }
        }
    }
}
