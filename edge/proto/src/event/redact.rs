//! Numbers and user parts of URIs, shown to the operator's own tools and hidden in logs.
//!
//! Text from a peer is cleaned in both cases: a control character could forge a log line or drive a terminal.

use std::fmt::{self, Write};

/// Who reads the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privacy {
    /// The authenticated admin API and the CDR: the operator's own data.
    Shown,
    /// Logs, which travel: numbers and user parts become `***`, hosts and addresses stay.
    Redacted,
}

const MASK: &str = "***";
/// Longest piece of a peer's text that is repeated, in bytes; the rest is cut off with an ellipsis.
const MAX_TEXT: usize = 512;
/// A run of this many digits is taken for a number. Ports and parts of addresses are shorter.
const NUMBER_DIGITS: usize = 6;

/// A value that is a number or a URI as a whole: `+1234567890`, `sip:+1234567890@example.net`, `"Bob" <tel:+1234567890>`.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a>(pub &'a str, pub Privacy);

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Privacy::Shown => write_clean(f, self.0),
            Privacy::Redacted => write_masked_uri(f, self.0),
        }
    }
}

/// Free text that may contain numbers or URIs.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(pub &'a str, pub Privacy);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Privacy::Shown => write_clean(f, self.0),
            Privacy::Redacted => write_masked_text(f, self.0),
        }
    }
}

/// Whether a character could forge a line, drive a terminal or reorder what is read.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write_clean(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let (kept, cut) = bounded(text);
    for c in kept.chars() {
        f.write_char(if is_unsafe(c) { '\u{fffd}' } else { c })?;
    }
    if cut { f.write_str("...") } else { Ok(()) }
}

/// At most [`MAX_TEXT`] bytes of `text`, and whether something was cut off.
fn bounded(text: &str) -> (&str, bool) {
    if text.len() <= MAX_TEXT {
        return (text, false);
    }
    let mut end = MAX_TEXT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (text.get(..end).unwrap_or_default(), true)
}

/// Scheme and host survive, everything that names a person does not.
fn write_masked_uri(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    // A display name may itself contain "<": the address is in the last pair.
    let uri = text
        .rsplit_once('<')
        .map_or(text, |(_, rest)| rest.split('>').next().unwrap_or_default())
        .trim();
    if let Some((scheme, _)) = uri.split_once(':').filter(|(s, _)| is_scheme(s)) {
        write!(f, "{}:", scheme.to_ascii_lowercase())?;
    }
    f.write_str(MASK)?;
    match host_of(uri) {
        Some(host) => write!(f, "@{host}"),
        None => Ok(()),
    }
}

/// The host and port after the last `@`, when they look like nothing else.
fn host_of(uri: &str) -> Option<&str> {
    let (_, rest) = uri.rsplit_once('@')?;
    let host = rest.split([';', '?', '>', ',', ' ']).next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    (!host.is_empty() && host.len() <= 255 && host.chars().all(plain)).then_some(host)
}

fn is_scheme(text: &str) -> bool {
    ["sip", "sips", "tel"]
        .iter()
        .any(|s| s.eq_ignore_ascii_case(text))
}

fn write_masked_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let (kept, cut) = bounded(text);
    let delimiter = |c: char| {
        c.is_whitespace() || is_unsafe(c) || matches!(c, '"' | '\'' | '<' | '>' | ',' | '`')
    };
    for piece in kept.split_inclusive(delimiter) {
        let end = piece.chars().next_back().filter(|&c| delimiter(c));
        let token = end.map_or(piece, |c| {
            piece.get(..piece.len() - c.len_utf8()).unwrap_or_default()
        });
        write_masked_token(f, token)?;
        if let Some(c) = end {
            f.write_char(if is_unsafe(c) { '\u{fffd}' } else { c })?;
        }
    }
    if cut { f.write_str("...") } else { Ok(()) }
}

