//! What a file of tunnels may say.

use pki::{Authority, AuthorityProfile};
use process::{Clock, SystemClock};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A file of one tunnel with these lines of `access`; FOLDER stands for the folder.
    fn load(&self, access: &str) -> Result<Fixed, Failure> {
        let access = access.replace("FOLDER", &self.0.path().display().to_string());
        let text = format!("tunnels: [{{id: tnl_1, domain: t.example, access: {{{access}}}}}]\n");
        let path = self.write("tunnels.yaml", &text);
        let directory = Directory::new(String::new(), Arc::new(SystemClock), None);
        Fixed::load(path, directory, false)
    }

    fn refused(&self, access: &str) -> String {
        let failure = self.load(access).err().expect(access);
        assert_eq!(failure.exit(), process::Exit::Config);
        failure.to_string()
    }
}

fn ca() -> String {
    let now = SystemClock.wall();
    let ca = Authority::generate(&AuthorityProfile::client("CA"), now).unwrap();
    ca.certificate().to_pem()
}

#[test]
fn a_client_ca_file_without_a_certificate_is_refused_and_never_means_that_none_is_asked_for() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let empty = folder.write("empty.pem", "");
    assert_eq!(
        folder.refused("client_ca_files: [FOLDER/empty.pem], cidrs: ['127.0.0.0/8']"),
        format!(
            "tunnels_file cannot be used\n  cause: tunnel \"tnl_1\": access.client_ca_files: {} \
             holds no certificate\n  next: write the PEM certificates of one or two CAs there, or \
             take the file off the list",
            empty.display()
        )
    );
    folder.write("ca.pem", &ca());
    let fixed = folder.load("client_ca_files: [FOLDER/ca.pem]").unwrap();
    let entry = fixed.directory().tunnel("tnl_1").unwrap();
    assert!(entry.access.has_client_rules());
}

#[test]
fn the_file_is_checked_as_the_tunnels_api_checks_what_is_put() {
    let folder = Folder(tempfile::tempdir().unwrap());
    folder.write("ca.pem", &ca());
    folder.write("three.pem", &[ca(), ca(), ca()].concat());
    for (access, what) in [
        ("client_ca_files: [FOLDER/absent.pem]", "cannot read"),
        ("client_ca_files: [FOLDER/three.pem]", "hold 3 certificates"),
        (
            "client_ca_files: [FOLDER/ca.pem], denied: ['AB:CD:EF']",
            "access.denied[0]: must be 64",
        ),
        ("cidrs: ['192.0.2.17/24']", "access.cidrs[0]: must be"),
        ("cidrs: ['192.0.2.0/24'], asns: [0]", "access.asns"),
        ("cidrs: ['192.0.2.0/24'], streams: 0", "access.limits"),
    ] {
        let said = folder.refused(access);
        assert!(said.contains(what), "{said} for {what}");
    }
    assert_eq!(
        folder.refused("cidrs: ['192.0.2.0/24'], asns: [64500]"),
        "tunnels_file cannot be used\n  cause: tunnel \"tnl_1\": access.asns would let nobody in, because \
         no caller's number is known without asn_file\n  next: set asn_file in the configuration, or \
         leave access.asns empty"
    );
    let upper = format!(
        "client_ca_files: [FOLDER/ca.pem], denied: ['{}']",
        "AB".repeat(32)
    );
    folder.load(&upper).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_ca_file_that_is_replaced_counts_and_a_broken_one_changes_nothing() {
    let folder = Folder(tempfile::tempdir().unwrap());
    folder.write("ca.pem", &ca());
    let fixed = folder.load("client_ca_files: [FOLDER/ca.pem]").unwrap();
    let directory = fixed.directory().clone();
    let access = || directory.tunnel("tnl_1").unwrap().access.clone();
    let tasks = Tasks::new();
    tasks.essential("tunnels", fixed.watch(tasks.clone()));
    let before = access();
    folder.write("ca.pem", "");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(Access::is_same(&before, &access()), "the last good one");
    folder.write("ca.pem", &ca());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!Access::is_same(&before, &access()), "taken");
    tasks.stop();
}

#[tokio::test(start_paused = true)]
async fn a_time_that_no_clock_can_show_is_refused_and_the_last_good_tunnels_stay() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let fixed = folder.load("").unwrap();
    let directory = fixed.directory().clone();
    let tasks = Tasks::new();
    tasks.essential("tunnels", fixed.watch(tasks.clone()));
    let told = |cut_at: u64| {
        let secret = format!("{{id: a, sha256: '{}', cut_at: {cut_at}}}", "00".repeat(32));
        let text = format!("tunnels: [{{id: tnl_2, domain: u.example, secrets: [{secret}]}}]\n");
        folder.write("tunnels.yaml", &text)
    };
    let path = told(u64::MAX);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!tasks.is_stopping() && tasks.failure().is_none());
    assert!(directory.tunnel("tnl_1").is_some() && directory.tunnel("tnl_2").is_none());
    let other = Directory::new(String::new(), Arc::new(SystemClock), None);
    let refused = Fixed::load(path, other, false).err().unwrap().to_string();
    let said = "tunnel \"tnl_2\": \"18446744073709551615\" is no time in Unix seconds";
    assert!(refused.contains(said), "{refused}");
    told(253_402_300_799);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(directory.tunnel("tnl_1").is_none() && directory.tunnel("tnl_2").is_some());
    tasks.stop();
}
