//! Digest as a peer computes it, from the text of RFC 7616 and RFC 2617: not with the edge's own code, so that a fault in
//! it shows.

use edge_proto::sip::{HeaderName, Message};
use md5::Md5;
use sha2::{Digest, Sha256};

/// The value of a parameter of a challenge or of credentials.
pub fn parameter(header: &str, name: &str) -> Option<String> {
    let rest = header.trim_start().strip_prefix("Digest ")?;
    let mut rest = rest.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next)
            }
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next.trim_start_matches([',', ' ']);
    }
    None
}

fn hex(algorithm: &str, text: &str) -> String {
    let digest = match algorithm {
        "MD5" => Md5::digest(text).to_vec(),
        "SHA-256" => Sha256::digest(text).to_vec(),
        other => panic!("algorithm {other} is not known to the peers"),
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a peer answers a challenge; each field can be made wrong.
#[derive(Clone, Debug)]
pub struct Answering {
    pub username: String,
    pub password: String,
    pub method: String,
    pub uri: String,
    pub realm: Option<String>,
    pub algorithm: String,
    pub nc: String,
    pub cnonce: String,
}

impl Answering {
    pub fn new(method: &str, uri: &str) -> Answering {
        Answering {
            username: "trunk-user".into(),
            password: "s3cret".into(),
            method: method.into(),
            uri: uri.into(),
            realm: None,
            algorithm: "SHA-256".into(),
            nc: "00000001".into(),
            cnonce: "0a4f113b".into(),
        }
    }

    /// The Authorization header line that answers the challenge of this algorithm in a 401.
    pub fn line(&self, challenge: &Message) -> String {
        let value = challenge
            .headers(HeaderName::WwwAuthenticate)
            .find(|value| parameter(value, "algorithm").as_deref() == Some(&self.algorithm))
            .unwrap_or_else(|| panic!("no {} challenge", self.algorithm));
        let nonce = parameter(value, "nonce").expect("a nonce");
        assert_eq!(parameter(value, "qop").as_deref(), Some("auth"));
        let realm = self
            .realm
            .clone()
            .unwrap_or_else(|| parameter(value, "realm").expect("a realm"));
        let response = self.response(&realm, &nonce);
        format!(
            "Authorization: Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{}\", response=\"{response}\", algorithm={}, cnonce=\"{}\", qop=auth, nc={}",
            self.username, self.uri, self.algorithm, self.cnonce, self.nc
        )
    }

    fn response(&self, realm: &str, nonce: &str) -> String {
        let h = |text: String| hex(&self.algorithm, &text);
        let a1 = h(format!("{}:{realm}:{}", self.username, self.password));
        let a2 = h(format!("{}:{}", self.method, self.uri));
        h(format!(
            "{a1}:{nonce}:{}:{}:auth:{a2}",
            self.nc, self.cnonce
        ))
    }
}

/// Checks the credentials that the edge shows in `request` against what the peer knows; panics when they are wrong.
pub fn verify_digest(request: &Message, header: HeaderName, username: &str, password: &str) {
    let value = request.header(header).expect("credentials");
    let get = |name: &str| parameter(value, name);
    let need = |name: &str| get(name).unwrap_or_else(|| panic!("no {name} in {value}"));
    assert_eq!(need("username"), username);
    assert_eq!(Some(need("uri").as_str()), request.request_uri());
    let algorithm = get("algorithm").unwrap_or_else(|| "MD5".into());
    let h = |text: String| hex(&algorithm, &text);
    let a1 = h(format!("{username}:{}:{password}", need("realm")));
    let method = request.cseq().method.as_str().to_owned();
    let a2 = h(format!("{method}:{}", need("uri")));
    let expected = match get("qop") {
        Some(qop) => {
            assert_eq!(qop, "auth");
            assert_eq!(need("nc"), "00000001");
            h(format!(
                "{a1}:{}:{}:{}:auth:{a2}",
                need("nonce"),
                need("nc"),
                need("cnonce")
            ))
        }
        None => {
            assert_eq!(get("nc"), None);
            h(format!("{a1}:{}:{a2}", need("nonce")))
        }
    };
    assert_eq!(need("response"), expected, "{value}");
}
