//! Certificate and key files, loaded and checked once, at start and at a reload.

use super::fault::describe_certificate;
use super::identity::SipServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a `[[listen]]` with `transport = "tls"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsServerFiles {
    /// PEM: the listener's certificate, then its intermediates.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub private_key: PathBuf,
    /// PEM: certificate authorities. Given: a peer must show a certificate that one of them signed.
    pub client_ca: Option<PathBuf>,
}

/// The files of a `[[trunk]]` whose `uri` is TLS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsClientFiles {
    /// PEM: certificate authorities instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM: shown when the peer asks for a client certificate; with `private_key`.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Let `*.example.net` in a certificate match one label. RFC 5922 §7.2 forbids it, so it is off unless asked for.
    pub wildcards: bool,
}

/// What is wrong with a certificate or key file.
#[derive(thiserror::Error, Debug)]
pub enum TlsFileError {
    #[error("{}: cannot read: {error}", path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{}: not PEM: {fault}", path.display())]
    NotPem { path: PathBuf, fault: String },
    #[error("{}: holds no certificate (expected a PEM block CERTIFICATE)", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{}: holds no private key (expected a PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY, not encrypted)", path.display())]
    NoPrivateKey { path: PathBuf },
    #[error("{}: certificate {number} cannot be used: {fault}", path.display())]
    BadCertificate {
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        fault: String,
    },
    #[error("{}: private key cannot be used: {fault}", path.display())]
    BadPrivateKey { path: PathBuf, fault: String },
    #[error("{} is not the private key of {}", private_key.display(), certificate.display())]
    KeyMismatch {
        certificate: PathBuf,
        private_key: PathBuf,
    },
    #[error("a client certificate needs both tls_certificate and tls_private_key")]
    HalfAClientCertificate,
    #[error("the system has no usable certificate authorities ({fault}); name some with tls_ca")]
    NoSystemRoots { fault: String },
    #[error("{}: {fault}", path.display())]
    BadAuthorities { path: PathBuf, fault: String },
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The cryptography of every TLS connection: AWS-LC, TLS 1.3 and 1.2.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// TLS as a server: at least TLS 1.2, sessions resumable on every core through one ticket key.
pub fn server_config(files: &TlsServerFiles) -> Result<Arc<ServerConfig>, TlsFileError> {
    let chain = certificates(&files.certificate)?;
    let key = private_key(&files.private_key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFileError::Setup(error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider())
                    .build()
                    .map_err(|error| TlsFileError::BadAuthorities {
                        path: path.clone(),
                        fault: error.to_string(),
                    })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| pair_error(&files.certificate, &files.private_key, &error))?;
    config.ticketer = aws_lc_rs::Ticketer::new()
        .map_err(|error| TlsFileError::Setup(format!("session tickets: {error}")))?;
    Ok(Arc::new(config))
}

/// TLS as a client: at least TLS 1.2; chain, expiry and name of the peer verified (RFC 5922).
pub fn client_config(files: &TlsClientFiles) -> Result<Arc<ClientConfig>, TlsFileError> {
    let roots = match &files.ca {
        Some(path) => roots(path)?,
        None => system_roots()?,
    };
    let verifier = SipServerVerifier::new(roots, &provider(), files.wildcards);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFileError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&files.certificate, &files.private_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| pair_error(certificate, key, &error))?,
        _ => return Err(TlsFileError::HalfAClientCertificate),
    };
    Ok(Arc::new(config))
}

/// What a peer will object to in a certificate file that loads: an end-entity certificate that is expired or not yet valid.
/// Texts for the log and for `sip-edge check`; empty when there is nothing to say.
pub fn warnings(certificate: &Path) -> Result<Vec<String>, TlsFileError> {
    let mut chain = certificates(certificate)?.into_iter();
    let Some(end_entity) = chain.next() else {
        return Ok(Vec::new());
    };
    let bad = |fault: webpki::Error| TlsFileError::BadCertificate {
        path: certificate.to_path_buf(),
        number: 1,
        fault: fault.to_string(),
    };
    let parsed = webpki::EndEntityCert::try_from(&end_entity).map_err(bad)?;
    // Without trust anchors the path never completes; the validity period is judged before that.
    let verdict = parsed.verify_for_usage(
        provider().signature_verification_algorithms.all,
        &[],
        &[],
        UnixTime::now(),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    let fault = match verdict {
        Err(webpki::Error::CertExpired { time, not_after }) => {
            rustls::CertificateError::ExpiredContext { time, not_after }
        }
        Err(webpki::Error::CertNotValidYet { time, not_before }) => {
            rustls::CertificateError::NotValidYetContext { time, not_before }
        }
        _ => return Ok(Vec::new()),
    };
    Ok(vec![format!(
        "{}: {}",
        certificate.display(),
        describe_certificate(&fault)
    )])
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    std::fs::read(path).map_err(|error| TlsFileError::Read {
        path: path.to_path_buf(),
        error,
    })
}

fn pem_error(path: &Path, error: &pem::Error) -> TlsFileError {
    TlsFileError::NotPem {
        path: path.to_path_buf(),
        fault: error.to_string(),
    }
}

/// All certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem_error(path, &error))?;
    if chain.is_empty() {
        return Err(TlsFileError::NoCertificate {
            path: path.to_path_buf(),
        });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsFileError::NoPrivateKey {
            path: path.to_path_buf(),
        },
        error => pem_error(path, &error),
    })
}

/// A file of certificate authorities, each of which must be usable.
fn roots(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(path)?.into_iter().enumerate() {
        store
            .add(certificate)
            .map_err(|error| TlsFileError::BadCertificate {
                path: path.to_path_buf(),
                number: index + 1,
                fault: super::describe(&error),
            })?;
    }
    Ok(store)
}

/// The system's certificate authorities; those that cannot be parsed are left out, as every TLS client does.
fn system_roots() -> Result<RootCertStore, TlsFileError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let fault = found
            .errors
            .first()
            .map_or_else(|| "none found".to_owned(), ToString::to_string);
        return Err(TlsFileError::NoSystemRoots { fault });
    }
    Ok(store)
}

/// Why a certificate and a key cannot be used together.
fn pair_error(certificate: &Path, key: &Path, error: &rustls::Error) -> TlsFileError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsFileError::KeyMismatch {
            certificate: certificate.to_path_buf(),
            private_key: key.to_path_buf(),
        },
        rustls::Error::InvalidCertificate(fault) => TlsFileError::BadCertificate {
            path: certificate.to_path_buf(),
            number: 1,
            fault: describe_certificate(fault),
        },
        other => TlsFileError::BadPrivateKey {
            path: key.to_path_buf(),
            fault: other.to_string(),
        },
    }
}
