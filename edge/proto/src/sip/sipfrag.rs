//! `message/sipfrag` bodies as REFER's NOTIFY requests carry them (RFC 3420, RFC 3515 §2.4.5).

use crate::sip::status::reason_phrase;

/// The Content-Type, with the version that RFC 3515's examples show.
pub const CONTENT_TYPE: &str = "message/sipfrag;version=2.0";

/// A status line as a body. An empty `reason` stands for the registered phrase; line breaks in it become spaces.
pub fn emit(code: u16, reason: &str) -> Vec<u8> {
    let reason = if reason.is_empty() {
        reason_phrase(code)
    } else {
        reason
    };
    let reason: String = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    format!("SIP/2.0 {code:03} {reason}\r\n").into_bytes()
}

/// The status code and phrase of a body's first line. Lines after it (headers of the fragment) are ignored, and the line
/// may end in LF, CRLF or not at all: nothing is framed by it.
pub fn parse(body: &[u8]) -> Option<(u16, &str)> {
    let line = body.split(|&byte| byte == b'\n').next()?;
    let line = core::str::from_utf8(line).ok()?.trim_end();
    let (version, rest) = line.split_at_checked(8)?;
    if !version.eq_ignore_ascii_case("SIP/2.0 ") {
        return None;
    }
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let code = code
        .parse()
        .ok()
        .filter(|code| (100..=699).contains(code))?;
    Some((code, reason.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        assert_eq!(emit(200, ""), b"SIP/2.0 200 OK\r\n");
        assert_eq!(emit(603, "No\r\nX: y"), b"SIP/2.0 603 No  X: y\r\n");
        for code in 100..700 {
            assert_eq!(parse(&emit(code, "")), Some((code, reason_phrase(code))));
        }
    }

    #[test]
    fn lenient_about_the_end_strict_about_the_code() {
        assert_eq!(parse(b"SIP/2.0 486 Busy Here"), Some((486, "Busy Here")));
        assert_eq!(parse(b"sip/2.0 180\n"), Some((180, "")));
        assert_eq!(
            parse(b"SIP/2.0 200 OK\r\nTo: <sip:a@h>\r\n"),
            Some((200, "OK"))
        );
        for body in [
            "",
            "SIP/2.0",
            "SIP/2.0 99 x",
            "SIP/2.0 700 x",
            "SIP/2.0 2000 x",
            "SIP/3.0 200 OK",
            "200 OK",
            "SIP/2.0 +20",
        ] {
            assert_eq!(parse(body.as_bytes()), None, "{body}");
        }
    }
}
