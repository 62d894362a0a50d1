//! Who the other end must be: the SIP domain identity of a server certificate (RFC 5922 §7).

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

/// Verifies chain, expiry and purpose as a web client does, and the name as RFC 5922 says.
#[derive(Debug)]
pub(super) struct SipServerVerifier {
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    wildcards: bool,
}

impl SipServerVerifier {
    pub(super) fn new(roots: RootCertStore, provider: &CryptoProvider, wildcards: bool) -> Self {
        SipServerVerifier {
            roots,
            algorithms: provider.signature_verification_algorithms,
            wildcards,
        }
    }
}

impl ServerCertVerifier for SipServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        verify_identity(end_entity, server_name, self.wildcards)
            .map(|()| ServerCertVerified::assertion())
            .map_err(Error::InvalidCertificate)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// RFC 5922 §7.1: the identities are the hosts of `sip:` URIs without a user part in subjectAltName; only without any of
/// them, the DNS names there. §7.2: compared as a whole and without regard to case, no wildcards (unless `wildcards`). IP
/// literals, which the RFC leaves open, must be among the certificate's IP addresses. The common name is never looked at.
fn verify_identity(
    end_entity: &CertificateDer<'_>,
    expected: &ServerName<'_>,
    wildcards: bool,
) -> Result<(), CertificateError> {
    let certificate = webpki::EndEntityCert::try_from(end_entity)
        .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
    let uri_identities: Vec<&str> = certificate
        .valid_uri_names()
        .filter_map(sip_identity)
        .collect();
    let wanted = expected.to_str();
    let by_name = |presented: &str| {
        presented
            .trim_end_matches('.')
            .eq_ignore_ascii_case(wanted.trim_end_matches('.'))
    };
    let found = if !uri_identities.is_empty() {
        uri_identities.iter().copied().any(by_name)
    } else {
        let whole = matches!(expected, ServerName::DnsName(_))
            && certificate.valid_dns_names().any(by_name);
        let address_or_wildcard = (wildcards || matches!(expected, ServerName::IpAddress(_)))
            && certificate
                .verify_is_valid_for_subject_name(expected)
                .is_ok();
        whole || address_or_wildcard
    };
    if found {
        return Ok(());
    }
    let presented = if uri_identities.is_empty() {
        certificate.valid_dns_names().map(str::to_owned).collect()
    } else {
        uri_identities
            .iter()
            .map(|host| format!("sip:{host}"))
            .collect()
    };
    Err(CertificateError::NotValidForNameContext {
        expected: expected.to_owned(),
        presented,
    })
}

/// The host of a `sip:` URI that names a domain; `None` for another scheme (`sips:` too) or one with a user part.
fn sip_identity(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") || rest.contains('@') {
        return None;
    }
    let host_port = rest.split([';', '?']).next()?;
    match host_port.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => host_port.split(':').next(),
    }
    .filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    fn valid(names: Vec<SanType>, expected: &str, wildcards: bool) -> bool {
        let expected = ServerName::try_from(expected.to_owned()).unwrap();
        verify_identity(&certificate(names), &expected, wildcards).is_ok()
    }

    #[test]
    fn a_sip_uri_is_the_identity_and_then_dns_names_do_not_count() {
        let names = || vec![uri("sip:example.net"), dns("proxy.example.net")];
        assert!(valid(names(), "example.net", false));
        assert!(valid(names(), "EXAMPLE.net", false));
        assert!(!valid(names(), "proxy.example.net", false));
    }

    #[test]
    fn other_uris_are_no_identity_and_leave_the_dns_names() {
        for other in [
            "sips:sip.example.net",
            "https://sip.example.net",
            "sip:alice@sip.example.net",
        ] {
            let names = || vec![uri(other), dns("edge.example.net")];
            assert!(valid(names(), "edge.example.net", false), "{other}");
            assert!(!valid(names(), "sip.example.net", false), "{other}");
        }
    }

    #[test]
    fn names_match_as_a_whole_and_wildcards_only_when_allowed() {
        assert!(valid(vec![dns("a.example.net")], "a.example.net", false));
        assert!(!valid(vec![dns("example.net")], "a.example.net", false));
        assert!(!valid(vec![dns("a.example.net")], "example.net", false));
        assert!(!valid(vec![dns("*.example.net")], "a.example.net", false));
        assert!(valid(vec![dns("*.example.net")], "a.example.net", true));
        assert!(!valid(vec![dns("*.example.net")], "a.b.example.net", true));
    }

    #[test]
    fn ip_literals_need_an_ip_address_entry() {
        let address = SanType::IpAddress([192, 0, 2, 1].into());
        assert!(valid(vec![address.clone()], "192.0.2.1", false));
        assert!(!valid(vec![address], "192.0.2.2", false));
        assert!(!valid(vec![dns("example.net")], "192.0.2.1", false));
        let v6 = SanType::IpAddress("2001:db8::1".parse().unwrap());
        assert!(valid(vec![v6], "2001:db8::1", false));
    }

    #[test]
    fn the_error_lists_what_the_certificate_names() {
        let expected = ServerName::try_from("c.example.net").unwrap();
        let error = verify_identity(
            &certificate(vec![dns("a.example.net"), dns("b.example.net")]),
            &expected,
            false,
        )
        .unwrap_err();
        assert_eq!(
            super::super::fault::describe_certificate(&error),
            "certificate is not valid for c.example.net (it names a.example.net, b.example.net)"
        );
    }

    #[test]
    fn hosts_of_sip_uris() {
        assert_eq!(sip_identity("sip:example.net:5061"), Some("example.net"));
        assert_eq!(
            sip_identity("SIP:example.net;transport=tls"),
            Some("example.net")
        );
        assert_eq!(sip_identity("sip:[2001:db8::1]:5061"), Some("2001:db8::1"));
        assert_eq!(sip_identity("sip:"), None);
        assert_eq!(sip_identity("example.net"), None);
    }
}
