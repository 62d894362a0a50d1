//! The digest calculation (RFC 7616 §3.4).

use crate::config::DigestAlgorithm;
use arrayvec::ArrayString;
use md5::Md5;
use sha2::digest::Digest;
use sha2::{Sha256, Sha512_256};
use std::fmt::Write;

/// Up to 32 octets as lower-case hexadecimal.
pub(super) type HexDigest = ArrayString<64>;

impl DigestAlgorithm {
    /// Every algorithm this edge knows.
    pub const ALL: [DigestAlgorithm; 6] = [
        DigestAlgorithm::Md5,
        DigestAlgorithm::Md5Sess,
        DigestAlgorithm::Sha256,
        DigestAlgorithm::Sha256Sess,
        DigestAlgorithm::Sha512_256,
        DigestAlgorithm::Sha512_256Sess,
    ];

    /// The name in the `algorithm` parameter (IANA's registry of digest algorithms) and in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            DigestAlgorithm::Md5 => "MD5",
            DigestAlgorithm::Md5Sess => "MD5-sess",
            DigestAlgorithm::Sha256 => "SHA-256",
            DigestAlgorithm::Sha256Sess => "SHA-256-sess",
            DigestAlgorithm::Sha512_256 => "SHA-512-256",
            DigestAlgorithm::Sha512_256Sess => "SHA-512-256-sess",
        }
    }

    /// The algorithm of that name, compared without case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
    }

    /// Whether A1 also covers nonce and cnonce (RFC 7616 §3.4.2).
    pub const fn is_session(self) -> bool {
        matches!(
            self,
            DigestAlgorithm::Md5Sess
                | DigestAlgorithm::Sha256Sess
                | DigestAlgorithm::Sha512_256Sess
        )
    }
}

/// `qop=auth` and what comes with it, as written by the client: the text is what was hashed.
#[derive(Clone, Copy)]
pub(super) struct Protection<'a> {
    pub(super) qop: &'a str,
    pub(super) nc: &'a str,
}

/// Everything a response is computed from. Strings are unescaped.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) algorithm: DigestAlgorithm,
    pub(super) username: &'a str,
    pub(super) realm: &'a str,
    pub(super) password: &'a str,
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
    pub(super) nonce: &'a str,
    /// Used with `protection` and by session algorithms.
    pub(super) cnonce: &'a str,
    /// `None`: as RFC 2069 did it (RFC 7616 has no such form any more, RFC 3261 §22.4 keeps it).
    pub(super) protection: Option<Protection<'a>>,
}

impl Inputs<'_> {
    /// The `response` parameter.
    pub(super) fn response(&self) -> HexDigest {
        let h = |parts: &[&str]| hash(self.algorithm, parts);
        let mut a1 = h(&[self.username, self.realm, self.password]);
        if self.algorithm.is_session() {
            a1 = h(&[&a1, self.nonce, self.cnonce]);
        }
        let a2 = h(&[self.method, self.uri]);
        match self.protection {
            Some(Protection { qop, nc }) => h(&[&a1, self.nonce, nc, self.cnonce, qop, &a2]),
            None => h(&[&a1, self.nonce, &a2]),
        }
    }
}

/// The hash of `parts` joined by colons.
pub(super) fn hash(algorithm: DigestAlgorithm, parts: &[&str]) -> HexDigest {
    match algorithm {
        DigestAlgorithm::Md5 | DigestAlgorithm::Md5Sess => hash_with::<Md5>(parts),
        DigestAlgorithm::Sha256 | DigestAlgorithm::Sha256Sess => hash_with::<Sha256>(parts),
        DigestAlgorithm::Sha512_256 | DigestAlgorithm::Sha512_256Sess => {
            hash_with::<Sha512_256>(parts)
        }
    }
}

