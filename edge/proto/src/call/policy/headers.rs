//! Which headers of a REFER, and of the URI in its Refer-To, reach the new INVITE.

use super::reserved::is_never_copied;
use crate::config::TransferPolicy;

/// The most headers copied to one INVITE.
pub const MAX_COPIED_HEADERS: usize = 32;
/// The most bytes of names and values copied to one INVITE.
pub const MAX_COPIED_BYTES: usize = 8192;

/// Names by which a platform tells the live agent whose call it is. What the platform itself sends in the REFER wins over any
/// header of the same name that someone configured.
const PLATFORM_NAMES: [&str; 2] = ["X-Conversation-ID", "X-Caller-ID"];

/// An entry of `pass_headers` or `drop_headers`: a name, or the beginning of names before a final `*`. Case does not matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeaderPattern<'a> {
    text: &'a str,
}

impl<'a> HeaderPattern<'a> {
    /// `None`: not a header name, or a `*` that is not at the end.
    pub fn parse(text: &'a str) -> Option<HeaderPattern<'a>> {
        let name = text.strip_suffix('*').unwrap_or(text);
        let valid = !name.contains('*') && name.bytes().all(is_name_byte);
        (valid && !text.is_empty()).then_some(HeaderPattern { text })
    }

    pub fn matches(self, name: &str) -> bool {
        match self.text.strip_suffix('*') {
            None => name.eq_ignore_ascii_case(self.text),
            Some(prefix) => name
                .get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
        }
    }
}

/// A byte of a header name (RFC 3261 §25.1 token).
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

/// Where the headers of the new INVITE come from.
#[derive(Clone, Copy, Debug)]
pub struct HeaderSources<'a> {
    /// All headers of the REFER, names as received.
    pub refer: &'a [(&'a str, &'a str)],
    /// Headers inside the Refer-To URI, unescaped: [`super::Target::embedded`].
    pub embedded: &'a [(String, String)],
    /// `headers` of the trunk that the INVITE is sent to.
    pub trunk: &'a [(String, String)],
}

/// What [`copy_headers`] decided.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopiedHeaders {
    /// To be copied, names and order as received.
    pub copied: Vec<(String, String)>,
    /// The trunk's own headers that stay: all but those that the platform overrides.
    pub own: Vec<(String, String)>,
    /// Headers that look meant for the new INVITE and are not copied, for the timeline. Headers that the REFER needs for
    /// itself are not listed.
    pub dropped: Vec<DroppedHeader>,
}

/// A header that was not copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DroppedHeader {
    pub name: String,
    /// What forbade it: an entry of `drop_headers`, or a sentence.
    pub rule: String,
}

/// Applies the transferor's `pass_headers` and `drop_headers` to the headers of its REFER and of the Refer-To URI.
///
/// `drop_headers` wins over `pass_headers`. Of several headers with one name, one is copied: the REFER's for X-Conversation-ID
/// and X-Caller-ID, which also overrides the trunk's own, else the Refer-To URI's, which is addressed to the new request; the
/// trunk's own `headers` win over both. Headers that SIP itself uses are never copied.
pub fn copy_headers(policy: &TransferPolicy, sources: HeaderSources<'_>) -> CopiedHeaders {
    let mut result = CopiedHeaders::default();
    let refer = sources.refer.iter().copied();
    let embedded = sources
        .embedded
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()));
    let (platform, others): (Vec<_>, Vec<_>) = refer.partition(|(name, _)| is_platform(name));
    for (name, value) in platform {
        judge(policy, &mut result, &[], name, value, Origin::Refer);
    }
    let kept = |(name, _): &&(String, String)| {
        !(is_platform(name)
            && result
                .copied
                .iter()
                .any(|(n, _)| n.eq_ignore_ascii_case(name)))
    };
    let own: Vec<_> = sources.trunk.iter().filter(kept).cloned().collect();
    for (name, value) in embedded {
        judge(policy, &mut result, &own, name, value, Origin::Embedded);
    }
    for (name, value) in others {
        judge(policy, &mut result, &own, name, value, Origin::Refer);
    }
    result.own = own;
    result
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Refer,
    Embedded,
}

fn judge(
    policy: &TransferPolicy,
    result: &mut CopiedHeaders,
    own: &[(String, String)],
    name: &str,
    value: &str,
    origin: Origin,
) {
    match rule_against(policy, &result.copied, own, name, value) {
        None => result.copied.push((name.to_owned(), value.to_owned())),
        // Its own Via or Contact is nothing that a REFER asks to have copied.
        Some(Rule::Never) if origin == Origin::Refer => {}
        Some(rule) => result.dropped.push(DroppedHeader {
            name: name.chars().filter(|c| !c.is_control()).collect(),
            rule: rule.text(),
        }),
    }
}

