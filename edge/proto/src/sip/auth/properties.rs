//! What holds for every exchange.

use super::tests::{CALL, NOW, REALM, URI, credentials, elsewhere, presented, server, verify};
use super::*;
use crate::config::{Credentials, DigestAlgorithm, Secret};
use proptest::prelude::*;

fn any_text() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[ -~\u{e4}\u{f8}\u{4e2d}]{0,24}").unwrap()
}

fn any_algorithm() -> impl Strategy<Value = DigestAlgorithm> {
    proptest::sample::select(DigestAlgorithm::ALL.to_vec())
}

proptest! {
    /// The whole exchange with values of any kind, for each algorithm.
    #[test]
    fn our_answer_satisfies_our_server(
        algorithm in any_algorithm(), username in any_text(), password in any_text(), realm in any_text(),
        uri in any_text(), cnonce in any_text(), call_id in any_text(), nc in 1u32.., stale: bool,
    ) {
        let mut server = server();
        let challenges = server.challenges(NOW, &realm, &[algorithm], &call_id, stale);
        let header = answer(
            challenges.iter().map(String::as_str), &presented(&username, &password), "INVITE", &uri, &cnonce, nc, &elsewhere(),
        ).unwrap();
        let credentials = Credentials { username, password: Secret::new(password) };
        let mut verify = |method| server.verify(
            NOW, [header.as_str()].into_iter(), method, &uri, &call_id, &realm, &[algorithm], &credentials,
        );
        prop_assert_eq!(verify("REFER"), Err(DigestFailure::WrongResponse));
        prop_assert_eq!(verify("INVITE"), Ok(()));
        prop_assert_eq!(verify("INVITE"), Err(DigestFailure::Replayed));
    }

    /// One flipped bit in any value that is hashed, or in the hash, is noticed.
    #[test]
    fn a_flipped_bit_is_noticed(algorithm in any_algorithm(), field in 0usize..8, at: prop::sample::Index, bit in 0u8..7) {
        let mut server = server();
        let challenges = server.challenges(NOW, REALM, &[algorithm], CALL, false);
        let header = answer(
            challenges.iter().map(String::as_str), &presented("trunk-user", "s3cret"), "REFER", URI, "0a4f113b", 0xabc, &elsewhere(),
        ).unwrap();
        let mut shown = Authorization::parse(&header).unwrap();
        let value = match field {
            0 => &mut shown.username,
            1 => &mut shown.realm,
            2 => &mut shown.nonce,
            3 => &mut shown.uri,
            4 => &mut shown.response,
            5 => shown.cnonce.as_mut().unwrap(),
            6 => shown.qop.as_mut().unwrap(),
            _ => shown.nc.as_mut().unwrap(),
        };
        let mut bytes = std::mem::take(value).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        *value = String::from_utf8(bytes).unwrap();
        let verdict = server.verify(
            NOW, [shown.to_string().as_str()].into_iter(), "REFER", URI, CALL, REALM, &[algorithm], &credentials(),
        );
        prop_assert!(verdict.is_err());
        prop_assert!(verdict != Err(DigestFailure::Stale) && verdict != Err(DigestFailure::Replayed));
    }

    #[test]
    fn what_is_written_is_read_back(
        realm in any_text(), nonce in any_text(), opaque in proptest::option::of(any_text()), stale: bool,
        algorithm in proptest::option::of("[A-Za-z0-9-]{1,12}"), qop in proptest::option::of(any_text()),
        nc in proptest::option::of("[0-9a-f]{7}[1-9a-f]"), userhash: bool,
    ) {
        let challenge = Challenge {
            realm: realm.clone(), nonce: nonce.clone(), opaque: opaque.clone(), algorithm: algorithm.clone(), qop: qop.clone(), stale,
        };
        prop_assert_eq!(Challenge::parse(&challenge.to_string()), Ok(challenge));
        let shown = Authorization {
            username: qop.unwrap_or_default(), realm, nonce: nonce.clone(), uri: nonce, response: "00".into(),
            algorithm: algorithm.clone(), cnonce: opaque.clone(), opaque, qop: algorithm, nc, userhash,
        };
        prop_assert_eq!(Authorization::parse(&shown.to_string()), Ok(shown));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), list in "(Digest )?([a-z]{1,9}=[\"\\\\a-z0-9, ]{0,12},? ?){0,6}") {
        for text in [text, list] {
            let _ = Challenge::parse(&text);
            let _ = Authorization::parse(&text);
            let _ = peek_username(&text);
            let mut server = server();
            prop_assert!(verify(&mut server, &text).is_err());
            prop_assert!(!server.is_own_nonce(&text));
        }
    }
}
