//! One list of nouns for everything that can be rotated, the same in every command.

use std::fmt;

/// What an operator can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// The certificate that proxies serve.
    ServerCertificate,
    /// The CA that signs it.
    Ca,
    /// The CA of the callers' certificates.
    ClientCa,
    /// One caller's certificate.
    ClientCertificate,
    /// What a connector dials with.
    TunnelToken,
    /// A secret that two sides know.
    SharedSecret,
    /// What signs the trust bundle.
    BundleKey,
    /// What signs the control channel's own certificates.
    ControlCa,
}

impl Noun {
    /// Every noun, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::ServerCertificate,
        Self::Ca,
        Self::ClientCa,
        Self::ClientCertificate,
        Self::TunnelToken,
        Self::SharedSecret,
        Self::BundleKey,
        Self::ControlCa,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerCertificate => "server-certificate",
            Self::Ca => "ca",
            Self::ClientCa => "client-ca",
            Self::ClientCertificate => "client-certificate",
            Self::TunnelToken => "tunnel-token",
            Self::SharedSecret => "shared-secret",
            Self::BundleKey => "bundle-key",
            Self::ControlCa => "control-ca",
        }
    }

    /// The noun that is written `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|noun| noun.name() == name)
    }

    /// Whether this version can rotate it.
    pub fn rotates(self) -> bool {
        matches!(
            self,
            Self::ServerCertificate | Self::Ca | Self::TunnelToken | Self::SharedSecret
        )
    }

    /// The nouns that this version can rotate.
    pub fn rotated() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|noun| noun.rotates())
    }

    /// The same, for a person.
    pub fn rotating() -> String {
        let names: Vec<&str> = Self::rotated().map(Self::name).collect();
        names.join(", ")
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
