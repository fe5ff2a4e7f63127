//! The served directory of a tunnel (`serve_dir: PATH`), for proxies that read files and for the start
//! of one while the daemon is down.
//!
//! It holds what a proxy may have: the pair, the CA certificate and the manifest that says which
//! generation they are. It never holds a CA key.

use std::path::Path;

use control::{Manifest, Policy};
use zeroize::Zeroizing;

use crate::credential::LintedCredential;
use crate::disk::{Access, Disk, DiskError};
use crate::swapped::{Files, Rights, Swapped};

const MANIFEST: &str = "manifest.json";
const NAMES: &[&str] = &["tls.crt", "tls.key", "ca.crt", MANIFEST];

/// An open served directory.
#[derive(Debug)]
pub(crate) struct Served {
    files: Swapped,
}

impl Served {
    /// Makes the directory, readable for `group`, and clears what a crash left.
    pub(crate) fn open(path: &Path, group: Option<u32>, disk: &Disk) -> Result<Self, DiskError> {
        let files = Swapped::open(path, Rights::Ours(Access::group(group)), disk.clone())?;
        Ok(Self { files })
    }

    /// Highest generation that was ever served from here, as far as the manifest says.
    pub(crate) fn generation(&self) -> u64 {
        let manifest = self.files.read(MANIFEST).ok().flatten();
        manifest
            .and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok())
            .map_or(0, |manifest| manifest.generation)
    }

    /// Replaces everything at once.
    pub(crate) fn write(
        &self,
        published: &LintedCredential,
        policy: Option<&Policy>,
    ) -> Result<(), DiskError> {
        let credential = published.message();
        let manifest = Manifest {
            tunnel: credential.tunnel.clone(),
            tunnel_domain: credential.tunnel_domain.clone(),
            generation: credential.generation,
            lowest: credential.lowest,
            leaf_sha256: published.leaf_sha256(),
            ca_certificates: credential.ca_certificates.clone(),
            client_ca_certificates: credential.client_ca_certificates.clone(),
            policy: policy.cloned(),
        };
        let manifest =
            serde_json::to_vec(&manifest).expect("a manifest has nothing that JSON cannot say");
        let bytes = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        let files = Files::from([
            ("tls.crt", bytes(&credential.leaf.chain)),
            ("tls.key", bytes(credential.leaf.key.expose())),
            ("ca.crt", bytes(&credential.ca_certificates.concat())),
            (MANIFEST, Zeroizing::new(manifest)),
        ]);
        self.files.replace(NAMES, &files)
    }
}
