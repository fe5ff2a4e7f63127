//! A server on loopback with behaviour, for the tests of this crate.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Answers each request with what a function makes of it, and keeps the requests. Its thread ends with the test program.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// One that came.
#[derive(Clone)]
pub(crate) struct Request {
    /// Lines of the head, in lower case but for the first.
    pub(crate) head: Vec<String>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.head.iter().any(|one| one == line)
    }
}

impl Server {
    /// `answer` gets the number of the request, from 0, and gives status, further header lines and body; an empty
    /// status closes the connection without an answer.
    pub(crate) fn start(
        answer: impl Fn(usize) -> (&'static str, &'static str, String) + Send + 'static,
    ) -> Self {
        Self::judge(move |number, _| answer(number))
    }

    /// The same, and `answer` sees the request.
    pub(crate) fn judge(
        answer: impl Fn(usize, &Request) -> (&'static str, &'static str, String) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let noted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut octet = [0];
                    stream.read_exact(&mut octet).unwrap();
                    head.push(octet[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let mut lines = head.trim_end().split("\r\n");
                let first = lines.next().unwrap().to_owned();
                let head: Vec<String> = std::iter::once(first)
                    .chain(lines.map(|line| {
                        let (name, value) = line.split_once(':').unwrap();
                        format!("{}:{value}", name.to_lowercase())
                    }))
                    .collect();
                let length = head
                    .iter()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |text| text.parse().unwrap())];
                stream.read_exact(&mut body).unwrap();
                let body = String::from_utf8(body).unwrap();
                let request = Request { head, body };
                noted.lock().unwrap().push(request.clone());
                let (status, more, body) = answer(number, &request);
                if !status.is_empty() {
                    // A client that has heard enough may be gone.
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                }
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// Calls as they are made without a proxy, where somebody at least vouches for servers.
pub(crate) fn http() -> crate::Http {
    crate::Http::new(crate::HttpSettings::default()).unwrap()
}
