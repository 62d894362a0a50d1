//! Header names that are not free for custom use.

/// Headers that SIP uses itself: the edge writes those that an INVITE needs. Lower case, sorted. `body` is the pseudo-header
/// of a URI that means the body (RFC 3261 §19.1.1).
#[rustfmt::skip]
const SIP: &[&str] = &[
    "accept", "accept-contact", "accept-encoding", "accept-language", "allow", "allow-events", "answer-mode",
    "authentication-info", "authorization", "body", "call-id", "contact", "content-disposition", "content-encoding",
    "content-id", "content-language", "content-length", "content-transfer-encoding", "content-type", "cseq", "date",
    "encryption", "error-info", "event", "expires", "feature-caps", "flow-timer", "from", "identity", "identity-info",
    "in-reply-to", "info-package", "join", "max-breadth", "max-forwards", "mime-version", "min-expires", "min-se",
    "p-answer-state", "p-early-media", "p-media-authorization", "p-refused-uri-list", "path", "permission-missing",
    "policy-contact", "policy-id", "priv-answer-mode", "proxy-authenticate", "proxy-authentication-info",
    "proxy-authorization", "proxy-require", "rack", "reason", "record-route", "recv-info", "refer-events-at",
    "refer-sub", "refer-to", "referred-by", "reject-contact", "replaces", "request-disposition", "require",
    "response-key", "retry-after", "route", "rseq", "security-client", "security-server", "security-verify", "server",
    "service-route", "session-expires", "session-id", "sip-etag", "sip-if-match", "subscription-state", "supported",
    "suppress-if-match", "target-dialog", "timestamp", "to", "trigger-consent", "unsupported", "user-agent", "via",
    "warning", "www-authenticate",
];

/// Compact forms of such headers.
const COMPACT: &str = "abcdefijklmnorstuvxy";

/// Headers that state who is calling, from where, for whom and at whose expense. A peer must not pass them on for someone
/// else; an operator may set them. Lower case, sorted.
#[rustfmt::skip]
const IDENTITY: &[&str] = &[
    "accept-resource-priority", "diversion", "geolocation", "geolocation-error", "geolocation-routing", "hide",
    "history-info", "p-access-network-info", "p-asserted-identity", "p-asserted-service", "p-associated-uri",
    "p-called-party-id", "p-charging-function-addresses", "p-charging-vector", "p-preferred-identity",
    "p-preferred-service", "p-profile-key", "p-served-user", "p-user-database", "p-visited-network-id", "privacy",
    "relayed-charge", "remote-party-id", "resource-priority",
];

/// Whether SIP itself uses a header of this name: no configuration may set it.
pub fn is_sips_own(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let compact = name.len() == 1 && COMPACT.contains(&name);
    compact || SIP.binary_search(&name.as_str()).is_ok()
}

/// Whether no REFER may have a header of this name copied, whatever the policy says.
pub fn is_never_copied(name: &str) -> bool {
    let identity = IDENTITY.binary_search(&name.to_ascii_lowercase().as_str());
    is_sips_own(name) || identity.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::HeaderName;

    #[test]
    fn the_lists_are_sorted_and_apart() {
        assert!(SIP.is_sorted() && IDENTITY.is_sorted());
        assert!(IDENTITY.iter().all(|name| !is_sips_own(name)));
        assert!(
            SIP.iter()
                .chain(IDENTITY)
                .all(|name| *name == name.to_ascii_lowercase())
        );
    }

    #[test]
    fn names_of_any_case_and_form_are_known() {
        for name in [
            "Via",
            "v",
            "V",
            "ROUTE",
            "Content-Type",
            "c",
            "Call-ID",
            "Body",
            "Replaces",
        ] {
            assert!(is_sips_own(name) && is_never_copied(name), "{name}");
        }
        for name in ["P-Asserted-Identity", "privacy", "Diversion"] {
            assert!(!is_sips_own(name) && is_never_copied(name), "{name}");
        }
        for name in ["X-A", "Subject", "User-to-User", "Alert-Info", "z", ""] {
            assert!(!is_sips_own(name) && !is_never_copied(name), "{name}");
        }
    }

    /// A compact form that is refused would otherwise let a refused header through by its short name.
    #[test]
    fn compact_forms_mean_reserved_headers() {
        for compact in COMPACT.chars().map(String::from) {
            if let Some(name) = HeaderName::parse(&compact) {
                let reserved = is_never_copied(name.as_str()) || name.as_str() == "Subject";
                assert!(reserved, "{compact} is {}", name.as_str());
            }
        }
        let compact = |b: u8| HeaderName::parse(&char::from(b).to_string());
        let missing = (b'a'..=b'z')
            .find(|&b| compact(b).is_some() && !is_sips_own(&char::from(b).to_string()));
        assert_eq!(missing, None);
    }
}
