//! HTTP/1.1 or HTTP/2, as ALPN has it, on a connection whose TLS ends at the edge.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::{Stalling, Tasks};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::answer::Body;

/// HTTP/2: a connection on which nothing was open at two looks in a row is asked to leave.
const IDLE_LOOK: Duration = Duration::from_secs(30);
/// HTTP/1.1: until a request's head is complete, counted from the end of the one before.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// The head of a request.
const HEAD: u32 = 32 << 10;
/// HTTP/2: streams at once on a connection; what one agent may have at once is decided elsewhere.
const STREAMS: u32 = 256;
/// HTTP/2: what is buffered towards a peer that does not read, for each stream.
const SEND_BUFFER: usize = 128 << 10;
/// HTTP/2: a peer that answers no ping in time is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What HTTP runs on.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether ALPN chose HTTP/2.
    fn is_http2(&self) -> bool;
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for TlsStream<S> {
    fn is_http2(&self) -> bool {
        self.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

/// In the extensions of each request, for as long as it is in use: the connection is not idle.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    _open: Arc<()>,
}

/// Answers one request.
pub(super) type Handler =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Serves until the connection ends: at the stop it is asked to leave, at the cut it has to, and when its
/// peer takes nothing of what is sent for `stall`.
pub(super) async fn serve<S: Stream>(
    tasks: &Tasks,
    cut: &CancellationToken,
    stream: S,
    stall: Duration,
    handler: Handler,
) {
    let open = Arc::new(());
    let requests = Arc::downgrade(&open);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = Busy {
            _open: Arc::clone(&open),
        };
        request.extensions_mut().insert(busy);
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let http2 = stream.is_http2();
    let io = TokioIo::new(Stalling::new(stream, stall));
    // A connection that breaks is its peer's business.
    if http2 {
        let mut connection = std::pin::pin!(
            http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(HEAD)
                .initial_stream_window_size(wire::STREAM_WINDOW)
                .initial_connection_window_size(wire::CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .serve_connection(io, service)
        );
        tokio::select! {
            _ = &mut connection => return,
            () = tasks.stopping() => connection.as_mut().graceful_shutdown(),
            () = idle(&requests) => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = cut.cancelled() => {}
        }
    } else {
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(HEAD as usize)
                .serve_connection(io, service)
                .with_upgrades()
        );
        tokio::select! {
            _ = &mut connection => return,
            () = tasks.stopping() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = cut.cancelled() => {}
        }
    }
}

/// Resolves once no request was open at two looks in a row. The service holds one of `requests`, each request another.
async fn idle(requests: &Weak<()>) {
    let mut before = false;
    loop {
        tokio::time::sleep(IDLE_LOOK).await;
        let now = requests.strong_count() <= 1;
        if before && now {
            return;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    impl Stream for tokio::io::DuplexStream {
        fn is_http2(&self) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_whose_peer_takes_no_answer_and_not_one_that_is_slow() {
        let stall = Duration::from_secs(30);
        let long = 64 << 10;
        let handler: Handler = Arc::new(move |_| {
            let body = Full::new(Bytes::from(vec![b'x'; long])).boxed();
            async move { Response::new(body) }.boxed()
        });
        let ask = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let (tasks, cut) = (Tasks::new(), CancellationToken::new());
        let (near, mut far) = tokio::io::duplex(1 << 10);
        far.write_all(ask).await.unwrap();
        let began = tokio::time::Instant::now();
        serve(&tasks, &cut, near, stall, Arc::clone(&handler)).await;
        assert!((stall..2 * stall).contains(&began.elapsed()));
        let (near, mut far) = tokio::io::duplex(1 << 10);
        far.write_all(ask).await.unwrap();
        let reading = async {
            let (mut read, mut piece) = (0, [0; 1 << 10]);
            loop {
                tokio::time::sleep(stall * 9 / 10).await;
                match far.read(&mut piece).await.unwrap() {
                    0 => return read,
                    some => read += some,
                }
            }
        };
        let serving = serve(&tasks, &cut, near, stall, handler);
        let ((), read) = tokio::join!(serving, reading);
        assert!(read > long, "{read}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_once_nothing_was_open_at_two_looks() {
        let service = Arc::new(());
        let requests = Arc::downgrade(&service);
        let mut idle = std::pin::pin!(idle(&requests));
        let long = IDLE_LOOK * 100;
        let open = Arc::clone(&service);
        assert!(
            tokio::time::timeout(long, &mut idle).await.is_err(),
            "a request is open"
        );
        drop(open);
        let began = tokio::time::Instant::now();
        idle.await;
        assert!(began.elapsed() <= IDLE_LOOK * 2);
    }
}
