//! The store directory of a tunnel (`store: dir:PATH`), with the file names of the stock stack.
//!
//! It is what other tools read and a copy to start from on another host; the journal and the custody
//! are what the daemon itself goes by. A store that the stock `setup` filled is taken up: its CA and
//! its server certificate go on being used. `tunnel-id` is `keyward init`'s, and the daemon never touches it;
//! nor `tunnel-token`, unless the other side of the tunnel can be asked for it.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use pki::{Certificate, CertifiedKey, Linted, PrivateKey};
use process::Failure;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::disk::{Access, Disk, DiskError, lock};
use crate::swapped::{Files, Rights, Swapped};

const TUNNEL: &str = "tunnel-id";
const DOMAIN: &str = "tunnel-domain";
const TOKEN: &str = "tunnel-token";
const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT_CA: &str = "ca-next.crt";
const CLIENT_CA: &str = "client-ca.crt";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";
const LOCK: &str = ".keyward.lock";
/// All that we ever write.
const NAMES: &[&str] = &[DOMAIN, CA, CA_KEY, NEXT_CA, CLIENT_CA, LEAF, LEAF_KEY];

/// What the files say, as far as it can be read.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// `tnl_…`.
    pub(crate) tunnel: Option<String>,
    /// `<tunnel-domain>`.
    pub(crate) domain: Option<String>,
    /// The CA.
    pub(crate) ca: Option<StoredCa>,
    /// The server certificate; `None` also if its two files do not belong together.
    pub(crate) leaf: Option<CertifiedKey>,
    /// The server certificate alone, whatever its key.
    pub(crate) certificate: Option<Certificate>,
    /// The client CA's certificate; its key is never here.
    pub(crate) client_ca: Option<Certificate>,
}

/// A CA in a store.
#[derive(Debug)]
pub(crate) struct StoredCa {
    pub(crate) certificate: Certificate,
    /// `None`: it is kept elsewhere.
    pub(crate) key: Option<PrivateKey>,
}

/// What the files are to say. CAs are PEM.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) domain: String,
    pub(crate) ca: String,
    pub(crate) ca_key: Zeroizing<String>,
    pub(crate) next_ca: Option<String>,
    pub(crate) client_ca: Option<String>,
    /// The server certificate with its key: whoever reads the store serves it.
    pub(crate) leaf: &'a Linted,
}

/// Why a store cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A daemon, or another command.
    #[error("{} is in use{}", path.display(), pid.as_ref().map(|pid| format!(" by pid {pid}")).unwrap_or_default())]
    Locked {
        /// The store.
        path: PathBuf,
        /// Of the process that uses it.
        pid: Option<String>,
    },
    /// A file in it is not what its name says.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It cannot be read or written.
    #[error("the store cannot be opened")]
    Disk(#[from] DiskError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let next = match &error {
            StoreError::Locked { .. } => {
                "order it from the daemon: keyward rotate server-certificate; or stop the daemon"
                    .to_owned()
            }
            StoreError::File { .. } => "put the right file there, or move it away".to_owned(),
            StoreError::Disk(error) => error.next(),
        };
        Self::config("cannot open the store")
            .caused_by(&error)
            .next(next)
    }
}

/// An open store; nobody else writes it meanwhile.
#[derive(Debug)]
pub(crate) struct Store {
    files: Swapped,
    _lock: File,
}

impl Store {
    /// Makes the directory if need be, takes its lock, and clears what a crash left.
    pub(crate) fn open(path: &Path, disk: &Disk) -> Result<Self, StoreError> {
        disk.ensure_directory(path, Access::PRIVATE)?;
        Self::open_with(path, Rights::Ours(Access::PRIVATE), disk)
    }

    /// As [`open`](Self::open), for a store that stays another's: the directory is there, and it and
    /// what is replaced in it keep owner, group and mode.
    pub(crate) fn open_kept(path: &Path, disk: &Disk) -> Result<Self, StoreError> {
        Self::open_with(path, Rights::Kept, disk)
    }

    fn open_with(path: &Path, rights: Rights, disk: &Disk) -> Result<Self, StoreError> {
        let file = path.join(LOCK);
        let lock = lock(&file)?.map_err(|pid| StoreError::Locked {
            path: path.to_owned(),
            pid,
        })?;
        if let (Rights::Kept, Ok(directory)) = (rights, path.metadata()) {
            // Root may have made it, and the store's owner has to open it next. Who is neither cannot
            // give it away, and found one that he may open.
            let _ = chown(&file, Some(directory.uid()), Some(directory.gid()));
        }
        Ok(Self {
            files: Swapped::open(path, rights, disk.clone())?,
            _lock: lock,
        })
    }

