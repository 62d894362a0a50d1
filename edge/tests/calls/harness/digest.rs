//! What digest credentials should be, computed here and not by the product (RFC 2617 §3.2.2, MD5).

use md5::{Digest as _, Md5};
use std::collections::BTreeMap;

/// The parameters of a header `name: Digest ...` of a message.
pub fn credentials(message: &str, name: &str) -> BTreeMap<String, String> {
    let prefix = format!("{name}: Digest ");
    let value = message.lines().find_map(|line| line.strip_prefix(&prefix));
    let value = value.unwrap_or_else(|| panic!("no {name} in {message}"));
    value
        .split(',')
        .filter_map(|item| item.trim().split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// The `response` that belongs to the other parameters, with qop or without.
pub fn response(parameters: &BTreeMap<String, String>, method: &str, password: &str) -> String {
    let of = |key: &str| parameters.get(key).map(String::as_str).unwrap_or_default();
    let secret = hex(&[of("username"), of("realm"), password]);
    let request = hex(&[method, of("uri")]);
    match parameters.get("qop") {
        None => hex(&[&secret, of("nonce"), &request]),
        Some(qop) => hex(&[&secret, of("nonce"), of("nc"), of("cnonce"), qop, &request]),
    }
}

fn hex(parts: &[&str]) -> String {
    let digest = Md5::digest(parts.join(":"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Authorization value that answers a 401's WWW-Authenticate (MD5, with qop).
pub fn authorization(
    refusal: &str,
    method: &str,
    uri: &str,
    username: &str,
    password: &str,
) -> String {
    let mut shown = credentials(refusal, "WWW-Authenticate");
    shown.retain(|key, _| matches!(key.as_str(), "realm" | "nonce" | "opaque" | "algorithm"));
    for (key, value) in [
        ("username", username),
        ("uri", uri),
        ("qop", "auth"),
        ("nc", "00000001"),
        ("cnonce", "c0ffee"),
    ] {
        shown.insert(key.to_owned(), value.to_owned());
    }
    let response = response(&shown, method, password);
    shown.insert("response".to_owned(), response);
    let quoted = |key: &str| !matches!(key, "qop" | "nc" | "algorithm");
    let items: Vec<String> = shown
        .iter()
        .map(|(key, value)| match quoted(key) {
            true => format!("{key}=\"{value}\""),
            false => format!("{key}={value}"),
        })
        .collect();
    format!("Digest {}", items.join(", "))
}
