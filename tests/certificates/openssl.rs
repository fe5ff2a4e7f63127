//! The real `openssl`, with a directory of its own to work in.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use pki::{Certificate, PrivateKey};
use tempfile::TempDir;

/// A directory with files made by and for `openssl`, gone with the value.
pub(super) struct OpenSsl {
    directory: TempDir,
}

/// Extensions of a certificate to make, `name` to `value` as in `openssl.cnf`.
pub(super) type Extensions = Vec<(&'static str, String)>;

impl OpenSsl {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { directory }
    }

    /// Writes a file and gives its path.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("the temporary directory can be written");
        path
    }

    /// Where a file of this name is or would be.
    pub(super) fn path(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        path.into_os_string()
            .into_string()
            .expect("a path in UTF-8")
    }

    pub(super) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("openssl wrote the file")
    }

    /// Runs it, however it ends.
    pub(super) fn attempt(&self, arguments: &str) -> Output {
        Command::new("openssl")
            .args(arguments.split_ascii_whitespace())
            .current_dir(self.directory.path())
            .env_clear()
            .output()
            .expect("openssl is installed")
    }

    /// Runs it and gives what it printed; it must succeed.
    pub(super) fn run(&self, arguments: &str) -> String {
        let output = self.attempt(arguments);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "openssl {arguments}: {out}{err}");
        out.into_owned()
    }

    /// Makes `NAME.key`: `EC:P-256`, `RSA:2048` and the like.
    pub(super) fn key(&self, name: &str, kind: &str) {
        let (algorithm, size) = kind.split_once(':').expect("algorithm and size");
        let option = match algorithm {
            "EC" => "ec_paramgen_curve",
            _ => "rsa_keygen_bits",
        };
        self.run(&format!(
            "genpkey -quiet -algorithm {algorithm} -pkeyopt {option}:{size} -out {name}.key"
        ));
    }

    /// Makes the self-signed `NAME.crt` for `NAME.key`.
    pub(super) fn authority(
        &self,
        name: &str,
        subject: &str,
        digest: &str,
        extensions: &Extensions,
    ) {
        let configuration = format!(
            "[req]\ndistinguished_name = name\n[name]\n[extensions]\n{}",
            lines(extensions)
        );
        self.file(&format!("{name}.cnf"), &configuration);
        self.run(&format!(
            "req -x509 -new -key {name}.key -out {name}.crt -subj {subject} -days 3650 -{digest} \
             -config {name}.cnf -extensions extensions"
        ));
    }

    /// Makes `NAME.crt` for `NAME.key`, signed by `CA.key` in the name of `CA.crt`.
    pub(super) fn certificate(
        &self,
        name: &str,
        ca: &str,
        serial: &str,
        digest: &str,
        extensions: &Extensions,
    ) {
        self.file(&format!("{name}.ext"), &lines(extensions));
        self.run(&format!(
            "req -new -key {name}.key -subj /CN=tunnel.example -out {name}.csr"
        ));
        self.run(&format!(
            "x509 -req -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -set_serial {serial} -days 6 \
             -{digest} -extfile {name}.ext -out {name}.crt"
        ));
    }

    /// Reads `NAME.crt`.
    pub(super) fn read_certificate(&self, name: &str) -> Certificate {
        Certificate::from_pem(&self.read(&format!("{name}.crt"))).expect("a certificate")
    }

    /// Reads `NAME.key`.
    pub(super) fn read_key(&self, name: &str) -> PrivateKey {
        PrivateKey::from_pem(&self.read(&format!("{name}.key"))).expect("a key")
    }
}

fn lines(extensions: &Extensions) -> String {
    extensions
        .iter()
        .fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name} = {value}").expect("a string can be written");
            text
        })
}
