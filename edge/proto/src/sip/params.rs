//! `;name=value` parameters of URIs and of header fields.
//!
//! The two look alike and are not: a URI parameter escapes with `%HH`, a header parameter quotes. [`Params`] holds the plain
//! values; the owner of the list knows how to read and write them.

use crate::sip::grammar::{
    byte_kind, is_token, is_token_byte, is_unreserved, percent_decode, percent_encode,
    quoted_string, split_once, take_while, trim_start, write_quoted,
};
use compact_str::CompactString;
use core::fmt;
use smallvec::SmallVec;

/// What is wrong with a parameter list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParamError {
    #[error("a parameter has no name")]
    Empty,
    #[error(
        "a parameter's value is missing, badly quoted or holds a character that is not allowed there"
    )]
    Value,
    #[error("something that is no parameter follows")]
    Trailing,
    #[error("a parameter appears twice")]
    Duplicate,
    #[error("too many parameters")]
    TooMany,
}

/// An ordered parameter list. Names compare case-insensitively and appear once; values are unescaped and unquoted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Params(SmallVec<[Param; 1]>);

type Param = (CompactString, Option<CompactString>);

impl Params {
    /// The most parameters a list may have. Bounds the search for duplicates.
    pub const LIMIT: usize = 64;

    pub fn new() -> Params {
        Params::default()
    }

    /// The value of a parameter: `Some(None)` for one without a value, `None` when absent.
    pub fn get(&self, name: &str) -> Option<Option<&str>> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_deref())
    }

    /// The value of a parameter that has one.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).flatten()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Replaces a parameter's value in place, or appends the parameter.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(CompactString::from);
        match self
            .0
            .iter_mut()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
        {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Removes a parameter; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.0.len() != before
    }

    /// Keeps the parameters that `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, Option<&str>) -> bool) {
        self.0.retain(|(name, value)| keep(name, value.as_deref()));
    }

    /// In order, names as received.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_deref()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(
        &mut self,
        name: CompactString,
        value: Option<CompactString>,
    ) -> Result<(), ParamError> {
        if self.contains(&name) {
            return Err(ParamError::Duplicate);
        }
        if self.0.len() >= Self::LIMIT {
            return Err(ParamError::TooMany);
        }
        self.0.push((name, value));
        Ok(())
    }

    /// Parses what follows the first `;` of a URI's parameters, up to its `?` (RFC 3261 §19.1.1).
    pub(crate) fn parse_uri(text: &str) -> Result<Params, ParamError> {
        let mut params = Params::new();
        let mut left = Some(text);
        while let Some(text) = left {
            let item;
            (item, left) = match split_once(text, b';') {
                Some((item, rest)) => (item, Some(rest)),
                None => (text, None),
            };
            let (name, value) = match split_once(item, b'=') {
                Some((name, value)) => (name, Some(value)),
                None => (item, None),
            };
            if name.is_empty() {
                return Err(ParamError::Empty);
            }
            let decode = |text: &str| percent_decode(text, is_uri_param_byte);
            let name = decode(name).ok_or(ParamError::Value)?;
            let value = match value {
                Some("") => return Err(ParamError::Value),
                Some(value) => Some(decode(value).ok_or(ParamError::Value)?),
                None => None,
            };
            params.push(name, value)?;
        }
        Ok(params)
    }

    /// Parses `*( SEMI generic-param )`, white space around separators allowed (RFC 3261 §25.1). The text is empty or starts
    /// with a semicolon.
    pub(crate) fn parse_header(text: &str) -> Result<Params, ParamError> {
        let mut params = Params::new();
        let mut rest = trim_start(text);
        while !rest.is_empty() {
            let item = trim_start(rest.strip_prefix(';').ok_or(ParamError::Trailing)?);
            let (name, after) = take_while(item, is_token_byte);
            if name.is_empty() {
                return Err(ParamError::Empty);
            }
            rest = trim_start(after);
            let mut value = None;
            if let Some(after) = rest.strip_prefix('=') {
                let after = trim_start(after);
                let (text, after) = if after.starts_with('"') {
                    quoted_string(after).ok_or(ParamError::Value)?
                } else {
                    let (plain, after) = take_while(after, is_header_value_byte);
                    if plain.is_empty() {
                        return Err(ParamError::Value);
                    }
                    (plain.into(), after)
                };
                value = Some(text);
                rest = trim_start(after);
            }
            params.push(name.into(), value)?;
        }
        Ok(params)
    }

    /// Writes `;name=value` with URI escapes.
    pub(crate) fn write_uri(&self, out: &mut impl fmt::Write) -> fmt::Result {
        for (name, value) in self.0.iter().filter(|(name, _)| !name.is_empty()) {
            out.write_char(';')?;
            percent_encode(out, name, is_uri_param_byte)?;
            // A URI parameter has no way to say "empty".
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                out.write_char('=')?;
                percent_encode(out, value, is_uri_param_byte)?;
            }
        }
        Ok(())
    }

    /// Writes `;name=value`, quoting values that are neither token nor host.
    pub(crate) fn write_header(&self, out: &mut impl fmt::Write) -> fmt::Result {
        for (name, value) in &self.0 {
            if !is_token(name) {
                continue; // only set() can put it here, and nothing could represent it
            }
            write!(out, ";{name}")?;
            if let Some(value) = value {
                out.write_char('=')?;
                if !value.is_empty() && value.bytes().all(is_header_value_byte) {
                    out.write_str(value)?;
                } else {
                    write_quoted(out, value)?;
                }
            }
        }
        Ok(())
    }
}