    /// What is there.
    pub(crate) fn read(&self) -> Result<Contents, StoreError> {
        let ca = match self.text(CA)? {
            None => None,
            Some(text) => Some(StoredCa {
                certificate: Certificate::from_pem(&text).map_err(self.bad(CA))?,
                key: self
                    .text(CA_KEY)?
                    .map(|text| PrivateKey::from_pem(&text).map_err(self.bad(CA_KEY)))
                    .transpose()?,
            }),
        };
        let chain = self.text(LEAF)?;
        let leaf = match (&chain, self.text(LEAF_KEY)?) {
            (Some(chain), Some(key)) => match CertifiedKey::from_pem(chain, &key) {
                Ok(pair) if pair.certificate().public_key() == pair.key().public_key() => {
                    Some(pair)
                }
                // A pair that serves nobody is no reason to stop: another is issued.
                _ => None,
            },
            _ => None,
        };
        let certificate = chain.and_then(|chain| first(&chain));
        let line = |text: Zeroizing<String>| text.trim().to_owned();
        Ok(Contents {
            tunnel: self.text(TUNNEL)?.map(line),
            domain: self.text(DOMAIN)?.map(line),
            ca,
            leaf,
            certificate,
            client_ca: self.text(CLIENT_CA)?.and_then(|text| first(&text)),
        })
    }

    /// The tunnel token, as somebody put it there.
    pub(crate) fn token(&self) -> Result<Option<Zeroizing<String>>, DiskError> {
        let bytes = self.files.read(TOKEN)?;
        Ok(bytes.and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).ok()?.trim();
            (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()))
        }))
    }

    /// Replaces everything that is ours, at once. A power loss may bring back what was there before, until
    /// [`settle`](Self::settle).
    pub(crate) fn write(&self, wanted: &Wanted<'_>) -> Result<(), DiskError> {
        let mut files = Files::from([
            (DOMAIN, bytes(&wanted.domain)),
            (CA, bytes(&wanted.ca)),
            (CA_KEY, bytes(&wanted.ca_key)),
        ]);
        files.extend(pair(wanted.leaf));
        files.extend(wanted.next_ca.as_deref().map(|ca| (NEXT_CA, bytes(ca))));
        files.extend(wanted.client_ca.as_deref().map(|ca| (CLIENT_CA, bytes(ca))));
        self.files.replace(NAMES, &files)
    }

    /// Replaces the server certificate alone, and says the domain if it is given, for good; everything else
    /// stays as it is.
    pub(crate) fn write_leaf(&self, leaf: &Linted, domain: Option<&str>) -> Result<(), DiskError> {
        let mut files = self.files.read_all(NAMES)?;
        files.extend(pair(leaf));
        files.extend(domain.map(|domain| (DOMAIN, bytes(domain))));
        self.files.replace(NAMES, &files)?;
        self.files.settle()
    }

    /// Makes what was last written durable.
    pub(crate) fn settle(&self) -> Result<(), DiskError> {
        self.files.settle()
    }

    /// Says whose store it is, for good.
    pub(crate) fn write_tunnel(&self, id: &str) -> Result<(), DiskError> {
        self.files.put(TUNNEL, id.as_bytes())
    }

    /// Puts the tunnel's token there, for good.
    pub(crate) fn write_token(&self, token: &str) -> Result<(), DiskError> {
        self.files.put(TOKEN, token.as_bytes())
    }

    /// Finds out whether something can be written, before what cannot be undone.
    pub(crate) fn try_write(&self) -> Result<(), DiskError> {
        self.files.try_write()
    }

    /// Removes the CA key from every set but the current one.
    pub(crate) fn forget_old_ca_keys(&self) -> Result<(), DiskError> {
        self.files.forget(CA_KEY)
    }

    fn text(&self, name: &str) -> Result<Option<Zeroizing<String>>, StoreError> {
        let Some(bytes) = self.files.read(name)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).map_err(self.bad(name))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    fn bad<E>(&self, name: &str) -> impl FnOnce(E) -> StoreError
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = self.files.path().join(name);
        move |source| StoreError::File {
            path,
            source: Box::new(source),
        }
    }
}

/// The files of a server certificate.
fn pair(leaf: &Linted) -> [(&'static str, Zeroizing<Vec<u8>>); 2] {
    let pair = leaf.pair();
    [
        (LEAF, bytes(&pair.chain_pem())),
        (LEAF_KEY, bytes(&pair.key_pem())),
    ]
}

fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

/// The first certificate of a chain, which is the server's.
fn first(chain: &str) -> Option<Certificate> {
    const END: &str = "-----END CERTIFICATE-----";
    let (first, _) = chain.split_once(END)?;
    Certificate::from_pem(&format!("{first}{END}\n")).ok()
}
