//! Everything that a configuration names, read and checked: what `serve` begins with, and all that
//! `check` looks at, so that neither knows better than the other.
//!
//! Only files are opened. The state and the ports are `serve`'s alone.

use std::sync::Arc;

use process::{Clock, Failure};

use crate::asn::Asns;
use crate::ca_files::OwnCas;
use crate::config::Config;
use crate::directory::Directory;
use crate::fixed::Fixed;
use crate::relay::Front;

/// What is served from files.
pub struct Prepared {
    /// The edge's own certificate.
    pub front: Front,
    /// CAs of that certificate.
    pub cas: OwnCas,
    /// Who has which address.
    pub asns: Asns,
    /// Tunnels, if they come from a file.
    pub tunnels: Option<Fixed>,
}

impl Prepared {
    /// Reads what `config` names, for the edge `instance`.
    ///
    /// # Errors
    ///
    /// Exit code 78: a file that cannot be used, with the next thing to do.
    pub fn load(config: &Config, instance: String, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let name = &config.name;
        let front = Front::load(&config.certificate, &config.key, name, clock.clone());
        let front = front.map_err(|error| {
            let next = format!(
                "write a PEM chain for api.{name} and agents.{name} that is in date into \
                 certificate.cert_file, and its key into key_file"
            );
            Failure::config("the edge's own certificate cannot be served")
                .caused_by(&error)
                .next(next)
        })?;
        let cas = OwnCas::load(config.ca_files.clone()).map_err(|error| {
            Failure::config("certificate.ca_files cannot be used")
                .caused_by(&error)
                .next("name files with one or two CA certificates in PEM; none for a public one")
        })?;
        let asns = config.asns.clone().map(Asns::load).transpose();
        let asns = asns.map_err(|error| {
            Failure::config("asn_file cannot be used")
                .caused_by(&error)
                .next("write a line for each range, or take asn_file out")
        })?;
        let tunnels = config.tunnels.clone().map(|file| {
            let directory = Directory::new(instance, clock, None);
            Fixed::load(file, directory, asns.is_some())
        });
        Ok(Self {
            front,
            cas,
            asns: asns.unwrap_or_default(),
            tunnels: tunnels.transpose()?,
        })
    }
}
