//! Certificates of every kind, as files.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use rustls::RootCertStore;
use std::path::PathBuf;
use tempfile::TempDir;

/// A certificate authority and a place for its files.
pub(super) struct Pki {
    pub(super) directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// The files of one certificate.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) certificate: PathBuf,
    pub(super) private_key: PathBuf,
}

impl Pki {
    pub(super) fn new() -> Self {
        Self::named("Test Authority")
    }

    pub(super) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Pki {
            directory: tempfile::tempdir().unwrap(),
            authority: CertifiedIssuer::self_signed(params, key).unwrap(),
        }
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.write("ca.pem", &self.authority.pem())
    }

    pub(super) fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        Issued {
            certificate: self.write(&format!("{name}.pem"), &certificate.pem()),
            private_key: self.write(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    pub(super) fn good(&self, name: &str) -> Issued {
        self.issue(name, |_| {})
    }

    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        roots
    }
}
