//! Which connection of a proxy an agent gets.

use super::*;

#[test]
fn the_replica_with_the_least_to_do_gets_the_next_stream() {
    let loads = [(0, "a", 1), (1, "a", 2), (2, "b", 2)];
    assert_eq!(least(&loads, 0), Some(2), "3 streams on a, 2 on b");
    let loads = [(0, "a", 1), (1, "a", 0), (2, "b", 2)];
    assert_eq!(least(&loads, 0), Some(1), "the emptier connection of a");
    assert_eq!(least(&[], 0), None);
}

#[test]
fn equals_take_turns() {
    let loads = [(0, "a", 0), (1, "b", 0), (2, "b", 0)];
    let chosen: Vec<_> = (0..4).map(|turn| least(&loads, turn)).collect();
    assert_eq!(chosen, [Some(0), Some(1), Some(2), Some(0)]);
}

/// A connection, and the other end of its socket, at which nobody speaks HTTP.
async fn sender() -> (SendRequest<Bytes>, tokio::io::DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (sender, _) = h2::client::handshake(ours).await.unwrap();
    (sender, theirs)
}

#[tokio::test]
async fn the_replica_that_is_meant_is_chosen_and_one_that_leaves_is_not() {
    let links = Links::default();
    let ((one, _one), (other, _other)) = (sender().await, sender().await);
    let leaving = links.add("t", "a", one);
    let _staying = links.add("t", "b", other);
    let chosen = |replica| {
        let load = links.take("t", replica, &[]);
        load.map(|load| load.0.replica.clone())
    };
    for _ in 0..3 {
        assert_eq!(chosen(Some("b")).as_deref(), Some("b"));
    }
    assert!(!links.has("t", Some("c")) && !links.has("u", None));
    leaving.leave();
    for _ in 0..3 {
        assert_eq!(chosen(None).as_deref(), Some("b"));
    }
    assert!(!links.has("t", Some("a")));
}

fn ask() -> Ask<'static> {
    Ask {
        name: "docs.t.example",
        peer: "192.0.2.1:9".parse().unwrap(),
        certificate: None,
        replica: None,
        first: Bytes::from_static(b"hello"),
    }
}

/// A proxy that lets `room` streams be opened and answers each with what is in `status`.
async fn proxy(room: u32, status: &Arc<Proxy>) -> SendRequest<Bytes> {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (sender, connection) = h2::client::handshake(ours).await.unwrap();
    let answers = Arc::clone(status);
    // Ends with the test's runtime.
    let serving = async move {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(room);
        let mut server = builder.handshake::<_, Bytes>(theirs).await.unwrap();
        let mut streams = Vec::new();
        while let Some(Ok((request, mut respond))) = server.accept().await {
            answers.asked.fetch_add(1, Ordering::Relaxed);
            let mut answer = http::Response::new(());
            *answer.status_mut() = *answers.says.lock().unwrap();
            let sent = respond.send_response(answer, false).unwrap();
            streams.push((sent, request));
        }
    };
    let tasks = process::Tasks::new();
    tasks.spawn(async move {
        let _ = tokio::join!(serving, connection);
    });
    let mut sender = sender.ready().await.unwrap();
    let control = Request::post("https://proxy/control").body(()).unwrap();
    // The first stream is not the agents'. Once it is answered the settings are known.
    let (answer, _) = sender.send_request(control, true).unwrap();
    let _ = answer.await;
    status.asked.store(0, Ordering::Relaxed);
    sender
}

#[derive(Default)]
struct Proxy {
    says: Mutex<StatusCode>,
    asked: AtomicU32,
}

