//! A certificate authority of the test's own, and certificates of every kind as files.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use std::fs;
use std::path::{Path, PathBuf};

/// An authority whose certificate is `<name>.pem` in its directory.
pub struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate: what a peer has to trust.
    pub ca: PathBuf,
    dir: PathBuf,
}

/// The files of one certificate, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// Both in one file.
    pub both: PathBuf,
}

impl Pki {
    pub fn new(dir: &Path, name: &str) -> Pki {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        Pki {
            ca: write(dir, &format!("{name}.pem"), &authority.pem()),
            authority,
            dir: dir.to_owned(),
        }
    }

    /// A certificate for a host name or address, after `change`; the files are named after `file`.
    pub fn issue(
        &self,
        file: &str,
        host: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("signed");
        Issued::write(&self.dir, file, &certificate.pem(), &key)
    }
}

impl Issued {
    /// A certificate that nobody vouches for.
    pub fn self_signed(dir: &Path, file: &str, host: &str) -> Issued {
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        Issued::write(dir, file, &certificate.pem(), &key)
    }

    fn write(dir: &Path, file: &str, certificate: &str, key: &KeyPair) -> Issued {
        let key = key.serialize_pem();
        Issued {
            both: write(
                dir,
                &format!("{file}.both.pem"),
                &format!("{certificate}{key}"),
            ),
            certificate: write(dir, &format!("{file}.pem"), certificate),
            private_key: write(dir, &format!("{file}.key"), &key),
        }
    }
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(name);
    // Some programs warn about keys that others may read.
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    std::io::Write::write_all(&mut file.expect("a new file"), text.as_bytes()).expect("written");
    path
}