fn hash_with<D: Digest>(parts: &[&str]) -> HexDigest {
    let mut state = D::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            state.update(b":");
        }
        state.update(part.as_bytes());
    }
    let mut hex = HexDigest::new();
    for byte in state.finalize() {
        // At most 32 octets: the string cannot be full.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 §3.9.1: one request, both algorithms.
    fn mufasa(algorithm: DigestAlgorithm) -> HexDigest {
        Inputs {
            algorithm,
            username: "Mufasa",
            realm: "http-auth@example.org",
            password: "Circle of Life",
            method: "GET",
            uri: "/dir/index.html",
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            protection: Some(Protection {
                qop: "auth",
                nc: "00000001",
            }),
        }
        .response()
    }

    #[test]
    fn rfc_7616_3_9_1() {
        assert_eq!(
            mufasa(DigestAlgorithm::Md5).as_str(),
            "8ca523f5e9506fed4657c9700eebdbec"
        );
        assert_eq!(
            mufasa(DigestAlgorithm::Sha256).as_str(),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
    }

    /// The same request with the algorithms no RFC has vectors for; computed with an independent implementation.
    #[test]
    fn rfc_7616_3_9_1_with_other_algorithms() {
        for (algorithm, response) in [
            (DigestAlgorithm::Md5Sess, "e783283f46242139c486a698fec7211d"),
            (
                DigestAlgorithm::Sha256Sess,
                "2fd51b3a77ad75bad6afad6003e818d767133c46d9e2749e7f5232ae1ea3efd7",
            ),
            (
                DigestAlgorithm::Sha512_256,
                "430d05014cecc49cab6fbe03176d41a1da86cbfe24a16580e22aaad928d960d0",
            ),
            (
                DigestAlgorithm::Sha512_256Sess,
                "3f2a34f923c38b0fb26dce2fdfc2ce326c23cecf86fbb1444f3e51fbbc2cb92e",
            ),
        ] {
            assert_eq!(mufasa(algorithm).as_str(), response, "{algorithm:?}");
        }
    }

    /// RFC 7616 §3.9.2 with erratum 4897: the printed values are those of a truncated SHA-512, not of SHA-512/256.
    #[test]
    fn rfc_7616_3_9_2_corrected() {
        let (username, realm) = ("J\u{e4}s\u{f8}n Doe", "api@example.org");
        assert_eq!(
            hash(DigestAlgorithm::Sha512_256, &[username, realm]).as_str(),
            "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
        );
        let response = Inputs {
            algorithm: DigestAlgorithm::Sha512_256,
            username,
            realm,
            password: "Secret, or not?",
            method: "GET",
            uri: "/doe.json",
            nonce: "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            cnonce: "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
            protection: Some(Protection {
                qop: "auth",
                nc: "00000001",
            }),
        }
        .response();
        assert_eq!(
            response.as_str(),
            "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
        );
    }

    /// RFC 2617 §3.5.
    #[test]
    fn rfc_2617_3_5() {
        let mut inputs = Inputs {
            algorithm: DigestAlgorithm::Md5,
            username: "Mufasa",
            realm: "testrealm@host.com",
            password: "Circle Of Life",
            method: "GET",
            uri: "/dir/index.html",
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            cnonce: "0a4f113b",
            protection: Some(Protection {
                qop: "auth",
                nc: "00000001",
            }),
        };
        assert_eq!(
            inputs.response().as_str(),
            "6629fae49393a05397450978507c4ef1"
        );
        inputs.protection = None;
        assert_eq!(
            inputs.response().as_str(),
            "670fd8c2df070c60b045671b8b24ff02"
        );
    }

    #[test]
    fn names_are_found_without_case_and_print_as_registered() {
        for algorithm in DigestAlgorithm::ALL {
            let name = algorithm.as_str();
            assert_eq!(
                DigestAlgorithm::from_name(&name.to_lowercase()),
                Some(algorithm)
            );
            assert_eq!(algorithm.is_session(), name.ends_with("-sess"));
        }
        assert_eq!(DigestAlgorithm::from_name("AKAv1-MD5"), None);
    }
}
