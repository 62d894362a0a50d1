//! Digest on the peers' side: answering the edge's challenges, and challenging the edge.

use crate::dice::Dice;
use crate::digest::{Question, parameter};
use crate::wire::Sip;

/// The value of Authorization that answers a 401; `None` where nothing can be answered.
pub fn answer(
    challenge: &Sip,
    user: &str,
    password: &str,
    method: &str,
    uri: &str,
    count: u32,
) -> Option<String> {
    let header = challenge.headers("www-authenticate").next()?;
    let nonce = parameter(header, "nonce")?;
    Some(credentials(
        header, &nonce, user, password, method, uri, count,
    ))
}

/// Credentials for the challenge in `header`, with `nonce` in place of its own.
pub fn credentials(
    header: &str,
    nonce: &str,
    user: &str,
    password: &str,
    method: &str,
    uri: &str,
    count: u32,
) -> String {
    let realm = parameter(header, "realm").unwrap_or_default();
    let algorithm = parameter(header, "algorithm").unwrap_or_else(|| "MD5".to_owned());
    let nc = format!("{count:08x}");
    let response = Question {
        algorithm: &algorithm,
        username: user,
        realm: &realm,
        password,
        method,
        uri,
        nonce,
        counted: Some((&nc, "c0ffee")),
    }
    .response()
    .unwrap_or_default();
    format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", algorithm={algorithm}, cnonce=\"c0ffee\", qop=auth, nc={nc}"
    )
}

/// A way to challenge the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    Md5,
    /// As RFC 2069 had it.
    Md5WithoutQop,
    Sha256First,
    /// An algorithm that nobody knows.
    Unknown,
    /// With a nonce that the edge minted itself.
    Reflected,
}

/// The header lines of a challenge.
pub fn lines(style: Style, name: &str, nonce: &str, stale: bool) -> Vec<String> {
    let stale = if stale { ", stale=true" } else { "" };
    let base = format!("{name}: Digest realm=\"peer\", nonce=\"{nonce}\"{stale}");
    match style {
        Style::Md5 | Style::Reflected => vec![format!("{base}, algorithm=MD5, qop=\"auth\"")],
        Style::Md5WithoutQop => vec![base],
        Style::Sha256First => vec![
            format!("{base}, algorithm=SHA-256, qop=\"auth,auth-int\""),
            format!("{base}, algorithm=MD5, qop=\"auth\""),
        ],
        Style::Unknown => vec![format!("{base}, algorithm=SHA-999, qop=\"auth\"")],
    }
}

/// A style, mostly one that can be answered.
pub fn draw(dice: &mut Dice, rude: bool) -> Style {
    if rude {
        return *dice.pick(&[Style::Unknown, Style::Reflected]);
    }
    *dice.pick(&[Style::Md5, Style::Md5WithoutQop, Style::Sha256First])
}
