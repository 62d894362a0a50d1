//! Digest as the peers compute it (RFC 7616, RFC 2069), written apart from the edge's so that a shared mistake shows.

use md5::Md5;
use sha2::{Digest, Sha256};

/// `name=value` pairs of a challenge or of credentials, without the scheme.
pub fn parameters(header: &str) -> Vec<(String, String)> {
    let rest = header.trim_start().strip_prefix("Digest").unwrap_or(header);
    let mut pairs = Vec::new();
    let mut chars = rest.chars().peekable();
    loop {
        let name: String = std::iter::from_fn(|| chars.next_if(|&c| c != '=')).collect();
        if chars.next().is_none() {
            return pairs;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next() {
                match c {
                    '\\' => value.extend(chars.next()),
                    '"' => break,
                    c => value.push(c),
                }
            }
        }
        value.extend(std::iter::from_fn(|| chars.next_if(|&c| c != ',')));
        chars.next();
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        pairs.push((name, value.trim().to_owned()));
    }
}

/// The value of one parameter.
pub fn parameter(header: &str, name: &str) -> Option<String> {
    parameters(header)
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(algorithm: &str, text: &str) -> Option<String> {
    if algorithm.eq_ignore_ascii_case("MD5") {
        Some(hex(&Md5::digest(text.as_bytes())))
    } else if algorithm.eq_ignore_ascii_case("SHA-256") {
        Some(hex(&Sha256::digest(text.as_bytes())))
    } else {
        None
    }
}

/// What a response is computed from.
pub struct Question<'a> {
    pub algorithm: &'a str,
    pub username: &'a str,
    pub realm: &'a str,
    pub password: &'a str,
    pub method: &'a str,
    pub uri: &'a str,
    pub nonce: &'a str,
    /// `nc` and `cnonce` where qop=auth applies.
    pub counted: Option<(&'a str, &'a str)>,
}

impl Question<'_> {
    /// The response; `None` for an algorithm that is not known here.
    pub fn response(&self) -> Option<String> {
        let Question {
            algorithm,
            username,
            realm,
            password,
            method,
            uri,
            nonce,
            counted,
        } = *self;
        let a1 = hash(algorithm, &format!("{username}:{realm}:{password}"))?;
        let a2 = hash(algorithm, &format!("{method}:{uri}"))?;
        match counted {
            Some((nc, cnonce)) => hash(algorithm, &format!("{a1}:{nonce}:{nc}:{cnonce}:auth:{a2}")),
            None => hash(algorithm, &format!("{a1}:{nonce}:{a2}")),
        }
    }
}

/// Whether credentials in `header` are right for `password`; says nothing about the nonce.
pub fn is_right(header: &str, password: &str, method: &str) -> bool {
    let get = |name| parameter(header, name).unwrap_or_default();
    let (nc, cnonce) = (get("nc"), get("cnonce"));
    let algorithm = parameter(header, "algorithm").unwrap_or_else(|| "MD5".to_owned());
    let question = Question {
        algorithm: &algorithm,
        username: &get("username"),
        realm: &get("realm"),
        password,
        method,
        uri: &get("uri"),
        nonce: &get("nonce"),
        counted: (get("qop") == "auth").then_some((&nc, &cnonce)),
    };
    question
        .response()
        .is_some_and(|right| right == get("response"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 §3.9.1.
    #[test]
    fn the_rfcs_examples_come_out() {
        let response = |algorithm| {
            Question {
                algorithm,
                username: "Mufasa",
                realm: "http-auth@example.org",
                password: "Circle of Life",
                method: "GET",
                uri: "/dir/index.html",
                nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
                counted: Some(("00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")),
            }
            .response()
        };
        assert_eq!(
            response("MD5").as_deref(),
            Some("8ca523f5e9506fed4657c9700eebdbec")
        );
        assert_eq!(
            response("SHA-256").as_deref(),
            Some("753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1")
        );
    }

    #[test]
    fn parameters_are_found_quoted_or_not() {
        let header = r#"Digest realm="a, \"b\"", nc=00000001,qop="auth""#;
        assert_eq!(parameter(header, "realm").as_deref(), Some("a, \"b\""));
        assert_eq!(parameter(header, "nc").as_deref(), Some("00000001"));
        assert_eq!(parameter(header, "qop").as_deref(), Some("auth"));
        assert_eq!(parameter(header, "opaque"), None);
    }
}