byte_kind! {
    /// `paramchar` without escapes.
    fn is_uri_param_byte(byte) {
        is_unreserved(byte) || matches!(byte, b'[' | b']' | b'/' | b':' | b'&' | b'+' | b'$')
    }
}

byte_kind! {
    /// An unquoted `gen-value`: token or host.
    fn is_header_value_byte(byte) {
        is_token_byte(byte) || matches!(byte, b'[' | b']' | b':')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_parameters() {
        let params = Params::parse_uri("Transport=TCP;lr;x=a%3Bb").unwrap();
        assert_eq!(params.value("transport"), Some("TCP"));
        assert_eq!(params.get("LR"), Some(None));
        assert_eq!(params.value("x"), Some("a;b"));
        let mut text = String::new();
        params.write_uri(&mut text).unwrap();
        assert_eq!(text, ";Transport=TCP;lr;x=a%3Bb");
        for (text, error) in [
            ("", ParamError::Empty),
            ("lr;", ParamError::Empty),
            ("=a", ParamError::Empty),
            ("a=", ParamError::Value),
            ("p=@192.0.2.1", ParamError::Value),
            ("p=a=b", ParamError::Value),
            ("p=a b", ParamError::Value),
            ("lr;LR", ParamError::Duplicate),
            ("l%72;lr", ParamError::Duplicate),
        ] {
            assert_eq!(Params::parse_uri(text), Err(error), "{text}");
        }
        let many: Vec<String> = (0..65).map(|i| format!("p{i}")).collect();
        assert_eq!(Params::parse_uri(&many.join(";")), Err(ParamError::TooMany));
    }

    #[test]
    fn header_parameters() {
        let params =
            Params::parse_header(" ; tag = a ;q=\"x;\\\"y\";received=[2001:db8::1];f").unwrap();
        assert_eq!(params.value("TAG"), Some("a"));
        assert_eq!(params.value("q"), Some("x;\"y"));
        assert_eq!(params.value("received"), Some("[2001:db8::1]"));
        let mut text = String::new();
        params.write_header(&mut text).unwrap();
        assert_eq!(text, ";tag=a;q=\"x;\\\"y\";received=[2001:db8::1];f");
        for (text, error) in [
            (";", ParamError::Empty),
            (";;", ParamError::Empty),
            (";a=", ParamError::Value),
            (";a=\"", ParamError::Value),
            (";a=@b", ParamError::Value),
            (";a b", ParamError::Trailing),
            (",a", ParamError::Trailing),
            (";a;A=1", ParamError::Duplicate),
        ] {
            assert_eq!(Params::parse_header(text), Err(error), "{text}");
        }
    }
}
