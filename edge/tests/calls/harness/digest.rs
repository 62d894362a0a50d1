//! What digest credentials should be, computed here and not by the product (RFC 7616 §3.4.1, RFC 2617 §3.2.2).

use md5::{Digest as _, Md5};
use sha2::Sha256;
use std::collections::BTreeMap;

/// The parameters of a challenge or of credentials, unquoted.
pub type Parameters = BTreeMap<String, String>;

/// The parameters of the first header `name: Digest ...` of a message.
pub fn credentials(message: &str, name: &str) -> Parameters {
    let mut all = all_of(message, name).into_iter();
    all.next()
        .unwrap_or_else(|| panic!("no {name} in {message}"))
}

/// The challenges of a 401, in order.
pub fn challenges(message: &str) -> Vec<Parameters> {
    all_of(message, "WWW-Authenticate")
}

fn all_of(message: &str, name: &str) -> Vec<Parameters> {
    let prefix = format!("{name}: Digest ");
    let values = message
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix));
    values.map(parameters).collect()
}

fn parameters(value: &str) -> Parameters {
    value
        .split(',')
        .filter_map(|item| item.trim().split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// The answer to a challenge, to which only the response is missing.
pub fn answer(challenge: &Parameters, username: &str, uri: &str) -> Parameters {
    let mut answer = challenge.clone();
    answer.remove("stale");
    for (key, value) in [
        ("username", username),
        ("uri", uri),
        ("qop", "auth"),
        ("nc", "00000001"),
        ("cnonce", "0a4f113b"),
    ] {
        answer.insert(key.to_owned(), value.to_owned());
    }
    answer
}

/// The Authorization value with these parameters and the response that belongs to them.
pub fn signed(answer: &Parameters, method: &str, password: &str) -> String {
    let response = response(answer, method, password);
    let mut value = format!("Digest response=\"{response}\"");
    for (key, text) in answer {
        match key.as_str() {
            "algorithm" | "qop" | "nc" => value.push_str(&format!(", {key}={text}")),
            _ => value.push_str(&format!(", {key}=\"{text}\"")),
        }
    }
    value
}

/// The Authorization value that answers the first challenge of a 401.
pub fn authorization(
    refusal: &str,
    method: &str,
    uri: &str,
    username: &str,
    password: &str,
) -> String {
    let challenge = credentials(refusal, "WWW-Authenticate");
    signed(&answer(&challenge, username, uri), method, password)
}

/// The `response` that belongs to the other parameters, with qop or without.
pub fn response(parameters: &Parameters, method: &str, password: &str) -> String {
    let of = |key: &str| parameters.get(key).map(String::as_str).unwrap_or_default();
    let hex = |parts: &[&str]| hash(of("algorithm"), &parts.join(":"));
    let secret = hex(&[of("username"), of("realm"), password]);
    let request = hex(&[method, of("uri")]);
    match parameters.get("qop") {
        None => hex(&[&secret, of("nonce"), &request]),
        Some(qop) => hex(&[&secret, of("nonce"), of("nc"), of("cnonce"), qop, &request]),
    }
}

fn hash(algorithm: &str, text: &str) -> String {
    let digest = match algorithm {
        "SHA-256" => Sha256::digest(text).to_vec(),
        _ => Md5::digest(text).to_vec(),
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
