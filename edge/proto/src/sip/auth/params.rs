//! The parameter list of a challenge or of credentials: `scheme 1*SP name=value *(, name=value)`.

use super::{MAX_HEADER_BYTES, MAX_PARAMETERS};
use arrayvec::ArrayVec;
use std::borrow::Cow;
use std::fmt;

/// What is wrong with a challenge or with credentials as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error("more than {MAX_PARAMETERS} parameters")]
    TooManyParameters,
    #[error("the scheme is not Digest")]
    OtherScheme,
    #[error("not a list of name=value")]
    Grammar,
    #[error("a parameter occurs twice")]
    Duplicate,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} has an impossible value")]
    Invalid(&'static str),
}

/// The parameters of one header value, unescaped, in order of arrival. Names are unique (compared without case).
#[derive(Debug)]
pub(super) struct Params<'a>(ArrayVec<(&'a str, Cow<'a, str>), MAX_PARAMETERS>);

impl<'a> Params<'a> {
    /// Parses a whole header value of the Digest scheme.
    ///
    /// Values may be tokens or quoted strings whatever the grammar says for that name: clients differ in what they quote. A
    /// repeated name is refused, because two readers could each believe a different one.
    pub(super) fn parse(text: &'a str) -> Result<Self, AuthError> {
        if text.len() > MAX_HEADER_BYTES {
            return Err(AuthError::TooLong);
        }
        let (scheme, rest) = token(skip_space(text)).ok_or(AuthError::Grammar)?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return Err(AuthError::OtherScheme);
        }
        if !rest.starts_with([' ', '\t']) {
            return Err(AuthError::Grammar);
        }
        let mut params = Params(ArrayVec::new());
        let mut rest = skip_space(rest);
        loop {
            let (name, after) = token(rest).ok_or(AuthError::Grammar)?;
            let after = skip_space(after)
                .strip_prefix('=')
                .ok_or(AuthError::Grammar)?;
            let (value, after) = value(skip_space(after)).ok_or(AuthError::Grammar)?;
            if params.find(name).is_some() {
                return Err(AuthError::Duplicate);
            }
            params
                .0
                .try_push((name, value))
                .map_err(|_| AuthError::TooManyParameters)?;
            rest = skip_space(after);
            if rest.is_empty() {
                return Ok(params);
            }
            rest = skip_space(rest.strip_prefix(',').ok_or(AuthError::Grammar)?);
        }
    }

    /// The value of a parameter.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_ref())
    }

    /// The value of a parameter as an owned string.
    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.find(name).map(str::to_owned)
    }

    /// The value of a mandatory parameter.
    pub(super) fn require(&self, name: &'static str) -> Result<String, AuthError> {
        self.owned(name).ok_or(AuthError::Missing(name))
    }

    /// The value of a parameter that only ever is a token, quoted or not.
    pub(super) fn optional_token(&self, name: &'static str) -> Result<Option<String>, AuthError> {
        match self.find(name) {
            None => Ok(None),
            Some(value) if !value.is_empty() && value.bytes().all(is_token_byte) => {
                Ok(Some(value.to_owned()))
            }
            Some(_) => Err(AuthError::Invalid(name)),
        }
    }

    /// The value of a parameter that is `true` or `false`; absent means false.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.find(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// Writes a quoted-string (RFC 3261 §25.1). Control characters, which no parsed value holds, become spaces.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => {
                    f.write_char('\\')?;
                    f.write_char(c)?;
                }
                c if c.is_ascii_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// RFC 3261 §25.1 `token`.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte)
}

fn token(text: &str) -> Option<(&str, &str)> {
    let length = text
        .bytes()
        .position(|byte| !is_token_byte(byte))
        .unwrap_or(text.len());
    let (token, rest) = text.split_at_checked(length)?;
    (!token.is_empty()).then_some((token, rest))
}

fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    match text.strip_prefix('"') {
        Some(inner) => quoted(inner),
        None => token(text).map(|(value, rest)| (Cow::Borrowed(value), rest)),
    }
}

/// Reads up to the closing quote; `inner` starts after the opening one. A backslash stands for the character behind it.
fn quoted(inner: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut unescaped: Option<String> = None;
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let (raw, rest) = inner.split_at_checked(at)?;
                let rest = rest.strip_prefix('"')?;
                return Some((unescaped.map_or(Cow::Borrowed(raw), Cow::Owned), rest));
            }
            '\\' => {
                let (_, escaped) = chars.next()?;
                if !escaped.is_ascii() || escaped.is_ascii_control() {
                    return None;
                }
                let (before, _) = inner.split_at_checked(at)?;
                unescaped
                    .get_or_insert_with(|| before.to_owned())
                    .push(escaped);
            }
            // RFC 3261 §25.1 qdtext has LWS, which here is space and tab: folding is undone before.
            c if c.is_ascii_control() && c != '\t' => return None,
            c => {
                if let Some(text) = &mut unescaped {
                    text.push(c);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        Params::parse(text)
            .unwrap()
            .0
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v.into_owned()))
            .collect()
    }

    #[test]
    fn tokens_quotes_and_space_around_everything() {
        assert_eq!(
            pairs("  digest\t a=1 , B = \"x, y=\\\"z\\\\\" ,c=\"\" "),
            [("a", "1"), ("B", "x, y=\"z\\"), ("c", "")].map(|(n, v)| (n.into(), v.into()))
        );
    }

    #[test]
    fn a_repeated_name_is_refused_in_any_case() {
        assert_eq!(
            Params::parse("Digest realm=\"a\", REALM=\"b\"").unwrap_err(),
            AuthError::Duplicate
        );
    }

    #[test]
    fn what_is_not_a_list_is_refused() {
        for text in [
            "",
            "Digest",
            "Digest ",
            "Digest,a=1",
            "Digest a",
            "Digest a=",
            "Digest a=1,",
            "Digest ,a=1",
            "Digest a=1 b=2",
            "Digest a=\"open",
            "Digest a=\"open\\",
            "Digest a=\"x\"y",
            "Digest a=sip:x@y",
            "Digest a=\"x\0\"",
            "Digest a=\"x\ny\"",
            "Digest a=\"x\\\ny\"",
        ] {
            assert_eq!(
                Params::parse(text).unwrap_err(),
                AuthError::Grammar,
                "{text:?}"
            );
        }
        assert_eq!(
            Params::parse("Basic dXNlcjpwYXNz").unwrap_err(),
            AuthError::OtherScheme
        );
    }

    #[test]
    fn sizes_are_limited() {
        let long = format!("Digest a=\"{}\"", "x".repeat(MAX_HEADER_BYTES));
        assert_eq!(Params::parse(&long).unwrap_err(), AuthError::TooLong);
        let list = |n: usize| {
            let items: Vec<String> = (0..n).map(|i| format!("p{i}=1")).collect();
            format!("Digest {}", items.join(","))
        };
        assert!(Params::parse(&list(MAX_PARAMETERS)).is_ok());
        assert_eq!(
            Params::parse(&list(MAX_PARAMETERS + 1)).unwrap_err(),
            AuthError::TooManyParameters
        );
    }
}
