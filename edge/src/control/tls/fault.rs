//! rustls errors as the texts of `CloseReason::TlsFailed`, the log and the timeline: each names whose fault it is.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// One line that names the fault of a TLS connection.
pub fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => describe_certificate(fault),
        Error::NoCertificatesPresented => "peer showed no certificate".to_owned(),
        Error::AlertReceived(alert) => format!("peer refused: {}", alert_text(*alert)),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "protocol version: peer speaks neither TLS 1.2 nor TLS 1.3".to_owned(),
        // Optional in TLS 1.2 on paper; in practice every client that speaks it sends the extension.
        Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired) => {
            "protocol version: peer offers no signature algorithms, as before TLS 1.2".to_owned()
        }
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "no cipher suite in common".to_owned()
        }
        Error::PeerIncompatible(other) => format!("peer is incompatible: {other:?}"),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            format!("peer does not speak TLS here: {error}")
        }
        other => other.to_string(),
    }
}

/// What is wrong with a certificate.
pub(super) fn describe_certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired at {}", utc(*not_after))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", utc(*not_before))
        }
        CertificateError::UnknownIssuer => {
            "certificate has an unknown issuer (self-signed, or its CA or an intermediate is missing)"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "certificate was not signed by the authority it names (one of that name is trusted, with another key)"
                .to_owned()
        }
        CertificateError::NotValidForName => "certificate is not valid for the name".to_owned(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = if presented.is_empty() {
                "no DNS name or SIP domain".to_owned()
            } else {
                presented.join(", ")
            };
            format!(
                "certificate is not valid for {} (it names {names})",
                expected.to_str()
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not meant for this purpose (extended key usage)".to_owned()
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "certificate is that of a CA (CA:TRUE), which may not identify a server".to_owned()
            }
            _ => format!("certificate cannot be used: {other}"),
        },
        other => format!("certificate cannot be used: {other}"),
    }
}

/// RFC 8446 §6.2 in words, for the alerts that tell an operator what to change; the name for others.
fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::UnknownCA => "it does not know the issuer of our certificate",
        AlertDescription::CertificateExpired => "our certificate is expired",
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it demands a client certificate"
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => "it does not accept our certificate",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.2 or 1.3",
        AlertDescription::HandshakeFailure => "no parameters in common",
        AlertDescription::UnrecognisedName => "it does not serve this name",
        other => return format!("alert {other:?}"),
    };
    format!("{text} (alert {alert:?})")
}

/// A time in a certificate, as RFC 3339.
fn utc(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(
            || format!("{} s after 1970", time.as_secs()),
            |at| at.to_string(),
        )
}
