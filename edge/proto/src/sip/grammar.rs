//! The few productions of RFC 3261 §25.1 that all header parsers share.

use compact_str::CompactString;

/// A function that tells whether a byte is one of a kind, by a table: parsers ask for nearly every byte that they are given.
macro_rules! byte_kind {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($byte:ident) { $is:expr }) => {
        $(#[$doc])*
        $visibility const fn $name($byte: u8) -> bool {
            const TABLE: [bool; 256] = {
                let mut table = [false; 256];
                let mut next = 0;
                while next < table.len() {
                    let $byte = next as u8;
                    table[next] = $is;
                    next += 1;
                }
                table
            };
            TABLE[$byte as usize]
        }
    };
}
pub(crate) use byte_kind;

byte_kind! {
    /// `token` characters.
    pub(crate) fn is_token_byte(byte) {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~'
            )
    }
}

/// Whether `text` is a `token`.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

byte_kind! {
    /// `unreserved` characters: letters, digits and marks.
    pub(crate) fn is_unreserved(byte) {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')'
            )
    }
}

/// Removes linear white space (folds are spaces by now) at both ends.
pub(crate) fn trim(text: &str) -> &str {
    trim_end(trim_start(text))
}

/// Removes linear white space at the front.
pub(crate) fn trim_start(mut text: &str) -> &str {
    while let [b' ' | b'\t', ..] = text.as_bytes() {
        text = text.get(1..).unwrap_or_default();
    }
    text
}

/// Removes linear white space at the end.
pub(crate) fn trim_end(mut text: &str) -> &str {
    while let [.., b' ' | b'\t'] = text.as_bytes() {
        text = text.get(..text.len() - 1).unwrap_or_default();
    }
    text
}

/// [`str::split_once`] at an ASCII byte, in a fraction of its time: header parsers do little else. Most texts are so short that
/// looking at each byte is quicker than any search by vectors.
pub(crate) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = text.bytes().position(|byte| byte == at)?;
    Some((text.get(..place)?, text.get(place + 1..)?))
}

/// Splits after the longest prefix whose bytes satisfy `accept`. `accept` must be false for all or true for all non-ASCII bytes.
pub(crate) fn take_while(text: &str, accept: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|byte| !accept(byte))
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Parses a `quoted-string` at the front of `text`: the value without quotes and escapes, and what follows it.
///
/// `None` when there is none, it does not end, or it holds a control character that is not escaped; CR and LF never may.
pub(crate) fn quoted_string(text: &str) -> Option<(CompactString, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut value = CompactString::default();
    let mut characters = inner.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => match characters.next()? {
                '\r' | '\n' => return None,
                escaped if escaped.is_ascii() => value.push(escaped),
                _ => return None,
            },
            '\t' => value.push('\t'),
            control if control.is_ascii_control() => return None,
            other => value.push(other),
        }
    }
}

/// Writes `value` as a `quoted-string`. CR and LF, which nothing can represent, become spaces.
pub(crate) fn write_quoted(out: &mut impl core::fmt::Write, value: &str) -> core::fmt::Result {
    out.write_char('"')?;
    for character in value.chars() {
        match character {
            '\r' | '\n' => out.write_char(' ')?,
            '"' | '\\' => {
                out.write_char('\\')?;
                out.write_char(character)?;
            }
            '\t' => out.write_char('\t')?,
            control if control.is_ascii_control() => {
                out.write_char('\\')?;
                out.write_char(control)?;
            }
            other => out.write_char(other)?,
        }
    }
    out.write_char('"')
}

/// Splits a header value at the commas that separate list items: not those in quoted strings or angle brackets.
/// Items are trimmed. A blank text has no items; an empty item between commas is kept, for the item's parser to refuse.
pub(crate) fn split_list(text: &str) -> ListItems<'_> {
    ListItems {
        rest: (!trim(text).is_empty()).then_some(text),
    }
}