enum Rule<'a> {
    Invalid,
    Never,
    Dropped(&'a str),
    NotPassed,
    TrunkHas,
    Twice,
    Limit,
}

impl Rule<'_> {
    fn text(&self) -> String {
        match self {
            Rule::Invalid => "not a header that could be sent".to_owned(),
            Rule::Never => "SIP itself uses it".to_owned(),
            Rule::Dropped(pattern) => format!("drop_headers {pattern}"),
            Rule::NotPassed => "no entry of pass_headers matches".to_owned(),
            Rule::TrunkHas => "headers of the trunk set it".to_owned(),
            Rule::Twice => "one of that name is already copied".to_owned(),
            Rule::Limit => {
                format!("more than {MAX_COPIED_HEADERS} headers or {MAX_COPIED_BYTES} bytes")
            }
        }
    }
}

fn rule_against<'a>(
    policy: &'a TransferPolicy,
    copied: &[(String, String)],
    own: &[(String, String)],
    name: &str,
    value: &str,
) -> Option<Rule<'a>> {
    let matching = |patterns: &'a [String]| {
        let matches = |p: &&String| HeaderPattern::parse(p).is_some_and(|p| p.matches(name));
        patterns.iter().find(matches).map(String::as_str)
    };
    let has =
        |headers: &[(String, String)]| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if name.is_empty() || !name.bytes().all(is_name_byte) || value.chars().any(is_forbidden_control)
    {
        return Some(Rule::Invalid);
    }
    if is_never_copied(name) {
        return Some(Rule::Never);
    }
    if let Some(pattern) = matching(&policy.drop_headers) {
        return Some(Rule::Dropped(pattern));
    }
    if matching(&policy.pass_headers).is_none() {
        return Some(Rule::NotPassed);
    }
    if has(own) {
        return Some(Rule::TrunkHas);
    }
    if has(copied) {
        return Some(Rule::Twice);
    }
    let bytes: usize = copied.iter().map(|(n, v)| n.len() + v.len()).sum();
    if copied.len() >= MAX_COPIED_HEADERS || bytes + name.len() + value.len() > MAX_COPIED_BYTES {
        return Some(Rule::Limit);
    }
    None
}

fn is_forbidden_control(c: char) -> bool {
    c.is_control() && c != '\t'
}

