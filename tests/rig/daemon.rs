//! A daemon that is a control socket: it says what a test tells it to, and nothing by itself.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use control::{
    Credential, FromDaemon, FromSubscriber, Hello, Policy, Reader, Reason, Resource, Version,
    Welcome, Writer,
};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::{TUNNEL, within};

/// A control socket in a directory of its own, open to every uid.
pub(crate) struct Daemon {
    listener: UnixListener,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

/// What a proxy says to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ack,
    Nack(Reason),
}

impl Daemon {
    pub(crate) fn bind() -> Self {
        Self::bind_in(tempfile::tempdir().unwrap())
    }

    /// The same in `directory`, where [`socket_in`](Self::socket_in) says.
    pub(crate) fn bind_in(directory: tempfile::TempDir) -> Self {
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(directory.path(), mode(0o755)).unwrap();
        let socket = Self::socket_in(directory.path());
        let listener = UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, mode(0o666)).unwrap();
        Self {
            listener,
            socket,
            _directory: directory,
        }
    }

    pub(crate) fn socket_in(directory: &Path) -> PathBuf {
        directory.join("control.sock")
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The next connection, before a word was said.
    pub(crate) async fn connection(&self) -> UnixStream {
        let accepted = within("a subscription", self.listener.accept()).await;
        accepted.unwrap().0
    }

    /// The next subscription, welcomed.
    pub(crate) async fn accept(&self) -> Session {
        self.accept_with(&[TUNNEL]).await
    }

    /// The same by a daemon that has `tunnels`.
    pub(crate) async fn accept_with(&self, tunnels: &[&str]) -> Session {
        Session::welcome(self.connection().await, tunnels).await
    }
}

/// A subscription that stands.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    reader: Reader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Session {
    async fn welcome(stream: UnixStream, tunnels: &[&str]) -> Self {
        let (read, write) = stream.into_split();
        let mut reader = Reader::new(read);
        let first = within("a hello", reader.next::<FromSubscriber>()).await;
        let Some(FromSubscriber::Hello(hello)) = first.unwrap() else {
            panic!("the first line is no hello");
        };
        let welcome = FromDaemon::Welcome(Welcome {
            protocol: Version::CURRENT,
            tunnels: tunnels.iter().map(|&name| name.to_owned()).collect(),
        });
        let mut this = Self {
            hello,
            reader,
            write,
        };
        this.send(&welcome).await;
        this
    }

    pub(crate) async fn send(&mut self, message: &FromDaemon) {
        let mut writer = Writer::new(&mut self.write);
        within("writing", writer.send(message)).await.unwrap();
    }

    /// Writes bytes that are no message; an error is the subscriber's having left.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("writing", self.write.write_all(bytes)).await
    }

    /// Waits until the subscriber has left.
    pub(crate) async fn left(mut self) {
        within("leaving", async {
            while let Ok(Some(_)) = self.reader.next::<FromSubscriber>().await {}
        })
        .await;
    }

    /// The next thing that the subscriber says.
    pub(crate) async fn next(&mut self) -> FromSubscriber {
        let message = within("a message", self.reader.next()).await;
        message.unwrap().expect("the subscriber stays")
    }

    /// Publishes a credential and waits for the answer to it.
    pub(crate) async fn offer(&mut self, credential: &Credential) -> Answer {
        self.send(&FromDaemon::Credential(credential.clone())).await;
        self.answer(Resource::Credential, credential.generation)
            .await
    }

    /// Publishes a policy and waits for the answer to it.
    pub(crate) async fn policy(&mut self, policy: &Policy) -> Answer {
        self.send(&FromDaemon::Policy(policy.clone())).await;
        self.answer(Resource::Policy, policy.generation).await
    }

    /// Waits for the answer to one resource; reports in between are read and forgotten.
    pub(crate) async fn answer(&mut self, resource: Resource, generation: u64) -> Answer {
        loop {
            match self.next().await {
                FromSubscriber::Ack(ack)
                    if ack.resource == resource && ack.generation == generation =>
                {
                    return Answer::Ack;
                }
                FromSubscriber::Nack(nack)
                    if nack.resource == resource && nack.generation == generation =>
                {
                    return Answer::Nack(nack.reason);
                }
                _ => {}
            }
        }
    }
}