/// See [`split_list`].
#[derive(Clone, Debug)]
pub(crate) struct ListItems<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for ListItems<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest?;
        if memchr::memchr(b',', text.as_bytes()).is_none() {
            self.rest = None;
            return Some(trim(text));
        }
        let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
        let comma = text.bytes().position(|byte| {
            if escaped {
                escaped = false;
                return false;
            }
            match byte {
                b'\\' if quoted => escaped = true,
                b'"' if !bracketed => quoted = !quoted,
                b'<' if !quoted => bracketed = true,
                b'>' if !quoted => bracketed = false,
                b',' => return !quoted && !bracketed,
                _ => {}
            }
            false
        });
        let item = match comma.and_then(|at| text.split_at_checked(at)) {
            Some((item, rest)) => {
                self.rest = rest.strip_prefix(',');
                item
            }
            None => {
                self.rest = None;
                text
            }
        };
        Some(trim(item))
    }
}

/// The value of a hexadecimal digit.
const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Removes `%HH` escapes. `None` for a broken escape, an unescaped byte that `accept` refuses, or a result that is not UTF-8.
pub(crate) fn percent_decode(text: &str, accept: impl Fn(u8) -> bool) -> Option<CompactString> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return text.bytes().all(accept).then(|| text.into());
    }
    let mut value = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            value.push(high << 4 | low);
        } else if accept(byte) {
            value.push(byte);
        } else {
            return None;
        }
    }
    CompactString::from_utf8(value).ok()
}

/// Writes `value` with `%HH` for every byte that is neither unreserved nor accepted.
pub(crate) fn percent_encode(
    out: &mut impl core::fmt::Write,
    value: &str,
    accept: impl Fn(u8) -> bool,
) -> core::fmt::Result {
    let mut rest = value;
    while !rest.is_empty() {
        let (plain, after) = take_while(rest, |byte| {
            byte.is_ascii() && (is_unreserved(byte) || accept(byte))
        });
        out.write_str(plain)?;
        rest = after;
        if let Some(character) = rest.chars().next() {
            rest = rest.get(character.len_utf8()..).unwrap_or_default();
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(out, "%{byte:02X}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings() {
        assert_eq!(quoted_string(r#""a" b"#), Some(("a".into(), " b")));
        assert_eq!(quoted_string(r#""a\"b\\""#), Some(("a\"b\\".into(), "")));
        for broken in [
            "", "a", "\"", "\"a", "\"a\\", "\"a\\\"", "\"a\nb\"", "\"\\\r\"", "\"\0\"",
        ] {
            assert_eq!(quoted_string(broken), None, "{broken:?}");
        }
        assert_eq!(quoted_string("\"\\\0\""), Some(("\0".into(), "")));
    }

    #[test]
    fn lists_split_outside_quotes_and_brackets() {
        let items = |text| split_list(text).collect::<Vec<_>>();
        assert_eq!(items(" \t"), Vec::<&str>::new());
        assert_eq!(items("a , b"), ["a", "b"]);
        assert_eq!(items("a,,"), ["a", "", ""]);
        assert_eq!(
            items(r#""x, \", y" <sip:a,b@c>;p="q,r", <sip:d>"#),
            [r#""x, \", y" <sip:a,b@c>;p="q,r""#, "<sip:d>"]
        );
        assert_eq!(items("\"open, quote"), ["\"open, quote"]);
    }

    #[test]
    fn percent_escapes() {
        assert_eq!(
            percent_decode("a%20%C3%a9", is_unreserved),
            Some("a é".into())
        );
        for broken in ["%", "%4", "%zz", "%ff", "a b"] {
            assert_eq!(percent_decode(broken, is_unreserved), None, "{broken}");
        }
        let mut text = String::new();
        percent_encode(&mut text, "a@\r\né;", |b| b == b';').unwrap();
        assert_eq!(text, "a%40%0D%0A%C3%A9;");
    }
}