fn is_platform(name: &str) -> bool {
    PLATFORM_NAMES.iter().any(|n| n.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|&(n, v)| (n.to_owned(), v.to_owned()))
            .collect()
    }

    fn dropped(result: &CopiedHeaders) -> Vec<(&str, &str)> {
        result
            .dropped
            .iter()
            .map(|d| (d.name.as_str(), d.rule.as_str()))
            .collect()
    }

    fn copy(
        policy: &TransferPolicy,
        refer: &[(&str, &str)],
        embedded: &[(&str, &str)],
        trunk: &[(&str, &str)],
    ) -> CopiedHeaders {
        let (embedded, trunk) = (own(embedded), own(trunk));
        let sources = HeaderSources {
            refer,
            embedded: &embedded,
            trunk: &trunk,
        };
        copy_headers(policy, sources)
    }

    #[test]
    fn custom_headers_of_both_places_are_copied_with_their_case() {
        let result = copy(
            &TransferPolicy::default(),
            &[
                ("Via", "SIP/2.0/TCP 192.0.2.1"),
                ("X-Customer-ID", "42"),
                ("Contact", "<sip:a@b>"),
                ("x-lower", ""),
            ],
            &[("X-Ticket", "T 7")],
            &[("X-Provider", "acme")],
        );
        assert_eq!(
            result.copied,
            own(&[
                ("X-Ticket", "T 7"),
                ("X-Customer-ID", "42"),
                ("x-lower", "")
            ])
        );
        assert_eq!(result.own, own(&[("X-Provider", "acme")]));
        assert_eq!(dropped(&result), []);
    }

    #[test]
    fn the_platforms_ids_win_whatever_their_case() {
        let result = copy(
            &TransferPolicy::default(),
            &[
                ("x-conversation-id", "platform"),
                ("X-CALLER-ID", "+1234567890"),
            ],
            &[("X-Conversation-ID", "custom"), ("X-Other", "embedded")],
            &[("X-Caller-ID", "fixed"), ("X-other", "fixed")],
        );
        assert_eq!(
            result.copied,
            own(&[
                ("x-conversation-id", "platform"),
                ("X-CALLER-ID", "+1234567890")
            ])
        );
        assert_eq!(result.own, own(&[("X-other", "fixed")]));
        assert_eq!(
            dropped(&result),
            [
                ("X-Conversation-ID", "one of that name is already copied"),
                ("X-Other", "headers of the trunk set it"),
            ]
        );
    }

    #[test]
    fn reserved_names_are_dropped_visibly() {
        let all = TransferPolicy {
            pass_headers: vec!["*".to_owned()],
            ..TransferPolicy::default()
        };
        let result = copy(
            &all,
            &[
                ("PH-a", "1"),
                ("plivoB", "2"),
                ("FS-c", "3"),
                ("SIPAUTHd", "4"),
                ("ZT-e", "5"),
                ("TwilioF", "6"),
                ("clientregion", "7"),
                ("ClientRegion2", "8"),
            ],
            &[],
            &[],
        );
        assert_eq!(result.copied, own(&[("ClientRegion2", "8")]));
        let rules: Vec<_> = dropped(&result).iter().map(|(_, rule)| *rule).collect();
        assert_eq!(
            rules,
            [
                "drop_headers PH-*",
                "drop_headers Plivo*",
                "drop_headers FS-*",
                "drop_headers SipAuth*",
                "drop_headers ZT-*",
                "drop_headers Twilio*",
                "drop_headers ClientRegion"
            ]
        );
    }

    #[test]
    fn no_policy_passes_what_sip_uses() {
        let all = TransferPolicy {
            pass_headers: vec!["*".to_owned()],
            drop_headers: Vec::new(),
            ..TransferPolicy::default()
        };
        let result = copy(
            &all,
            &[("v", "x"), ("Subject", "hello"), ("User-to-User", "abc")],
            &[
                ("Route", "<sip:evil.example.net;lr>"),
                ("P-Asserted-Identity", "<sip:boss@example.net>"),
                ("call-ID", "x"),
                ("body", "x"),
                ("Content-Type", "x"),
                ("Proxy-Authorization", "x"),
            ],
            &[],
        );
        assert_eq!(
            result.copied,
            own(&[("Subject", "hello"), ("User-to-User", "abc")])
        );
        let refused: Vec<_> = dropped(&result).iter().map(|(name, _)| *name).collect();
        assert_eq!(
            refused,
            [
                "Route",
                "P-Asserted-Identity",
                "call-ID",
                "body",
                "Content-Type",
                "Proxy-Authorization"
            ]
        );
        assert!(
            result
                .dropped
                .iter()
                .all(|d| d.rule == "SIP itself uses it")
        );
    }

    #[test]
    fn what_cannot_be_sent_is_dropped() {
        let result = copy(
            &TransferPolicy::default(),
            &[("Subject", "not passed")],
            &[
                ("X-A\r\nRoute", "x"),
                ("X-B", "a\r\nRoute: x"),
                ("X B", "x"),
                ("", "x"),
                ("X-Tab", "a\tb"),
            ],
            &[],
        );
        assert_eq!(result.copied, own(&[("X-Tab", "a\tb")]));
        let invalid = "not a header that could be sent";
        assert_eq!(
            dropped(&result),
            [
                ("X-ARoute", invalid),
                ("X-B", invalid),
                ("X B", invalid),
                ("", invalid),
                ("Subject", "no entry of pass_headers matches")
            ]
        );
    }

    #[test]
    fn there_is_a_limit() {
        let names: Vec<String> = (0..40).map(|n| format!("X-{n}")).collect();
        let refer: Vec<_> = names.iter().map(|n| (n.as_str(), "v")).collect();
        let result = copy(&TransferPolicy::default(), &refer, &[], &[]);
        assert_eq!((result.copied.len(), result.dropped.len()), (32, 8));
        let long = "v".repeat(5000);
        let result = copy(
            &TransferPolicy::default(),
            &[("X-1", &long), ("X-2", &long), ("X-3", "v")],
            &[],
            &[],
        );
        assert_eq!(
            dropped(&result),
            [("X-2", "more than 32 headers or 8192 bytes")]
        );
    }

    #[test]
    fn header_patterns() {
        for bad in ["", "X-*-Y", "**", "X Y", "X:", "é"] {
            assert_eq!(HeaderPattern::parse(bad), None, "{bad}");
        }
        let pattern = HeaderPattern::parse("X-*").unwrap();
        assert!(pattern.matches("x-") && pattern.matches("X-é") && !pattern.matches("X"));
    }
}