impl Proxy {
    fn says(status: StatusCode) -> Arc<Self> {
        let this = Self::default();
        *this.says.lock().unwrap() = status;
        Arc::new(this)
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_full_is_asked_once_and_left_alone_for_a_moment_while_another_will_do() {
    let links = Links::default();
    let (full, other) = (
        Proxy::says(StatusCode::SERVICE_UNAVAILABLE),
        Proxy::says(StatusCode::OK),
    );
    let _one = links.add("t", "full", proxy(100, &full).await);
    let _two = links.add("t", "full", proxy(100, &full).await);
    let begun = Instant::now();
    assert_eq!(
        links.open("t", &ask()).await.err(),
        Some(OpenError::NotTaken)
    );
    assert_eq!(full.asked(), 1, "and not again on its other connection");
    let other_link = links.add("t", "other", proxy(100, &other).await);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(links.open("t", &ask()).await.unwrap());
    }
    assert_eq!((full.asked(), other.asked()), (1, 20));
    assert!(begun.elapsed() < REST, "nothing was waited for");
    // Nobody else is there: it may have room again.
    other_link.leave();
    *full.says.lock().unwrap() = StatusCode::OK;
    assert!(links.open("t", &ask()).await.is_ok());

    *full.says.lock().unwrap() = StatusCode::SERVICE_UNAVAILABLE;
    drop(other_link);
    let _other = links.add("t", "other", proxy(100, &other).await);
    tokio::time::advance(REST).await;
    for _ in 0..3 {
        open.push(links.open("t", &ask()).await.unwrap());
    }
    assert_eq!(full.asked(), 3, "once more after the moment");
}

#[tokio::test(start_paused = true)]
async fn a_connection_gets_no_more_streams_than_its_proxy_lets_be_open() {
    let links = Links::default();
    let (small, other) = (Proxy::says(StatusCode::OK), Proxy::says(StatusCode::OK));
    let _small = links.add("t", "small", proxy(3, &small).await);
    let begun = Instant::now();
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(links.open("t", &ask()).await.unwrap());
    }
    let beyond = links.open("t", &ask()).await.err();
    assert_eq!(beyond, Some(OpenError::NotTaken), "at once");
    let _other = links.add("t", "other", proxy(100, &other).await);
    for _ in 0..5 {
        open.push(links.open("t", &ask()).await.unwrap());
    }
    assert_eq!((small.asked(), other.asked()), (2, 5));
    assert!(begun.elapsed() < ANSWER_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_waited_for_and_then_left_alone_for_a_moment() {
    let links = Links::default();
    let (ours, _theirs) = tokio::io::duplex(1 << 16);
    let (silent, connection) = h2::client::handshake(ours).await.unwrap();
    let (tasks, other) = (process::Tasks::new(), Proxy::says(StatusCode::OK));
    tasks.spawn(async move { drop(connection.await) });
    let _silent = links.add("t", "silent", silent);
    let begun = Instant::now();
    assert_eq!(
        links.open("t", &ask()).await.err(),
        Some(OpenError::NotTaken)
    );
    let waited = begun.elapsed();
    assert!(waited >= ANSWER_LIMIT);
    let _other = links.add("t", "other", proxy(100, &other).await);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(links.open("t", &ask()).await.unwrap());
    }
    assert_eq!(begun.elapsed(), waited, "nobody waits for it again");
}

#[tokio::test]
async fn a_stream_that_one_connection_does_not_take_is_opened_on_another() {
    let links = Links::default();
    let (gone, _) = sender().await;
    let _gone = links.add("t", "a", gone);
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (good, connection) = h2::client::handshake(ours).await.unwrap();
    let _good = links.add("t", "b", good);
    let serving = async {
        let mut streams = Vec::new();
        let mut server = h2::server::handshake(theirs).await.unwrap();
        while let Some(Ok((_, mut respond))) = server.accept().await {
            let answer = http::Response::new(());
            streams.push(respond.send_response(answer, false).unwrap());
        }
    };
    let ask = ask();
    tokio::select! {
        opened = links.open("t", &ask) => assert!(opened.is_ok()),
        () = serving => unreachable!("the client stays"),
        _ = connection => unreachable!("the server stays"),
    }
}
