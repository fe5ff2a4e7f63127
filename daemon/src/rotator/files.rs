//! What goes out: the board for subscribers, the store for other tools, the served directory for
//! proxies that read files.

use std::sync::Arc;

use control::Policy;
use pki::{Certificate, Fingerprint, Linted};

use super::tunnel::{Desk, Tunnel};
use crate::credential::{LintedCredential, Terms};
use crate::disk::DiskError;
use crate::journal::{Entry, Kind};
use crate::rotation::Leaf;
use crate::rotation::authority::Ca;
use crate::store::Wanted;

/// What the journal says of a resource that has generations and nothing else.
#[derive(serde::Serialize, serde::Deserialize)]
struct Numbered {
    generation: u64,
    /// SHA-256 of the content.
    sha256: String,
}

impl Tunnel {
    /// What proxies get.
    pub(super) fn credential(&mut self, leaf: &Leaf, linted: Linted) -> LintedCredential {
        let fallback = self.load_fallback();
        let trusted = self.ca.trusted().filter_map(|ca| self.certificate(ca));
        let client = self.client_ca().and_then(|ca| self.certificate(ca));
        let terms = Terms {
            tunnel: self.name.clone(),
            generation: leaf.generation,
            tunnel_domain: self.config.domain.clone(),
            ca_certificates: trusted.map(Certificate::to_pem).collect(),
            client_ca_certificates: client.map(Certificate::to_pem).into_iter().collect(),
            fallback,
        };
        LintedCredential::new(linted, terms)
    }

    /// Writes store and served directory for a leaf. They are copies: if they cannot be written the
    /// proxies are served all the same, and it is tried again in each turn.
    pub(super) fn write_files(&mut self, leaf: &Leaf, credential: &LintedCredential) {
        let outcome = self.write_store(leaf, credential).and_then(|()| {
            let policy = self.publication.policy.as_deref();
            match &self.served {
                Some(served) => served.write(credential, policy),
                None => Ok(()),
            }
        });
        match outcome {
            Ok(()) => {
                self.facts.files_stale = false;
                self.well("files");
            }
            Err(error) => {
                self.facts.files_stale = true;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let cause = cause.unwrap_or_default();
                self.trouble("files", format!("{error}: {cause}"));
            }
        }
    }

    fn write_store(&self, leaf: &Leaf, credential: &LintedCredential) -> Result<(), DiskError> {
        if self.facts.conflict.is_some() {
            return Ok(());
        }
        // The CA in the store is the one that the leaf in the store was signed by.
        let mut cas = self.ca.active.iter().chain(&self.ca.old);
        let ca = cas
            .find(|ca| ca.sha256 == leaf.issuer)
            .or(self.ca.active.as_ref());
        let Some((ca, certificate)) = ca.and_then(|ca| Some((ca, self.certificate(ca)?))) else {
            return Ok(());
        };
        let standby = self.ca.standby.as_ref();
        self.store.write(&Wanted {
            domain: self.config.domain.clone(),
            ca: certificate.to_pem(),
            ca_key: self.ca_key(ca)?.unwrap_or_default(),
            next_ca: standby
                .and_then(|ca| self.certificate(ca))
                .map(Certificate::to_pem),
            client_ca: credential.message().client_ca_certificates.first().cloned(),
            leaf: credential.linted(),
        })
    }

    /// Writes the files again if they lag behind.
    pub(super) fn refresh_files(&mut self) {
        if !self.facts.files_stale {
            return;
        }
        let serving = self.leaf.serving.clone();
        if let Some((leaf, credential)) = serving.zip(self.publication.credential.clone()) {
            self.write_files(&leaf, &credential);
        }
    }

    /// The policy, which counts its own generations.
    pub(super) fn publish_rest(&mut self, desk: &mut Desk<'_>) {
        if let Err(error) = self.publish_policy(desk) {
            self.trouble("journal", format!("policy: {error}"));
        } else {
            self.well("journal");
        }
        self.show(desk);
    }

    fn publish_policy(&mut self, desk: &mut Desk<'_>) -> Result<(), DiskError> {
        if self.facts.policy_published {
            return Ok(());
        }
        let mut policy = Policy {
            tunnel: self.name.clone(),
            generation: 0,
            routes: self.config.routes.clone(),
            denied: Vec::new(),
        };
        let content = serde_json::to_vec(&policy).unwrap_or_default();
        policy.generation = self.number(desk, Kind::Policy, &content)?;
        self.publication.policy = Some(Arc::new(policy));
        self.facts.policy_published = true;
        self.facts.files_stale = true;
        self.refresh_files();
        Ok(())
    }

    /// The generation of a content: the last one if it is the same, or a new one.
    fn number(&self, desk: &mut Desk<'_>, kind: Kind, content: &[u8]) -> Result<u64, DiskError> {
        let sha256 = Fingerprint::of(content).to_string();
        let last = desk.journal.last(&self.name, kind);
        let last = last
            .and_then(|record| serde_json::from_value::<Numbered>(record.entry.state.clone()).ok());
        if let Some(last) = last.as_ref().filter(|last| last.sha256 == sha256) {
            return Ok(last.generation);
        }
        let next = Numbered {
            // The first one is the time: above what a state that was lost had given away.
            generation: match &last {
                Some(last) => last.generation + 1,
                None => desk.moment.unix(),
            },
            sha256,
        };
        let entry = Entry {
            phase: "published".to_owned(),
            old_ref: last.map(|last| last.sha256),
            new_ref: Some(next.sha256.clone()),
            state: serde_json::to_value(&next).unwrap_or_default(),
            ..Entry::default()
        };
        desk.record(&self.name, kind, entry)?;
        Ok(next.generation)
    }

    /// Puts what is in force on the board, if it is not there yet.
    pub(super) fn show(&self, desk: &Desk<'_>) {
        desk.board.publications.send_if_modified(|publications| {
            let shown = publications.entry(self.name.clone()).or_default();
            let news = *shown != self.publication;
            if news {
                *shown = self.publication.clone();
            }
            news
        });
    }

    /// The client CA in force, where one is configured: one that was, is kept and asks nobody.
    pub(super) fn client_ca(&self) -> Option<&Ca> {
        let wanted = self.config.client_ca.is_some();
        self.client_ca.active.as_ref().filter(|_| wanted)
    }

    /// What a leaf that is published now says of its client CA.
    pub(super) fn wanted_client_ca(&self) -> Option<String> {
        self.client_ca().map(|ca| ca.sha256.clone())
    }

    pub(super) fn certificate(&self, ca: &Ca) -> Option<&Certificate> {
        self.certificates.get(&ca.id)
    }

    /// A CA certificate by its fingerprint.
    pub(super) fn certificate_of(&self, sha256: &str) -> Option<&Certificate> {
        let mut cas = self.ca.trusted();
        let ca = cas.find(|ca| ca.sha256 == sha256)?;
        self.certificate(ca)
    }
}