fn write_masked_token(f: &mut fmt::Formatter<'_>, token: &str) -> fmt::Result {
    let scheme = token.split_once(':').map(|(s, _)| s);
    let is_tel = scheme.is_some_and(|s| s.eq_ignore_ascii_case("tel"));
    if token.contains('@') || is_tel {
        return write_masked_uri(f, token);
    }
    let digits = token.chars().filter(char::is_ascii_digit).count();
    let longest = longest_digit_run(token);
    // "+1-234-567-890" has short runs only; nothing but a number starts with a plus and a digit.
    let international = token
        .strip_prefix('+')
        .or_else(|| token.split_once(":+").map(|(_, rest)| rest))
        .or_else(|| token.strip_prefix("(+"))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    if international && digits > 2 || longest >= NUMBER_DIGITS {
        f.write_str(MASK)
    } else {
        f.write_str(token)
    }
}

fn longest_digit_run(token: &str) -> usize {
    token
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> String {
        Number(text, Privacy::Redacted).to_string()
    }

    fn text(text: &str) -> String {
        Text(text, Privacy::Redacted).to_string()
    }

    #[test]
    fn a_number_is_masked_whatever_its_form() {
        assert_eq!(number("+1234567890"), "***");
        assert_eq!(number("alice"), "***");
        assert_eq!(number("tel:+1-234-567-890"), "tel:***");
        assert_eq!(
            number("sip:+1234567890@203.0.113.7:5060"),
            "sip:***@203.0.113.7:5060"
        );
        assert_eq!(
            number("SIPS:bob:pw@example.net;x=1?X-A=%2B123"),
            "sips:***@example.net"
        );
        assert_eq!(
            number("\"+1234567890\" <sip:+1234567890@[2001:db8::1]>;tag=1"),
            "sip:***@[2001:db8::1]"
        );
        assert_eq!(number("sip:example.net"), "sip:***");
    }

    #[test]
    fn free_text_keeps_addresses_and_loses_numbers() {
        assert_eq!(
            text("target sip:+1234567890@127.0.0.4:5060 matches \"sip:*@127.0.0.4\""),
            "target sip:***@127.0.0.4:5060 matches \"sip:***@127.0.0.4\""
        );
        assert_eq!(
            text("called 1234567890 via 198.51.100.23:50600"),
            "called *** via 198.51.100.23:50600"
        );
        assert_eq!(text("called +1-234-567-890"), "called ***");
        assert_eq!(
            text("no answer within 30 s (status 408)"),
            "no answer within 30 s (status 408)"
        );
        assert_eq!(
            text("tel:+1(234)567890, then sip:+123"),
            "tel:***, then ***"
        );
    }

    #[test]
    fn a_line_break_cannot_forge_a_log_line() {
        for privacy in [Privacy::Shown, Privacy::Redacted] {
            let forged = Text("bad\r\nERROR forged\u{1b}[2J\u{202e}", privacy).to_string();
            assert!(!forged.chars().any(is_unsafe), "{forged:?}");
        }
    }

    #[test]
    fn what_the_operator_sees_is_complete_up_to_the_limit() {
        assert_eq!(
            Number("+1234567890", Privacy::Shown).to_string(),
            "+1234567890"
        );
        let long = "é".repeat(MAX_TEXT);
        let shown = Text(&long, Privacy::Shown).to_string();
        assert_eq!(shown.len(), MAX_TEXT + 3);
        assert!(shown.ends_with("..."));
    }

    proptest! {
        #[test]
        fn no_long_number_survives(prefix in "[ a-z<\"(]{0,8}", digits in "\\+?[0-9]{6,15}", suffix in "[ a-z>;,]{0,8}") {
            let bare = digits.trim_start_matches('+');
            let in_text = text(&[&*prefix, &*digits, &*suffix].concat());
            prop_assert!(!in_text.contains(bare), "{}", in_text);
            let in_uri = number(&["sip:", &*digits, "@example.net"].concat());
            prop_assert!(!in_uri.contains(bare), "{}", in_uri);
        }

        #[test]
        fn any_text_is_safe_to_print(input in ".{0,700}") {
            for privacy in [Privacy::Shown, Privacy::Redacted] {
                prop_assert!(!Text(&input, privacy).to_string().chars().any(is_unsafe));
                prop_assert!(!Number(&input, privacy).to_string().chars().any(is_unsafe));
            }
        }
    }
}
